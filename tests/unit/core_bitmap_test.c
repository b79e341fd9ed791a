/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Promises of core/bitmap.h, checked against a plain array of bools, and that of
 * racing threads exactly one wins each bit.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/bitmap.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define BITS 333 /* not a multiple of anything */
#define RACE_BITS 4096
#define RACE_THREADS 4
#define RACE_ROUNDS 64

static struct bitmap *bitmap_with(uint64_t n_bits)
{
	struct bitmap *b = NULL;

	assert_int_equal(bitmap_new(n_bits, &b), 0);
	return b;
}

static void assert_same(const struct bitmap *b, const bool *model)
{
	uint64_t count = 0, next_set = b->n_bits, next_clear = b->n_bits;

	for (uint64_t i = b->n_bits; i-- > 0;) {
		assert_int_equal(bitmap_test(b, i), model[i]);
		assert_int_equal(bitmap_test_atomic(b, i), model[i]);
		count += model[i];
		if (model[i])
			next_set = i;
		else
			next_clear = i;
		assert_int_equal(bitmap_next_set(b, i), next_set);
		assert_int_equal(bitmap_next_clear(b, i), next_clear);
	}
	assert_int_equal(bitmap_count(b), count);
}

static void a_new_one_is_clear(void **state)
{
	struct bitmap *b = bitmap_with(BITS);
	bool model[BITS] = {0};

	(void)state;
	assert_same(b, model);
	assert_int_equal(bitmap_next_set(b, BITS), BITS);
	assert_int_equal(bitmap_next_clear(b, UINT64_MAX), BITS);
	assert_null(bitmap_free(b));
	assert_null(bitmap_free(NULL));
}

static void an_empty_one_and_a_huge_one(void **state)
{
	struct bitmap *b = bitmap_with(0);
	uint8_t byte = 0x5a;

	(void)state;
	assert_int_equal(bitmap_next_set(b, 0), 0);
	assert_int_equal(bitmap_count(b), 0);
	bitmap_set_range(b, 0, 0);
	bitmap_export(b, 0, 0, &byte);
	assert_int_equal(byte, 0x5a);
	bitmap_free(b);
	b = NULL;
#ifndef __SANITIZE_ADDRESS__ /* its allocator ends the program instead */
#ifndef __SANITIZE_THREAD__
	assert_int_equal(bitmap_new(UINT64_MAX, &b), -ENOMEM);
	assert_null(b);
#endif
#endif
}

static void ranges_set_and_clear_exactly(void **state)
{
	struct bitmap *b = bitmap_with(BITS);
	bool model[BITS] = {0};

	(void)state;
	srandom(1);
	for (int round = 0; round < 500; round++) {
		uint64_t first = (uint64_t)random() % (BITS + 1);
		uint64_t count = (uint64_t)random() % (BITS - first + 1);
		bool set = random() % 2;

		if (set)
			bitmap_set_range(b, first, count);
		else
			bitmap_clear_range(b, first, count);
		for (uint64_t i = first; i < first + count; i++)
			model[i] = set;
		assert_same(b, model);
	}
	bitmap_free(b);
}

/* Import overwrites the range and only the range, whatever the padding bits say. */
static void import_touches_its_range_only(void **state)
{
	struct bitmap *b = bitmap_with(BITS);
	bool model[BITS] = {0};
	uint8_t bytes[BITS / 8 + 1];

	(void)state;
	srandom(2);
	for (int round = 0; round < 500; round++) {
		uint64_t first = (uint64_t)random() % (BITS + 1);
		uint64_t count = (uint64_t)random() % (BITS - first + 1);

		for (size_t i = 0; i < sizeof(bytes); i++)
			bytes[i] = (uint8_t)random();
		bitmap_import(b, first, count, bytes);
		for (uint64_t i = 0; i < count; i++)
			model[first + i] = (bytes[i / 8] >> (i % 8)) & 1;
		assert_same(b, model);
	}
	bitmap_free(b);
}

