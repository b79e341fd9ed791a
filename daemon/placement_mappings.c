/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Role: the same pages in other processes' mappings of the memory (mapping.h). Called by
 * the other placement*.c files, fault_*.c and the lane.
 *
 * Data needs nothing there: it is in the file, and who waited for it finds it when it
 * faults again. Always holds: a thread that waits in a mapping is woken after the page
 * map tells what its page is, never before.
 */
#include "daemon/placement_parts.h"

#define POISON_TRIES 100

struct units {
	struct placer *p;
	const struct region *r;
	uint64_t first, n;
};

static void wake_one(struct mapping *m, void *arg)
{
	const struct units *u = arg;
	uint64_t len_bytes;
	size_t cursor = 0;
	hva_t hva;

	while (mapping_next(m, u->first, u->n, &cursor, &hva, &len_bytes))
		resolve_wake(m->uffd, hva, len_bytes);
}

void placement_wake_mappings(struct placer *p, uint64_t first, uint64_t n_units)
{
	struct units u = {.p = p, .first = first, .n = n_units};

	if (p->mappings)
		mapping_set_each(p->mappings, wake_one, &u);
}

void placement_wake(struct placer *p, const struct region *r, uint64_t first, uint64_t n_units)
{
	uint64_t done = 0, n;
	hva_t hva;

	for (; done < n_units; done += n)
		if (placement_where(p, r, first + done, n_units - done, &hva, &n))
			resolve_wake(p->uffd, hva, n << r->unit_shift);
	placement_wake_mappings(p, first, n_units);
}

/*
 * No event is ever unread here (a mapping's userfaultfd has none switched on), so that
 * EAGAIN passes by itself. What cannot be set now is set when it is touched.
 */
static enum resolve_outcome poison_set(struct mapping *m, hva_t hva, uint64_t len_bytes)
{
	struct resolve_result res = {.outcome = RESOLVE_RETRY};

	for (int i = 0; i < POISON_TRIES && res.outcome == RESOLVE_RETRY; i++)
		res = resolve_poison(m->uffd, hva, len_bytes);
	return res.outcome;
}

static void poison_one(struct mapping *m, void *arg)
{
	const struct units *u = arg;
	uint64_t len_bytes;
	size_t cursor = 0;
	hva_t hva;

	while (m->poison_supported && mapping_next(m, u->first, 1, &cursor, &hva, &len_bytes))
		if (poison_set(m, hva, len_bytes) == RESOLVE_ALREADY)
			placement_warn_unexpected(
			        u->p, u->r, u->first,
			        "this page is lost, but could not be poisoned in a "
			        "further mapping of it");
}

void placement_poison_mappings(struct placer *p, const struct region *r, uint64_t unit)
{
	struct units u = {.p = p, .r = r, .first = unit, .n = 1};

	if (p->mappings)
		mapping_set_each(p->mappings, poison_one, &u);
}

void placement_answer_mapping(struct placer *p, struct mapping *m, hva_t hva,
                              const struct region *r, enum page_state s, bool minor)
{
	placement_answer_at(p, m->uffd, hva, m->poison_supported, r, s, minor);
}

void placement_catch_up(struct placer *p, struct mapping *m)
{
	for (uint64_t i = 0, n = ledger_count(p->ledger); i < n && m->poison_supported; i++) {
		uint64_t unit = ledger_get(p->ledger, i)->unit, len_bytes;
		size_t cursor = 0;
		hva_t hva;

		/* One that is not POISONED yet has its marker set by whoever claimed it. */
		if (page_map_get(p->map, unit) != PAGE_POISONED)
			continue;
		while (mapping_next(m, unit, 1, &cursor, &hva, &len_bytes))
			(void)poison_set(m, hva, len_bytes);
	}
	for (size_t i = 0; i < m->n_parts; i++)
		resolve_wake(m->uffd, m->parts[i].hva,
		             m->parts[i].n_units << m->parts[i].unit_shift);
}
