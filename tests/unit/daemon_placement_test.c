/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Promises of daemon/placement.h, one thread at a time: what is placed is what
 * the guest finds, in every kind of memory; what stopped a placement leaves
 * every unit final or missing; poison is in the ledger before it is anywhere.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <sys/socket.h>
#include <sys/wait.h>

#include "core/fdpass.h"
#include "daemon_placement_bed.h"

#define UNITS 8
#define POISON UFFD_FEATURE_POISON

/* ---- every kind ---- */

static void places_data_zeros_and_poison(enum memory_kind kind)
{
	struct bed b;
	uint64_t unit_pages;

	bed_start(kind, UNITS, POISON, &b);
	unit_pages = region_unit_pages(b.r);
	assert_int_equal(placement_data(&b.placer, b.r, 0, 3, b.source), 0);
	assert_int_equal(placement_zero(&b.placer, b.r, 3, 2), 0);
	assert_int_equal(b.n_reports[PLACEMENT_FINISHED], 0);
	assert_int_equal(placement_poison(&b.placer, b.r, 5, 2, LEDGER_REPORTED), 0);
	assert_int_equal(b.pages_left, unit_pages);
	assert_int_equal(placement_data(&b.placer, b.r, 7, 1, bed_source(&b, 7)), 0);
	assert_int_equal(b.pages_left, 0);
	assert_int_equal(b.n_reports[PLACEMENT_FINISHED], 1);
	assert_int_equal(b.n_reports[PLACEMENT_POISONED], 2);
	assert_int_equal(b.n_reports[PLACEMENT_WARNING], 0);
	for (uint64_t unit = 0; unit < UNITS; unit++) {
		bool poisoned = unit == 5 || unit == 6, zero = unit == 3 || unit == 4;

		assert_state(&b, unit, poisoned ? PAGE_POISONED : PAGE_PRESENT);
		assert_int_equal(bed_content(&b, unit), poisoned ? CONTENT_SIGBUS
		                                        : zero   ? CONTENT_ZEROS
		                                                 : CONTENT_SOURCE);
	}
	assert_int_equal(b.stats.pages_data, 4 * unit_pages);
	assert_int_equal(b.stats.pages_zero, 2 * unit_pages);
	assert_int_equal(b.stats.pages_poisoned, 2 * unit_pages);
	assert_int_equal(b.stats.pages_duplicate, 0);
	/* Everything again, the other way round: dropped, and nothing changes. */
	assert_int_equal(placement_poison(&b.placer, b.r, 0, 5, LEDGER_OPERATOR), 0);
	assert_int_equal(placement_data(&b.placer, b.r, 5, 2, b.source), 0);
	assert_int_equal(placement_zero(&b.placer, b.r, 5, 2), 0);
	assert_int_equal(ledger_count(&b.ledger), 2);
	assert_int_equal(bed_content(&b, 0), CONTENT_SOURCE);
	assert_int_equal(bed_content(&b, 5), CONTENT_SIGBUS);
	assert_int_equal(b.stats.pages_duplicate, 4 * unit_pages);
	assert_int_equal(b.n_reports[PLACEMENT_FINISHED], 1);
	bed_free(&b);
}

static void in_anonymous_memory(void **state)
{
	(void)state;
	places_data_zeros_and_poison(MEMORY_ANON);
}

static void in_a_memfd(void **state)
{
	(void)state;
	places_data_zeros_and_poison(MEMORY_MEMFD);
}

static void in_a_memfd_in_minor_mode(void **state)
{
	(void)state;
	places_data_zeros_and_poison(MEMORY_MEMFD_MINOR);
}

static void in_huge_pages(void **state)
{
	(void)state;
	if (!huge_reserve(UNITS)) {
		printf("skipped: no %d free 2 MiB huge pages here\n", UNITS);
		skip();
	}
	places_data_zeros_and_poison(MEMORY_HUGETLB);
	places_data_zeros_and_poison(MEMORY_HUGETLB_MINOR);
	huge_give_back();
}

