/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Role: the ledger first, the marker second, for a page that is lost. Called by
 * fault_*.c and bulk_stream.c, and by recovery.c for what the ledger has already.
 * Always holds: what the ledger has becomes POISONED, whatever the ioctl says.
 */
#include <errno.h>

#include "core/clock.h"
#include "daemon/placement_parts.h"

static int ledger_write(struct placer *p, const struct region *r, uint64_t unit,
                        enum ledger_reason reason)
{
	struct ledger_entry e = {
	        .unit = unit,
	        .offset_bytes = region_unit_named_offset(r, unit),
	        .gpa = region_unit_gpa(r, unit),
	        .lost_bytes = region_unit_bytes(r),
	        .time_us = clock_realtime_us(),
	        .region = (uint32_t)(r - p->regions->regions),
	        .reason = reason,
	};

	return ledger_append(p->ledger, &e);
}

/* Locked: between the look where it is and the ioctl other memory could be moved there. */
static struct resolve_result marker_set(struct placer *p, const struct region *r, uint64_t unit)
{
	struct resolve_result res = {.outcome = RESOLVE_UNMAPPED};
	uint64_t n;
	hva_t hva;

	placement_lock(p);
	if (placement_where(p, r, unit, 1, &hva, &n))
		res = resolve_poison(p->uffd, hva, region_unit_bytes(r));
	if (res.outcome == RESOLVE_ALREADY || res.outcome == RESOLVE_UNMAPPED)
		placement_wake(p, r, unit, 1);
	placement_unlock(p);
	return res;
}

/*
 * The claim is kept over every retry: between the ledger's entry and the marker
 * nobody else may place the unit. A removal in between changes nothing: poison
 * outlives it.
 */
static int poison_claimed(struct placer *p, const struct region *r, uint64_t unit)
{
	for (;;) {
		struct resolve_result res = marker_set(p, r, unit);
		int rc;

		switch (res.outcome) {
		case RESOLVE_DONE:
			return 0;
		case RESOLVE_ALREADY:
			placement_warn_unexpected(p, r, unit,
			                          "this page is lost, but could not be poisoned");
			return 0;
		case RESOLVE_UNMAPPED:
			placement_warn_unmapped(p, r, unit);
			return 0;
		default:
			rc = placement_stopped_by(p, r, unit, res, "poison");
			if (rc < 0)
				return rc;
		}
	}
}

static int poison_one(struct placer *p, const struct region *r, uint64_t unit,
                      enum ledger_reason reason)
{
	int rc = ledger_write(p, r, unit, reason);

	if (rc < 0) {
		page_map_release(p->map, unit);
		return placement_fail(p, r, unit, -rc, "write to the ledger");
	}
	return placement_poison_again(p, r, unit);
}

int placement_poison_again(struct placer *p, const struct region *r, uint64_t unit)
{
	int rc = 0;

	if (!p->poison_supported)
		stats_add(p->stats, poison_unplaced, region_unit_pages(r));
	else
		rc = poison_claimed(p, r, unit);
	placement_poison_mappings(p, r, unit);
	/*
	 * Also when the marker could not be set now: the ledger has the page, so
	 * it is poisoned for ever, and a fault on it tries again.
	 */
	page_map_poisoned(p->map, unit);
	placement_wake_mappings(p, unit, 1);
	stats_add(p->stats, pages_poisoned, region_unit_pages(r));
	p->callbacks->report(PLACEMENT_POISONED, unit, NULL, p->user);
	placement_count_final(p, r, 1);
	return rc;
}

int placement_poison(struct placer *p, const struct region *r, uint64_t first, uint64_t n_units,
                     enum ledger_reason reason)
{
	for (uint64_t unit = first; unit < first + n_units; unit++) {
		int rc;

		if (!page_map_claim(p->map, unit))
			continue;
		rc = poison_one(p, r, unit, reason);
		if (rc < 0)
			return rc;
	}
	return 0;
}
