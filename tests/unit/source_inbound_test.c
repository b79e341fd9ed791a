/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Promise: a stream of an inbound export asks for what is wanted and unknown, each page in
 * its turn, and its look has an end, whenever the VMM says that all is here.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <unistd.h>

#include "source/inbound.h"

#define PAGES 5000

static struct source_region region = {.name = "ram0", .n_pages = PAGES};
static const struct region_table regions = {.regions = &region, .n_regions = 1, .n_pages = PAGES};

struct bed {
	struct inbound *in;
	struct want *want;
};

static struct bed bed_new(void)
{
	struct bed b;

	assert_int_equal(inbound_new(&regions, 1, &b.in), 0);
	assert_int_equal(want_new(PAGES, &b.want), 0);
	want_add(b.want, 0, PAGES);
	return b;
}

static void bed_free(struct bed *b)
{
	inbound_free(b->in);
	want_free(b->want);
}

static void test_asks_for_the_unknown(void **state)
{
	struct bed b = bed_new();
	struct attach_reply ask, none;
	uint64_t at = 0;

	(void)state;
	inbound_know(b.in, 10, 20);
	assert_true(inbound_probe(b.in, 0, b.want, &at));
	assert_false(inbound_probe_answered(b.in, 0));
	assert_true(inbound_take_ask(b.in, &ask));
	assert_int_equal(ask.n_ranges, 2);
	assert_int_equal(ask.ranges[0].length_bytes, 10 * 4096);
	assert_int_equal(ask.ranges[1].gpa.addr, 30 * 4096);
	assert_false(inbound_take_ask(b.in, &none));
	inbound_answered(b.in, ask.number + 1);
	assert_false(inbound_probe_answered(b.in, 0));
	inbound_answered(b.in, ask.number);
	assert_true(inbound_probe_answered(b.in, 0));
	bed_free(&b);
}

/* The bits of the pages do not change by that word. */
static void test_ends_when_all_is_known(void **state)
{
	struct bed b = bed_new();
	uint64_t at = 0;

	(void)state;
	inbound_know_all(b.in);
	alarm(20);
	assert_false(inbound_probe(b.in, 0, b.want, &at));
	alarm(0);
	assert_true(inbound_probe_answered(b.in, 0));
	assert_int_equal(inbound_known_run(b.in, 0, PAGES), PAGES);
	bed_free(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_asks_for_the_unknown),
	        cmocka_unit_test(test_ends_when_all_is_known),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