static void the_ledger_says_what_was_lost(void **state)
{
	const struct ledger_entry *e;
	struct bed b;

	(void)state;
	bed_start(MEMORY_ANON, UNITS, POISON, &b);
	assert_int_equal(placement_poison(&b.placer, b.r, 6, 1, LEDGER_READ_ERROR), 0);
	assert_int_equal(ledger_count(&b.ledger), 1);
	e = ledger_get(&b.ledger, 0);
	assert_int_equal(e->unit, 6);
	assert_int_equal(e->offset_bytes, 6 * 4096);
	assert_int_equal(e->gpa.addr, BED_REGION_GPA + 6 * 4096);
	assert_int_equal(e->lost_bytes, 4096);
	assert_int_equal(e->region, 0);
	assert_int_equal(e->reason, LEDGER_READ_ERROR);
	assert_true(e->time_us > UINT64_C(1600000000) * 1000000);
	bed_free(&b);
}

/* ---- runs ---- */

static void runs_step_over_claimed_units(void **state)
{
	static const uint64_t taken[] = {0, 3, 4, 7};
	struct bed b;

	(void)state;
	bed_start(MEMORY_ANON, UNITS, POISON, &b);
	for (size_t i = 0; i < ARRAY_SIZE(taken); i++)
		assert_true(page_map_claim(&b.map, taken[i]));
	assert_int_equal(placement_data(&b.placer, b.r, 0, UNITS, b.source), 0);
	assert_int_equal(b.stats.pages_duplicate, 4);
	assert_int_equal(b.stats.pages_data, 4);
	assert_int_equal(b.pages_left, 4);
	for (uint64_t unit = 0; unit < UNITS; unit++) {
		bool was_taken = unit == 0 || unit == 3 || unit == 4 || unit == 7;

		assert_state(&b, unit, was_taken ? PAGE_PLACING : PAGE_PRESENT);
		if (!was_taken)
			assert_int_equal(bed_content(&b, unit), CONTENT_SOURCE);
	}
	bed_free(&b);
}

/* Longer than one claim may be: goes on with the right bytes. */
static void long_runs_are_placed_whole(void **state)
{
	struct bed b;

	(void)state;
	for (int kind = MEMORY_ANON; kind <= MEMORY_MEMFD_MINOR; kind++) {
		bed_start(kind, 300, POISON, &b);
		assert_int_equal(placement_data(&b.placer, b.r, 1, 200, bed_source(&b, 1)), 0);
		assert_int_equal(placement_zero(&b.placer, b.r, 0, 300), 0);
		for (uint64_t unit = 0; unit < 300; unit++)
			assert_int_equal(bed_content(&b, unit),
			                 unit >= 1 && unit <= 200 ? CONTENT_SOURCE : CONTENT_ZEROS);
		assert_int_equal(b.n_reports[PLACEMENT_FINISHED], 1);
		bed_free(&b);
	}
}

/* ---- what should not be there, and what should ---- */

static void an_unexpected_page_is_kept(void **state)
{
	struct bed b;
	uint8_t own[4096];

	(void)state;
	memset(own, 0x5a, sizeof(own));
	for (int kind = MEMORY_ANON; kind <= MEMORY_MEMFD; kind++) {
		uint8_t byte = 0;

		bed_start(kind, UNITS, POISON, &b);
		resolve_copy(b.m.uffd, guest_memory_hva(&b.m, 2), 4096, own);
		resolve_copy(b.m.uffd, guest_memory_hva(&b.m, 5), 4096, own);
		resolve_copy(b.m.uffd, guest_memory_hva(&b.m, 7), 4096, own);
		assert_int_equal(placement_data(&b.placer, b.r, 0, UNITS - 1, b.source), 0);
		assert_int_equal(b.n_reports[PLACEMENT_WARNING], 1); /* once, not for each */
		assert_non_null(strstr(b.last_error.text,
		                       "region ram offset 8192: memory is mapped "
		                       "where the guest's page should still be "
		                       "missing"));
		assert_int_equal(b.stats.pages_unexpected, 2);
		assert_int_equal(b.stats.pages_data, 5);
		for (uint64_t unit = 0; unit < UNITS - 1; unit++) {
			assert_state(&b, unit, PAGE_PRESENT);
			assert_int_equal(bed_content(&b, unit),
			                 unit == 2 || unit == 5 ? CONTENT_OTHER : CONTENT_SOURCE);
		}
		/* A lost page that cannot be poisoned is in the ledger all the same. */
		assert_int_equal(placement_poison(&b.placer, b.r, 7, 1, LEDGER_REPORTED), 0);
		assert_state(&b, 7, PAGE_POISONED);
		assert_int_equal(ledger_count(&b.ledger), 1);
		assert_true(touch_read(guest_memory_at(&b.m, 7), &byte));
		assert_int_equal(b.stats.pages_unexpected, 3);
		assert_int_equal(b.pages_left, 0);
		assert_int_equal(b.n_reports[PLACEMENT_FINISHED], 1);
		bed_free(&b);
	}
}

