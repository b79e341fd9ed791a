/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Role: from an event to the lane's addresses. Called by fault_event.c for what it reads, and
 * by recovery.c for what a dead daemon had read. No state.
 */
#include "daemon/remap.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "daemon/uffd.h"

/* Where the regions say that it is. *ret is the caller's to free. */
static size_t unmoved(const struct placer *p, uint32_t lane, struct address_piece **ret)
{
	size_t n = 0;

	*ret = calloc(p->regions->n_regions, sizeof(**ret));
	for (size_t i = 0; *ret && i < p->regions->n_regions; i++) {
		const struct region *r = &p->regions->regions[i];

		if (r->lane == lane)
			(*ret)[n++] = (struct address_piece){
			        .first_unit = r->first_unit,
			        .n_units = region_n_units(r),
			        .unit_shift = r->unit_shift,
			        .hva = r->hva,
			};
	}
	return n;
}

bool remap_take(struct placer *p, uint32_t lane, const struct uffd_msg *msg, size_t index)
{
	_cleanup_free_ struct address_piece *before = NULL;
	struct error e;
	size_t n;
	int r;

	if (msg->event != UFFD_EVENT_REMAP || !p->addresses)
		return false;
	n = unmoved(p, lane, &before);
	r = before ? address_map_move(p->addresses, before, n, (hva_t){msg->arg.remap.from},
	                              (hva_t){msg->arg.remap.to}, msg->arg.remap.len, index + 1)
	           : -ENOMEM;
	/* Everything is here, and it was not where it was unregistered. */
	if (p->unregistered && *p->unregistered)
		(void)uffd_unregister(p->uffd, (hva_t){msg->arg.remap.to}, msg->arg.remap.len);
	/*
	 * Who waits at the old place would not be woken by what comes to the new one; at the new
	 * one may wait who faulted there before it was known, once too often (STRAYS_MAX).
	 */
	resolve_wake(p->uffd, (hva_t){msg->arg.remap.from}, msg->arg.remap.len);
	resolve_wake(p->uffd, (hva_t){msg->arg.remap.to}, msg->arg.remap.len);
	if (r < 0) {
		error_set_errno(&e, r,
		                "the VMM moved 0x%" PRIx64 " bytes from 0x%" PRIx64 " to 0x%" PRIx64
		                ", which cannot be followed (at most %d pieces)",
		                (uint64_t)msg->arg.remap.len, (uint64_t)msg->arg.remap.from,
		                (uint64_t)msg->arg.remap.to, ADDRESS_PIECES_MAX);
		p->callbacks->report(PLACEMENT_FAILED, 0, &e, p->user);
	}
	return true;
}
