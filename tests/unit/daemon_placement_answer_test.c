/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Promises of daemon/placement.h about faults that need no round trip: each
 * state has its answer, poison outlives being given back, and nothing is placed
 * over what is there.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "daemon_placement_bed.h"

#define POISON UFFD_FEATURE_POISON
#define REMOVE UFFD_FEATURE_EVENT_REMOVE

/* ---- placement_remove ---- */

static void a_removal_counts_what_it_ends(void **state)
{
	struct bed b;

	(void)state;
	bed_start(MEMORY_ANON, 6, POISON | REMOVE, &b);
	placement_data(&b.placer, b.r, 0, 1, b.source);
	placement_poison(&b.placer, b.r, 1, 1, LEDGER_REPORTED);
	assert_true(page_map_claim(&b.map, 2));
	page_map_request(&b.map, 3);
	assert_int_equal(b.pages_left, 4);
	pthread_mutex_lock(&b.remove_lock);
	for (int twice = 0; twice < 2; twice++)
		for (uint64_t unit = 0; unit < 5; unit++)
			placement_remove(&b.placer, b.r, unit);
	pthread_mutex_unlock(&b.remove_lock);
	assert_state(&b, 0, PAGE_REMOVED);
	assert_state(&b, 1, PAGE_POISONED);
	assert_state(&b, 2, PAGE_PLACING);
	assert_state(&b, 3, PAGE_REMOVED);
	assert_state(&b, 4, PAGE_REMOVED);
	assert_state(&b, 5, PAGE_MISSING);
	assert_int_equal(b.stats.pages_removed, 3);
	assert_int_equal(b.pages_left, 2); /* 2 and 5 */
	/* What comes for them is dropped. */
	placement_data(&b.placer, b.r, 3, 3, bed_source(&b, 3));
	assert_int_equal(b.stats.pages_duplicate, 2);
	assert_int_equal(b.pages_left, 1);
	bed_free(&b);
}

/* ---- local answers ---- */

/* Discard a page of a bed with remove events, its event read and noted. */
static void discard_noted(struct bed *b, uint64_t unit)
{
	struct discard d;

	discard_start(b, unit, 1, &d);
	read_removal(b, true);
	discard_end(&d);
}

/* Touch a unit and answer its fault by its state; returns what the thread read. */
static struct toucher touch_and_answer(struct bed *b, uint64_t unit)
{
	struct toucher t;
	struct uffd_msg msg;

	assert_true(toucher_start(b, unit, &t, &msg));
	placement_answer(&b->placer, b->r, unit, page_map_get(&b->map, unit),
	                 msg.arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_MINOR);
	toucher_end(&t);
	return t;
}

static void poison_comes_back_after_a_removal(void **state)
{
	(void)state;
	for (int events = 0; events < 2; events++) {
		struct bed b;

		bed_start(MEMORY_ANON, 4, POISON | (events ? REMOVE : 0), &b);
		placement_poison(&b.placer, b.r, 1, 1, LEDGER_REPORTED);
		assert_int_equal(bed_content(&b, 1), CONTENT_SIGBUS);
		for (int i = 0; i < 3; i++) {
			if (events)
				discard_noted(&b, 1);
			else
				madvise(guest_memory_at(&b.m, 1), 4096, MADV_DONTNEED);
			assert_false(touch_and_answer(&b, 1).healthy);
			assert_state(&b, 1, PAGE_POISONED);
		}
		assert_int_equal(ledger_count(&b.ledger), 1);
		bed_free(&b);
	}
}

static void a_removed_page_reads_as_zeros(void **state)
{
	(void)state;
	for (int kind = MEMORY_ANON; kind <= MEMORY_MEMFD_MINOR; kind++) {
		struct toucher t;
		struct bed b;

		bed_start(kind, 4, POISON, &b);
		page_map_remove(&b.map, 1);
		t = touch_and_answer(&b, 1);
		assert_true(t.healthy);
		assert_int_equal(t.byte, 0);
		bed_free(&b);
	}
}

