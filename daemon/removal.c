/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Role: from an event to the units it covers. Called by fault_event.c for what it
 * reads, and by recovery.c for what a dead daemon had read. No state.
 */
#include "daemon/removal.h"

bool removal_is(const struct uffd_msg *msg)
{
	return msg->event == UFFD_EVENT_REMOVE || msg->event == UFFD_EVENT_UNMAP;
}

/* What has moved is found by its new place. */
static void take_moved(struct placer *p, hva_t start, hva_t end)
{
	uint64_t unit, n;
	size_t cursor = 0;

	while (address_map_next(p->addresses, start, end, &cursor, &unit, &n))
		for (uint64_t i = 0; i < n; i++)
			placement_remove(p, region_find_unit(p->regions, unit + i), unit + i);
}

void removal_take(struct placer *p, uint32_t lane, const struct uffd_msg *msg)
{
	if (address_map_moved(p->addresses)) {
		take_moved(p, (hva_t){msg->arg.remove.start}, (hva_t){msg->arg.remove.end});
		return;
	}
	for (size_t i = 0; i < p->regions->n_regions; i++) {
		const struct region *r = &p->regions->regions[i];
		uint64_t at = MAX((uint64_t)msg->arg.remove.start, r->hva.addr);
		uint64_t end = MIN((uint64_t)msg->arg.remove.end, r->hva.addr + r->length_bytes);

		/* An unmap is told to each lane that it concerns, and to each in its full length. */
		if (r->lane != lane)
			continue;
		for (; at < end; at += region_unit_bytes(r))
			placement_remove(p, r, region_unit_of_hva(r, (hva_t){at}));
	}
}
