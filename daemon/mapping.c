/* SPDX-License-Identifier: Apache-2.0 */
/* Role: where else the guest's units are mapped. Called by placement_mappings.c and the lane. */
#include "daemon/mapping.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>

int mapping_new(uint32_t id, int uffd, size_t n_parts, struct mapping **ret)
{
	_cleanup_(cleanup_mapping_free) struct mapping *m =
	        calloc(1, sizeof(*m) + n_parts * sizeof(m->parts[0]));

	if (!m)
		return -ENOMEM;
	m->id = id;
	m->n_parts = n_parts;
	m->uffd = fcntl(uffd, F_DUPFD_CLOEXEC, 3);
	if (m->uffd < 0)
		return -errno;
	*ret = TAKE_PTR(m);
	return 0;
}

struct mapping *mapping_free(struct mapping *m)
{
	if (!m)
		return NULL;
	close_fd(&m->uffd);
	free(m);
	return NULL;
}

bool mapping_find_hva(const struct mapping *m, hva_t hva, uint64_t *ret_unit)
{
	for (size_t i = 0; i < m->n_parts; i++) {
		const struct mapping_part *p = &m->parts[i];

		if (hva.addr < p->hva.addr || hva.addr - p->hva.addr >= p->n_units << p->unit_shift)
			continue;
		*ret_unit = p->first_unit + ((hva.addr - p->hva.addr) >> p->unit_shift);
		return true;
	}
	return false;
}

bool mapping_next(const struct mapping *m, uint64_t first_unit, uint64_t n_units, size_t *cursor,
                  hva_t *ret_hva, uint64_t *ret_len_bytes)
{
	while (*cursor < m->n_parts) {
		const struct mapping_part *p = &m->parts[(*cursor)++];
		uint64_t first = MAX(first_unit, p->first_unit);
		uint64_t end = MIN(first_unit + n_units, p->first_unit + p->n_units);

		if (first >= end)
			continue;
		ret_hva->addr = p->hva.addr + ((first - p->first_unit) << p->unit_shift);
		*ret_len_bytes = (end - first) << p->unit_shift;
		return true;
	}
	return false;
}

void mapping_set_init(struct mapping_set *s)
{
	pthread_mutexattr_t attr;

	/* The urgent thread must not wait behind whoever keeps the bulk thread from running. */
	pthread_mutexattr_init(&attr);
	pthread_mutexattr_setprotocol(&attr, PTHREAD_PRIO_INHERIT);
	pthread_mutex_init(&s->lock, &attr);
	pthread_mutexattr_destroy(&attr);
	atomic_store(&s->n, 0);
}

void mapping_set_fini(struct mapping_set *s)
{
	for (uint32_t i = 0; i < MAPPINGS_MAX; i++)
		mapping_free(mapping_set_take(s, i));
	pthread_mutex_destroy(&s->lock);
}

void mapping_set_add(struct mapping_set *s, struct mapping *m)
{
	pthread_mutex_lock(&s->lock);
	s->items[m->id] = m;
	pthread_mutex_unlock(&s->lock);
	atomic_fetch_add(&s->n, 1);
}

struct mapping *mapping_set_get(struct mapping_set *s, uint32_t id)
{
	struct mapping *m;

	pthread_mutex_lock(&s->lock);
	m = s->items[id];
	pthread_mutex_unlock(&s->lock);
	return m;
}

struct mapping *mapping_set_take(struct mapping_set *s, uint32_t id)
{
	struct mapping *m;

	pthread_mutex_lock(&s->lock);
	m = s->items[id];
	s->items[id] = NULL;
	pthread_mutex_unlock(&s->lock);
	if (m)
		atomic_fetch_sub(&s->n, 1);
	return m;
}

void mapping_set_each(struct mapping_set *s, mapping_fn fn, void *arg)
{
	/*
	 * Whoever adds one looks at the page map afterwards; whoever comes here has
	 * changed it before: one of the two must see what the other did.
	 */
	atomic_thread_fence(memory_order_seq_cst);
	if (atomic_load(&s->n) == 0)
		return;
	pthread_mutex_lock(&s->lock);
	for (size_t i = 0; i < MAPPINGS_MAX; i++)
		if (s->items[i])
			fn(s->items[i], arg);
	pthread_mutex_unlock(&s->lock);
}
