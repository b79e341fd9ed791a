/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What postcopy_collapse() may collapse: runs of whole huge pages in which
 * nothing is poisoned. A plain computation; no memory is touched.
 */
#ifndef CLIENT_COLLAPSE_PLAN_H
#define CLIENT_COLLAPSE_PLAN_H

#include <stdint.h>

#include "client/internal.h"

struct collapse_run {
	uint64_t hva;   /* a multiple of the huge page size */
	uint64_t bytes; /* that, too; not 0 */
	bool shared;    /* marked MADV_NOHUGEPAGE by the attach */
};

struct collapse_plan {
	struct collapse_run *runs;
	size_t n_runs;
	uint64_t huge_bytes;   /* of a huge page */
	uint64_t total_bytes;  /* whole huge pages in regions of small pages */
	uint64_t poison_bytes; /* of these: left out, for they hold a lost page */
};

/*
 * poison: by guest-physical address, ranges apart. 0, or -ENOMEM. Runs that
 * touch in memory stay apart where a region ends.
 */
int collapse_plan_make(const struct region_kept *regions, size_t n_regions,
                       const struct poison_range *poison, size_t n_poison, uint64_t huge_bytes,
                       struct collapse_plan *ret);
void collapse_plan_free(struct collapse_plan *p); /* its contents */

#endif
