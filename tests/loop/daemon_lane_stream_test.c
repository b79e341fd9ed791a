/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Promises of a lane's BULK connection against a source that lies: what was
 * not asked for is refused and told, what is here already stays as it is, and
 * poison is final whichever of the two connections is quicker. A source that
 * sends nothing costs nothing.
 */
#include "loop/daemon_lane_source.h"

/* ---- what ends the link ---- */

struct stream_case {
	const char *name;
	void (*act)(struct peer *bulk);
	const char *text;
};

static void act_outside(struct peer *bulk)
{
	peer_pages(bulk, 0, 64, 1, PAGE_KIND_DATA);
}

static void act_crossing(struct peer *bulk)
{
	peer_pages(bulk, 0, 60, 5, PAGE_KIND_POISONED);
}

static void act_absurd(struct peer *bulk)
{
	peer_pages(bulk, 0, 0, UINT32_MAX, PAGE_KIND_ZERO);
}

static void act_good_then_bad(struct peer *bulk)
{
	struct page_run runs[] = {{3, 2, PAGE_KIND_DATA}, {64, 1, PAGE_KIND_ZERO}};

	peer_pages_runs(bulk, 0, runs, 2);
}

static void act_id(struct peer *bulk)
{
	peer_pages(bulk, 65536, 0, 1, PAGE_KIND_DATA);
}

static void act_too_much_data(struct peer *bulk)
{
	struct page_run run = {0, 65, PAGE_KIND_DATA};
	struct page_message m = {.type = PAGE_MESSAGE_PAGES, .pages = {.runs = {&run, 1}}};

	peer_send(bulk, &m);
}

static void act_poison_notice(struct peer *bulk)
{
	peer_poison(bulk, 0, 64);
}

static void act_complete_ack(struct peer *bulk)
{
	peer_send_type(bulk, PAGE_MESSAGE_COMPLETE_ACK);
}

static void act_resume(struct peer *bulk)
{
	struct page_message m = {.type = PAGE_MESSAGE_RESUME,
	                         .resume = {.unit_pages = 1, .last = true}};

	peer_send(bulk, &m);
}

