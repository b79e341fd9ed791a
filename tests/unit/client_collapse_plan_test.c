/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Promises of the collapse's plan: no run holds a lost byte, nothing healthy is
 * left out but what shares a huge page with one, and the sums agree.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>

#include "client/collapse_plan.h"
#include "core/cleanup.h"

#define HUGE (UINT64_C(2) << 20)
#define PAGE UINT64_C(4096)
#define BASE (UINT64_C(64) * HUGE)

static struct collapse_plan plan(const struct region_kept *regions, size_t n_regions,
                                 const struct poison_range *poison, size_t n_poison)
{
	struct collapse_plan p;
	uint64_t sum = 0;

	assert_int_equal(collapse_plan_make(regions, n_regions, poison, n_poison, HUGE, &p), 0);
	for (size_t i = 0; i < p.n_runs; i++)
		sum += p.runs[i].bytes;
	assert_int_equal(sum + p.poison_bytes, p.total_bytes);
	return p;
}

static void expect(const struct collapse_plan *p, size_t i, uint64_t hva, uint64_t bytes)
{
	assert_true(i < p->n_runs);
	assert_int_equal(p->runs[i].hva, hva);
	assert_int_equal(p->runs[i].bytes, bytes);
}

static void test_whole_when_healthy(void **state)
{
	const struct region_kept r = {0x1000, BASE, 8 * HUGE, PAGE, true};
	struct collapse_plan p = plan(&r, 1, NULL, 0);

	(void)state;
	assert_int_equal(p.n_runs, 1);
	expect(&p, 0, BASE, 8 * HUGE);
	assert_true(p.runs[0].shared);
	collapse_plan_free(&p);
}

/* Only whole huge pages count, wherever the region begins and ends. */
static void test_edges(void **state)
{
	const struct region_kept r[] = {
	        {0, BASE + PAGE, 3 * HUGE, PAGE, false},
	        {1 << 30, BASE + 16 * HUGE + PAGE, HUGE, PAGE, false}, /* not one whole */
	        {2 << 29, UINT64_MAX - 2 * HUGE, PAGE, PAGE, false},
	        {3U << 30, BASE + 32 * HUGE, 4 * HUGE, HUGE, false}, /* hugetlb */
	};
	struct collapse_plan p = plan(r, ARRAY_SIZE(r), NULL, 0);

	(void)state;
	assert_int_equal(p.n_runs, 1);
	assert_int_equal(p.total_bytes, 2 * HUGE);
	expect(&p, 0, BASE + HUGE, 2 * HUGE);
	collapse_plan_free(&p);
}

static void test_poison_left_out(void **state)
{
	const struct region_kept r = {0, BASE, 8 * HUGE, PAGE, false};
	const struct poison_range poison[] = {
	        {{0}, PAGE},                      /* the very first page */
	        {{2 * HUGE}, PAGE},               /* the first of a huge page */
	        {{3 * HUGE - PAGE}, PAGE},        /* the last of the same */
	        {{4 * HUGE - PAGE}, 2 * PAGE},    /* over a border */
	        {{8 * HUGE - PAGE}, PAGE + HUGE}, /* the last one, and past the end */
	        {{UINT64_C(1) << 40}, PAGE},      /* of another region */
	};
	struct collapse_plan p = plan(&r, 1, poison, ARRAY_SIZE(poison));

	(void)state;
	assert_int_equal(p.n_runs, 2);
	expect(&p, 0, BASE + 1 * HUGE, HUGE);
	expect(&p, 1, BASE + 5 * HUGE, 2 * HUGE);
	assert_int_equal(p.poison_bytes, 5 * HUGE);
	collapse_plan_free(&p);
}

/* Guest-physical and host addresses need not agree modulo a huge page. */
static void test_unaligned_guest_address(void **state)
{
	const struct region_kept r[] = {
	        {0, BASE, 2 * HUGE, PAGE, true},
	        {2 * HUGE, BASE + 8 * HUGE + PAGE, 3 * HUGE, PAGE, true},
	};
	/* One range over the end of one region and the head of the other, which is not whole. */
	const struct poison_range poison[] = {
	        {{2 * HUGE - PAGE}, HUGE},
	        {{4 * HUGE}, PAGE},
	};
	struct collapse_plan p = plan(r, 2, poison, 2);

	(void)state;
	assert_int_equal(p.n_runs, 2);
	expect(&p, 0, BASE, HUGE);
	expect(&p, 1, BASE + 9 * HUGE, HUGE);
	assert_int_equal(p.total_bytes, 4 * HUGE);
	assert_int_equal(p.poison_bytes, 2 * HUGE);
	collapse_plan_free(&p);
}

/* Against the definition, page by page. */
static void test_by_definition(void **state)
{
	enum {
		PAGES = 6 * 512
	};
	static uint8_t lost[PAGES];
	struct region_kept r = {7 * PAGE, BASE + 100 * PAGE, PAGES * PAGE, PAGE, true};
	static struct poison_range poison[PAGES];

	(void)state;
	srand(1);
	for (int round = 0; round < 200; round++) {
		size_t n = 0;
		struct collapse_plan p;

		for (size_t i = 0; i < PAGES; i++) {
			lost[i] = rand() % 1500 == 0;
			if (lost[i])
				poison[n++] = (struct poison_range){{r.gpa + i * PAGE}, PAGE};
		}
		p = plan(&r, 1, poison, n);
		for (size_t i = 0; i < p.n_runs; i++)
			for (uint64_t at = p.runs[i].hva; at < p.runs[i].hva + p.runs[i].bytes;
			     at += PAGE)
				assert_false(lost[(at - r.hva) / PAGE]);
		for (uint64_t h = BASE + HUGE; h + HUGE <= r.hva + r.length_bytes; h += HUGE) {
			bool healthy = true, in_run = false;

			for (uint64_t at = h; at < h + HUGE; at += PAGE)
				healthy &= !lost[(at - r.hva) / PAGE];
			for (size_t i = 0; i < p.n_runs; i++)
				in_run |= h >= p.runs[i].hva && h < p.runs[i].hva + p.runs[i].bytes;
			assert_int_equal(healthy, in_run);
		}
		collapse_plan_free(&p);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_whole_when_healthy),
	        cmocka_unit_test(test_edges),
	        cmocka_unit_test(test_poison_left_out),
	        cmocka_unit_test(test_unaligned_guest_address),
	        cmocka_unit_test(test_by_definition),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
