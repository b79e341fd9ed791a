/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A balloon that inflates while everything else goes on: threads give pages back before,
 * while and after they arrive, and look at them at once. Called by guest_touch.c, which
 * touches the same pages beside it. Each page is given back once; nobody writes to it.
 */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "support/guest.h"
#include "support/guest_touch.h"

#define STORM_THREADS 2

bool guest_storm_page(const struct guest *g, uint64_t page)
{
	return g->storm && pattern_mix(g->seed ^ ~page) % g->storm == 0 &&
	       guest_region_page_size(&g->regions[guest_region_of_page(g, page)]) == PATTERN_PAGE;
}

static int give_back(const struct guest *g, uint64_t page)
{
	enum guest_kind kind = g->regions[guest_region_of_page(g, page)].kind;

	return madvise(guest_page_address(g, page), PATTERN_PAGE,
	               kind == GUEST_ANONYMOUS ? MADV_DONTNEED : MADV_REMOVE) < 0
	               ? -errno
	               : 0;
}

struct storm {
	struct guest_touch *touch;
	struct guest *guest;
	unsigned index;
};

/* Some are asked for before, so that their answer is on its way, or here. */
static int storm_page(struct storm *s, uint64_t page)
{
	int r;

	if (page % 3 == 0)
		guest_touch_page(s->touch, page);
	r = give_back(s->guest, page);
	if (r < 0)
		return r;
	s->guest->given_back[page] = true;
	guest_touch_page(s->touch, page); /* zeros from here on, or lost */
	return 0;
}

static void *storm_main(void *arg)
{
	struct storm *s = arg;
	uint64_t n = 0;
	int r = 0;

	for (uint64_t page = s->index; page < s->guest->n_pages && r == 0; page += STORM_THREADS) {
		if (!guest_storm_page(s->guest, page))
			continue;
		r = storm_page(s, page);
		n++;
	}
	driven_event("stormed", "%llu%s%s", (unsigned long long)n, r ? " " : "",
	             r ? strerror(-r) : "");
	guest_touch_leave(s->touch);
	free(s);
	return NULL;
}

int guest_storm_start(struct guest_touch *touch, struct guest *g)
{
	g->given_back = calloc(g->n_pages, sizeof(*g->given_back));
	if (!g->given_back)
		return -ENOMEM;
	for (unsigned i = 0; i < STORM_THREADS; i++) {
		struct storm *s = malloc(sizeof(*s));
		pthread_t thread;

		if (!s)
			return -ENOMEM;
		*s = (struct storm){touch, g, i};
		guest_touch_join_in(touch);
		if (pthread_create(&thread, NULL, storm_main, s) != 0)
			return -EAGAIN;
		pthread_detach(thread);
	}
	return 0;
}
