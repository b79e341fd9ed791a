/* SPDX-License-Identifier: Apache-2.0 */
/*
 * POSTCOPY_ATTACH_SPLIT: the guest's regions in pieces, dealt out over the uffds.
 * A plain computation; no memory is touched.
 *
 * Each uffd gets as much memory as the others, in stripes that alternate: what a
 * guest is busy with lies close together more often than not, and then it is not
 * one lane that has all the faults. Stripes are as large as the stream's widest
 * window, or as many as SPLIT_PIECES allows.
 */
#ifndef CLIENT_SPLIT_H
#define CLIENT_SPLIT_H

#include <stddef.h>
#include <stdint.h>

#include "core/error.h"
#include "postcopy.h"

/* Regions are cut at multiples of this in memory, or of their pages: a huge page stays whole. */
#define SPLIT_GRAIN (UINT64_C(2) << 20)
#define SPLIT_STRIPE_MIN (UINT64_C(64) << 20)
#define SPLIT_PIECES 128 /* that it aims at, at most, for guests of some size */

/*
 * The regions (checked already) in pieces: ret has room for POSTCOPY_REGIONS_MAX. A
 * piece is what its region is but for addresses, length, memory_offset and uffd. With
 * one uffd nothing is cut. -EINVAL with a text if there is not a piece for each uffd.
 */
int split_regions(const struct postcopy_region *regions, size_t n_regions, size_t n_uffds,
                  struct postcopy_region *ret, size_t *ret_n, struct error *err);

#endif
