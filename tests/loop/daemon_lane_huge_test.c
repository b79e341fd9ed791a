/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Promises of a lane about huge pages, whose pieces come as the source likes:
 * in the guest there is the whole page or none of it; one lost piece is the
 * loss of the whole, and the ledger says so; nobody waits for ever. And about
 * regions of several kinds side by side.
 */
#include "loop/daemon_lane_source.h"

#define UNITS_MAX 11 /* of one test */
#define PIECE 64     /* pages; no whole number of runs of one kind */

static struct bed *bed_start_huge(uint64_t n_units)
{
	const struct spec spec = {MEMORY_HUGETLB, n_units, 0};

	return bed_start(&spec, 1);
}

/* Pages first .. first + n - 1 as they are, one run of each kind at a time. */
static void send_as_is(struct peer *p, uint64_t id, uint64_t first, uint32_t n)
{
	for (uint64_t at = first, end = first + n; at < end;) {
		uint32_t count = 1;

		while (at + count < end && p->bed->kinds[at + count] == p->bed->kinds[at])
			count++;
		peer_pages(p, id, at, count, p->bed->kinds[at]);
		at += count;
	}
}

static void send_backwards(struct peer *p, uint64_t id, uint64_t first)
{
	for (uint32_t done = 0; done < HUGE_PAGES; done += PIECE)
		send_as_is(p, id, first + HUGE_PAGES - done - PIECE, PIECE);
}

/* Request for the whole unit: its id. */
static uint64_t huge_request(struct peer *urgent, uint64_t unit)
{
	uint64_t id = peer_request(urgent);

	must(urgent->m.page_request.runs.runs[0].first == unit * HUGE_PAGES);
	must(urgent->m.page_request.runs.runs[0].count == HUGE_PAGES);
	return id;
}

static void test_pieces_in_any_order(void **state)
{
	struct bed *b = bed_start_huge(3);
	struct links l = links_up(b, 0, true);
	struct waiter w[2];
	uint64_t id[2];

	(void)state;
	l.urgent->evil = false;
	for (unsigned i = 0; i < 2; i++) {
		waiter_start(b, i, &w[i]);
		id[i] = huge_request(l.urgent, i);
	}
	/* Interleaved, and all but one page: neither is there. */
	for (uint32_t at = 0; at < HUGE_PAGES; at += PIECE) {
		send_as_is(l.urgent, id[0], HUGE_PAGES - at - PIECE + (at + PIECE == HUGE_PAGES),
		           PIECE - (at + PIECE == HUGE_PAGES));
		send_as_is(l.urgent, id[1], HUGE_PAGES + at, PIECE - (at + PIECE == HUGE_PAGES));
	}
	peer_expect_silence(l.urgent);
	expect_untouched(b);
	send_as_is(l.urgent, id[0], 0, 1);
	assert_true(waiter_end(&w[0]));
	assert_int_equal(page_map_get(&b->state->map, 1), PAGE_REQUESTED);
	send_as_is(l.urgent, id[1], 2 * HUGE_PAGES - 1, 1);
	assert_true(waiter_end(&w[1]));
	expect_no_event(b);
	links_down(&l);
	bed_wait(b, 0, LANE_EVENT_LINK_LOST);
	bed_finish(b);
}

/* One 4 KiB piece is lost: first, in the middle, last. The rest is awaited and dropped. */
static void test_one_lost_piece(void **state)
{
	static const uint32_t lost[] = {0, 300, 511};
	struct bed *b = bed_start_huge(3);
	struct links l = links_up(b, 0, true);

	(void)state;
	l.urgent->evil = false;
	for (unsigned u = 0; u < 3; u++) {
		struct waiter w;

		b->kinds[u * HUGE_PAGES + lost[u]] = PAGE_KIND_POISONED;
		waiter_start(b, u, &w);
		send_backwards(l.urgent, huge_request(l.urgent, u), u * HUGE_PAGES);
		assert_false(waiter_end(&w));
	}
	peer_expect_silence(l.urgent);
	assert_int_equal(ledger_count(&b->state->ledger), 3);
	assert_int_equal(ledger_lost_bytes(&b->state->ledger), 3 * HUGE_BYTES);
	bed_wait(b, 0, LANE_EVENT_FINISHED);
	expect_no_event(b);
	links_down(&l);
	bed_wait(b, 0, LANE_EVENT_LINK_LOST);
	bed_finish(b);
}

/* A notice for one 4 KiB page of it poisons the whole as well. */
static void test_notice_for_a_piece(void **state)
{
	struct bed *b = bed_start_huge(3);
	struct links l = links_up(b, 0, true);
	struct waiter w;

	(void)state;
	waiter_start(b, 1, &w);
	huge_request(l.urgent, 1);
	peer_poison(l.urgent, HUGE_PAGES + 77, 1);
	assert_false(waiter_end(&w));
	peer_poison(l.urgent, 2 * HUGE_PAGES - 1, 2);
	b->lost[1] = b->lost[2] = true;
	peer_sync(l.urgent);
	assert_int_equal(ledger_lost_bytes(&b->state->ledger), 2 * HUGE_BYTES);
	links_down(&l);
	bed_wait(b, 0, LANE_EVENT_LINK_LOST);
	bed_finish(b);
}

static void act_twice_urgent(struct links *l, uint64_t id)
{
	peer_pages(l->urgent, id, 10, 20, PAGE_KIND_DATA);
	peer_pages(l->urgent, id, 29, 1, PAGE_KIND_DATA);
}

static void act_outside_urgent(struct links *l, uint64_t id)
{
	struct page_run runs[] = {{0, 511, PAGE_KIND_ZERO}, {511, 2, PAGE_KIND_ZERO}};

	peer_pages_runs(l->urgent, id, runs, 2);
}

