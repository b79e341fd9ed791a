/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The destination's test guest after its migration: what libpostcopy lists as
 * lost, and huge pages again. Called by guest_destination.c before the final
 * check, which then finds what a collapse may have spoilt.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "support/guest.h"

static void print_listed(const struct guest *g, const struct postcopy_range *range)
{
	for (size_t i = 0; i < g->n_regions; i++) {
		const struct guest_region *r = &g->regions[i];
		uint64_t offset = range->guest_physical_address - r->gpa;

		if (range->guest_physical_address >= r->gpa && offset < r->length)
			driven_event("listed", "%s %llu %llu", r->name, (unsigned long long)offset,
			             (unsigned long long)range->length);
	}
}

static int list_poison(const struct guest *g)
{
	static struct postcopy_range ranges[POSTCOPY_RANGES_MAX];
	char text[384] = "";
	size_t n;
	int ret = postcopy_list_poison(g->handle, ranges, POSTCOPY_RANGES_MAX, &n, text,
	                               sizeof(text));

	if (ret < 0)
		return fprintf(stderr, "testguest: list: %s: %s\n", strerror(-ret), text), ret;
	for (size_t i = 0; i < n && i < POSTCOPY_RANGES_MAX; i++)
		print_listed(g, &ranges[i]);
	driven_event("listed-ranges", "%zu", n);
	return 0;
}

int guest_collapse(const struct guest *g)
{
	struct postcopy_collapse_progress p;
	int ret = list_poison(g);

	if (ret == 0)
		ret = driven_collapse(g->handle, &p);
	if (ret < 0)
		return ret;
	driven_event("collapse-done", "%d", p.done);
	driven_event("collapse-errno", "%d", p.last_errno);
	driven_event("collapse-total", "%llu", (unsigned long long)p.bytes_total);
	driven_event("collapse-huge", "%llu", (unsigned long long)p.bytes_collapsed);
	driven_event("collapse-poison", "%llu", (unsigned long long)p.bytes_skipped_poison);
	driven_event("collapse-unsuitable", "%llu", (unsigned long long)p.bytes_unsuitable);
	driven_event("collapse-failed", "%llu", (unsigned long long)p.bytes_failed);
	return 0;
}
