/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Role: who may place which unit. Called by the fault path and the stream
 * before and after every placement. Each function is one atomic step, so
 * that of any number of racing threads exactly one wins a claim.
 */
#include "daemon/page_map.h"

#include <assert.h>

static const char *const state_names[] = {
        [PAGE_MISSING] = "missing", [PAGE_REQUESTED] = "requested", [PAGE_PLACING] = "placing",
        [PAGE_PRESENT] = "present", [PAGE_POISONED] = "poisoned",   [PAGE_REMOVED] = "removed",
        [PAGE_WRITTEN] = "written",
};
static_assert(sizeof(state_names) / sizeof(state_names[0]) == PAGE_STATES_, "a name a state");

const char *page_state_name(enum page_state s)
{
	return (unsigned)s < PAGE_STATES_ ? state_names[s] : "invalid";
}

void page_map_init(struct page_map *m, void *states, uint64_t n_units)
{
	m->states = states;
	m->n_units = n_units;
}

enum page_state page_map_get(const struct page_map *m, uint64_t unit)
{
	assert(unit < m->n_units);
	return atomic_load_explicit(&m->states[unit], memory_order_acquire);
}

static bool state_swap(struct page_map *m, uint64_t unit, uint8_t *seen, enum page_state to)
{
	return atomic_compare_exchange_strong_explicit(&m->states[unit], seen, (uint8_t)to,
	                                               memory_order_acq_rel, memory_order_acquire);
}

enum page_state page_map_request(struct page_map *m, uint64_t unit)
{
	uint8_t seen = PAGE_MISSING;

	assert(unit < m->n_units);
	state_swap(m, unit, &seen, PAGE_REQUESTED);
	return seen;
}

bool page_map_claim(struct page_map *m, uint64_t unit)
{
	uint8_t seen;

	assert(unit < m->n_units);
	seen = atomic_load_explicit(&m->states[unit], memory_order_acquire);
	while (seen == PAGE_MISSING || seen == PAGE_REQUESTED)
		if (state_swap(m, unit, &seen, PAGE_PLACING))
			return true;
	return false;
}

static void claim_end(struct page_map *m, uint64_t unit, enum page_state to)
{
	uint8_t seen;
	bool swapped;

	assert(unit < m->n_units);
	seen = atomic_load_explicit(&m->states[unit], memory_order_relaxed);
	swapped = page_state_is_claimed(seen) && state_swap(m, unit, &seen, to);
	assert(swapped); /* only the claimant ends a claim */
	(void)swapped;
}

void page_map_written(struct page_map *m, uint64_t unit)
{
	claim_end(m, unit, PAGE_WRITTEN);
}

void page_map_placed(struct page_map *m, uint64_t unit)
{
	claim_end(m, unit, PAGE_PRESENT);
}

void page_map_poisoned(struct page_map *m, uint64_t unit)
{
	claim_end(m, unit, PAGE_POISONED);
}

void page_map_unmapped(struct page_map *m, uint64_t unit)
{
	claim_end(m, unit, PAGE_REMOVED);
}

void page_map_release(struct page_map *m, uint64_t unit)
{
	claim_end(m, unit, PAGE_MISSING);
}

enum page_state page_map_remove(struct page_map *m, uint64_t unit)
{
	uint8_t seen;

	assert(unit < m->n_units);
	seen = atomic_load_explicit(&m->states[unit], memory_order_acquire);
	while (seen == PAGE_MISSING || seen == PAGE_REQUESTED || seen == PAGE_PRESENT)
		if (state_swap(m, unit, &seen, PAGE_REMOVED))
			break;
	return seen;
}

void page_map_reset(struct page_map *m, uint64_t unit, enum page_state to)
{
	assert(unit < m->n_units);
	atomic_store_explicit(&m->states[unit], (uint8_t)to, memory_order_release);
}

uint64_t page_map_count(const struct page_map *m, uint64_t first, uint64_t count, enum page_state s)
{
	uint64_t n = 0;

	for (uint64_t unit = first; unit < first + count; unit++)
		n += page_map_get(m, unit) == s;
	return n;
}
