/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Role: the first thing that a lane of an adopted migration does, on its urgent
 * thread. Always holds: a unit goes to MISSING only if nothing that the guest may
 * have written since can be overwritten by placing it again.
 */
#include "daemon/recovery.h"

#include <errno.h>

#include "daemon/remap.h"
#include "daemon/removal.h"

/* Read, and perhaps acted upon: what was noted already changes nothing. */
static void take_events(struct placer *p, uint32_t lane, const struct uffd_msg *events,
                        size_t n_events, struct recovery *found)
{
	/* But what was moved must not be moved twice; nor what was before that be done again. */
	for (size_t i = p->addresses ? address_map_followed(p->addresses) : 0; i < n_events; i++) {
		if (remap_take(p, lane, &events[i], i))
			found->n_moves++;
		if (!removal_is(&events[i]))
			continue;
		removal_take(p, lane, &events[i]);
		found->n_removed++;
	}
}

/* Written ahead: whether the marker was set is not known, so it is set again. */
static int poison_again(struct placer *p, uint32_t lane, struct recovery *found)
{
	for (uint64_t i = 0, n = ledger_count(p->ledger); i < n; i++) {
		uint64_t unit = ledger_get(p->ledger, i)->unit;
		const struct region *r = region_find_unit(p->regions, unit);
		int rc;

		if (!r || r->lane != lane || page_map_get(p->map, unit) == PAGE_POISONED)
			continue;
		page_map_reset(p->map, unit, PAGE_PLACING);
		rc = placement_poison_again(p, r, unit);
		if (rc < 0)
			return rc;
		found->n_poisoned++;
	}
	return 0;
}

static int recover_unit(struct placer *p, const struct region *r, uint64_t unit,
                        struct recovery *found)
{
	switch (page_map_get(p->map, unit)) {
	case PAGE_REQUESTED:
		page_map_reset(p->map, unit, PAGE_MISSING);
		found->n_requested++;
		return 0;
	case PAGE_PLACING:
		page_map_reset(p->map, unit, PAGE_MISSING);
		found->n_placing++;
		return 0;
	case PAGE_WRITTEN:
		found->n_written++;
		return placement_map_written(p, r, unit);
	default:
		return 0;
	}
}

static int recover_region(struct placer *p, const struct region *r, struct recovery *found)
{
	uint64_t end = r->first_unit + region_n_units(r);

	for (uint64_t unit = r->first_unit; unit < end; unit++) {
		int rc = recover_unit(p, r, unit, found);

		if (rc < 0)
			return rc;
		if (!page_state_is_final(page_map_get(p->map, unit)))
			found->n_left++;
	}
	return 0;
}

static uint64_t lane_pages(const struct region_table *t, uint32_t lane)
{
	uint64_t n = 0;

	for (size_t i = 0; i < t->n_regions; i++)
		if (t->regions[i].lane == lane)
			n += region_n_pages(&t->regions[i]);
	return n;
}

int recovery_run(struct placer *p, uint32_t lane, const struct uffd_msg *events, size_t n_events,
                 struct recovery *ret)
{
	uint64_t n_pages_left = 0;
	int rc;

	*ret = (struct recovery){0};
	/* One more than there are: nothing may seem to be finished before all is counted. */
	atomic_store(p->pages_left, lane_pages(p->regions, lane) + 1);
	take_events(p, lane, events, n_events, ret);
	rc = poison_again(p, lane, ret);
	for (size_t i = 0; rc == 0 && i < p->regions->n_regions; i++) {
		const struct region *r = &p->regions->regions[i];
		uint64_t n_before = ret->n_left;

		if (r->lane != lane)
			continue;
		rc = recover_region(p, r, ret);
		n_pages_left += (ret->n_left - n_before) * region_unit_pages(r);
	}
	if (rc < 0)
		return rc;
	atomic_store(p->pages_left, n_pages_left);
	atomic_store(p->doubtful, ret->n_placing);
	for (size_t i = 0; i < p->regions->n_regions; i++)
		if (p->regions->regions[i].lane == lane)
			placement_wake(p, &p->regions->regions[i],
			               p->regions->regions[i].first_unit,
			               region_n_units(&p->regions->regions[i]));
	return 0;
}
