/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Role: what a placement tells its lane, and what it waits for. Called by the other
 * placement*.c files; nothing about pages is decided here.
 */
#include <errno.h>
#include <inttypes.h>

#include "daemon/placement_parts.h"

/* n units of region r are final now. */
void placement_count_final(struct placer *p, const struct region *r, uint64_t n_units)
{
	uint64_t n = n_units * region_unit_pages(r);

	if (n > 0 && atomic_fetch_sub(p->pages_left, n) == n)
		p->callbacks->report(PLACEMENT_FINISHED, 0, NULL, p->user);
}

void placement_warn_unexpected(struct placer *p, const struct region *r, uint64_t unit,
                               const char *consequence)
{
	struct error e;

	stats_add(p->stats, pages_unexpected, region_unit_pages(r));
	if (p->warned_unexpected)
		return;
	p->warned_unexpected = true;
	error_set(&e, -EEXIST,
	          "region %s offset %" PRIu64
	          ": memory is mapped where the guest's page should still be missing; the VMM "
	          "touched it before it attached, or placed it itself; %s",
	          r->name, region_unit_named_offset(r, unit), consequence);
	p->callbacks->report(PLACEMENT_WARNING, unit, &e, p->user);
}

void placement_warn_unmapped(struct placer *p, const struct region *r, uint64_t unit)
{
	struct error e;

	if (p->warned_unmapped)
		return;
	p->warned_unmapped = true;
	error_set(&e, -ENOENT,
	          "region %s offset %" PRIu64
	          ": the VMM unmapped or replaced this memory; ignoring its pages",
	          r->name, region_unit_named_offset(r, unit));
	p->callbacks->report(PLACEMENT_WARNING, unit, &e, p->user);
}

int placement_fail(struct placer *p, const struct region *r, uint64_t unit, int error_number,
                   const char *what)
{
	struct error e;

	error_set_errno(&e, -error_number, "region %s offset %" PRIu64 ": cannot %s a page",
	                r->name, region_unit_named_offset(r, unit), what);
	p->callbacks->report(PLACEMENT_FAILED, unit, &e, p->user);
	return e.code;
}

/* Returns false to give up. Neither wait holds a claim or the lock. */
static bool wait_again(struct placer *p, const struct region *r, enum resolve_outcome outcome)
{
	struct error e;

	stats_add(p->stats, retries, 1);
	if (outcome == RESOLVE_NO_MEMORY) {
		stats_add(p->stats, no_memory, 1);
		if (!p->warned_memory) {
			p->warned_memory = true;
			error_set(&e, -ENOMEM,
			          "region %s: no memory for the guest's pages%s; retrying", r->name,
			          r->backing == REGION_HUGETLB ? " (no free huge page: raise "
			                                         "vm.nr_hugepages)"
			                                       : "");
			p->callbacks->report(PLACEMENT_WARNING, 0, &e, p->user);
		}
	}
	return p->callbacks->wait_retry(outcome == RESOLVE_RETRY, p->user);
}

/* What stopped a placement: 0 to try again, or the end of it. */
int placement_stopped_by(struct placer *p, const struct region *r, uint64_t unit,
                         struct resolve_result res, const char *what)
{
	switch (res.outcome) {
	case RESOLVE_RETRY:
	case RESOLVE_NO_MEMORY:
		return wait_again(p, r, res.outcome) ? 0 : -ECANCELED;
	case RESOLVE_GONE:
		p->callbacks->report(PLACEMENT_VMM_GONE, unit, NULL, p->user);
		return -ESRCH;
	default:
		return placement_fail(p, r, unit, res.error, what);
	}
}
