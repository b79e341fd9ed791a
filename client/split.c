/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Role: see the header. Called by attach.c.
 *
 * Always holds: the pieces of a region follow each other in its order, together they
 * are it, and none is empty; each uffd has one.
 */
#include "client/split.h"

#include <errno.h>
#include <inttypes.h>

#include "core/cleanup.h"
#include "core/units.h"

static uint64_t grain_of(const struct postcopy_region *r)
{
	return MAX(r->page_size, SPLIT_GRAIN);
}

/* Into how many pieces of this size, or a little more, a region can be cut. */
static uint64_t pieces_of(const struct postcopy_region *r, uint64_t stripe)
{
	return MAX(r->length / MAX(stripe, grain_of(r)), UINT64_C(1));
}

static uint64_t count_pieces(const struct postcopy_region *regions, size_t n_regions,
                             uint64_t stripe)
{
	uint64_t n = 0;

	for (size_t i = 0; i < n_regions; i++)
		n += pieces_of(&regions[i], stripe);
	return n;
}

/* Where regions differ in size, shares differ by a stripe: it is a part of a share then. */
#define ROUNDS_MIN_MIXED 4

/* So that each uffd gets the same number of stripes of a region that is all of the guest. */
static uint64_t stripe_first(const struct postcopy_region *regions, size_t n_regions,
                             size_t n_uffds)
{
	uint64_t rounds_min = n_regions > 1 ? ROUNDS_MIN_MIXED : 1, share = 0, rounds;

	for (size_t i = 0; i < n_regions; i++)
		share += regions[i].length / n_uffds;
	rounds = MIN(share / SPLIT_STRIPE_MIN, (uint64_t)SPLIT_PIECES / n_uffds);
	return share / MAX(rounds, rounds_min);
}

static int stripe_choose(const struct postcopy_region *regions, size_t n_regions, size_t n_uffds,
                         uint64_t *ret, struct error *err)
{
	uint64_t stripe = stripe_first(regions, n_regions, n_uffds);

	if (n_uffds == 1)
		stripe = UINT64_MAX;
	while (count_pieces(regions, n_regions, stripe) > POSTCOPY_REGIONS_MAX)
		stripe *= 2;
	while (count_pieces(regions, n_regions, stripe) < n_uffds && stripe > SPLIT_GRAIN)
		stripe /= 2;
	if (count_pieces(regions, n_regions, stripe) < n_uffds)
		return error_set(err, -EINVAL,
		                 "%zu uffds, but the memory can be split into %" PRIu64
		                 " pieces only: of 2 MiB, or a page of the region: pass fewer "
		                 "uffds",
		                 n_uffds, count_pieces(regions, n_regions, stripe));
	*ret = stripe;
	return 0;
}

/* Bytes from the region's start to where its k-th of n pieces begins. */
static uint64_t piece_begin(const struct postcopy_region *r, uint64_t k, uint64_t n)
{
	uint64_t start = (uintptr_t)r->address;

	if (k == 0)
		return 0;
	if (k == n)
		return r->length;
	/* Each piece is a grain long at least, so that rounding down leaves none empty. */
	return align_down(start + r->length / n * k, grain_of(r)) - start;
}

static uint32_t least_loaded(const uint64_t *load, size_t n_uffds)
{
	uint32_t least = 0;

	for (uint32_t i = 1; i < n_uffds; i++)
		if (load[i] < load[least])
			least = i;
	return least;
}

static struct postcopy_region piece_make(const struct postcopy_region *r, uint64_t begin,
                                         uint64_t end, uint32_t uffd)
{
	struct postcopy_region piece = *r;

	piece.guest_physical_address += begin;
	piece.address = (char *)r->address + begin;
	piece.length = end - begin;
	if (r->memory_fd >= 0)
		piece.memory_offset += begin;
	piece.uffd = uffd;
	return piece;
}

int split_regions(const struct postcopy_region *regions, size_t n_regions, size_t n_uffds,
                  struct postcopy_region *ret, size_t *ret_n, struct error *err)
{
	uint64_t load[POSTCOPY_UFFDS_MAX] = {0}, stripe = 0;
	int rc = stripe_choose(regions, n_regions, n_uffds, &stripe, err);
	size_t n = 0;

	if (rc < 0)
		return rc;
	for (size_t i = 0; i < n_regions; i++) {
		uint64_t n_pieces = pieces_of(&regions[i], stripe);

		for (uint64_t k = 0; k < n_pieces; k++) {
			uint32_t uffd = least_loaded(load, n_uffds);

			ret[n] = piece_make(&regions[i], piece_begin(&regions[i], k, n_pieces),
			                    piece_begin(&regions[i], k + 1, n_pieces), uffd);
			load[uffd] += ret[n++].length;
		}
	}
	*ret_n = n;
	return 0;
}
