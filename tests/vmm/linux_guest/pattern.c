/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The contents that the guest's memory, disk and packets have. Called by
 * memory.c, disk.c and packet.c. What must be there is never taken from what is
 * there: the caller knows the generation.
 */
#include "pattern.h"
#include "guest.h"
#include <string.h>

#define WORD_STEP UINT64_C(0x9e3779b97f4a7c15)

static uint64_t mix(uint64_t x)
{
	x = (x ^ (x >> 31)) * UINT64_C(0x7fb5d329728ea185);
	x = (x ^ (x >> 27)) * UINT64_C(0x81dadef4bc2dd44d);
	return x ^ (x >> 33);
}

/* Word i is this and i steps; a page before its first write is all zeros. */
static uint64_t pattern_first(const struct pattern *p)
{
	return mix(mix(((uint64_t)p->part << 56) ^ p->number) + p->generation) | 1;
}

static uint64_t pattern_step(const struct pattern *p)
{
	return p->generation ? WORD_STEP : 0;
}

static uint64_t pattern_start(const struct pattern *p)
{
	return p->generation ? pattern_first(p) : 0;
}

void pattern_fill(uint64_t *words, size_t n_words, const struct pattern *pattern)
{
	uint64_t value = pattern_start(pattern), step = pattern_step(pattern);

	for (size_t i = 0; i < n_words; i++, value += step)
		words[i] = value;
}

size_t pattern_check(const uint64_t *words, size_t n_words, const struct pattern *expected)
{
	uint64_t value = pattern_start(expected), step = pattern_step(expected);
	size_t i = 0;

	for (; i < n_words && words[i] == value; i++)
		value += step;
	return i;
}

size_t pattern_renew(uint64_t *words, size_t n_words, const struct pattern *expected,
                     const struct pattern *next)
{
	uint64_t value = pattern_start(expected), step = pattern_step(expected);
	uint64_t value_next = pattern_start(next);
	size_t i = 0;

	for (; i < n_words && words[i] == value; i++) {
		words[i] = value_next;
		value += step;
		value_next += WORD_STEP;
	}
	return i;
}

/* Which generation before this one it is, if it is one; -1 otherwise. */
static long generations_back(uint64_t found, size_t at, const struct pattern *expected)
{
	struct pattern p = *expected;

	while (p.generation) {
		p.generation--;
		if (found == pattern_start(&p) + at * pattern_step(&p))
			return (long)(expected->generation - p.generation);
	}
	return -1;
}

void pattern_wrong(const char *what, const uint64_t *words, size_t n_words, size_t at,
                   const struct pattern *expected)
{
	uint64_t found = words[at], right = pattern_start(expected) + at * pattern_step(expected);
	long back = generations_back(found, at, expected);
	size_t n_zero = 0;

	for (size_t i = 0; i < n_words; i++)
		n_zero += words[i] == 0;
	if (back > 0)
		guest_wrong(
		        expected->part,
		        "%s %llu: word %zu of %zu is stale, of generation %llu instead of %llu; "
		        "%zu words are zero",
		        what, (unsigned long long)expected->number, at, n_words,
		        (unsigned long long)expected->generation - (unsigned long long)back,
		        (unsigned long long)expected->generation, n_zero);
	guest_wrong(expected->part,
	            "%s %llu: word %zu of %zu is %#llx instead of %#llx (generation %llu); "
	            "%zu words are zero",
	            what, (unsigned long long)expected->number, at, n_words,
	            (unsigned long long)found, (unsigned long long)right,
	            (unsigned long long)expected->generation, n_zero);
}
