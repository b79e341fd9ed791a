/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Chooses the lost pages of a test guest; called by both guests with the same
 * seed. Always holds: no page is in the plan twice.
 */
#include "support/poison_plan.h"

#include <errno.h>
#include <stdlib.h>

#include "support/pattern.h"

#define PLACES 14

static bool plan_has(const struct poison_plan *plan, uint32_t region, uint64_t page)
{
	for (size_t i = 0; i < plan->n_pages; i++)
		if (plan->pages[i].region == region && plan->pages[i].page == page)
			return true;
	return false;
}

static void plan_add(struct poison_plan *plan, const struct poison_region *regions, uint32_t region,
                     uint64_t page, bool late)
{
	if (page >= regions[region].n_pages || plan_has(plan, region, page))
		return;
	plan->pages[plan->n_pages++] = (struct poison_page){region, page, late};
}

/* Places where an off-by-one would show, best first. */
static uint64_t place(const struct poison_region *r, size_t i)
{
	const uint64_t places[PLACES] = {
	        0,
	        r->n_pages - 1,
	        1,
	        r->n_pages - 2,
	        r->n_pages / 2,
	        511,
	        512,
	        r->n_pages / 2 + 1,
	        r->n_pages / 2 + 2,
	        r->n_pages / 2 - 1, /* where it is split, over two or four lanes */
	        r->n_pages / 4,
	        r->n_pages / 4 - 1,
	        r->n_pages / 4 * 3,
	        r->n_pages / 4 * 3 - 1,
	};

	return places[i];
}

static void add_random(struct poison_plan *plan, const struct poison_region *regions,
                       size_t n_regions, uint64_t seed, size_t until, bool late)
{
	uint64_t tries = 64 * (until + 1);

	for (uint64_t i = 0; i < tries && plan->n_pages < until; i++) {
		uint64_t r = pattern_mix(seed + 2 * i);
		uint32_t region = (uint32_t)(r % n_regions);

		plan_add(plan, regions, region, pattern_mix(r) % regions[region].n_pages, late);
	}
}

int poison_plan_new(const struct poison_region *regions, size_t n_regions, uint64_t seed,
                    size_t n_initial, size_t n_late, struct poison_plan **ret)
{
	struct poison_plan *plan = calloc(1, sizeof(*plan));

	if (!plan)
		return -ENOMEM;
	plan->pages = calloc(n_initial + n_late + 1, sizeof(*plan->pages));
	if (!plan->pages) {
		poison_plan_free(plan);
		return -ENOMEM;
	}
	for (size_t i = 0; i < PLACES; i++)
		for (uint32_t r = 0; r < n_regions && plan->n_pages < n_initial; r++)
			plan_add(plan, regions, r, place(&regions[r], i), false);
	add_random(plan, regions, n_regions, seed ^ 0x706f69736f6eU, n_initial, false);
	plan->n_initial = plan->n_pages;
	add_random(plan, regions, n_regions, seed ^ 0x6c617465U, plan->n_initial + n_late, true);
	*ret = plan;
	return 0;
}

struct poison_plan *poison_plan_free(struct poison_plan *plan)
{
	if (plan)
		free(plan->pages);
	free(plan);
	return NULL;
}

enum poison_expectation poison_plan_expect(const struct poison_plan *plan,
                                           const struct poison_region *region,
                                           uint32_t region_index, uint64_t page)
{
	enum poison_expectation found = POISON_NONE;

	for (size_t i = 0; i < plan->n_pages; i++) {
		const struct poison_page *p = &plan->pages[i];

		if (p->region != region_index ||
		    p->page / region->unit_pages != page / region->unit_pages)
			continue;
		if (!p->late)
			return POISON_SURE;
		found = POISON_MAYBE;
	}
	return found;
}
