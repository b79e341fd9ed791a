/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Role: see the header. Called by collapse.c before anything is collapsed.
 *
 * Always holds: no run contains a byte of a poisoned range, and every run lies
 * within one region.
 */
#include "client/collapse_plan.h"

#include <errno.h>
#include <stdlib.h>

#include "core/cleanup.h"

static int run_add(struct collapse_plan *p, uint64_t start, uint64_t end, bool shared)
{
	struct collapse_run *runs;

	if (start >= end)
		return 0;
	/* Room doubles each time the number reaches a power of two. */
	if ((p->n_runs & (p->n_runs - 1)) == 0) {
		runs = reallocarray(p->runs, p->n_runs ? p->n_runs * 2 : 1, sizeof(*runs));
		if (!runs)
			return -ENOMEM;
		p->runs = runs;
	}
	p->runs[p->n_runs++] = (struct collapse_run){start, end - start, shared};
	return 0;
}

/* From here to the region's last whole huge page, without those that hold a lost page. */
static int region_add(struct collapse_plan *p, const struct region_kept *r,
                      const struct poison_range *poison, size_t n_poison)
{
	uint64_t at = align_up(r->hva, p->huge_bytes);
	uint64_t end = align_down(r->hva + r->length_bytes, p->huge_bytes);
	int rc = 0;

	if (r->page_size_bytes > WIRE_PAGE_SIZE || at >= end)
		return 0;
	p->total_bytes += end - at;
	for (size_t i = poison_range_find(poison, n_poison, (gpa_t){r->gpa});
	     rc == 0 && i < n_poison && poison[i].gpa.addr < r->gpa + r->length_bytes; i++) {
		uint64_t first = MAX(poison[i].gpa.addr, r->gpa) - r->gpa;
		uint64_t behind =
		        MIN(poison[i].gpa.addr + poison[i].length_bytes - r->gpa, r->length_bytes);
		uint64_t lost = MIN(align_down(r->hva + first, p->huge_bytes), end);
		uint64_t healthy = MIN(align_up(r->hva + behind, p->huge_bytes), end);

		rc = run_add(p, at, lost, r->shared);
		if (healthy > at) {
			p->poison_bytes += healthy - MAX(at, lost);
			at = healthy;
		}
	}
	return rc < 0 ? rc : run_add(p, at, end, r->shared);
}

int collapse_plan_make(const struct region_kept *regions, size_t n_regions,
                       const struct poison_range *poison, size_t n_poison, uint64_t huge_bytes,
                       struct collapse_plan *ret)
{
	struct collapse_plan p = {.huge_bytes = huge_bytes};

	for (size_t i = 0; i < n_regions; i++) {
		if (region_add(&p, &regions[i], poison, n_poison) < 0) {
			collapse_plan_free(&p);
			return -ENOMEM;
		}
	}
	*ret = p;
	return 0;
}

void collapse_plan_free(struct collapse_plan *p)
{
	free(p->runs);
	*p = (struct collapse_plan){0};
}
