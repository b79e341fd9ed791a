/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which wire pages a stream still has to send. The stream's thread adds and
 * takes; the urgent links' threads drop what they have answered themselves.
 * All functions may be called from any thread.
 */
#ifndef SOURCE_WANT_H
#define SOURCE_WANT_H

#include <stdbool.h>
#include <stdint.h>

#include "core/cleanup.h"

struct want;

/* Nothing wanted. -ENOMEM. */
int want_new(uint64_t n_pages, struct want **ret);
struct want *want_free(struct want *w); /* always NULL */
DEFINE_CLEANUP(struct want, want_free)

void want_add(struct want *w, uint64_t first, uint64_t count);

/* Unit i of unit_pages pages, counted from first, is wanted when bit i of bits is set. */
void want_add_units(struct want *w, uint64_t first, uint64_t n_units, uint32_t unit_pages,
                    const uint8_t *bits);

/* Not wanted any more. Returns how many of them were. */
uint64_t want_drop(struct want *w, uint64_t first, uint64_t count);

/*
 * Take the first wanted pages at or after from, at most max that follow each
 * other: they are not wanted any more. Returns their number and the first;
 * 0: nothing is wanted from there on.
 */
uint64_t want_take(struct want *w, uint64_t from, uint64_t max, uint64_t *ret_first);

/* The first wanted page at or after from; n_pages if there is none. */
uint64_t want_next(const struct want *w, uint64_t from);

/* Which of the 64 pages around this one (from a multiple of 64 on) are wanted. */
uint64_t want_word(const struct want *w, uint64_t page);

/* How many are wanted; other threads may have changed it meanwhile. */
uint64_t want_count(const struct want *w);

#endif
