/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Promises of the list of lost memory: sorted, joined, complete, read piece by
 * piece without gaps, and it grows with its ledger.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>

#include "core/cleanup.h"
#include "daemon/poison_list.h"

#define CAPACITY 4096
#define PAGE UINT64_C(4096)

struct bed {
	void *area;
	struct ledger ledger;
	struct poison_list list;
};

static int set_up(void **state)
{
	struct bed *b = calloc(1, sizeof(*b));

	b->area = calloc(1, ledger_area_bytes(CAPACITY));
	ledger_init(&b->ledger, b->area, CAPACITY);
	*state = b;
	return 0;
}

static int tear_down(void **state)
{
	struct bed *b = *state;

	poison_list_free(&b->list);
	ledger_deinit(&b->ledger);
	free(b->area);
	free(b);
	return 0;
}

static void lose(struct bed *b, uint64_t gpa, uint64_t bytes)
{
	const struct ledger_entry e = {.gpa = {gpa}, .lost_bytes = bytes};

	assert_int_equal(ledger_append(&b->ledger, &e), 0);
}

static void expect(const struct poison_range *r, uint64_t gpa, uint64_t bytes)
{
	assert_int_equal(r->gpa.addr, gpa);
	assert_int_equal(r->length_bytes, bytes);
}

static void test_sorted_and_joined(void **state)
{
	struct bed *b = *state;
	struct poison_range got[8];
	bool more = true;

	assert_int_equal(poison_list_update(&b->list, &b->ledger), 0);
	assert_int_equal(poison_list_read(&b->list, (gpa_t){0}, got, 8, &more), 0);
	assert_false(more);
	lose(b, 9 * PAGE, PAGE);
	lose(b, 1 * PAGE, PAGE);
	lose(b, 2 * PAGE, PAGE);
	lose(b, 512 * PAGE, 512 * PAGE);
	lose(b, 600 * PAGE, PAGE); /* inside */
	assert_int_equal(poison_list_update(&b->list, &b->ledger), 0);
	assert_int_equal(poison_list_read(&b->list, (gpa_t){0}, got, 8, &more), 3);
	expect(&got[0], 1 * PAGE, 2 * PAGE);
	expect(&got[1], 9 * PAGE, PAGE);
	expect(&got[2], 512 * PAGE, 512 * PAGE);
	assert_false(more);
}

static void test_grows_with_the_ledger(void **state)
{
	struct bed *b = *state;
	struct poison_range got[8];
	bool more;

	lose(b, 3 * PAGE, PAGE);
	assert_int_equal(poison_list_update(&b->list, &b->ledger), 0);
	lose(b, 1 * PAGE, PAGE);
	lose(b, 2 * PAGE, PAGE); /* closes the gap */
	assert_int_equal(poison_list_update(&b->list, &b->ledger), 0);
	assert_int_equal(poison_list_update(&b->list, &b->ledger), 0);
	assert_int_equal(poison_list_read(&b->list, (gpa_t){0}, got, 8, &more), 1);
	expect(&got[0], 1 * PAGE, 3 * PAGE);
}

static void test_from_anywhere(void **state)
{
	struct bed *b = *state;
	struct poison_range got[8];
	bool more;

	lose(b, 2 * PAGE, 4 * PAGE);
	lose(b, 8 * PAGE, PAGE);
	assert_int_equal(poison_list_update(&b->list, &b->ledger), 0);
	/* In the middle of a range and of a page. */
	assert_int_equal(poison_list_read(&b->list, (gpa_t){4 * PAGE + 17}, got, 8, &more), 2);
	expect(&got[0], 4 * PAGE, 2 * PAGE);
	assert_int_equal(poison_list_read(&b->list, (gpa_t){6 * PAGE}, got, 8, &more), 1);
	expect(&got[0], 8 * PAGE, PAGE);
	assert_int_equal(poison_list_read(&b->list, (gpa_t){9 * PAGE}, got, 8, &more), 0);
	assert_int_equal(poison_list_read(&b->list, (gpa_t){UINT64_MAX}, got, 8, &more), 0);
	assert_false(more);
}

/* As libpostcopy asks: from the end of the last range, until there is no more. */
static void test_piece_by_piece(void **state)
{
	struct bed *b = *state;
	struct poison_range got[7];
	uint64_t from = 0, seen = 0;
	bool more = true;

	for (uint64_t i = 0; i < 1000; i++)
		lose(b, (i * 7919 % 1000) * 2 * PAGE, PAGE);
	assert_int_equal(poison_list_update(&b->list, &b->ledger), 0);
	while (more) {
		size_t n = poison_list_read(&b->list, (gpa_t){from}, got, 7, &more);

		assert_true(n == 7 || !more);
		for (size_t i = 0; i < n; i++)
			expect(&got[i], seen++ * 2 * PAGE, PAGE);
		from = got[n - 1].gpa.addr + got[n - 1].length_bytes;
	}
	assert_int_equal(seen, 1000);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        TEST(test_sorted_and_joined),
	        TEST(test_grows_with_the_ledger),
	        TEST(test_from_anywhere),
	        TEST(test_piece_by_piece),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
