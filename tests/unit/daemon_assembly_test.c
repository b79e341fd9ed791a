/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Promises of daemon/assembly.h: pieces in any order make the page they came
 * from; a piece that comes twice or lies outside is refused and changes
 * nothing; nothing of an earlier page is left in the next.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/assembly.h"

#define UNIT_BYTES (UINT64_C(2) << 20)
#define PAGES 512U
#define PAGE_BYTES WIRE_PAGE_SIZE

static uint8_t content[UNIT_BYTES];

static void content_fill(uint64_t seed)
{
	for (uint64_t i = 0; i < UNIT_BYTES / 8; i++) {
		uint64_t word = (i + 1) * UINT64_C(0x9e3779b97f4a7c15) ^ seed;

		memcpy(content + i * 8, &word, 8);
	}
}

static const uint8_t *page(uint32_t n)
{
	return content + n * PAGE_BYTES;
}

static struct assembly *assembly_for(uint64_t unit)
{
	struct assembly *a = NULL;

	assert_int_equal(assembly_new(UNIT_BYTES, &a), 0);
	assert_true(a->unit == ASSEMBLY_NO_UNIT);
	assert_false(assembly_complete(a));
	assembly_start(a, unit, PAGES);
	assert_int_equal(a->unit, unit);
	return a;
}

static void pieces_in_any_order(void **state)
{
	_cleanup_(cleanup_assembly_free) struct assembly *a = assembly_for(7);

	(void)state;
	content_fill(1);
	/* 167 has no factor in common with 512: every page once, far from in order. */
	for (uint32_t i = 0; i < PAGES; i++) {
		uint32_t n = i * 167 % PAGES;

		assert_false(assembly_complete(a));
		assert_int_equal(assembly_add(a, n, 1, page(n)), 0);
	}
	assert_true(assembly_complete(a));
	assert_false(a->all_zero);
	assert_memory_equal(a->buffer, content, UNIT_BYTES);
}

static void runs_of_data_and_zeros(void **state)
{
	_cleanup_(cleanup_assembly_free) struct assembly *a = assembly_for(0);

	(void)state;
	content_fill(2);
	assert_int_equal(assembly_add(a, 100, 400, NULL), 0);
	assert_true(a->all_zero);
	assert_int_equal(assembly_add(a, 500, 12, page(500)), 0);
	assert_false(a->all_zero);
	assert_int_equal(assembly_add(a, 0, 100, page(0)), 0);
	assert_true(assembly_complete(a));
	memset(content + 100 * PAGE_BYTES, 0, 400 * PAGE_BYTES);
	assert_memory_equal(a->buffer, content, UNIT_BYTES);
}

static void all_zeros_is_known(void **state)
{
	_cleanup_(cleanup_assembly_free) struct assembly *a = assembly_for(0);

	(void)state;
	assert_int_equal(assembly_add(a, 256, 256, NULL), 0);
	assert_int_equal(assembly_add(a, 0, 256, NULL), 0);
	assert_true(assembly_complete(a));
	assert_true(a->all_zero);
}

static void duplicates_are_refused(void **state)
{
	_cleanup_(cleanup_assembly_free) struct assembly *a = assembly_for(0);
	static const struct {
		uint32_t first, count;
	} bad[] = {{10, 1}, {10, 10}, {19, 1}, {5, 6}, {19, 5}, {0, PAGES}, {12, 2}};

	(void)state;
	content_fill(3);
	assert_int_equal(assembly_add(a, 10, 10, page(10)), 0);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		assert_int_equal(assembly_add(a, bad[i].first, bad[i].count, NULL), -EEXIST);
		assert_int_equal(a->n_got, 10);
	}
	assert_false(a->all_zero); /* a refused run of zeros says nothing */
	assert_memory_equal(a->buffer + 10 * PAGE_BYTES, page(10), 10 * PAGE_BYTES);
	/* What lies beside the refused ones can still come. */
	assert_int_equal(assembly_add(a, 0, 10, page(0)), 0);
	assert_int_equal(assembly_add(a, 20, PAGES - 20, page(20)), 0);
	assert_true(assembly_complete(a));
	assert_memory_equal(a->buffer, content, UNIT_BYTES);
}

static void pieces_outside_are_refused(void **state)
{
	_cleanup_(cleanup_assembly_free) struct assembly *a = assembly_for(0);
	static const struct {
		uint32_t first, count;
	} bad[] = {{PAGES, 1},      {PAGES - 1, 2},  {0, PAGES + 1},          {0, 0},
	           {1, UINT32_MAX}, {UINT32_MAX, 1}, {UINT32_MAX, UINT32_MAX}};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		assert_int_equal(assembly_add(a, bad[i].first, bad[i].count, content), -ERANGE);
		assert_int_equal(a->n_got, 0);
		assert_true(a->all_zero);
	}
	/* Nothing can be added before a start, or after a clear. */
	assembly_clear(a);
	assert_int_equal(assembly_add(a, 0, 1, content), -ERANGE);
}

static void is_used_again(void **state)
{
	_cleanup_(cleanup_assembly_free) struct assembly *a = assembly_for(1);

	(void)state;
	content_fill(4);
	assert_int_equal(assembly_add(a, 0, PAGES, content), 0);
	assert_true(assembly_complete(a));
	assembly_clear(a);
	assert_true(a->unit == ASSEMBLY_NO_UNIT);
	assert_false(assembly_complete(a));
	/* Half a page is given up for another one. */
	assembly_start(a, 2, PAGES);
	assert_int_equal(assembly_add(a, 0, 300, content), 0);
	assembly_start(a, 3, PAGES);
	assert_int_equal(a->n_got, 0);
	assert_true(a->all_zero);
	/* Zeros after data: none of the old bytes may show. */
	assert_int_equal(assembly_add(a, 0, PAGES, NULL), 0);
	assert_true(assembly_complete(a));
	assert_true(a->all_zero);
	memset(content, 0, UNIT_BYTES);
	assert_memory_equal(a->buffer, content, UNIT_BYTES);
	/* A smaller unit in the same buffer. */
	assembly_start(a, 4, 16);
	assert_int_equal(assembly_add(a, 0, 17, content), -ERANGE);
	assert_int_equal(assembly_add(a, 0, 16, content), 0);
	assert_true(assembly_complete(a));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(pieces_in_any_order),
	        cmocka_unit_test(runs_of_data_and_zeros),
	        cmocka_unit_test(all_zeros_is_known),
	        cmocka_unit_test(duplicates_are_refused),
	        cmocka_unit_test(pieces_outside_are_refused),
	        cmocka_unit_test(is_used_again),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
