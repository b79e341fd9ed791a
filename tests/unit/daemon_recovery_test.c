/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Promises of daemon/recovery.h: whatever a daemon was doing when it died, no page of
 * the guest is lost, becomes older than it is, or reads as zeros; what was poisoned is
 * poisoned again; no thread waits for ever. Real memory and userfaultfds; the dead
 * daemon's map is made by hand, for a moment that no signal would hit on purpose.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "daemon/recovery.h"
#include "daemon_placement_bed.h"

#define POISON UFFD_FEATURE_POISON
#define REMOVE UFFD_FEATURE_EVENT_REMOVE
#define NO_EVENTS NULL, 0

struct after {
	struct bed b;
	_Atomic uint64_t doubtful;
	struct recovery found;
};

static void after_start(struct after *a, enum memory_kind kind, uint64_t n_units, uint64_t features)
{
	memset(a, 0, sizeof(*a));
	bed_start(kind, n_units, features, &a->b);
	a->b.placer.doubtful = &a->doubtful;
}

static void recover(struct after *a, const struct uffd_msg *events, size_t n_events)
{
	assert_int_equal(recovery_run(&a->b.placer, 0, events, n_events, &a->found), 0);
}

/* What a daemon has done when it dies between the ioctl and its note. */
static void placed_but_not_noted(struct bed *b, uint64_t unit)
{
	struct resolve_result r;

	assert_true(page_map_claim(&b->map, unit));
	r = resolve_copy(b->m.uffd, guest_memory_hva(&b->m, unit), region_unit_bytes(b->r),
	                 bed_source(b, unit));
	assert_int_equal(r.outcome, RESOLVE_DONE);
}

static void guest_writes(const struct bed *b, uint64_t unit)
{
	*(volatile uint64_t *)guest_memory_at(&b->m, unit) = 0x4711;
}

static bool guest_still_has_it(const struct bed *b, uint64_t unit)
{
	return *(volatile uint64_t *)guest_memory_at(&b->m, unit) == 0x4711;
}

static void what_is_final_stays(void **state)
{
	struct after a;

	(void)state;
	after_start(&a, MEMORY_ANON, 4, POISON);
	placement_data(&a.b.placer, a.b.r, 0, 1, a.b.source);
	placement_poison(&a.b.placer, a.b.r, 1, 1, LEDGER_REPORTED);
	placement_remove(&a.b.placer, a.b.r, 2);
	recover(&a, NO_EVENTS);
	assert_state(&a.b, 0, PAGE_PRESENT);
	assert_state(&a.b, 1, PAGE_POISONED);
	assert_state(&a.b, 2, PAGE_REMOVED);
	assert_state(&a.b, 3, PAGE_MISSING);
	assert_int_equal(a.found.n_left, 1);
	assert_int_equal(a.b.pages_left, 1);
	assert_int_equal(a.doubtful, 0);
	assert_int_equal(ledger_count(&a.b.ledger), 1);
	assert_int_equal(bed_content(&a.b, 1), CONTENT_SIGBUS);
	bed_free(&a.b);
}

/* EEXIST when it comes again: no warning, and never over what the guest has written. */
static void a_page_that_was_placed_keeps_what_the_guest_wrote(void **state)
{
	struct after a;

	(void)state;
	after_start(&a, MEMORY_ANON, 3, POISON);
	placed_but_not_noted(&a.b, 0);
	guest_writes(&a.b, 0);
	assert_true(page_map_claim(&a.b.map, 1)); /* claimed, not placed */
	recover(&a, NO_EVENTS);
	assert_int_equal(a.found.n_placing, 2);
	assert_int_equal(a.doubtful, 2);
	assert_int_equal(a.b.pages_left, 3);
	assert_int_equal(placement_data(&a.b.placer, a.b.r, 0, 3, a.b.source), 0);
	assert_true(guest_still_has_it(&a.b, 0));
	assert_int_equal(bed_content(&a.b, 1), CONTENT_SOURCE);
	assert_int_equal(bed_content(&a.b, 2), CONTENT_SOURCE);
	assert_int_equal(a.b.pages_left, 0);
	assert_int_equal(a.b.stats.pages_unexpected, 0);
	assert_int_equal(a.b.n_reports[PLACEMENT_WARNING], 0);
	assert_int_equal(a.b.n_reports[PLACEMENT_FINISHED], 1);
	bed_free(&a.b);
}

