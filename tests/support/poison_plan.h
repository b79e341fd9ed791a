/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which pages of a test guest are lost: a function of seed and regions, so
 * that the source's guest and the destination's agree without a word.
 */
#ifndef SUPPORT_POISON_PLAN_H
#define SUPPORT_POISON_PLAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What the plan needs to know of a region. */
struct poison_region {
	uint64_t n_pages;    /* 4 KiB */
	uint64_t unit_pages; /* pages that are lost together on this host: 1, or 512 on hugetlb */
};

struct poison_page {
	uint32_t region;
	uint64_t page; /* in the region, 4 KiB */
	bool late;     /* turns poisoned while the migration runs */
};

struct poison_plan {
	size_t n_pages;
	struct poison_page *pages; /* the n_initial first ones, then the late ones */
	size_t n_initial;
};

/*
 * n_initial pages at places that matter (first, last, neighbours, region ends,
 * sides of a 2 MiB boundary), the rest at random; then n_late at random.
 * Fewer when the regions do not have that many. -ENOMEM.
 */
int poison_plan_new(const struct poison_region *regions, size_t n_regions, uint64_t seed,
                    size_t n_initial, size_t n_late, struct poison_plan **ret);
struct poison_plan *poison_plan_free(struct poison_plan *plan); /* always NULL */

enum poison_expectation {
	POISON_NONE,  /* must be healthy */
	POISON_SURE,  /* must be lost */
	POISON_MAYBE, /* reported late: whichever came first */
};

/* What the guest may find at this page, given that a whole unit is lost together. */
enum poison_expectation poison_plan_expect(const struct poison_plan *plan,
                                           const struct poison_region *region,
                                           uint32_t region_index, uint64_t page);

#endif
