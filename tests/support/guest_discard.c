/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a VMM does for the balloon: memory that the guest does not need goes back to the
 * kernel. Called by guest_touch.c, while no thread touches anything.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "support/guest.h"

/* MADV_DONTNEED leaves the pages of a file where they are. */
static int discard_in_region(struct guest *g, uint64_t first, uint64_t n, bool replace)
{
	const struct guest_region *r = &g->regions[guest_region_of_page(g, first)];
	int advice = r->kind == GUEST_ANONYMOUS ? MADV_DONTNEED : MADV_REMOVE;

	for (uint64_t page = first; page < first + n; page++)
		g->given_back[page] = true;
	if (replace)
		return mmap(guest_page_address(g, first), n * PATTERN_PAGE, PROT_READ | PROT_WRITE,
		            MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED
		               ? -errno
		               : 0;
	return madvise(guest_page_address(g, first), n * PATTERN_PAGE, advice) < 0 ? -errno : 0;
}

int guest_discard(struct guest *g, uint64_t first_page, uint64_t n_pages, bool replace)
{
	const struct guest_region *r = &g->regions[guest_region_of_page(g, first_page)];
	int ret = -EINVAL;

	if (!g->given_back)
		g->given_back = calloc(g->n_pages, sizeof(*g->given_back));
	if (g->given_back && n_pages <= r->first_page + r->length / PATTERN_PAGE - first_page)
		ret = discard_in_region(g, first_page, n_pages, replace);
	if (ret < 0)
		fprintf(stderr, "testguest: cannot discard %llu pages at %llu of %s: %s\n",
		        (unsigned long long)n_pages, (unsigned long long)first_page, r->name,
		        strerror(-ret));
	else
		driven_event("discarded", "%llu", (unsigned long long)n_pages);
	return ret;
}

bool guest_page_is_zeros(const struct guest *g, uint64_t page)
{
	static const uint8_t zeros[PATTERN_PAGE];

	return memcmp(guest_page_address(g, page), zeros, sizeof(zeros)) == 0;
}
