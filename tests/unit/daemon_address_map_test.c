/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Promise: whatever the VMM moves, a unit has one place or none, and never another's; and a
 * daemon that dies at any moment leaves a map from before a move or after it.
 */
#include "daemon/address_map.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define P UINT64_C(0x1000)
#define AT(page) ((hva_t){(page)*P})

/* Units 0 to 9 at pages 100 to 109, units 10 to 14 at 200 to 204. */
static const struct address_piece before[] = {{0, 10, 12, {100 * P}}, {10, 5, 12, {200 * P}}};

static struct address_area *area_new(void)
{
	struct address_area *a = calloc(1, sizeof(*a));

	assert_non_null(a);
	assert_false(address_map_moved(a));
	assert_true(address_area_valid(a, 15));
	return a;
}

static void move_pages(struct address_area *a, uint64_t from, uint64_t to, uint64_t n)
{
	assert_int_equal(address_map_move(a, before, 2, AT(from), AT(to), n * P, 1), 0);
	assert_true(address_map_moved(a));
	assert_true(address_area_valid(a, 15));
}

/* The page a unit is at; 0: none. Both directions must say the same. */
static uint64_t page_of(const struct address_area *a, uint64_t unit)
{
	uint64_t n, found;
	hva_t hva;

	if (!address_map_find_unit(a, unit, 1, &hva, &n))
		return 0;
	assert_int_equal(n, 1);
	assert_true(address_map_find_hva(a, (hva_t){hva.addr + P - 1}, &found));
	assert_int_equal(found, unit);
	return hva.addr / P;
}

static void a_part_moves(void **state)
{
	struct address_area *a = area_new();
	uint64_t unit, n;
	size_t cursor = 0;
	hva_t hva;

	(void)state;
	move_pages(a, 103, 500, 4);
	for (unit = 0; unit < 10; unit++)
		assert_int_equal(page_of(a, unit), unit >= 3 && unit < 7 ? 497 + unit : 100 + unit);
	assert_int_equal(page_of(a, 12), 202);
	/* Only what lies together is one stretch. */
	assert_true(address_map_find_unit(a, 1, 9, &hva, &n) && hva.addr == 101 * P && n == 2);
	assert_true(address_map_find_unit(a, 3, 7, &hva, &n) && hva.addr == 500 * P && n == 4);
	assert_true(address_map_find_unit(a, 7, 1, &hva, &n) && hva.addr == 107 * P && n == 1);
	assert_false(address_map_find_hva(a, AT(103), &unit)); /* not any more */
	assert_true(address_map_next(a, AT(0), AT(102), &cursor, &unit, &n));
	assert_true(unit == 0 && n == 2);
	assert_false(address_map_next(a, AT(0), AT(102), &cursor, &unit, &n));
	free(a);
}

static void back_and_forth(void **state)
{
	struct address_area *a = area_new();

	(void)state;
	move_pages(a, 100, 500, 10);
	move_pages(a, 500, 100, 10);
	for (uint64_t unit = 0; unit < 10; unit++)
		assert_int_equal(page_of(a, unit), 100 + unit);
	free(a);
}

/* MREMAP_FIXED replaces what was there: that is nowhere then, in the same region or another. */
static void over_other_memory(void **state)
{
	struct address_area *a = area_new();
	uint64_t n;
	hva_t hva;

	(void)state;
	move_pages(a, 100, 201, 2);
	assert_int_equal(page_of(a, 0), 201);
	assert_int_equal(page_of(a, 1), 202);
	assert_int_equal(page_of(a, 10), 200);
	assert_false(address_map_find_unit(a, 11, 4, &hva, &n));
	assert_int_equal(n, 2); /* up to where one is again */
	assert_int_equal(page_of(a, 13), 203);
	move_pages(a, 109, 105, 1);
	assert_int_equal(page_of(a, 9), 105);
	assert_int_equal(page_of(a, 5), 0);
	assert_int_equal(page_of(a, 4), 104);
	assert_int_equal(page_of(a, 6), 106);
	free(a);
}

/* Of memory that is none of the guest's only its arrival matters. */
static void strangers(void **state)
{
	struct address_area *a = area_new();

	(void)state;
	move_pages(a, 900, 950, 3);
	assert_int_equal(page_of(a, 0), 100);
	move_pages(a, 950, 100, 1);
	assert_int_equal(page_of(a, 0), 0);
	assert_int_equal(page_of(a, 1), 101);
	free(a);
}

