/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The page map: one byte a unit, the only thing that lanes' threads share.
 *
 * Whoever claims a unit is the only one to place it, so a COPY can never run
 * over a POISON (the kernel would let it: UFFDIO_COPY and UFFDIO_CONTINUE
 * overwrite a poison marker). POISONED is final.
 *
 *   MISSING --request--> REQUESTED
 *   MISSING, REQUESTED --claim--> PLACING --placed--> PRESENT
 *                                 PLACING --poisoned--> POISONED
 *                                 PLACING --release--> MISSING
 *                                 PLACING --written--> WRITTEN, with the same ends
 *   any but PLACING, WRITTEN, POISONED --remove--> REMOVED
 *
 * WRITTEN is for whoever finds the map of a dead daemon: in MINOR mode the file has
 * the whole content, and the guest may have the page and have changed it since.
 *
 * The bytes lie in memory that the caller gave (the state memfd). All
 * functions but page_map_init() may be called from any thread.
 */
#ifndef DAEMON_PAGE_MAP_H
#define DAEMON_PAGE_MAP_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum page_state {
	PAGE_MISSING = 0,
	PAGE_REQUESTED = 1, /* asked for by a fault */
	PAGE_PLACING = 2,   /* claimed by one thread */
	PAGE_PRESENT = 3,
	PAGE_POISONED = 4,
	PAGE_REMOVED = 5, /* given back by the guest: reads as zeros */
	PAGE_WRITTEN = 6, /* claimed; MINOR mode: in the file, about to be mapped */
	PAGE_STATES_
};

struct page_map {
	uint64_t n_units;
	_Atomic uint8_t *states;
};

/* states: n_units bytes, kept as they are (zeros are MISSING). */
void page_map_init(struct page_map *m, void *states, uint64_t n_units);

enum page_state page_map_get(const struct page_map *m, uint64_t unit);
const char *page_state_name(enum page_state s);

/* MISSING -> REQUESTED. Returns the state that was found: PAGE_MISSING means it is now ours to ask for. */
enum page_state page_map_request(struct page_map *m, uint64_t unit);

/* MISSING or REQUESTED -> PLACING. True if the unit is now ours to place. */
bool page_map_claim(struct page_map *m, uint64_t unit);

/* Only by the claimant: a step on the way, and the ends of a claim. */
void page_map_written(struct page_map *m, uint64_t unit);  /* -> WRITTEN */
void page_map_placed(struct page_map *m, uint64_t unit);   /* -> PRESENT */
void page_map_poisoned(struct page_map *m, uint64_t unit); /* -> POISONED */
void page_map_unmapped(struct page_map *m,
                       uint64_t unit); /* -> REMOVED: no mapping there any more */
void page_map_release(struct page_map *m, uint64_t unit); /* -> MISSING */

/*
 * -> REMOVED. Returns the state that was found: in POISONED and a claimed one nothing
 * changes (callers keep placing and removing apart, see placement.h).
 */
enum page_state page_map_remove(struct page_map *m, uint64_t unit);

/* Whatever it was. Only while no other thread has the map (recovery.h). */
void page_map_reset(struct page_map *m, uint64_t unit, enum page_state to);

static inline bool page_state_is_claimed(enum page_state s)
{
	return s == PAGE_PLACING || s == PAGE_WRITTEN;
}

/* Nothing is to be done for it any more. */
static inline bool page_state_is_final(enum page_state s)
{
	return s == PAGE_PRESENT || s == PAGE_POISONED || s == PAGE_REMOVED;
}

/* Units of first .. first + count - 1 in the given state (a moment's view). */
uint64_t page_map_count(const struct page_map *m, uint64_t first, uint64_t count,
                        enum page_state s);

#endif