/* The VMM put something else there: its waiting threads go on with that. */
static void replaced_memory_is_let_go(void **state)
{
	struct toucher t;
	struct uffd_msg msg;
	struct bed b;

	(void)state;
	bed_start(MEMORY_ANON, UNITS, POISON, &b);
	assert_true(toucher_start(&b, 3, &t, &msg));
	page_map_request(&b.map, 3);
	assert_ptr_equal(mmap(guest_memory_at(&b.m, 3), 2 * 4096, PROT_READ | PROT_WRITE,
	                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
	                 guest_memory_at(&b.m, 3));
	assert_int_equal(placement_data(&b.placer, b.r, 0, UNITS, b.source), 0);
	toucher_end(&t);
	assert_true(t.healthy);
	assert_int_equal(t.byte, 0);
	for (uint64_t unit = 0; unit < UNITS; unit++)
		assert_state(&b, unit, unit == 3 || unit == 4 ? PAGE_REMOVED : PAGE_PRESENT);
	assert_int_equal(b.n_reports[PLACEMENT_WARNING], 1);
	assert_non_null(
	        strstr(b.last_error.text,
	               "region ram offset 12288: the VMM unmapped or replaced this memory"));
	assert_int_equal(b.stats.pages_removed, 2);
	assert_int_equal(b.stats.pages_data, UNITS - 2);
	assert_int_equal(b.n_reports[PLACEMENT_FINISHED], 1);
	bed_free(&b);
}

static void unmapped_memory_is_let_go(void **state)
{
	struct bed b;

	(void)state;
	bed_start(MEMORY_MEMFD, UNITS, POISON, &b);
	munmap(guest_memory_at(&b.m, 6), 2 * 4096);
	assert_int_equal(placement_zero(&b.placer, b.r, 0, 7), 0);
	assert_state(&b, 5, PAGE_PRESENT);
	assert_state(&b, 6, PAGE_REMOVED);
	/* Lost is lost, mapped or not. */
	assert_int_equal(placement_poison(&b.placer, b.r, 7, 1, LEDGER_REPORTED), 0);
	assert_state(&b, 7, PAGE_POISONED);
	assert_int_equal(ledger_count(&b.ledger), 1);
	assert_int_equal(b.n_reports[PLACEMENT_FINISHED], 1);
	bed_free(&b);
}

/* ---- ends ---- */

/* Memory and uffd of a child that then dies. */
static void become_orphan(struct bed *b)
{
	int socks[2], uffd = -1, status;
	uint64_t base = 0;
	size_t n_fds = 0;
	pid_t child;

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, socks), 0);
	child = fork();
	if (child == 0) {
		struct guest_memory m;

		if (guest_memory_new(MEMORY_ANON, UNITS, POISON, &m) < 0 ||
		    fdpass_send(socks[1], &m.base, 8, &m.uffd, 1, 0) != 8)
			_exit(1);
		for (;;)
			pause();
	}
	close(socks[1]);
	assert_int_equal(fdpass_recv(socks[0], &base, 8, &uffd, 1, &n_fds, 0), 8);
	close(socks[0]);
	b->regions->regions[0].hva.addr = base;
	b->placer.uffd = uffd;
	assert_int_equal(placement_data(&b->placer, b->r, 0, 2, b->source), 0);
	kill(child, SIGKILL);
	assert_int_equal(waitpid(child, &status, 0), child);
}

