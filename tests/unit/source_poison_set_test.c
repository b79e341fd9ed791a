/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Promises: a lost page stays lost with its first reason; every reader hears of
 * every lost page exactly once, also when threads add and read at the same time.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "source/poison_set.h"

#define PAGES 4096

static struct source_region regions[] = {
        {.first_page = 0, .n_pages = 100},
        {.first_page = 100, .n_pages = PAGES - 100},
};
static const struct region_table table = {.regions = regions, .n_regions = 2, .n_pages = PAGES};

static void test_runs_and_reasons(void **state)
{
	struct poison_set *s;
	struct page_run runs[8];
	enum poison_reason reason;
	uint64_t added, cursor = 0;

	(void)state;
	assert_int_equal(poison_set_new(&table, &s), 0);
	assert_false(poison_set_test(s, 5));
	assert_int_equal(poison_set_read(s, 0, runs, 8, &reason, &cursor), 0);
	assert_int_equal(poison_set_add(s, 5, 3, POISON_REASON_REPORTED, POISON_BY_VMM, &added), 0);
	assert_int_equal(added, 3);
	/* Overlaps: only what is new counts, and the old keeps its reason. */
	assert_int_equal(poison_set_add(s, 4, 6, POISON_REASON_READ_ERROR, POISON_BY_READ, &added),
	                 0);
	assert_int_equal(added, 3);
	assert_int_equal(poison_set_count(s), 6);
	assert_false(poison_set_test(s, 3));
	assert_true(poison_set_test(s, 4));
	assert_true(poison_set_test(s, 9));
	assert_false(poison_set_test(s, 10));

	assert_int_equal(poison_set_read(s, 0, runs, 8, &reason, &cursor), 1);
	assert_int_equal(reason, POISON_REASON_REPORTED);
	assert_int_equal(runs[0].first, 5);
	assert_int_equal(runs[0].count, 3);
	assert_int_equal(poison_set_read(s, cursor, runs, 8, &reason, &cursor), 2);
	assert_int_equal(reason, POISON_REASON_READ_ERROR);
	assert_int_equal(runs[0].first, 4);
	assert_int_equal(runs[0].count, 1);
	assert_int_equal(runs[1].first, 8);
	assert_int_equal(runs[1].count, 2);
	assert_int_equal(cursor, 6);
	assert_int_equal(poison_set_read(s, cursor, runs, 8, &reason, &cursor), 0);
	/* The last run grows: a reader in the middle of it is told the rest only. */
	assert_int_equal(poison_set_add(s, 10, 2, POISON_REASON_READ_ERROR, POISON_BY_READ, NULL),
	                 0);
	assert_int_equal(poison_set_read(s, cursor, runs, 8, &reason, &cursor), 1);
	assert_int_equal(runs[0].first, 10);
	assert_int_equal(runs[0].count, 2);
	/* No more runs at once than there is room for. */
	assert_int_equal(poison_set_read(s, 3, runs, 1, &reason, &cursor), 1);
	assert_int_equal(cursor, 4);
	assert_null(poison_set_free(s));
}

/* The page protocol wants it so. */
static void test_no_run_crosses_a_region(void **state)
{
	struct poison_set *s;
	struct page_run runs[8];
	enum poison_reason reason;
	uint64_t cursor = 0;

	(void)state;
	assert_int_equal(poison_set_new(&table, &s), 0);
	for (uint64_t page = 98; page < 102; page++)
		assert_int_equal(
		        poison_set_add(s, page, 1, POISON_REASON_REPORTED, POISON_BY_VMM, NULL), 0);
	assert_int_equal(poison_set_read(s, 0, runs, 8, &reason, &cursor), 2);
	assert_int_equal(runs[0].count, 2);
	assert_int_equal(runs[1].first, 100);
	assert_int_equal(runs[1].count, 2);
	poison_set_free(s);
}

struct adder {
	struct poison_set *set;
	unsigned step;
};

static void *add_thread(void *arg)
{
	struct adder *a = arg;

	for (uint64_t i = 0; i < PAGES; i++)
		if (poison_set_add(a->set, i * a->step % PAGES, 1, POISON_REASON_REPORTED,
		                   POISON_BY_VMM, NULL) < 0)
			abort();
	return NULL;
}

static void test_readers_miss_nothing(void **state)
{
	struct poison_set *s;
	static uint8_t told[PAGES];
	struct page_run runs[16];
	enum poison_reason reason;
	uint64_t cursor = 0;
	pthread_t threads[2];

	(void)state;
	assert_int_equal(poison_set_new(&table, &s), 0);
	struct adder adders[2] = {{s, 1}, {s, 4095}};

	for (size_t i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, add_thread, &adders[i]), 0);
	memset(told, 0, sizeof(told));
	while (cursor < PAGES) {
		size_t n = poison_set_read(s, cursor, runs, 16, &reason, &cursor);

		for (size_t i = 0; i < n; i++)
			for (uint32_t k = 0; k < runs[i].count; k++)
				told[runs[i].first + k]++;
	}
	for (size_t i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	for (size_t i = 0; i < PAGES; i++)
		assert_int_equal(told[i], 1);

	struct poison_entry *entries;
	size_t n;
	uint64_t total = 0;

	assert_int_equal(poison_set_copy(s, &entries, &n), 0);
	for (size_t i = 0; i < n; i++)
		total += entries[i].count;
	assert_int_equal(total, PAGES);
	free(entries);
	poison_set_free(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_runs_and_reasons),
	        cmocka_unit_test(test_no_run_crosses_a_region),
	        cmocka_unit_test(test_readers_miss_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