/* The file has the whole page, CONTINUE was called or not: nothing is written again. */
static void minor_mode(enum memory_kind kind)
{
	struct after a;

	after_start(&a, kind, 4, POISON);
	for (uint64_t unit = 0; unit < 2; unit++) {
		backing_off_t at = {region_unit_offset(a.b.r, unit)};
		struct resolve_result r =
		        memory_is_huge(kind)
		                ? resolve_write_hugetlb(a.b.m.memfd, at, region_unit_bytes(a.b.r),
		                                        bed_source(&a.b, unit))
		                : resolve_write(a.b.m.memfd, at, region_unit_bytes(a.b.r),
		                                bed_source(&a.b, unit));

		assert_int_equal(r.outcome, RESOLVE_DONE);
		assert_true(page_map_claim(&a.b.map, unit));
		page_map_written(&a.b.map, unit);
	}
	resolve_continue(a.b.m.uffd, guest_memory_hva(&a.b.m, 0), region_unit_bytes(a.b.r));
	guest_writes(&a.b, 0);
	assert_true(page_map_claim(&a.b.map, 2)); /* claimed; the file is as it was */
	recover(&a, NO_EVENTS);
	assert_int_equal(a.found.n_written, 2);
	assert_state(&a.b, 0, PAGE_PRESENT);
	assert_state(&a.b, 1, PAGE_PRESENT);
	assert_state(&a.b, 2, PAGE_MISSING);
	assert_int_equal(placement_data(&a.b.placer, a.b.r, 0, 4, a.b.source), 0);
	assert_true(guest_still_has_it(&a.b, 0));
	for (uint64_t unit = 1; unit < 4; unit++)
		assert_int_equal(bed_content(&a.b, unit), CONTENT_SOURCE);
	assert_int_equal(a.b.n_reports[PLACEMENT_WARNING], 0);
	assert_int_equal(a.b.n_reports[PLACEMENT_FINISHED], 1);
	bed_free(&a.b);
}

static void a_page_that_was_written_is_not_written_again(void **state)
{
	(void)state;
	minor_mode(MEMORY_MEMFD_MINOR);
}

static void a_huge_page_that_was_written_is_not_written_again(void **state)
{
	(void)state;
	if (!huge_reserve(4)) {
		printf("skipped: no four free 2 MiB huge pages here\n");
		skip();
	}
	minor_mode(MEMORY_HUGETLB_MINOR);
	huge_give_back();
}

/* The VMM has punched a hole since: the page reads as zeros, as it wants. */
static void a_written_page_that_was_given_back_is_removed(void **state)
{
	struct after a;

	(void)state;
	after_start(&a, MEMORY_MEMFD_MINOR, 2, POISON);
	assert_true(page_map_claim(&a.b.map, 0));
	page_map_written(&a.b.map, 0);
	recover(&a, NO_EVENTS);
	assert_state(&a.b, 0, PAGE_REMOVED);
	assert_int_equal(a.b.pages_left, 1);
	bed_free(&a.b);
}

/* Written ahead: in the ledger, but the daemon died before the marker, or before its note. */
static void what_the_ledger_has_is_poisoned_again(void **state)
{
	struct after a;

	(void)state;
	after_start(&a, MEMORY_MEMFD, 3, POISON);
	for (uint64_t unit = 0; unit < 2; unit++) {
		const struct ledger_entry e = {
		        .unit = unit, .lost_bytes = 4096, .reason = LEDGER_REPORTED};

		assert_true(page_map_claim(&a.b.map, unit));
		assert_int_equal(ledger_append(&a.b.ledger, &e), 0);
	}
	resolve_poison(a.b.m.uffd, guest_memory_hva(&a.b.m, 1), 4096);
	recover(&a, NO_EVENTS);
	assert_int_equal(a.found.n_poisoned, 2);
	assert_state(&a.b, 0, PAGE_POISONED);
	assert_state(&a.b, 1, PAGE_POISONED);
	assert_int_equal(a.doubtful, 0);
	assert_int_equal(placement_data(&a.b.placer, a.b.r, 0, 3, a.b.source), 0);
	assert_int_equal(bed_content(&a.b, 0), CONTENT_SIGBUS);
	assert_int_equal(bed_content(&a.b, 1), CONTENT_SIGBUS);
	assert_int_equal(ledger_count(&a.b.ledger), 2);
	bed_free(&a.b);
}