static void a_dead_vmm_ends_it(void **state)
{
	struct bed b;

	(void)state;
	bed_start(MEMORY_ANON, UNITS, POISON, &b);
	become_orphan(&b);
	assert_int_equal(placement_data(&b.placer, b.r, 2, 2, b.source), -ESRCH);
	assert_int_equal(b.n_reports[PLACEMENT_VMM_GONE], 1);
	assert_state(&b, 2, PAGE_MISSING);
	assert_state(&b, 3, PAGE_MISSING);
	assert_int_equal(placement_zero(&b.placer, b.r, 4, 1), -ESRCH);
	assert_state(&b, 4, PAGE_MISSING);
	assert_int_equal(placement_poison(&b.placer, b.r, 5, 2, LEDGER_REPORTED), -ESRCH);
	assert_state(&b, 5, PAGE_POISONED); /* the ledger has it */
	assert_state(&b, 6, PAGE_MISSING);
	assert_int_equal(ledger_count(&b.ledger), 1);
	assert_int_equal(b.n_reports[PLACEMENT_FAILED], 0);
	close(b.placer.uffd);
	bed_free(&b);
}

static void a_full_ledger_poisons_nothing(void **state)
{
	struct bed b;

	(void)state;
	bed_start(MEMORY_ANON, UNITS, POISON, &b);
	b.ledger.capacity = 1;
	assert_int_equal(placement_poison(&b.placer, b.r, 0, 3, LEDGER_REPORTED), -ENOSPC);
	assert_state(&b, 0, PAGE_POISONED);
	assert_state(&b, 1, PAGE_MISSING);
	assert_state(&b, 2, PAGE_MISSING);
	assert_int_equal(b.n_reports[PLACEMENT_FAILED], 1);
	assert_non_null(strstr(b.last_error.text, "region ram offset 4096: cannot write to the "
	                                          "ledger"));
	/* Really not: data can still be placed there. */
	assert_int_equal(placement_data(&b.placer, b.r, 1, 1, bed_source(&b, 1)), 0);
	assert_int_equal(bed_content(&b, 1), CONTENT_SOURCE);
	bed_free(&b);
}

static void a_truncated_file_is_a_failure(void **state)
{
	struct bed b;

	(void)state;
	bed_start(MEMORY_MEMFD, UNITS, POISON, &b);
	assert_int_equal(ftruncate(b.m.memfd, 4 * 4096), 0);
	assert_int_equal(placement_data(&b.placer, b.r, 2, 4, bed_source(&b, 2)), -EFAULT);
	assert_state(&b, 2, PAGE_PRESENT);
	assert_state(&b, 3, PAGE_PRESENT);
	assert_state(&b, 4, PAGE_MISSING);
	assert_state(&b, 5, PAGE_MISSING);
	assert_int_equal(b.pages_left, UNITS - 2);
	assert_int_equal(b.n_reports[PLACEMENT_FAILED], 1);
	assert_non_null(strstr(b.last_error.text, "region ram offset 16384: cannot place a page"));
	bed_free(&b);
}

/* ---- without UFFDIO_POISON ---- */

