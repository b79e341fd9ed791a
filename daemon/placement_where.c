/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Role: find a unit in the VMM's memory, which the VMM may be moving. Called by the other
 * placement*.c files, removal.c and remap.c.
 */
#include "daemon/placement_parts.h"

void placement_lock(struct placer *p)
{
	if (p->remove_lock)
		pthread_mutex_lock(p->remove_lock);
}

void placement_unlock(struct placer *p)
{
	if (p->remove_lock)
		pthread_mutex_unlock(p->remove_lock);
}

bool placement_where(const struct placer *p, const struct region *r, uint64_t unit,
                     uint64_t n_units, hva_t *ret_hva, uint64_t *ret_n)
{
	if (address_map_moved(p->addresses))
		return address_map_find_unit(p->addresses, unit, n_units, ret_hva, ret_n);
	*ret_hva = region_unit_hva(r, unit);
	*ret_n = n_units;
	return true;
}
