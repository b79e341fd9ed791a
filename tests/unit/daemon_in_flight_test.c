/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Promises of daemon/in_flight.h: an id names one request for ever, so that an
 * answer to an old one, or to none, is recognized; the table is full exactly at
 * its capacity; the cursor sees every entry once.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>

#include "daemon/in_flight.h"

#define CAPACITY 64

static struct in_flight *table_new(uint32_t capacity)
{
	struct in_flight *t = NULL;

	assert_int_equal(in_flight_new(capacity, &t), 0);
	return t;
}

static void an_entry_is_found_by_its_id(void **state)
{
	_cleanup_(cleanup_in_flight_free) struct in_flight *t = table_new(CAPACITY);
	struct in_flight_entry *e = in_flight_add(t, 4711, 99);

	(void)state;
	assert_non_null(e);
	assert_int_not_equal(e->id, 0);
	assert_int_equal(e->unit, 4711);
	assert_int_equal(e->started_ns, 99);
	assert_false(e->sent);
	assert_null(e->assembly);
	assert_int_equal(in_flight_count(t), 1);
	assert_ptr_equal(in_flight_find(t, e->id), e);
}

static void ids_never_asked_for_are_not_found(void **state)
{
	_cleanup_(cleanup_in_flight_free) struct in_flight *t = table_new(CAPACITY);
	struct in_flight_entry *e;

	(void)state;
	assert_null(in_flight_find(t, 0));
	assert_null(in_flight_find(t, 1));
	assert_null(in_flight_find(t, UINT64_MAX));
	e = in_flight_add(t, 1, 1);
	assert_null(in_flight_find(t, e->id + 1));          /* a free slot */
	assert_null(in_flight_find(t, e->id + CAPACITY));   /* no slot */
	assert_null(in_flight_find(t, e->id + (1U << 16))); /* a later generation */
	assert_null(in_flight_find(t, e->id | UINT64_C(1) << 63));
	assert_null(in_flight_find(t, 0)); /* what a free entry's id reads as */
}

/* Many generations through every slot: an id that was answered never comes back. */
static void stale_ids_are_not_found(void **state)
{
	_cleanup_(cleanup_in_flight_free) struct in_flight *t = table_new(3);
	uint64_t old[300];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(old); i++) {
		struct in_flight_entry *e = in_flight_add(t, i, 0);

		e->sent = true;
		e->assembly = t;
		old[i] = e->id;
		for (size_t j = 0; j < i; j++)
			assert_int_not_equal(old[j], e->id);
		in_flight_remove(t, e);
		for (size_t j = 0; j <= i; j++)
			assert_null(in_flight_find(t, old[j]));
	}
	assert_int_equal(in_flight_count(t), 0);
	/* Nothing of the earlier use is left. */
	assert_false(in_flight_add(t, 1, 1)->sent);
	assert_null(in_flight_add(t, 1, 1)->assembly);
}

static void is_full_at_its_capacity(void **state)
{
	_cleanup_(cleanup_in_flight_free) struct in_flight *t = table_new(CAPACITY);
	struct in_flight_entry *entries[CAPACITY];

	(void)state;
	for (uint32_t i = 0; i < CAPACITY; i++) {
		assert_false(in_flight_full(t));
		entries[i] = in_flight_add(t, i, i);
		assert_non_null(entries[i]);
	}
	assert_true(in_flight_full(t));
	assert_null(in_flight_add(t, 1000, 0));
	assert_int_equal(in_flight_count(t), CAPACITY);
	for (uint32_t i = 0; i < CAPACITY; i++) {
		assert_ptr_equal(in_flight_find(t, entries[i]->id), entries[i]);
		assert_int_equal(entries[i]->unit, i);
	}
	in_flight_remove(t, entries[17]);
	assert_false(in_flight_full(t));
	assert_ptr_equal(in_flight_add(t, 1000, 0), entries[17]);
	assert_true(in_flight_full(t));
}

static void the_cursor_sees_each_entry_once(void **state)
{
	_cleanup_(cleanup_in_flight_free) struct in_flight *t = table_new(CAPACITY);
	struct in_flight_entry *e, *entries[CAPACITY];
	bool seen[CAPACITY] = {false};
	uint32_t cursor = 0, n = 0;

	(void)state;
	assert_null(in_flight_next(t, &cursor));
	for (uint32_t i = 0; i < CAPACITY; i++)
		entries[i] = in_flight_add(t, i, 0);
	for (uint32_t i = 0; i < CAPACITY; i += 3)
		in_flight_remove(t, entries[i]);
	for (cursor = 0; (e = in_flight_next(t, &cursor)); n++) {
		assert_int_not_equal(e->unit % 3, 0);
		assert_false(seen[e->unit]);
		seen[e->unit] = true;
		/* Taking entries out on the way is allowed. */
		in_flight_remove(t, e);
	}
	assert_int_equal(n, CAPACITY - (CAPACITY + 2) / 3);
	assert_int_equal(in_flight_count(t), 0);
	assert_null(in_flight_next(t, &cursor));
}

static void capacities_are_bounded(void **state)
{
	struct in_flight *t = NULL;

	(void)state;
	assert_int_equal(in_flight_new(0, &t), -EINVAL);
	assert_int_equal(in_flight_new(65537, &t), -EINVAL);
	assert_null(t);
	t = table_new(65536);
	for (uint32_t i = 0; i < 65536; i++) {
		struct in_flight_entry *e = in_flight_add(t, i, 0);

		assert_ptr_equal(in_flight_find(t, e->id), e);
	}
	assert_true(in_flight_full(t));
	assert_null(in_flight_free(t));
	assert_null(in_flight_free(NULL));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(an_entry_is_found_by_its_id),
	        cmocka_unit_test(ids_never_asked_for_are_not_found),
	        cmocka_unit_test(stale_ids_are_not_found),
	        cmocka_unit_test(is_full_at_its_capacity),
	        cmocka_unit_test(the_cursor_sees_each_entry_once),
	        cmocka_unit_test(capacities_are_bounded),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
