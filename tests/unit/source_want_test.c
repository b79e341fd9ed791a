/* SPDX-License-Identifier: Apache-2.0 */
/* Promise: a wanted page is taken or dropped exactly once, whoever comes first. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>

#include "source/want.h"

#define PAGES 100000

static void test_add_take_drop(void **state)
{
	static const uint8_t bits[] = {0x05}; /* units 0 and 2 */
	struct want *w;
	uint64_t first;

	(void)state;
	assert_int_equal(want_new(200, &w), 0);
	assert_int_equal(want_next(w, 0), 200);
	assert_int_equal(want_take(w, 0, 10, &first), 0);
	want_add_units(w, 60, 4, 8, bits); /* 60..67, 76..83 */
	assert_int_equal(want_count(w), 16);
	assert_int_equal(want_next(w, 0), 60);
	assert_int_equal(want_drop(w, 62, 2), 2);
	assert_int_equal(want_drop(w, 62, 2), 0);
	assert_int_equal(want_take(w, 0, 100, &first), 2); /* up to the gap */
	assert_int_equal(first, 60);
	assert_int_equal(want_take(w, 0, 1, &first), 1);
	assert_int_equal(first, 64);
	assert_int_equal(want_take(w, 68, 100, &first), 8);
	assert_int_equal(first, 76);
	assert_int_equal(want_count(w), 3);
	want_add(w, 0, 200);
	assert_int_equal(want_count(w), 200);
	assert_int_equal(want_take(w, 128, 64, &first), 64); /* a whole word */
	assert_int_equal(want_drop(w, 0, 200), 136);
	assert_int_equal(want_next(w, 0), 200);
	assert_null(want_free(w));
}

struct taker {
	struct want *want;
	uint64_t n;
};

static void *drop_thread(void *arg)
{
	struct taker *t = arg;

	for (uint64_t page = PAGES; page-- > 0;)
		t->n += want_drop(t->want, page, 1);
	return NULL;
}

static void test_two_threads(void **state)
{
	struct want *w;
	uint64_t first, n, taken = 0;
	pthread_t thread;

	(void)state;
	assert_int_equal(want_new(PAGES, &w), 0);
	want_add(w, 0, PAGES);
	struct taker t = {.want = w};

	assert_int_equal(pthread_create(&thread, NULL, drop_thread, &t), 0);
	while ((n = want_take(w, 0, 7, &first)) > 0)
		taken += n;
	pthread_join(thread, NULL);
	assert_int_equal(taken + t.n, PAGES);
	assert_int_equal(want_count(w), 0);
	want_free(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_add_take_drop),
	        cmocka_unit_test(test_two_threads),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