static void act_twice_bulk(struct links *l, uint64_t id)
{
	(void)id;
	peer_pages(l->bulk, 0, HUGE_PAGES + 5, 20, PAGE_KIND_DATA);
	peer_pages(l->bulk, 0, HUGE_PAGES, 6, PAGE_KIND_DATA);
}

/* The pieces of a lost connection are forgotten: the next one's alone make the page. */
static void test_bad_pieces(void **state)
{
	static const struct {
		void (*act)(struct links *l, uint64_t id);
		const char *text;
	} cases[] = {
	        {act_twice_urgent, "the source answered page 29 of request"},
	        {act_outside_urgent, "for pages 0+512 with pages 511+2"},
	        {act_twice_bulk, "the source streamed page 512 twice in one round"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct bed *b = bed_start_huge(2);
		struct links l = links_up(b, 0, true);
		struct waiter w;

		waiter_start(b, 0, &w);
		cases[i].act(&l, huge_request(l.urgent, 0));
		expect_lost(b, 0, cases[i].text, true);
		expect_untouched(b);
		links_down(&l);
		bed_finish(b);
		assert_true(waiter_end(&w));
	}
}

/* Only so many are asked for at a time; the others follow when one was answered. */
static void test_many_at_once(void **state)
{
	enum {
		UNITS = UNITS_MAX,
		AT_ONCE = 8
	};
	struct bed *b = bed_start_huge(UNITS);
	struct links l = links_up(b, 0, true);
	uint64_t ids[UNITS], units[UNITS];
	struct waiter w[UNITS];

	(void)state;
	l.urgent->evil = false;
	for (unsigned i = 0; i < UNITS; i++) {
		waiter_start(b, i, &w[i]);
		unit_wait(b, i, PAGE_REQUESTED);
	}
	for (unsigned i = 0; i < AT_ONCE; i++) {
		ids[i] = peer_request(l.urgent);
		units[i] = l.urgent->m.page_request.runs.runs[0].first / HUGE_PAGES;
	}
	peer_expect_silence(l.urgent);
	for (unsigned i = 0; i < UNITS; i++) {
		send_as_is(l.urgent, ids[i], units[i] * HUGE_PAGES, HUGE_PAGES);
		assert_true(waiter_end(&w[units[i]]));
		if (i + AT_ONCE >= UNITS)
			continue;
		ids[i + AT_ONCE] = peer_request(l.urgent);
		units[i + AT_ONCE] = l.urgent->m.page_request.runs.runs[0].first / HUGE_PAGES;
	}
	bed_wait(b, 0, LANE_EVENT_FINISHED);
	links_down(&l);
	bed_wait(b, 0, LANE_EVENT_LINK_LOST);
	bed_finish(b);
}

/* Page numbers of a huge region need not be multiples of its unit: alignment counts from its start. */
static void test_mixed_regions(void **state)
{
	static const struct spec specs[] = {
	        {MEMORY_MEMFD, 3, 0}, {MEMORY_HUGETLB, 2, 0}, {MEMORY_MEMFD_MINOR, 5, 0}};
	struct bed *b = bed_start(specs, ARRAY_SIZE(specs));
	struct links l = links_up(b, 0, true);
	struct waiter w[2];
	bool wanted[3 + 2 * HUGE_PAGES + 5];

	(void)state;
	l.urgent->evil = l.bulk->evil = false;
	peer_resume(l.bulk, wanted);
	for (uint64_t p = 0; p < b->n_pages; p++)
		assert_true(wanted[p]);
	waiter_start(b, 4, &w[0]); /* the second huge page */
	peer_request(l.urgent);
	assert_int_equal(l.urgent->m.page_request.runs.runs[0].first, 3 + HUGE_PAGES);
	assert_int_equal(l.urgent->m.page_request.runs.runs[0].count, HUGE_PAGES);
	send_as_is(l.urgent, l.urgent->m.page_request.id, 3 + HUGE_PAGES, HUGE_PAGES);
	assert_true(waiter_end(&w[0]));
	waiter_start(b, 7, &w[1]); /* page 2 of the last region */
	peer_request(l.urgent);
	assert_int_equal(l.urgent->m.page_request.runs.runs[0].first, 3 + 2 * HUGE_PAGES + 2);
	/* One run over the end of the first into the huge region is no run. */
	peer_pages(l.bulk, 0, 2, 2, PAGE_KIND_ZERO);
	expect_lost(b, 0, "streamed pages 2+2, outside every region", true);
	links_down(&l);
	l = links_up(b, 0, true);
	peer_resume(l.bulk, wanted);
	for (uint64_t p = 0; p < b->n_pages; p++)
		assert_int_equal(wanted[p], p < 3 + HUGE_PAGES || (p >= 3 + 2 * HUGE_PAGES &&
		                                                   p != 3 + 2 * HUGE_PAGES + 2));
	links_down(&l);
	bed_wait(b, 0, LANE_EVENT_LINK_LOST);
	bed_finish(b);
	assert_true(waiter_end(&w[1]));
}

static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pieces_in_any_order), cmocka_unit_test(test_one_lost_piece),
        cmocka_unit_test(test_notice_for_a_piece),  cmocka_unit_test(test_bad_pieces),
        cmocka_unit_test(test_many_at_once),        cmocka_unit_test(test_mixed_regions),
};

int main(void)
{
	if (!uffd_permitted() || !poison_permitted())
		return TEST_SKIPPED;
	if (!huge_reserve(UNITS_MAX + 2)) {
		printf("skipped: no %d free huge pages of 2 MiB\n", UNITS_MAX + 2);
		huge_give_back();
		return TEST_SKIPPED;
	}
	return cmocka_run_group_tests(tests, lane_group_setup, lane_group_teardown);
}
