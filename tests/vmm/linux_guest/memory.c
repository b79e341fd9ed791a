/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Most of the guest's memory, walked over again and again by one thread a vCPU,
 * each with a half of its own. A visit checks the whole page against the
 * generation of the walk before and writes the next one. The first touch of a
 * visit is timed. What a page must hold follows from the number of the walk,
 * which the walker knows, not from the page.
 */
#include "guest.h"
#include "pattern.h"
#include "stall.h"
#include <sys/mman.h>

/* Neighbours in a walk are far apart in memory, so that no read-ahead helps. */
#define WALK_STRIDE 12289 /* a prime, so that a walk comes to every page */
#define WALK_SHIFT 7919   /* where a walk begins moves by so many pages from one to the next */

struct walker {
	uint64_t *words;
	uint64_t first_page, n_pages;
	struct guest_counts counts;
};

static struct walker walkers[WALKERS];

static void page_visit(struct walker *w, uint64_t index, uint64_t generation)
{
	uint64_t *words = w->words + index * WORDS_PER_PAGE;
	struct pattern expected = {GUEST_MEMORY, w->first_page + index, generation - 1};
	struct pattern next = {GUEST_MEMORY, w->first_page + index, generation};
	uint64_t before = stall_clock();
	size_t right;

	(void)*(volatile uint64_t *)&words[generation % WORDS_PER_PAGE];
	stall_add(stall_clock() - before);
	right = pattern_renew(words, WORDS_PER_PAGE, &expected, &next);
	if (right < WORDS_PER_PAGE)
		pattern_wrong("page", words, WORDS_PER_PAGE, right, &expected);
	count(&w->counts.n_right, 1);
}

static noreturn void *walker_run(void *argument)
{
	struct walker *w = argument;

	for (uint64_t generation = 1;; generation++) {
		for (uint64_t i = 0; i < w->n_pages; i++)
			page_visit(w, (i * WALK_STRIDE + generation * WALK_SHIFT) % w->n_pages,
			           generation);
		count(&w->counts.n_passes, 1);
	}
}

void memory_start(unsigned size_mib)
{
	uint64_t n_pages = (uint64_t)size_mib * 1024 * 1024 / PAGE_SIZE / WALKERS;
	size_t size_bytes = n_pages * WALKERS * PAGE_SIZE;
	uint64_t *words = mmap(NULL, size_bytes, PROT_READ | PROT_WRITE,
	                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	if (words == MAP_FAILED)
		guest_broken("memory");
	for (unsigned i = 0; i < WALKERS; i++) {
		walkers[i] = (struct walker){.words = words + i * n_pages * WORDS_PER_PAGE,
		                             .first_page = i * n_pages,
		                             .n_pages = n_pages};
		guest_thread(walker_run, &walkers[i], (int)i, false);
	}
}

void memory_counts(struct guest_counts *ret_counts)
{
	uint64_t n_passes = counted(&walkers[0].counts.n_passes), n_right = 0;

	for (unsigned i = 0; i < WALKERS; i++) {
		uint64_t n = counted(&walkers[i].counts.n_passes);

		n_passes = n < n_passes ? n : n_passes;
		n_right += counted(&walkers[i].counts.n_right);
	}
	ret_counts->n_passes = n_passes;
	ret_counts->n_right = n_right;
}
