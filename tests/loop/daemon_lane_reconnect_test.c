/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Promises of a lane that loses its links: what was asked for is asked again,
 * once; the stream wants what is missing and no more; the limits are told
 * again; what the guest touched meanwhile is asked for; and before the source
 * is frozen nothing is.
 */
#include "loop/daemon_lane_source.h"

/* n requests, of one page each, and after them none: asked[] counts them by page. */
static void take_requests(struct peer *urgent, size_t n, unsigned *asked)
{
	for (size_t i = 0; i < n; i++) {
		peer_request(urgent);
		must(urgent->m.page_request.runs.runs[0].count == 1);
		asked[urgent->m.page_request.runs.runs[0].first]++;
	}
	peer_expect_silence(urgent);
}

/* Three threads wait; one is answered, one page comes by the stream, two are lost. */
static void first_connection(struct bed *b, struct waiter w[3])
{
	struct links l = links_up(b, 0, true);
	unsigned asked[64] = {0};
	bool wanted[64];

	peer_resume(l.bulk, wanted);
	for (int i = 0; i < 3; i++) {
		waiter_start(b, 10 * (uint64_t)(i + 1), &w[i]);
		unit_wait(b, 10 * (uint64_t)(i + 1), PAGE_REQUESTED);
	}
	l.urgent->evil = l.bulk->evil = false;
	peer_pages(l.urgent, peer_request(l.urgent), 10, 1, PAGE_KIND_ZERO);
	b->kinds[10] = PAGE_KIND_ZERO;
	assert_true(waiter_end(&w[0]));
	take_requests(l.urgent, 2, asked);
	assert_int_equal(asked[20] + asked[30], 2);
	peer_pages(l.bulk, 0, 40, 2, PAGE_KIND_DATA);
	peer_poison(l.urgent, 50, 1);
	b->lost[50] = true;
	peer_sync(l.urgent);
	lane_set_bandwidth(b->lanes[0], 123456789);
	peer_sync(l.bulk);
	links_down(&l);
	bed_wait(b, 0, LANE_EVENT_LINK_LOST);
}

static void test_reconnect(void **state)
{
	struct bed *b = bed_start_small();
	struct waiter w[5];
	unsigned asked[64] = {0};
	struct links l;
	bool wanted[64];

	(void)state;
	first_connection(b, w);
	/* While there is no link: a fault, and poison by the operator. */
	waiter_start(b, 33, &w[3]);
	unit_wait(b, 33, PAGE_REQUESTED);
	waiter_start(b, 61, &w[4]);
	unit_wait(b, 61, PAGE_REQUESTED);
	lane_poison_units(b->lanes[0], 60, 2, LEDGER_OPERATOR, 0);
	b->lost[60] = b->lost[61] = true;
	assert_false(waiter_end(&w[4]));
	unit_wait(b, 60, PAGE_POISONED);

	l = links_up(b, 0, true);
	take_requests(l.urgent, 4, asked);
	assert_int_equal(asked[20], 1);
	assert_int_equal(asked[30], 1);
	assert_int_equal(asked[33], 1);
	assert_int_equal(asked[61], 1); /* it was open, and an answer to it is dropped */
	assert_int_equal(peer_resume(l.bulk, wanted), 123456789);
	for (uint64_t p = 0; p < 64; p++)
		assert_int_equal(wanted[p], page_map_get(&b->state->map, p) == PAGE_MISSING);
	assert_false(wanted[10] || wanted[20] || wanted[40] || wanted[41] || wanted[50] ||
	             wanted[60] || wanted[61]);
	links_down(&l);
	bed_wait(b, 0, LANE_EVENT_LINK_LOST);
	bed_finish(b);
	for (int i = 1; i < 4; i++)
		assert_true(waiter_end(&w[i]));
}

/* Many losses: each time everything open is asked for, each page once. */
static void test_many_reconnects(void **state)
{
	struct bed *b = bed_start_small();
	struct waiter w[8];

	(void)state;
	for (int i = 0; i < 8; i++) {
		unsigned asked[64] = {0};
		struct links l;

		waiter_start(b, 7 * (uint64_t)i, &w[i]);
		unit_wait(b, 7 * (uint64_t)i, PAGE_REQUESTED);
		l = links_up(b, 0, true);
		take_requests(l.urgent, (size_t)i + 1, asked);
		for (int k = 0; k <= i; k++)
			assert_int_equal(asked[7 * k], 1);
		links_down(&l);
		bed_wait(b, 0, LANE_EVENT_LINK_LOST);
	}
	bed_finish(b);
	for (int i = 0; i < 8; i++)
		assert_true(waiter_end(&w[i]));
}

/* While the source's VMM runs its memory changes: not a page is asked for before Frozen. */
static void test_frozen_later(void **state)
{
	struct bed *b = bed_start_small();
	struct links l = links_up(b, 0, false);
	struct waiter w;
	bool wanted[64];

	(void)state;
	waiter_start(b, 5, &w);
	unit_wait(b, 5, PAGE_REQUESTED);
	lane_set_bandwidth(b->lanes[0], 1000);
	peer_expect_silence(l.urgent);
	peer_expect_silence(l.bulk);
	expect_no_event(b);
	peer_send_type(l.urgent, PAGE_MESSAGE_FROZEN);
	bed_wait(b, 0, LANE_EVENT_FROZEN);
	peer_request(l.urgent);
	assert_int_equal(l.urgent->m.page_request.runs.runs[0].first, 5);
	peer_expect_silence(l.bulk);
	peer_send_type(l.bulk, PAGE_MESSAGE_FROZEN);
	assert_int_equal(peer_resume(l.bulk, wanted), 1000);
	assert_false(wanted[5]);
	assert_true(wanted[6]);
	/* Lost, and the next one is not frozen again: silence again. */
	links_down(&l);
	bed_wait(b, 0, LANE_EVENT_LINK_LOST);
	l = links_up(b, 0, false);
	peer_expect_silence(l.urgent);
	peer_expect_silence(l.bulk);
	links_down(&l);
	bed_wait(b, 0, LANE_EVENT_LINK_LOST);
	bed_finish(b);
	assert_true(waiter_end(&w));
}

/* The newest connect counts: no event of the one before it arrives. */
static void test_connect_again(void **state)
{
	struct bed *b = bed_start_small();
	struct peer *first;
	struct links l;

	(void)state;
	lane_connect(b->lanes[0], b->address);
	first = peer_accept_hello(b, 0, LINK_ROLE_URGENT);
	l = links_up(b, 0, true);
	assert_int_equal(peer_next(first), PAGE_MESSAGE_NONE);
	peer_free(first);
	lane_disconnect(b->lanes[0]);
	while (peer_next(l.urgent) != PAGE_MESSAGE_NONE)
		;
	while (peer_next(l.bulk) != PAGE_MESSAGE_NONE)
		;
	links_down(&l);
	expect_no_event(b);
	bed_finish(b);
}

static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reconnect),
        cmocka_unit_test(test_many_reconnects),
        cmocka_unit_test(test_frozen_later),
        cmocka_unit_test(test_connect_again),
};

LANE_TEST_MAIN(tests)