static void test_refused(void **state)
{
	static const struct stream_case cases[] = {
	        {"outside", act_outside, "streamed pages 64+1, outside every region"},
	        {"over an end", act_crossing, "streamed pages 60+5, outside every region"},
	        {"2^32 pages", act_absurd, "streamed pages 0+4294967295, outside every"},
	        {"good, then bad", act_good_then_bad, "streamed pages 64+1, outside"},
	        {"an id", act_id, "answered request 65536 on the bulk connection"},
	        {"65 pages", act_too_much_data, "65 data pages or more, expected at most 64"},
	        {"PoisonNotice", act_poison_notice, "sent PoisonNotice on the bulk connection"},
	        {"CompleteAck", act_complete_ack, "sent CompleteAck on the bulk connection"},
	        {"Resume", act_resume, "sent Resume on the bulk connection"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct bed *b = bed_start_small();
		struct links l = links_up(b, 0, true);

		if (getenv("TEST_VERBOSE"))
			printf("  %s\n", cases[i].name);
		cases[i].act(l.bulk);
		expect_lost(b, 0, cases[i].text, true);
		expect_untouched(b);
		expect_no_event(b);
		links_down(&l);
		bed_finish(b);
	}
}

/* A lane's stream has no business in another lane's region, and that lane goes on. */
static void test_other_lane(void **state)
{
	static const struct spec specs[] = {{MEMORY_ANON, 8, 0}, {MEMORY_ANON, 8, 1}};
	struct bed *b = bed_start(specs, 2);
	struct links l0 = links_up(b, 0, true), l1 = links_up(b, 1, true);
	struct waiter w;

	(void)state;
	peer_pages(l0.bulk, 0, 8, 1, PAGE_KIND_DATA);
	expect_lost(b, 0, "page 8 of region ram1, which belongs to lane 1, not 0", true);
	expect_untouched(b);
	/* Poison is told to every lane: each takes its own. */
	peer_poison(l1.urgent, 0, 8);
	l1.urgent->evil = false;
	waiter_start(b, 9, &w);
	peer_pages(l1.urgent, peer_request(l1.urgent), 9, 1, PAGE_KIND_DATA);
	assert_true(waiter_end(&w));
	assert_int_equal(ledger_count(&b->state->ledger), 0);
	expect_no_event(b);
	links_down(&l0);
	links_down(&l1);
	bed_wait(b, 1, LANE_EVENT_LINK_LOST);
	bed_finish(b);
}

/* ---- a source that sends nothing ---- */

/* Rounds that bring nothing: at most ten a second; and when pages come, they come. */
static void test_empty_rounds(void **state)
{
	enum {
		ROUNDS = 6
	};
	struct bed *b = bed_start_small();
	struct links l = links_up(b, 0, true);
	uint64_t start_us = clock_monotonic_us();
	bool wanted[64];

	(void)state;
	for (int i = 0; i < ROUNDS; i++) {
		peer_resume(l.bulk, wanted);
		for (uint64_t p = 0; p < b->n_pages; p++)
			assert_true(wanted[p]);
		peer_progress_end(l.bulk);
	}
	assert_true(clock_monotonic_us() - start_us >= (ROUNDS - 1) * UINT64_C(95000));
	/* A second end while no round is under way begins none. */
	for (int i = 0; i < 100; i++)
		peer_progress_end(l.bulk);
	l.bulk->evil = false;
	peer_resume(l.bulk, wanted);
	peer_pages(l.bulk, 0, 0, 3, PAGE_KIND_DATA);
	peer_progress_end(l.bulk);
	peer_resume(l.bulk, wanted); /* at once: the last one brought something */
	assert_false(wanted[0] || wanted[2]);
	assert_true(wanted[3]);
	expect_no_event(b);
	links_down(&l);
	bed_wait(b, 0, LANE_EVENT_LINK_LOST);
	bed_finish(b);
}

/* ---- what is here already ---- */

static void test_duplicates(void **state)
{
	struct bed *b = bed_start_small();
	struct links l = links_up(b, 0, true);
	struct stats_sum urgent = {0}, bulk = {0};

	(void)state;
	l.bulk->evil = false;
	peer_pages(l.bulk, 0, 0, 3, PAGE_KIND_DATA);
	peer_pages(l.bulk, 0, 3, 1, PAGE_KIND_ZERO);
	l.bulk->evil = true;
	peer_pages(l.bulk, 0, 0, 3, PAGE_KIND_DATA);
	peer_pages(l.bulk, 0, 0, 1, PAGE_KIND_ZERO);
	peer_pages(l.bulk, 0, 2, 2, PAGE_KIND_POISONED);
	peer_sync(l.bulk);
	lane_stats(b->lanes[0], &urgent, &bulk);
	assert_int_equal(bulk.pages_data, 3);
	assert_int_equal(bulk.pages_zero, 1);
	assert_int_equal(bulk.pages_poisoned, 0);
	assert_int_equal(bulk.pages_duplicate, 4);
	expect_no_event(b);
	links_down(&l);
	bed_wait(b, 0, LANE_EVENT_LINK_LOST);
	bed_finish(b);
}

/* A page that was read healthy stays, whatever is said of it later. */
static void test_poison_after_data(void **state)
{
	struct bed *b = bed_start_small();
	struct links l = links_up(b, 0, true);

	(void)state;
	l.bulk->evil = false;
	peer_pages(l.bulk, 0, 4, 3, PAGE_KIND_DATA);
	peer_sync(l.bulk);
	peer_poison(l.urgent, 4, 3);
	peer_sync(l.urgent);
	assert_int_equal(ledger_count(&b->state->ledger), 0);
	links_down(&l);
	bed_wait(b, 0, LANE_EVENT_LINK_LOST);
	bed_finish(b);
}

/* Never readable again: not for the stream, not for an answer, not for another connection. */
static void test_data_after_poison(void **state)
{
	struct bed *b = bed_start_small();
	struct links l = links_up(b, 0, true);
	struct waiter w;
	uint64_t id;

	(void)state;
	waiter_start(b, 20, &w);
	id = peer_request(l.urgent);
	peer_poison(l.urgent, 20, 2);
	b->lost[20] = b->lost[21] = true;
	assert_false(waiter_end(&w));
	peer_sync(l.urgent); /* page 21, too, or its data on the other connection may win */
	peer_pages(l.urgent, id, 20, 1, PAGE_KIND_DATA);
	peer_pages(l.bulk, 0, 20, 2, PAGE_KIND_DATA);
	peer_pages(l.bulk, 0, 20, 2, PAGE_KIND_ZERO);
	peer_poison(l.urgent, 20, 2);
	peer_sync(l.bulk);
	peer_sync(l.urgent);
	for (uint64_t u = 20; u < 22; u++) {
		waiter_start(b, u, &w);
		assert_false(waiter_end(&w));
	}
	assert_int_equal(ledger_count(&b->state->ledger), 2);
	expect_no_event(b);
	links_down(&l);
	bed_wait(b, 0, LANE_EVENT_LINK_LOST);
	assert_true(b->n_poisoned_events > 0);
	bed_finish(b);
}

/* A notice on one connection, the same pages' bytes on the other, at the same time. */
static void test_poison_races_data(void **state)
{
	enum {
		PAGES = 8192,
		STEP = 4
	};
	static const struct spec spec = {MEMORY_ANON, PAGES, 0};
	struct bed *b = bed_start(&spec, 1);
	struct links l = links_up(b, 0, true);
	uint64_t n_lost = 0;

	(void)state;
	l.bulk->evil = false;
	for (uint64_t p = 0; p < PAGES; p++)
		b->kinds[p] = PAGE_KIND_DATA;
	for (uint64_t p = 0; p < PAGES; p += STEP) {
		if (p / STEP % 2)
			peer_poison(l.urgent, p, STEP);
		peer_pages(l.bulk, 0, p, STEP, PAGE_KIND_DATA);
		if (p / STEP % 2 == 0)
			peer_poison(l.urgent, p, STEP);
	}
	bed_wait(b, 0, LANE_EVENT_FINISHED);
	peer_sync(l.urgent);
	peer_sync(l.bulk);
	/* Who won is open; that map, ledger and SIGBUS agree on it is checked below. */
	for (uint64_t u = 0; u < PAGES; u++) {
		b->lost[u] = page_map_get(&b->state->map, u) == PAGE_POISONED;
		n_lost += b->lost[u];
	}
	assert_int_equal(ledger_count(&b->state->ledger), n_lost);
	assert_int_equal(ledger_lost_bytes(&b->state->ledger), n_lost * PAGE);
	if (getenv("TEST_VERBOSE"))
		printf("  %llu of %d pages lost\n", (unsigned long long)n_lost, PAGES);
	links_down(&l);
	bed_wait(b, 0, LANE_EVENT_LINK_LOST);
	bed_finish(b);
}

static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refused),           cmocka_unit_test(test_other_lane),
        cmocka_unit_test(test_empty_rounds),      cmocka_unit_test(test_duplicates),
        cmocka_unit_test(test_poison_after_data), cmocka_unit_test(test_data_after_poison),
        cmocka_unit_test(test_poison_races_data),
};

LANE_TEST_MAIN(tests)
