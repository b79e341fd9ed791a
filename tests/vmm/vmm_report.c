/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the guest itself said at its end, on the console, against what really
 * happened to its memory: the plan, which both VMMs know. Called by
 * vmm_destination.c. Each difference is a "differs" event.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/vmm.h"

struct summary {
	unsigned right, lost, wrong, came_back;
	bool ended; /* the guest came to its end and printed the rest */
};

/* Machine checks a page of the walk, by the guest's list. Others are differences at once. */
static size_t report_read(const struct vmm *v, unsigned *ret_counts, struct summary *ret_summary)
{
	size_t n_off = 0;

	for (size_t i = 0; i < v->console.n_lines; i++) {
		const char *line = v->console.lines[i];
		struct summary *s = ret_summary;
		unsigned long long gpa;
		unsigned count;
		uint64_t page;

		if (!strcmp(line, LINE_END))
			s->ended = true;
		if (sscanf(line, LINE_SUMMARY, &s->right, &s->lost, &s->wrong, &s->came_back) > 0)
			continue;
		if (sscanf(line, LINE_LOST_PAGE, &gpa, &count) != 2)
			continue;
		page = (gpa - GUEST_WALK_START) / GUEST_PAGE;
		if (gpa % GUEST_PAGE || page >= vmm_memory_walk_pages(&v->memory)) {
			driven_event("differs", "%s", line);
			n_off++;
			continue;
		}
		ret_counts[page] = count;
		driven_event("lost-page", "ram0 %llu", gpa);
	}
	return n_off;
}

static const char *page_judge(const struct vmm *v, uint64_t page, unsigned count)
{
	struct poison_region region = vmm_memory_poison(&v->memory);
	enum poison_expectation expect = poison_plan_expect(v->plan, &region, 0, page);

	if (expect == POISON_SURE && count == 0)
		return "is lost, and gave no machine check";
	if (expect == POISON_NONE && count > 0)
		return "is healthy, and gave a machine check";
	return NULL;
}

static size_t pages_check(const struct vmm *v, const unsigned *counts, unsigned *ret_lost)
{
	uint64_t n_pages = vmm_memory_walk_pages(&v->memory);
	size_t n_off = 0;

	*ret_lost = 0;
	for (uint64_t page = 0; page < n_pages; page++) {
		const char *wrong = page_judge(v, page, counts[page]);

		*ret_lost += counts[page] > 0;
		if (!wrong)
			continue;
		n_off++;
		driven_event("differs", "page %#llx %s", (unsigned long long)vmm_page_gpa(page),
		             wrong);
	}
	return n_off;
}

static size_t expect_number(const char *what, unsigned long long got, unsigned long long expected)
{
	if (got == expected)
		return 0;
	driven_event("differs", "%s: %llu instead of %llu", what, got, expected);
	return 1;
}

size_t vmm_report_check(const struct vmm *v)
{
	uint64_t n_pages = vmm_memory_walk_pages(&v->memory);
	unsigned *counts = calloc(n_pages, sizeof(*counts)), lost;
	struct summary s = {0};
	unsigned long long taken = 0;
	size_t n_off;

	if (!counts)
		return 1;
	n_off = report_read(v, counts, &s);
	n_off += pages_check(v, counts, &lost);
	n_off += expect_number("guests that came to the end", s.ended, 1);
	n_off += expect_number("lost pages of the summary", s.lost, lost);
	n_off += expect_number("healthy pages wrong", s.wrong, 0);
	n_off += expect_number("lost pages that came back", s.came_back, 0);
	n_off += expect_number("right pages", s.right, n_pages - lost);
	for (uint64_t page = 0; page < n_pages; page++)
		taken += counts[page];
	driven_event("taken", "%llu", taken);
	driven_event("pages", "%llu", (unsigned long long)n_pages);
	driven_event("healthy", "%u", s.right);
	driven_event("lost-pages", "%u", lost);
	driven_event("off", "%zu", n_off);
	free(counts);
	return n_off;
}
