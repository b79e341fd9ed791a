/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The stream's list of what is left to send, as a bitmap whose words change by
 * atomic operations only. A page that two threads clear is counted by the one
 * that found it set.
 */
#include "source/want.h"

#include <errno.h>
#include <stdatomic.h>

#include "core/bitmap.h"

struct want {
	struct bitmap *pages;
	_Atomic uint64_t count;
};

int want_new(uint64_t n_pages, struct want **ret)
{
	struct want *w = calloc(1, sizeof(*w));
	int r;

	if (!w)
		return -ENOMEM;
	r = bitmap_new(n_pages, &w->pages);
	if (r < 0) {
		free(w);
		return r;
	}
	*ret = w;
	return 0;
}

struct want *want_free(struct want *w)
{
	if (!w)
		return NULL;
	bitmap_free(w->pages);
	free(w);
	return NULL;
}

void want_add(struct want *w, uint64_t first, uint64_t count)
{
	uint64_t n, added = 0;

	for (uint64_t page = first; count > 0; page += n, count -= n) {
		uint64_t mask = bitmap_word_mask(page, count, &n);
		uint64_t old =
		        __atomic_fetch_or(&w->pages->words[page / 64], mask, __ATOMIC_RELAXED);

		added += (uint64_t)__builtin_popcountll(mask & ~old);
	}
	atomic_fetch_add_explicit(&w->count, added, memory_order_relaxed);
}

void want_add_units(struct want *w, uint64_t first, uint64_t n_units, uint32_t unit_pages,
                    const uint8_t *bits)
{
	uint64_t start = 0;
	bool in_run = false;

	for (uint64_t i = 0; i <= n_units; i++) {
		bool set = i < n_units && (bits[i / 8] >> (i % 8) & 1);

		if (set == in_run)
			continue;
		if (in_run)
			want_add(w, first + start * unit_pages, (i - start) * unit_pages);
		start = i;
		in_run = set;
	}
}

uint64_t want_drop(struct want *w, uint64_t first, uint64_t count)
{
	uint64_t n, dropped = 0;

	if (want_count(w) == 0)
		return 0;
	for (uint64_t page = first; count > 0; page += n, count -= n) {
		uint64_t mask = bitmap_word_mask(page, count, &n);
		uint64_t old =
		        __atomic_fetch_and(&w->pages->words[page / 64], ~mask, __ATOMIC_RELAXED);

		dropped += (uint64_t)__builtin_popcountll(mask & old);
	}
	atomic_fetch_sub_explicit(&w->count, dropped, memory_order_relaxed);
	return dropped;
}

uint64_t want_next(const struct want *w, uint64_t from)
{
	uint64_t n_pages = w->pages->n_bits;

	for (uint64_t page = from; page < n_pages; page = (page / 64 + 1) * 64) {
		uint64_t word = __atomic_load_n(&w->pages->words[page / 64], __ATOMIC_RELAXED) &
		                (UINT64_MAX << (page % 64));

		if (word)
			return page / 64 * 64 + (uint64_t)__builtin_ctzll(word);
	}
	return n_pages;
}

uint64_t want_word(const struct want *w, uint64_t page)
{
	return __atomic_load_n(&w->pages->words[page / 64], __ATOMIC_RELAXED);
}

/*
 * Within one word, which is enough for a caller who comes again. Bits that
 * somebody else cleared meanwhile end the run; what we cleared behind such a
 * gap is put back.
 */
uint64_t want_take(struct want *w, uint64_t from, uint64_t max, uint64_t *ret_first)
{
	for (;;) {
		uint64_t first = want_next(w, from);

		if (first == w->pages->n_bits)
			return 0;
		uint64_t *word = &w->pages->words[first / 64];
		uint64_t seen = __atomic_load_n(word, __ATOMIC_RELAXED) >> (first % 64);
		uint64_t ones = ~seen ? (uint64_t)__builtin_ctzll(~seen) : 64;
		uint64_t n, mask = bitmap_word_mask(first, MIN(MAX(ones, UINT64_C(1)), max), &n);
		uint64_t got = __atomic_fetch_and(word, ~mask, __ATOMIC_RELAXED) & mask;
		uint64_t run = got >> (first % 64);

		ones = ~run ? (uint64_t)__builtin_ctzll(~run) : 64;
		uint64_t kept = ones ? bitmap_word_mask(first, ones, &n) : 0;

		if (got & ~kept)
			__atomic_fetch_or(word, got & ~kept, __ATOMIC_RELAXED);
		if (ones == 0)
			continue;
		atomic_fetch_sub_explicit(&w->count, ones, memory_order_relaxed);
		*ret_first = first;
		return ones;
	}
}

uint64_t want_count(const struct want *w)
{
	return atomic_load_explicit(&w->count, memory_order_relaxed);
}