/* Read, so it never comes again, but not noted: the source's data would be stale. */
static void a_removal_that_had_been_read_is_not_forgotten(void **state)
{
	struct uffd_msg events[4] = {{0}};
	struct discard d;
	struct after a;

	(void)state;
	after_start(&a, MEMORY_ANON, 4, POISON | REMOVE);
	placement_data(&a.b.placer, a.b.r, 0, 1, a.b.source);
	discard_start(&a.b, 0, 2, &d);
	assert_int_equal(uffd_read(a.b.m.uffd, events, 1), 1);
	discard_end(&d);
	recover(&a, events, ARRAY_SIZE(events));
	assert_int_equal(a.found.n_removed, 1);
	assert_state(&a.b, 0, PAGE_REMOVED);
	assert_state(&a.b, 1, PAGE_REMOVED);
	assert_state(&a.b, 2, PAGE_MISSING);
	assert_int_equal(a.b.pages_left, 2);
	/* Once more, as after a second crash: the same. */
	recover(&a, events, ARRAY_SIZE(events));
	assert_int_equal(a.b.pages_left, 2);
	assert_int_equal(placement_data(&a.b.placer, a.b.r, 0, 4, a.b.source), 0);
	assert_int_equal(a.b.stats.pages_duplicate, 2);
	placement_answer(&a.b.placer, a.b.r, 0, PAGE_REMOVED, false);
	assert_int_equal(bed_content(&a.b, 0), CONTENT_ZEROS);
	bed_free(&a.b);
}

/* Its event was read by the dead daemon, and the kernel tells nobody twice: until WAKE. */
static void a_thread_that_waits_faults_again(void **state)
{
	struct pollfd p = {.events = POLLIN};
	struct toucher t;
	struct uffd_msg msg;
	struct after a;

	(void)state;
	after_start(&a, MEMORY_ANON, 2, POISON);
	assert_true(toucher_start(&a.b, 1, &t, &msg));
	assert_int_equal(page_map_request(&a.b.map, 1), PAGE_MISSING);
	recover(&a, NO_EVENTS);
	assert_int_equal(a.found.n_requested, 1);
	assert_state(&a.b, 1, PAGE_MISSING);
	p.fd = a.b.m.uffd;
	assert_int_equal(poll(&p, 1, 10000), 1);
	assert_int_equal(uffd_read(a.b.m.uffd, &msg, 1), 1);
	assert_int_equal(msg.event, UFFD_EVENT_PAGEFAULT);
	assert_int_equal(placement_data(&a.b.placer, a.b.r, 1, 1, bed_source(&a.b, 1)), 0);
	toucher_end(&t);
	assert_true(t.healthy);
	bed_free(&a.b);
}

/* Another lane's regions are not this one's to touch. */
static void other_lanes_are_left_alone(void **state)
{
	const struct ledger_entry e = {.unit = 0, .lost_bytes = 4096, .reason = LEDGER_REPORTED};
	struct after a;

	(void)state;
	after_start(&a, MEMORY_ANON, 2, POISON);
	assert_true(page_map_claim(&a.b.map, 0));
	assert_int_equal(ledger_append(&a.b.ledger, &e), 0);
	page_map_request(&a.b.map, 1);
	assert_int_equal(recovery_run(&a.b.placer, 1, NO_EVENTS, &a.found), 0);
	assert_state(&a.b, 0, PAGE_PLACING);
	assert_state(&a.b, 1, PAGE_REQUESTED);
	assert_int_equal(a.b.pages_left, 0);
	bed_free(&a.b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(what_is_final_stays),
	        cmocka_unit_test(a_page_that_was_placed_keeps_what_the_guest_wrote),
	        cmocka_unit_test(a_page_that_was_written_is_not_written_again),
	        cmocka_unit_test(a_huge_page_that_was_written_is_not_written_again),
	        cmocka_unit_test(a_written_page_that_was_given_back_is_removed),
	        cmocka_unit_test(what_the_ledger_has_is_poisoned_again),
	        cmocka_unit_test(a_removal_that_had_been_read_is_not_forgotten),
	        cmocka_unit_test(a_thread_that_waits_faults_again),
	        cmocka_unit_test(other_lanes_are_left_alone),
	};
	int rc;

	if (!uffd_permitted() || !poison_permitted())
		return TEST_SKIPPED;
	rc = cmocka_run_group_tests(tests, NULL, NULL);
	huge_give_back(); /* also after a failed test */
	return rc;
}
