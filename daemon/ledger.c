/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Role: remember every poisoned unit before it is poisoned. Called by the
 * placement code; read by the status and control sockets. An entry is visible
 * only when it is complete: the count is published after it.
 */
#include "daemon/ledger.h"

#include <errno.h>

#include "core/cleanup.h"

const char *ledger_reason_name(enum ledger_reason r)
{
	switch (r) {
	case LEDGER_REPORTED:
		return "reported";
	case LEDGER_READ_ERROR:
		return "read error";
	case LEDGER_INHERITED:
		return "inherited";
	case LEDGER_SOURCE_LOST:
		return "source lost";
	case LEDGER_OPERATOR:
		return "operator";
	}
	return "unknown";
}

void ledger_init(struct ledger *l, void *area, uint64_t capacity)
{
	l->area = area;
	l->capacity = capacity;
	pthread_mutex_init(&l->append_lock, NULL);
}

void ledger_deinit(struct ledger *l)
{
	pthread_mutex_destroy(&l->append_lock);
}

int ledger_append(struct ledger *l, const struct ledger_entry *e)
{
	int rc = -ENOSPC;
	uint64_t n;

	pthread_mutex_lock(&l->append_lock);
	n = atomic_load_explicit(&l->area->n_entries, memory_order_relaxed);
	if (n < l->capacity) {
		l->area->entries[n] = *e;
		atomic_store_explicit(&l->area->n_entries, n + 1, memory_order_release);
		rc = 0;
	}
	pthread_mutex_unlock(&l->append_lock);
	return rc;
}

uint64_t ledger_count(const struct ledger *l)
{
	return atomic_load_explicit(&l->area->n_entries, memory_order_acquire);
}

const struct ledger_entry *ledger_get(const struct ledger *l, uint64_t i)
{
	return &l->area->entries[i];
}

uint64_t ledger_lost_bytes(const struct ledger *l)
{
	uint64_t n = ledger_count(l), bytes = 0;

	for (uint64_t i = 0; i < n; i++)
		bytes += l->area->entries[i].lost_bytes;
	return bytes;
}

uint64_t ledger_audited(const struct ledger *l)
{
	uint64_t n = atomic_load_explicit(&l->area->n_audited, memory_order_relaxed);

	return MIN(n, ledger_count(l)); /* whatever an earlier daemon left */
}

void ledger_set_audited(struct ledger *l, uint64_t n_entries)
{
	atomic_store_explicit(&l->area->n_audited, n_entries, memory_order_relaxed);
}