static void export_pads_with_zeros_and_writes_no_further(void **state)
{
	struct bitmap *b = bitmap_with(BITS);
	uint8_t bytes[BITS / 8 + 2];

	(void)state;
	srandom(3);
	bitmap_set_range(b, 0, BITS);
	for (int round = 0; round < 200; round++)
		bitmap_clear_range(b, (uint64_t)random() % BITS, 1);
	for (uint64_t first = 0; first <= BITS; first++) {
		uint64_t count = (uint64_t)random() % (BITS - first + 1);

		memset(bytes, 0xa5, sizeof(bytes));
		bitmap_export(b, first, count, bytes);
		for (uint64_t i = 0; i < bitmap_bytes(count) * 8; i++)
			assert_int_equal((bytes[i / 8] >> (i % 8)) & 1,
			                 i < count && bitmap_test(b, first + i));
		assert_int_equal(bytes[bitmap_bytes(count)], 0xa5);
	}
	bitmap_free(b);
}

static void atomics_report_what_was_there(void **state)
{
	struct bitmap *b = bitmap_with(BITS);

	(void)state;
	assert_false(bitmap_test_and_clear_atomic(b, BITS - 1));
	assert_false(bitmap_test_and_set_atomic(b, BITS - 1));
	assert_true(bitmap_test_and_set_atomic(b, BITS - 1));
	assert_int_equal(bitmap_count(b), 1);
	assert_true(bitmap_test_and_clear_atomic(b, BITS - 1));
	assert_int_equal(bitmap_count(b), 0);
	bitmap_free(b);
}

struct race {
	struct bitmap *bitmap;
	pthread_barrier_t *barrier;
	uint64_t sets_won;
	uint64_t clears_won;
};

static void *race_thread(void *arg)
{
	struct race *race = arg;

	for (int round = 0; round < RACE_ROUNDS; round++) {
		pthread_barrier_wait(race->barrier);
		for (uint64_t i = 0; i < RACE_BITS; i++)
			race->sets_won += !bitmap_test_and_set_atomic(race->bitmap, i);
		pthread_barrier_wait(race->barrier);
		for (uint64_t i = 0; i < RACE_BITS; i++)
			race->clears_won += bitmap_test_and_clear_atomic(race->bitmap, i);
	}
	return NULL;
}

static void of_racing_threads_exactly_one_wins_each_bit(void **state)
{
	struct race races[RACE_THREADS];
	pthread_t threads[RACE_THREADS];
	pthread_barrier_t barrier;
	struct bitmap *b = bitmap_with(RACE_BITS);
	uint64_t sets = 0, clears = 0;

	(void)state;
	pthread_barrier_init(&barrier, NULL, RACE_THREADS);
	for (int i = 0; i < RACE_THREADS; i++) {
		races[i] = (struct race){.bitmap = b, .barrier = &barrier};
		assert_int_equal(pthread_create(&threads[i], NULL, race_thread, &races[i]), 0);
	}
	for (int i = 0; i < RACE_THREADS; i++) {
		pthread_join(threads[i], NULL);
		sets += races[i].sets_won;
		clears += races[i].clears_won;
	}
	pthread_barrier_destroy(&barrier);
	assert_int_equal(sets, RACE_BITS * RACE_ROUNDS);
	assert_int_equal(clears, RACE_BITS * RACE_ROUNDS);
	assert_int_equal(bitmap_count(b), 0);
	bitmap_free(b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(a_new_one_is_clear),
	        cmocka_unit_test(an_empty_one_and_a_huge_one),
	        cmocka_unit_test(ranges_set_and_clear_exactly),
	        cmocka_unit_test(import_touches_its_range_only),
	        cmocka_unit_test(export_pads_with_zeros_and_writes_no_further),
	        cmocka_unit_test(atomics_report_what_was_there),
	        cmocka_unit_test(of_racing_threads_exactly_one_wins_each_bit),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
