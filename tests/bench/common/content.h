/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a bench guest's memory holds: cheap to write and to check, and never
 * zero where it is not meant to be. Both hosts know it without talking.
 */
#ifndef BENCH_COMMON_CONTENT_H
#define BENCH_COMMON_CONTENT_H

#include <stdbool.h>
#include <stdint.h>

#define BENCH_PAGE 4096U
#define BENCH_WORDS (BENCH_PAGE / sizeof(uint64_t))

/* page counts from its region's start, so that regions may share one file. */
static inline uint64_t content_key(uint64_t page)
{
	return (page + 1) * UINT64_C(0x9e3779b97f4a7c15) | 1;
}

/* Spread evenly, in no order that a stream could profit from. */
static inline bool content_is_zero(uint64_t page, unsigned zero_percent)
{
	return (page * UINT64_C(0x9e3779b1) >> 7) % 100 < zero_percent;
}

static inline void content_fill(void *memory, uint64_t page)
{
	uint64_t *words = memory, key = content_key(page);

	for (uint64_t i = 0; i < BENCH_WORDS; i++)
		words[i] = key + i;
}

/* First and last word: a page that is missing, misplaced or cut shows. */
static inline bool content_is_right(const void *memory, uint64_t page, unsigned zero_percent)
{
	const uint64_t *words = memory;
	bool zero = content_is_zero(page, zero_percent);

	return words[0] == (zero ? 0 : content_key(page)) &&
	       words[BENCH_WORDS - 1] == (zero ? 0 : content_key(page) + BENCH_WORDS - 1);
}

/* The i-th page of a walk that meets each page once, far from the one before. */
static inline uint64_t content_walk(uint64_t i, uint64_t n_pages)
{
	/* A prime that divides no number of pages. */
	return i % n_pages * UINT64_C(0x9e3779b1) % n_pages;
}

#endif