static void a_kernel_without_poison_still_never_gives_data(void **state)
{
	struct toucher t;
	struct uffd_msg msg;
	struct pollfd p;
	struct bed b;

	(void)state;
	bed_start(MEMORY_ANON, UNITS, 0, &b);
	assert_int_equal(placement_poison(&b.placer, b.r, 1, 2, LEDGER_REPORTED), 0);
	assert_state(&b, 1, PAGE_POISONED);
	assert_state(&b, 2, PAGE_POISONED);
	assert_int_equal(ledger_count(&b.ledger), 2);
	assert_int_equal(b.stats.poison_unplaced, 2);
	assert_int_equal(b.stats.pages_poisoned, 2);
	assert_int_equal(placement_data(&b.placer, b.r, 0, UNITS, b.source), 0);
	assert_int_equal(b.stats.pages_duplicate, 2);
	/* A thread that touches it waits: it gets neither bytes nor zeros. */
	assert_true(toucher_start(&b, 1, &t, &msg));
	placement_answer(&b.placer, b.r, 1, PAGE_POISONED, false);
	p = (struct pollfd){.fd = b.m.uffd, .events = POLLIN};
	assert_int_equal(poll(&p, 1, 20), 0); /* not even woken to fault again */
	resolve_copy(b.m.uffd, guest_memory_hva(&b.m, 1), 4096, b.source); /* was really missing */
	toucher_end(&t);
	assert_int_equal(t.byte, b.source[0]);
	bed_free(&b);
}

/* ---- huge pages that run out ---- */

static bool give_huge_page(struct bed *b, bool changing)
{
	assert_false(changing);
	return huge_give_one(b->m.memfd, 2);
}

/* The bed's memory anew, on a hugetlbfs with room for two pages; one is taken. */
static bool bed_on_a_small_hugetlbfs(struct bed *b)
{
	uint64_t ioctls;

	close_fd(&b->m.memfd);
	munmap(b->m.base, b->m.length_bytes);
	b->m.memfd = small_hugetlbfs_file(2 * HUGE_BYTES, 3 * HUGE_BYTES);
	b->regions->regions[0].memory_fd = b->m.memfd;
	/* Without a reservation, as a VMM with reserve=off maps it. */
	return b->m.memfd >= 0 &&
	       mmap(b->m.base, 2 * HUGE_BYTES, PROT_READ | PROT_WRITE,
	            MAP_SHARED | MAP_FIXED | MAP_NORESERVE, b->m.memfd, 0) == b->m.base &&
	       uffd_register(b->m.uffd, guest_memory_hva(&b->m, 0), 2 * HUGE_BYTES,
	                     memory_is_minor(b->m.kind), &ioctls, NULL) == 0 &&
	       huge_use_one(b->m.memfd, 2);
}

/*
 * For a huge page that it cannot allocate UFFDIO_COPY says EEXIST (6.18). Taken
 * at its word, the page would count as present, and the guest would read zeros.
 */
static void waits_for_a_huge_page(enum memory_kind kind)
{
	struct bed b;

	if (!huge_reserve(2)) {
		printf("skipped: no two free 2 MiB huge pages here\n");
		skip();
	}
	bed_start(kind, 2, POISON, &b);
	if (!bed_on_a_small_hugetlbfs(&b)) {
		bed_free(&b);
		printf("skipped: hugetlbfs cannot be mounted here\n");
		skip();
	}
	assert_int_equal(placement_data(&b.placer, b.r, 0, 1, b.source), 0);
	assert_int_equal(placement_data(&b.placer, b.r, 1, 1, bed_source(&b, 1)), -ECANCELED);
	assert_state(&b, 1, PAGE_MISSING);
	assert_int_equal(b.stats.no_memory, 1);
	assert_int_equal(b.n_reports[PLACEMENT_WARNING], 1);
	assert_non_null(strstr(b.last_error.text, "no free huge page: raise vm.nr_hugepages"));
	b.on_wait = give_huge_page;
	assert_int_equal(placement_data(&b.placer, b.r, 1, 1, bed_source(&b, 1)), 0);
	assert_int_equal(bed_content(&b, 1), CONTENT_SOURCE);
	assert_int_equal(b.stats.pages_unexpected, 0);
	assert_int_equal(b.n_reports[PLACEMENT_FINISHED], 1);
	bed_free(&b);
	huge_give_back();
}

static void a_huge_page_that_cannot_be_had_is_waited_for(void **state)
{
	(void)state;
	waits_for_a_huge_page(MEMORY_HUGETLB);
	waits_for_a_huge_page(MEMORY_HUGETLB_MINOR);
}

