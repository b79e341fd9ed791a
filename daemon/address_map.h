/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where a lane's units are in the VMM, when the VMM has moved some of them (mremap(),
 * UFFD_EVENT_REMAP). As long as nothing has moved, they are where the regions say.
 *
 * The area lies in the state memfd and is right at every moment: of two copies of the
 * pieces the one that is not in use is written, and then taken into use by one store. With
 * it goes how many messages of the lane's batch have been followed, for the event of a move
 * does not come twice, and following it twice would be wrong.
 *
 * Changed by the lane's urgent thread, with the placers' remove_lock held; read with it
 * held, or on that thread.
 */
#ifndef DAEMON_ADDRESS_MAP_H
#define DAEMON_ADDRESS_MAP_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/units.h"

#define ADDRESS_PIECES_MAX 1024 /* a lane: its regions, and what moves divide them into */

/* A stretch of units that lie together. Fixed layout, all of this: kept over restarts. */
struct address_piece {
	uint64_t first_unit, n_units;
	uint64_t unit_shift;
	hva_t hva;
};

struct address_pieces {
	uint64_t n;        /* 0: nothing has moved yet */
	uint64_t followed; /* messages of the batch that lies in the state memfd */
	struct address_piece pieces[ADDRESS_PIECES_MAX];
};

struct address_area {
	_Atomic uint64_t in_use; /* 0 or 1 */
	struct address_pieces copies[2];
};
_Static_assert(sizeof(struct address_area) == 8 + 2 * (16 + 32 * ADDRESS_PIECES_MAX),
               "kept over restarts");

/* What is in it makes sense: counts, no unit twice or beyond n_units, no address that wraps. */
bool address_area_valid(const struct address_area *a, uint64_t n_units);

/* NULL: of a VMM of which no moves are told. */
static inline bool address_map_moved(const struct address_area *a)
{
	return a && a->copies[atomic_load(&a->in_use)].n > 0;
}

/*
 * Where unit is, and in *ret_n how many of n_units lie together from there on (at least 1).
 * False: nowhere, because other memory has been moved over it; *ret_n of them. Only when
 * something has moved.
 */
bool address_map_find_unit(const struct address_area *a, uint64_t unit, uint64_t n_units,
                           hva_t *ret_hva, uint64_t *ret_n);

/* Which unit is at an address; false: none. Only when something has moved. */
bool address_map_find_hva(const struct address_area *a, hva_t hva, uint64_t *ret_unit);

/*
 * Units that lie in start .. end - 1: one stretch a call, from *cursor on (0 at first).
 * False: no more. Only when something has moved.
 */
bool address_map_next(const struct address_area *a, hva_t start, hva_t end, size_t *cursor,
                      uint64_t *ret_unit, uint64_t *ret_n);

/*
 * len bytes have been moved; whatever was at their new place is nowhere now. before: the
 * pieces as the regions have them, for the first time. followed: as above. 0, or -E2BIG:
 * too many pieces, and nothing has changed.
 */
int address_map_move(struct address_area *a, const struct address_piece *before, size_t n_before,
                     hva_t from, hva_t to, uint64_t len_bytes, uint64_t followed);

static inline uint64_t address_map_followed(const struct address_area *a)
{
	return a->copies[atomic_load(&a->in_use)].followed;
}

/* A new batch is about to be read, or one that changes nothing here has been followed so far. */
void address_map_follow(struct address_area *a, uint64_t followed);

#endif
