/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The pattern of a test guest's memory; used by both guests and the benchmark.
 * Pure functions: the two hosts never talk about contents.
 */
#include "support/pattern.h"

#define WORD_STEP UINT64_C(0x9e3779b97f4a7c15)
#define WRITTEN_MARK UINT64_C(0x5a5a00ff12344321)

uint64_t pattern_mix(uint64_t x)
{
	x += WORD_STEP;
	x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
	return x ^ (x >> 31);
}

static uint64_t page_key(const struct pattern_page *p)
{
	return pattern_mix(pattern_mix(p->seed ^ ((uint64_t)p->region << 48)) ^ p->page);
}

bool pattern_is_zero(const struct pattern_page *p)
{
	return page_key(p) % 4 == 0;
}

bool pattern_is_written(const struct pattern_page *p)
{
	return (page_key(p) >> 8) % 4 == 0;
}

uint64_t pattern_written_word(const struct pattern_page *p)
{
	return page_key(p) ^ WRITTEN_MARK;
}

/* The first word; never 0 by accident, for 0 means a zero page. */
static uint64_t first_word(const struct pattern_page *p)
{
	return pattern_is_zero(p) ? 0 : page_key(p) | 1;
}

static uint64_t word_step(const struct pattern_page *p)
{
	return pattern_is_zero(p) ? 0 : WORD_STEP;
}

void pattern_fill(const struct pattern_page *p, void *memory)
{
	uint64_t word = first_word(p), step = word_step(p);
	uint64_t *words = memory;

	for (size_t i = 0; i < PATTERN_WORDS; i++, word += step)
		words[i] = word;
}

static bool word0_is_right(const struct pattern_page *p, uint64_t value, enum pattern_word0 word0)
{
	bool original = value == first_word(p);
	bool written = pattern_is_written(p) && value == pattern_written_word(p);

	if (word0 == PATTERN_WORD0_WRITTEN && pattern_is_written(p))
		return written;
	if (word0 == PATTERN_WORD0_EITHER)
		return original || written;
	return original;
}

int pattern_verify(const struct pattern_page *p, const void *memory, enum pattern_word0 word0)
{
	uint64_t step = word_step(p), word = first_word(p) + step, wrong = 0;
	const uint64_t *words = memory;

	/* Another thread of the guest may be writing this word right now. */
	if (!word0_is_right(p, __atomic_load_n(&words[0], __ATOMIC_RELAXED), word0))
		return 0;
	for (size_t i = 1; i < PATTERN_WORDS; i++, word += step)
		wrong |= words[i] ^ word;
	if (!wrong)
		return -1;
	word = first_word(p) + step;
	for (size_t i = 1; i < PATTERN_WORDS; i++, word += step)
		if (words[i] != word)
			return (int)(i * sizeof(uint64_t));
	return 0;
}