static void an_unexpected_huge_page_is_kept(void **state)
{
	struct bed b;
	uint8_t *own;

	(void)state;
	if (!huge_reserve(3)) {
		printf("skipped: no three free 2 MiB huge pages here\n");
		skip();
	}
	bed_start(MEMORY_HUGETLB, 3, POISON, &b);
	own = malloc(HUGE_BYTES);
	memset(own, 0x5a, HUGE_BYTES);
	resolve_copy(b.m.uffd, guest_memory_hva(&b.m, 1), HUGE_BYTES, own);
	assert_int_equal(placement_data(&b.placer, b.r, 0, 3, b.source), 0);
	assert_int_equal(b.stats.pages_unexpected, 512);
	assert_int_equal(bed_content(&b, 1), CONTENT_OTHER);
	assert_int_equal(bed_content(&b, 2), CONTENT_SOURCE);
	free(own);
	bed_free(&b);
	huge_give_back();
}

/* In MINOR mode the file is ours to write, also where another mapping was first. */
static void a_huge_page_that_was_touched_elsewhere_gets_its_content(void **state)
{
	struct bed b;
	uint8_t *elsewhere;

	(void)state;
	if (!huge_reserve(4)) {
		printf("skipped: no four free 2 MiB huge pages here\n");
		skip();
	}
	bed_start(MEMORY_HUGETLB_MINOR, 4, POISON, &b);
	elsewhere = mmap(NULL, b.m.length_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, b.m.memfd, 0);
	assert_true(elsewhere != MAP_FAILED);
	elsewhere[HUGE_BYTES] = 1;
	elsewhere[2 * HUGE_BYTES] = 1;
	assert_int_equal(placement_data(&b.placer, b.r, 0, 2, b.source), 0);
	assert_int_equal(placement_zero(&b.placer, b.r, 2, 1), 0);
	assert_int_equal(placement_data(&b.placer, b.r, 3, 1, bed_source(&b, 3)), 0);
	assert_int_equal(bed_content(&b, 0), CONTENT_SOURCE);
	assert_int_equal(bed_content(&b, 1), CONTENT_SOURCE);
	assert_int_equal(bed_content(&b, 2), CONTENT_ZEROS);
	assert_int_equal(bed_content(&b, 3), CONTENT_SOURCE);
	assert_memory_equal(elsewhere, b.source, 2 * HUGE_BYTES);
	assert_int_equal(b.stats.pages_unexpected, 0);
	assert_int_equal(b.n_reports[PLACEMENT_FINISHED], 1);
	munmap(elsewhere, b.m.length_bytes);
	bed_free(&b);
	huge_give_back();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(in_anonymous_memory),
	        cmocka_unit_test(in_a_memfd),
	        cmocka_unit_test(in_a_memfd_in_minor_mode),
	        cmocka_unit_test(in_huge_pages),
	        cmocka_unit_test(the_ledger_says_what_was_lost),
	        cmocka_unit_test(runs_step_over_claimed_units),
	        cmocka_unit_test(long_runs_are_placed_whole),
	        cmocka_unit_test(an_unexpected_page_is_kept),
	        cmocka_unit_test(replaced_memory_is_let_go),
	        cmocka_unit_test(unmapped_memory_is_let_go),
	        cmocka_unit_test(a_dead_vmm_ends_it),
	        cmocka_unit_test(a_full_ledger_poisons_nothing),
	        cmocka_unit_test(a_truncated_file_is_a_failure),
	        cmocka_unit_test(a_kernel_without_poison_still_never_gives_data),
	        cmocka_unit_test(a_huge_page_that_cannot_be_had_is_waited_for),
	        cmocka_unit_test(an_unexpected_huge_page_is_kept),
	        cmocka_unit_test(a_huge_page_that_was_touched_elsewhere_gets_its_content),
	};
	int rc;

	if (!uffd_permitted() || !poison_permitted())
		return TEST_SKIPPED;
	rc = cmocka_run_group_tests(tests, NULL, NULL);
	huge_give_back(); /* also after a failed test */
	return rc;
}
