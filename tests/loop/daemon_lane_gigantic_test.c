/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Promises of a lane about huge pages of 1 GiB: they are asked for piece by piece,
 * so that the faults beside one need not wait for it; the guest has the whole page
 * or none of it; and a lost piece ends the asking. The source sends zeros for
 * most of it: it is the lane that has a GiB to do.
 */
#define HUGE_SHIFT 30
#define DEADLINE_S 60
#include "loop/daemon_lane_source.h"

#define PIECE 1024U /* pages: the most in one request */
#define SMALL 8U    /* pages of the region beside it */

static const struct spec specs[] = {{MEMORY_HUGETLB, 1, 0}, {MEMORY_ANON, SMALL, 0}};

/* One page of data in each piece of the huge page, the last one. */
static struct bed *bed_start_gigantic(void)
{
	struct bed *b = bed_start(specs, ARRAY_SIZE(specs));

	for (uint64_t page = 0; page < HUGE_PAGES; page++)
		b->kinds[page] = page % PIECE == PIECE - 1 ? PAGE_KIND_DATA : PAGE_KIND_ZERO;
	return b;
}

/* The next request is for the n-th piece of the huge page: its id. */
static uint64_t piece_request(struct peer *urgent, uint32_t n)
{
	uint64_t id = peer_request(urgent);

	assert_int_equal(urgent->m.page_request.runs.runs[0].first, n * PIECE);
	assert_int_equal(urgent->m.page_request.runs.runs[0].count, PIECE);
	return id;
}

/* As much of the huge page as is asked for at a time: the id. */
static uint64_t first_pieces(struct peer *urgent)
{
	uint64_t id = piece_request(urgent, 0);

	assert_int_equal(piece_request(urgent, 1), id);
	return id;
}

/* The guest faults in the huge page, and the lane has asked for as much as it does at a time. */
static struct links huge_fault(struct bed *b, struct waiter *w, uint64_t *ret_id)
{
	struct links l = links_up(b, 0, true);

	l.urgent->evil = l.bulk->evil = false;
	waiter_start(b, 0, w);
	*ret_id = first_pieces(l.urgent);
	peer_expect_silence(l.urgent);
	return l;
}

static void beds_end(struct bed *b, struct links *l)
{
	links_down(l);
	bed_wait(b, 0, LANE_EVENT_LINK_LOST);
	bed_finish(b);
}

static void test_pieces_let_others_pass(void **state)
{
	struct bed *b = bed_start_gigantic();
	struct waiter huge, small;
	struct links l;
	uint64_t id;

	(void)state;
	l = huge_fault(b, &huge, &id);
	/* A fault beside it is asked for at once, and answered before the rest. */
	waiter_start(b, 1 + 3, &small);
	peer_pages(l.urgent, peer_request(l.urgent), HUGE_PAGES + 3, 1, PAGE_KIND_DATA);
	assert_true(waiter_end(&small));
	assert_int_equal(page_map_get(&b->state->map, 0), PAGE_REQUESTED);
	for (uint32_t n = 0; n < HUGE_PAGES / PIECE; n++) {
		peer_pages(l.urgent, id, n * PIECE, PIECE - 1, PAGE_KIND_ZERO);
		peer_pages(l.urgent, id, n * PIECE + PIECE - 1, 1, PAGE_KIND_DATA);
		if (n + 2 < HUGE_PAGES / PIECE)
			assert_int_equal(piece_request(l.urgent, n + 2), id);
	}
	assert_true(waiter_end(&huge));
	unit_wait(b, 0, PAGE_PRESENT); /* the kernel wakes before the lane can note it */
	beds_end(b, &l);
}

/* What was never asked for is no answer: it would be asked for again, and come twice. */
static void test_piece_not_asked_for(void **state)
{
	struct bed *b = bed_start_gigantic();
	struct waiter huge;
	struct links l;
	uint64_t id;

	(void)state;
	l = huge_fault(b, &huge, &id);
	peer_pages(l.urgent, id, 2 * PIECE, 1, PAGE_KIND_ZERO);
	expect_lost(b, 0, "with pages 2048+1", true);
	links_down(&l);
	/* The next connection starts from its beginning. */
	l = links_up(b, 0, true);
	l.urgent->evil = l.bulk->evil = false;
	first_pieces(l.urgent);
	beds_end(b, &l);
	assert_true(waiter_end(&huge));
}

static void test_lost_piece_ends_the_asking(void **state)
{
	struct bed *b = bed_start_gigantic();
	struct waiter huge, small;
	struct links l;
	uint64_t id;

	(void)state;
	l = huge_fault(b, &huge, &id);
	b->kinds[7] = PAGE_KIND_POISONED;
	peer_pages(l.urgent, id, 7, 1, PAGE_KIND_POISONED);
	assert_false(waiter_end(&huge));
	assert_int_equal(ledger_lost_bytes(&b->state->ledger), HUGE_BYTES);
	/* What was on its way is taken, and nothing more is asked for. */
	peer_pages(l.urgent, id, 0, 7, PAGE_KIND_ZERO);
	peer_pages(l.urgent, id, 8, 2 * PIECE - 8, PAGE_KIND_ZERO);
	peer_expect_silence(l.urgent);
	assert_false(touch_read(b->parts[0].base, &(uint8_t){0}));
	waiter_start(b, 1, &small);
	assert_int_equal(peer_request(l.urgent) == id, false);
	peer_pages(l.urgent, l.urgent->m.page_request.id, HUGE_PAGES, 1, PAGE_KIND_DATA);
	assert_true(waiter_end(&small));
	beds_end(b, &l);
}

static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pieces_let_others_pass),
        cmocka_unit_test(test_piece_not_asked_for),
        cmocka_unit_test(test_lost_piece_ends_the_asking),
};

int main(void)
{
#ifdef __SANITIZE_THREAD__
	printf("skipped: ThreadSanitizer's notes of a GiB outlast every deadline\n");
	return TEST_SKIPPED;
#endif
	if (!uffd_permitted() || !poison_permitted())
		return TEST_SKIPPED;
	if (!huge_reserve(1)) {
		printf("skipped: no free huge page of 1 GiB\n");
		huge_give_back();
		return TEST_SKIPPED;
	}
	return cmocka_run_group_tests(tests, lane_group_setup, lane_group_teardown);
}