/* A page that went without an event that tells (no such events; a hole punched by the fd). */
static void a_present_page_that_went_reads_as_zeros(void **state)
{
	(void)state;
	for (int kind = MEMORY_ANON; kind <= MEMORY_MEMFD_MINOR; kind++) {
		struct toucher t;
		struct bed b;

		bed_start(kind, 4, kind == MEMORY_ANON ? POISON : POISON | REMOVE, &b);
		placement_data(&b.placer, b.r, 0, 4, b.source);
		if (kind == MEMORY_ANON)
			madvise(guest_memory_at(&b.m, 1), 4096, MADV_DONTNEED);
		else
			fallocate(b.m.memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4096,
			          4096);
		t = touch_and_answer(&b, 1);
		assert_true(t.healthy);
		assert_int_equal(t.byte, 0);
		assert_int_equal(bed_content(&b, 2), CONTENT_SOURCE);
		bed_free(&b);
	}
}

/* Its content is in the file still: unmapping is not giving back there. */
static void a_minor_page_that_was_unmapped_comes_back(void **state)
{
	(void)state;
	for (int events = 0; events < 2; events++) {
		struct toucher t;
		struct bed b;

		bed_start(MEMORY_MEMFD_MINOR, 4, POISON | (events ? REMOVE : 0), &b);
		placement_data(&b.placer, b.r, 0, 4, b.source);
		if (events)
			discard_noted(&b, 1);
		else
			madvise(guest_memory_at(&b.m, 1), 4096, MADV_DONTNEED);
		t = touch_and_answer(&b, 1);
		assert_true(t.healthy);
		assert_int_equal(t.byte, bed_source(&b, 1)[0]);
		bed_free(&b);
	}
}

/* A fault that was raised before its page came: nothing changes, the thread runs. */
static void a_late_fault_changes_nothing(void **state)
{
	(void)state;
	for (int kind = MEMORY_ANON; kind <= MEMORY_MEMFD_MINOR; kind++)
		for (int events = 0; events < 2; events++) {
			struct bed b;

			bed_start(kind, 4, POISON | (events ? REMOVE : 0), &b);
			placement_data(&b.placer, b.r, 0, 2, b.source);
			placement_poison(&b.placer, b.r, 2, 1, LEDGER_REPORTED);
			for (int minor = 0; minor < 2; minor++) {
				placement_answer(&b.placer, b.r, 0, PAGE_PRESENT, minor);
				placement_answer(&b.placer, b.r, 2, PAGE_POISONED, minor);
			}
			assert_int_equal(bed_content(&b, 0), CONTENT_SOURCE);
			assert_int_equal(bed_content(&b, 2), CONTENT_SIGBUS);
			bed_free(&b);
		}
}

/* Whoever holds the unit will wake the threads; waking them now would only make them fault. */
static void units_under_way_are_not_answered(void **state)
{
	static const enum page_state states[] = {PAGE_MISSING, PAGE_REQUESTED, PAGE_PLACING};
	struct toucher t;
	struct uffd_msg msg;
	struct pollfd p;
	struct bed b;

	(void)state;
	bed_start(MEMORY_ANON, 4, POISON, &b);
	assert_true(toucher_start(&b, 1, &t, &msg));
	p = (struct pollfd){.fd = b.m.uffd, .events = POLLIN};
	for (size_t i = 0; i < ARRAY_SIZE(states); i++)
		placement_answer(&b.placer, b.r, 1, states[i], false);
	assert_int_equal(poll(&p, 1, 20), 0);
	assert_int_equal(placement_data(&b.placer, b.r, 1, 1, bed_source(&b, 1)), 0);
	toucher_end(&t);
	assert_int_equal(t.byte, bed_source(&b, 1)[0]);
	bed_free(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(a_removal_counts_what_it_ends),
	        cmocka_unit_test(poison_comes_back_after_a_removal),
	        cmocka_unit_test(a_removed_page_reads_as_zeros),
	        cmocka_unit_test(a_present_page_that_went_reads_as_zeros),
	        cmocka_unit_test(a_minor_page_that_was_unmapped_comes_back),
	        cmocka_unit_test(a_late_fault_changes_nothing),
	        cmocka_unit_test(units_under_way_are_not_answered),
	};

	if (!uffd_permitted() || !poison_permitted())
		return TEST_SKIPPED;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
