/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Role: from an event to the units it covers. Called by fault_path.c for what it
 * reads, and by recovery.c for what a dead daemon had read. No state.
 */
#include "daemon/removal.h"

bool removal_is(const struct uffd_msg *msg)
{
	return msg->event == UFFD_EVENT_REMOVE || msg->event == UFFD_EVENT_UNMAP;
}

void removal_take(struct placer *p, const struct uffd_msg *msg)
{
	for (size_t i = 0; i < p->regions->n_regions; i++) {
		const struct region *r = &p->regions->regions[i];
		uint64_t at = MAX((uint64_t)msg->arg.remove.start, r->hva.addr);
		uint64_t end = MIN((uint64_t)msg->arg.remove.end, r->hva.addr + r->length_bytes);

		for (; at < end; at += region_unit_bytes(r))
			placement_remove(p, r, region_unit_of_hva(r, (hva_t){at}));
	}
}