static void huge_units(void **state)
{
	static const struct address_piece huge[] = {{7, 4, 21, {UINT64_C(4) << 21}}};
	struct address_area *a = area_new();
	uint64_t unit, n;
	hva_t hva;

	(void)state;
	assert_int_equal(address_map_move(a, huge, 1, (hva_t){UINT64_C(5) << 21},
	                                  (hva_t){UINT64_C(50) << 21}, UINT64_C(2) << 21, 1),
	                 0);
	assert_true(address_map_find_unit(a, 8, 3, &hva, &n));
	assert_true(hva.addr == UINT64_C(50) << 21 && n == 2);
	assert_true(address_map_find_hva(a, (hva_t){(UINT64_C(51) << 21) + 12345}, &unit));
	assert_int_equal(unit, 9);
	free(a);
}

static void too_many_pieces_change_nothing(void **state)
{
	static const struct address_piece large[] = {{0, 4096, 12, {100000 * P}}};
	struct address_area *a = area_new();
	uint64_t i = 0;
	int r;

	(void)state;
	while ((r = address_map_move(a, large, 1, AT(100000 + 3 * i), AT(900000 + 2 * i), P, 7)) ==
	       0)
		i++;
	assert_int_equal(r, -E2BIG);
	assert_true(i > 300);
	assert_int_equal(page_of(a, 0), 900000);
	assert_int_equal(page_of(a, 3 * i), 100000 + 3 * i); /* the one that did not go */
	assert_int_equal(address_map_followed(a), 7);
	free(a);
}

/* The next daemon begins behind what this one has followed. */
static void tells_what_was_followed(void **state)
{
	struct address_area *a = area_new();

	(void)state;
	assert_int_equal(address_map_followed(a), 0);
	assert_int_equal(address_map_move(a, before, 2, AT(100), AT(300), P, 5), 0);
	assert_int_equal(address_map_followed(a), 5);
	address_map_follow(a, 0);
	assert_int_equal(address_map_followed(a), 0);
	assert_int_equal(page_of(a, 0), 300);
	free(a);
}

/* A kill before the last store: what was written until then is not in use. */
static void a_move_that_was_cut_off_has_not_happened(void **state)
{
	struct address_area *a = area_new();

	(void)state;
	move_pages(a, 100, 300, 2);
	move_pages(a, 300, 400, 2);
	atomic_fetch_xor(&a->in_use, 1); /* as if the second had not come to its end */
	assert_true(address_area_valid(a, 15));
	assert_int_equal(page_of(a, 0), 300);
	free(a);
}

static void nonsense(void **state)
{
	struct address_area *a = area_new();
	struct address_pieces *c;

	(void)state;
	move_pages(a, 100, 300, 2);
	c = &a->copies[a->in_use];
	assert_false(address_area_valid(a, 14)); /* a unit too many */
	c->pieces[0].unit_shift = 11;
	assert_false(address_area_valid(a, 15));
	c->pieces[0].unit_shift = 12;
	c->pieces[0].hva.addr = UINT64_MAX - P;
	assert_false(address_area_valid(a, 15));
	c->pieces[0].hva.addr = 300 * P;
	c->pieces[0].first_unit = 2; /* there twice */
	assert_false(address_area_valid(a, 15));
	c->pieces[0].first_unit = 0;
	assert_true(address_area_valid(a, 15));
	c->n = ADDRESS_PIECES_MAX + 1;
	assert_false(address_area_valid(a, 15));
	c->n = 1;
	atomic_store(&a->in_use, 2);
	assert_false(address_area_valid(a, 15));
	free(a);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(a_part_moves),
	        cmocka_unit_test(back_and_forth),
	        cmocka_unit_test(over_other_memory),
	        cmocka_unit_test(strangers),
	        cmocka_unit_test(huge_units),
	        cmocka_unit_test(too_many_pieces_change_nothing),
	        cmocka_unit_test(tells_what_was_followed),
	        cmocka_unit_test(a_move_that_was_cut_off_has_not_happened),
	        cmocka_unit_test(nonsense),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
