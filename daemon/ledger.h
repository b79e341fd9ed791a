/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The ledger: every poisoned unit, why, when, and who said so. Written ahead:
 * an entry is complete before UFFDIO_POISON is called, so that no crash can
 * forget a lost page.
 *
 * Lies in memory that the caller gave (the state memfd, sparse). Append from
 * any thread; read from any thread at any time. Entries never change or go.
 */
#ifndef DAEMON_LEDGER_H
#define DAEMON_LEDGER_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>

#include "core/units.h"

enum ledger_reason {
	LEDGER_REPORTED = 1,    /* by the source's VMM or operator */
	LEDGER_READ_ERROR = 2,  /* found when the source read the page */
	LEDGER_INHERITED = 3,   /* poisoned before the guest came to the source */
	LEDGER_SOURCE_LOST = 4, /* the source is gone and the policy says poison */
	LEDGER_OPERATOR = 5,    /* by an operator of this host */
};

/* "reported", "read error", "inherited", "source lost", "operator" */
const char *ledger_reason_name(enum ledger_reason r);

/* Fixed layout: it is kept over restarts. */
struct ledger_entry {
	uint64_t unit;
	uint64_t offset_bytes; /* in the region as the source knows it, whatever its pieces */
	gpa_t gpa;
	uint64_t lost_bytes; /* the unit's size */
	uint64_t time_us;    /* since the epoch */
	uint32_t region;     /* index in the table, of a piece */
	uint32_t reason;     /* enum ledger_reason */
	uint8_t padding[16];
};
_Static_assert(sizeof(struct ledger_entry) == 64, "kept over restarts");

struct ledger_area {
	_Atomic uint64_t n_entries;
	_Atomic uint64_t
	        n_audited; /* of these, from the first on: they have a record in the journal */
	uint8_t padding[48];
	struct ledger_entry entries[];
};

_Static_assert(sizeof(struct ledger_area) == 64, "kept over restarts");

struct ledger {
	struct ledger_area *area;
	uint64_t capacity; /* entries */
	pthread_mutex_t append_lock;
};

/* Bytes of memory for that many entries. */
static inline uint64_t ledger_area_bytes(uint64_t capacity)
{
	return sizeof(struct ledger_area) + capacity * sizeof(struct ledger_entry);
}

/* area: zeros, or what an earlier ledger left. */
void ledger_init(struct ledger *l, void *area, uint64_t capacity);
void ledger_deinit(struct ledger *l);

/* 0, or -ENOSPC when full (one entry a unit always suffices). */
int ledger_append(struct ledger *l, const struct ledger_entry *e);

uint64_t ledger_count(const struct ledger *l);
/* i < ledger_count() */
const struct ledger_entry *ledger_get(const struct ledger *l, uint64_t i);
uint64_t ledger_lost_bytes(const struct ledger *l);

/*
 * How many entries, from the first on, have their record in the journal: at most
 * ledger_count(), and kept over restarts. One thread keeps it.
 */
uint64_t ledger_audited(const struct ledger *l);
void ledger_set_audited(struct ledger *l, uint64_t n_entries);

#endif
