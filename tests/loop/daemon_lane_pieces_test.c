/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Promises of lanes whose regions are pieces of what the source calls one region:
 * what it says of pages on both sides of a border holds on both sides; what does
 * not belong to a lane is not placed by it; no run leaves the source's region.
 */
#include "loop/daemon_lane_source.h"

#define BORDER 32 /* page, and unit, where the second piece begins */
#define PIECES 64 /* pages of both together */

/* ram0 over two lanes, and ram2 behind it. */
static struct bed *two_lanes(void)
{
	static const struct spec specs[] = {{MEMORY_ANON, BORDER, 0},
	                                    {MEMORY_ANON, PIECES - BORDER, 1 | SPEC_PIECE},
	                                    {MEMORY_ANON, 16, 0}};

	return bed_start(specs, ARRAY_SIZE(specs));
}

/* Both pieces of ram0 in one lane. */
static struct bed *one_lane(void)
{
	static const struct spec specs[] = {{MEMORY_ANON, BORDER, 0},
	                                    {MEMORY_ANON, PIECES - BORDER, 0 | SPEC_PIECE}};

	return bed_start(specs, ARRAY_SIZE(specs));
}

static void expect_state(const struct bed *b, uint64_t first, uint64_t n, enum page_state s)
{
	for (uint64_t unit = first; unit < first + n; unit++)
		assert_string_equal(page_state_name(page_map_get(&b->state->map, unit)),
		                    page_state_name(s));
}

static void lose(struct bed *b, uint64_t first, uint64_t n)
{
	for (uint64_t unit = first; unit < first + n; unit++)
		b->lost[unit] = true;
}

/* Each lane poisons what is its own, and nothing comes twice. */
static void test_notice_over_two_lanes(void **state)
{
	struct bed *b = two_lanes();
	struct links l0 = links_up(b, 0, true), l1 = links_up(b, 1, true);

	(void)state;
	peer_poison(l0.urgent, BORDER - 3, 8);
	peer_sync(l0.urgent);
	expect_state(b, BORDER - 3, 3, PAGE_POISONED);
	expect_state(b, BORDER, 5, PAGE_MISSING);
	assert_int_equal(ledger_count(&b->state->ledger), 3);
	peer_poison(l1.urgent, BORDER - 3, 8);
	peer_sync(l1.urgent);
	expect_state(b, BORDER, 5, PAGE_POISONED);
	assert_int_equal(ledger_count(&b->state->ledger), 8);
	for (uint64_t i = 0; i < 8; i++) {
		const struct ledger_entry *e = ledger_get(&b->state->ledger, i);

		assert_int_equal(e->offset_bytes, (BORDER - 3 + i) * PAGE); /* in ram0 */
		assert_int_equal(e->region, i < 3 ? 0 : 1);
		assert_true(e->gpa.addr == b->table->regions[0].gpa.addr + e->offset_bytes);
	}
	lose(b, BORDER - 3, 8);
	links_down(&l0);
	links_down(&l1);
	expect_lost(b, 0, "", true);
	expect_lost(b, 1, "", true);
	bed_finish(b);
}

static void test_notice_over_two_pieces_of_a_lane(void **state)
{
	struct bed *b = one_lane();
	struct links l = links_up(b, 0, true);

	(void)state;
	peer_poison(l.urgent, 0, PIECES);
	peer_sync(l.urgent);
	expect_state(b, 0, PIECES, PAGE_POISONED);
	assert_int_equal(ledger_count(&b->state->ledger), PIECES);
	bed_wait(b, 0, LANE_EVENT_FINISHED);
	links_down(&l);
	expect_lost(b, 0, "", true);
	bed_end(b);
}

/* Past the region's last piece is another region, where no run may go on. */
static void test_notice_into_another_region(void **state)
{
	struct bed *b = two_lanes();
	struct links l = links_up(b, 0, true);

	(void)state;
	peer_poison(l.urgent, BORDER - 1, PIECES - BORDER + 2);
	expect_lost(b, 0, "poison for pages 31+34, outside every region", true);
	expect_untouched(b);
	links_down(&l);
	bed_finish(b);
}

/* A lane wants both pieces: the source sees one region, and may send a run over the border. */
static void test_stream_over_two_pieces_of_a_lane(void **state)
{
	static const enum page_kind kinds[] = {PAGE_KIND_DATA, PAGE_KIND_ZERO, PAGE_KIND_POISONED};
	bool wanted[PIECES];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		struct bed *b = one_lane();
		struct links l = links_up(b, 0, true);

		for (uint64_t page = BORDER - 4; page < BORDER + 4; page++)
			b->kinds[page] = kinds[i];
		l.bulk->evil = false;
		peer_resume(l.bulk, wanted);
		assert_true(wanted[BORDER - 1] && wanted[BORDER]);
		peer_pages(l.bulk, 0, BORDER - 4, 8, kinds[i]);
		peer_sync(l.bulk);
		expect_state(b, BORDER - 4, 8,
		             kinds[i] == PAGE_KIND_POISONED ? PAGE_POISONED : PAGE_PRESENT);
		expect_state(b, BORDER + 4, 1, PAGE_MISSING);
		links_down(&l);
		expect_lost(b, 0, "", true);
		bed_finish(b);
	}
}

/* It was not asked for by this lane: nothing of the run is taken. */
static void test_stream_into_another_lane(void **state)
{
	struct bed *b = two_lanes();
	struct links l = links_up(b, 0, true);
	bool wanted[PIECES + 16];

	(void)state;
	peer_resume(l.bulk, wanted);
	assert_true(wanted[BORDER - 1] && !wanted[BORDER]);
	peer_pages(l.bulk, 0, BORDER - 2, 4, PAGE_KIND_DATA);
	expect_lost(b, 0, "streamed page 32 of region ram0, which belongs to lane 1, not 0", true);
	expect_untouched(b);
	links_down(&l);
	bed_finish(b);
}

/* Also without a border of pieces between them. */
static void test_stream_into_another_region(void **state)
{
	struct bed *b = two_lanes();
	struct links l = links_up(b, 1, true);
	bool wanted[PIECES + 16];

	(void)state;
	peer_resume(l.bulk, wanted);
	assert_true(wanted[BORDER] && wanted[PIECES - 1] && !wanted[PIECES]);
	peer_pages(l.bulk, 0, PIECES - 2, 3, PAGE_KIND_ZERO);
	expect_lost(b, 1, "streamed pages 62+3, outside every region", true);
	expect_untouched(b);
	links_down(&l);
	bed_finish(b);
}

static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_notice_over_two_lanes),
        cmocka_unit_test(test_notice_over_two_pieces_of_a_lane),
        cmocka_unit_test(test_notice_into_another_region),
        cmocka_unit_test(test_stream_over_two_pieces_of_a_lane),
        cmocka_unit_test(test_stream_into_another_lane),
        cmocka_unit_test(test_stream_into_another_region),
};

LANE_TEST_MAIN(tests)
