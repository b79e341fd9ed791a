/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A VMM that moves its guest's memory about (mremap()) while threads touch it and while it
 * arrives. Called by guest_touch.c. A thread that touches a page in the moment when it moves
 * gets SIGSEGV, looks where the page is now, and touches it there.
 */
#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "support/guest.h"
#include "support/guest_touch.h"

#define MOVE_PAGES_MAX 512

struct mover {
	struct guest_touch *touch;
	struct guest *guest;
	uint8_t *places; /* as much room as the guest's memory twice over, reserved */
	uint64_t n_places;
	uint64_t next_place; /* no place is used twice: a straggler would read another page */
};

int guest_moves_init(struct guest *g)
{
	g->page_at = calloc(g->n_pages, sizeof(*g->page_at));
	if (!g->page_at)
		return -ENOMEM;
	/* A thread's arena could come to lie where memory has just moved away. */
	mallopt(M_ARENA_MAX, 1);
	for (uint64_t page = 0; page < g->n_pages; page++) {
		const struct guest_region *r = &g->regions[guest_region_of_page(g, page)];

		atomic_store(&g->page_at[page], r->address + (page - r->first_page) * PATTERN_PAGE);
	}
	return 0;
}

/* How many pages from this one on lie together and may move together. */
static uint64_t together(const struct guest *g, uint64_t page, uint64_t wanted)
{
	const struct guest_region *r = &g->regions[guest_region_of_page(g, page)];
	uint64_t end = r->first_page + r->length / PATTERN_PAGE, n = 1;

	while (n < wanted && page + n < end &&
	       atomic_load(&g->page_at[page + n]) ==
	               atomic_load(&g->page_at[page]) + n * PATTERN_PAGE)
		n++;
	return n;
}

static int move(struct mover *m, uint64_t page, uint64_t n)
{
	struct guest *g = m->guest;
	uint8_t *from = atomic_load(&g->page_at[page]);
	uint8_t *to = m->places + m->next_place * PATTERN_PAGE;

	if (m->next_place + n > m->n_places)
		return -ENOSPC;
	m->next_place += n;
	if (mremap(from, n * PATTERN_PAGE, n * PATTERN_PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to) !=
	    to)
		return -errno;
	/* Nothing else may come to lie there: who comes late must get SIGSEGV. */
	if (mmap(from, n * PATTERN_PAGE, PROT_NONE,
	         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0) != from)
		return -EEXIST;
	for (uint64_t i = 0; i < n; i++)
		atomic_store(&g->page_at[page + i], to + i * PATTERN_PAGE);
	return 0;
}

static void *mover_main(void *arg)
{
	struct mover *m = arg;
	const struct guest *g = m->guest;
	unsigned moved = 0;
	int r = 0;

	for (; moved < g->moves && r == 0; moved++) {
		uint64_t random = pattern_mix(g->seed * 31 + moved);
		uint64_t page = random % g->n_pages, n = 1 + (random >> 40) % MOVE_PAGES_MAX;

		if (g->move_parts) {
			n = MOVE_PAGES_MAX;
			page -= page % n;
		}

		/* One of the pages is on its way, or here, when they move. */
		if (moved % 2)
			guest_touch_page(m->touch, page);
		r = move(m, page, together(g, page, n));
		/* Over a border: the kernel moves no two mappings of a userfaultfd at once. */
		if (r == -EFAULT && g->driven.attach_flags & POSTCOPY_ATTACH_SPLIT)
			r = 0;
	}
	driven_event("moved", "%u%s%s", moved, r ? " " : "", r ? strerror(-r) : "");
	guest_touch_leave(m->touch);
	free(m);
	return NULL;
}

int guest_moves_start(struct guest_touch *touch, struct guest *g)
{
	struct mover *m = malloc(sizeof(*m));
	pthread_t thread;

	if (!m)
		return -ENOMEM;
	*m = (struct mover){
	        .touch = touch, .guest = g, .n_places = (uint64_t)g->moves * MOVE_PAGES_MAX};
	m->places = mmap(NULL, m->n_places * PATTERN_PAGE, PROT_NONE,
	                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (m->places == MAP_FAILED) {
		free(m);
		return -ENOMEM;
	}
	guest_touch_join_in(touch);
	if (pthread_create(&thread, NULL, mover_main, m) != 0)
		return -EAGAIN;
	pthread_detach(thread);
	return 0;
}
