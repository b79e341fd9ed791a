/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Role: what needs no round trip: a fault on a page that is here, lost or given back,
 * and the giving back itself. Called by fault_*.c and removal.c.
 */
#include "daemon/placement_parts.h"

/* The page reads as zeros: it was given back. EEXIST: the guest has used it since. */
static void answer_removed(struct placer *p, int uffd, const struct region *r, hva_t hva)
{
	if (r->zeropage)
		resolve_zeropage(uffd, hva, region_unit_bytes(r));
	else
		resolve_copy(uffd, hva, region_unit_bytes(r), p->zeros);
}

void placement_answer_at(struct placer *p, int uffd, hva_t hva, bool poison_supported,
                         const struct region *r, enum page_state s, bool minor)
{
	switch (s) {
	case PAGE_POISONED:
		/* The marker goes with MADV_DONTNEED; the ledger does not forget. */
		if (!poison_supported)
			return; /* waits: better than a page that reads as zeros */
		resolve_poison(uffd, hva, region_unit_bytes(r));
		break;
	case PAGE_REMOVED:
	case PAGE_PRESENT:
		/*
		 * Mostly a fault that was raised before the page came. A page
		 * that went again went by the VMM's own will, by far not always
		 * with an event (none comes of a hole punched by the file's
		 * descriptor), and the kernel tells which: a ZEROPAGE over
		 * anything that is still there is refused, and so it is while a
		 * removal's event is unread. A minor fault has its content in
		 * the file, whatever was unmapped.
		 */
		if (minor)
			resolve_continue(uffd, hva, region_unit_bytes(r));
		else
			answer_removed(p, uffd, r, hva);
		break;
	default:
		return; /* whoever has it wakes the threads */
	}
	resolve_wake(uffd, hva, region_unit_bytes(r));
}

void placement_answer(struct placer *p, const struct region *r, uint64_t unit, enum page_state s,
                      bool minor)
{
	uint64_t n;
	hva_t hva;

	if (placement_where(p, r, unit, 1, &hva, &n))
		placement_answer_at(p, p->uffd, hva, p->poison_supported, r, s, minor);
}

void placement_remove(struct placer *p, const struct region *r, uint64_t unit)
{
	enum page_state was = page_map_remove(p->map, unit);

	if (was == PAGE_POISONED || was == PAGE_REMOVED || page_state_is_claimed(was))
		return;
	stats_add(p->stats, pages_removed, region_unit_pages(r));
	if (was == PAGE_PRESENT)
		return;
	placement_count_final(p, r, 1);
	/*
	 * Its threads fault again and find it removed; the answer will be dropped.
	 * Also of a MISSING one: it may have been REQUESTED until a placement that
	 * must be tried again gave up its claim.
	 */
	placement_wake(p, r, unit, 1);
}
