/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Promises of a lane that goes on with what another has left (recovery.h): threads
 * that waited then are served now, what is here is not asked for, what was lost is
 * still lost, and what the guest has written since stays.
 */
#include "daemon/resolve.h"
#include "loop/daemon_lane_source.h"

#define TOUCHED_A 20
#define TOUCHED_B 30
#define ANSWERED 10
#define STREAMED 40
#define LOST 50
#define LOST_UNMARKED 51
#define CLAIMED 45
#define PLACED 46

/* Two threads wait, a page is here by a fault, two by the stream, one is lost. */
static void serve_a_little(struct bed *b, struct waiter w[3])
{
	static const uint64_t touched[] = {ANSWERED, TOUCHED_A, TOUCHED_B};
	struct links l = links_up(b, 0, true);
	bool wanted[64];

	peer_resume(l.bulk, wanted);
	l.urgent->evil = l.bulk->evil = false;
	for (size_t i = 0; i < ARRAY_SIZE(touched); i++) {
		waiter_start(b, touched[i], &w[i]);
		unit_wait(b, touched[i], PAGE_REQUESTED);
	}
	peer_pages(l.urgent, peer_request(l.urgent), ANSWERED, 1, PAGE_KIND_ZERO);
	b->kinds[ANSWERED] = PAGE_KIND_ZERO;
	assert_true(waiter_end(&w[0]));
	peer_pages(l.bulk, 0, STREAMED, 2, PAGE_KIND_DATA);
	peer_poison(l.urgent, LOST, 1);
	b->lost[LOST] = true;
	unit_wait(b, LOST, PAGE_POISONED);
	unit_wait(b, STREAMED + 1, PAGE_PRESENT);
	links_down(&l);
	bed_wait(b, 0, LANE_EVENT_LINK_LOST);
}

/* What a kill between two instructions leaves, which no signal would hit on purpose. */
static void die_in_the_middle(struct bed *b)
{
	const struct region *r = &b->table->regions[0];
	const struct ledger_entry e = {.unit = LOST_UNMARKED,
	                               .offset_bytes = LOST_UNMARKED * PAGE,
	                               .lost_bytes = PAGE,
	                               .reason = LEDGER_REPORTED};
	uint8_t bytes[PAGE];

	b->lanes[0] = lane_free(b->lanes[0]);
	loop_run_posted(b->main_loop);
	assert_true(page_map_claim(&b->state->map, CLAIMED));
	assert_true(page_map_claim(&b->state->map, PLACED));
	page_fill(bytes, PLACED, false);
	b->kinds[PLACED] = PAGE_KIND_DATA;
	resolve_copy(b->uffds[0], region_unit_hva(r, PLACED), PAGE, bytes);
	assert_true(page_map_claim(&b->state->map, LOST_UNMARKED));
	assert_int_equal(ledger_append(&b->state->ledger, &e), 0);
	b->lost[LOST_UNMARKED] = true;
}

static void test_the_next_lane_goes_on(void **state)
{
	struct bed *b = bed_start_small();
	struct lane_event e;
	struct waiter w[3];

	(void)state;
	serve_a_little(b, w);
	die_in_the_middle(b);
	b->adopted = true;
	bed_lane_new(b, 0);
	e = bed_wait(b, 0, LANE_EVENT_RECOVERED);
	assert_int_equal(e.recovery.n_placing, 2);
	assert_int_equal(e.recovery.n_poisoned, 1);
	/* Both threads were woken, so one of them may have asked again already. */
	assert_in_range(e.recovery.n_requested, 0, 2);
	assert_int_equal(e.recovery.n_left, 64 - 5);
	assert_int_equal(lane_remaining_bytes(b->lanes[0]), (64 - 5) * PAGE);
	assert_int_equal(ledger_count(&b->state->ledger), 2);
	bed_finish(b);
	assert_true(waiter_end(&w[1]));
	assert_true(waiter_end(&w[2]));
}

static void test_nothing_was_missing(void **state)
{
	struct bed *b = bed_start_small();
	struct source *source = source_start(b, 0);

	(void)state;
	bed_wait(b, 0, LANE_EVENT_FINISHED);
	source_end(source);
	b->lanes[0] = lane_free(b->lanes[0]);
	loop_run_posted(b->main_loop);
	b->adopted = true;
	b->finished[0] = false;
	bed_lane_new(b, 0);
	assert_int_equal(bed_wait(b, 0, LANE_EVENT_RECOVERED).recovery.n_left, 0);
	bed_wait(b, 0, LANE_EVENT_FINISHED);
	bed_end(b);
}

static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_next_lane_goes_on),
        cmocka_unit_test(test_nothing_was_missing),
};

LANE_TEST_MAIN(tests)
