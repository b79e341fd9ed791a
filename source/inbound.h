/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An inbound export: memory that is itself still on its way to this host. A page
 * may be read only when the VMM has said what has become of it; before that a file
 * has a hole there, which reads as zeros.
 *
 * Here is what the VMM has said, and what it is to be asked. All functions may be
 * called from any thread unless they say otherwise; NULL stands for an ordinary
 * export, all of whose pages are known.
 */
#ifndef SOURCE_INBOUND_H
#define SOURCE_INBOUND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/cleanup.h"
#include "source/region_table.h"
#include "source/want.h"
#include "wire/attach_message.h"

struct inbound;

/*
 * Nothing is known of the pages of the table, which must live as long. Each lane has a
 * stream, which asks on its own. -ENOMEM.
 */
int inbound_new(const struct region_table *regions, unsigned n_lanes, struct inbound **ret);
struct inbound *inbound_free(struct inbound *in); /* always NULL */

/* The pages' fate is known: they may be read, unless they are among the lost ones. */
void inbound_know(struct inbound *in, uint64_t first, uint64_t count);
/* Of all of them. */
void inbound_know_all(struct inbound *in);
bool inbound_all_known(const struct inbound *in);

/* How many pages from first on, at most max, are known. */
uint64_t inbound_known_run(const struct inbound *in, uint64_t first, uint64_t max);

static inline bool inbound_known(const struct inbound *in, uint64_t first, uint64_t count)
{
	return inbound_known_run(in, first, count) == count;
}

/* The first page from here on that is wanted, and known (or not); the number of pages if none. */
uint64_t inbound_next_wanted(const struct inbound *in, const struct want *w, uint64_t from,
                             bool known);

/*
 * A destination's guest waits for these pages: ask for those that are not known and
 * have not been asked for. True if the main loop has to come for them.
 */
bool inbound_ask(struct inbound *in, uint64_t first, uint64_t count);

/*
 * A stream's own question, when its last one has been answered: what has become of
 * wanted pages at and after *at, which moves on. False: none of those is unknown.
 */
bool inbound_probe(struct inbound *in, unsigned lane, const struct want *w, uint64_t *at);
/* Has the last one been answered (or was there none)? */
bool inbound_probe_answered(struct inbound *in, unsigned lane);

/* Main loop: the next Populate to send, urgent ones first. False: there is none. */
bool inbound_take_ask(struct inbound *in, struct attach_reply *ret);

/* Main loop: the question of this number has its answer. */
void inbound_answered(struct inbound *in, uint32_t number);

#endif
