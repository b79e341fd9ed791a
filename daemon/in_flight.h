/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The in-flight table of a lane: every unit that a fault asked for and that is
 * not answered yet. A fixed table; an entry is named by index and generation,
 * so that a reply to something old, or never asked for, is recognized.
 *
 * One thread (urgent). Many threads that fault on one unit share one entry:
 * the page map's REQUESTED state is what coalesces them.
 */
#ifndef DAEMON_IN_FLIGHT_H
#define DAEMON_IN_FLIGHT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/cleanup.h"

struct in_flight_entry {
	uint64_t id; /* on the wire; never 0; 0 while the entry is free */
	uint64_t unit;
	uint64_t started_ns; /* when the fault was read */
	bool sent;           /* asked for on the connection that is up now */
	void *assembly;      /* the caller's: pieces of a huge page */
	uint32_t n_asked;    /* the caller's: pages of it that were asked for on this connection */
	uint32_t next_free;
};

struct in_flight;

/* -ENOMEM. capacity: at most 65536. */
int in_flight_new(uint32_t capacity, struct in_flight **ret);
struct in_flight *in_flight_free(struct in_flight *t); /* always NULL */
DEFINE_CLEANUP(struct in_flight, in_flight_free)

bool in_flight_full(const struct in_flight *t);
uint32_t in_flight_count(const struct in_flight *t);

/* A new entry for unit, not sent. NULL when full. */
struct in_flight_entry *in_flight_add(struct in_flight *t, uint64_t unit, uint64_t now_ns);

/* The entry of this id, or NULL: answered already, or never asked for. */
struct in_flight_entry *in_flight_find(struct in_flight *t, uint64_t id);

/* Give it a new id: the old one is that of no entry any more. */
void in_flight_renew(struct in_flight *t, struct in_flight_entry *e);

void in_flight_remove(struct in_flight *t, struct in_flight_entry *e);

/* All entries in no particular order: start with *cursor = 0, ends with NULL. */
struct in_flight_entry *in_flight_next(struct in_flight *t, uint32_t *cursor);

#endif
