/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Promises of a lane's URGENT connection against a source that lies: an answer
 * that was not asked for, or is not what was asked for, ends the link with a
 * text that says so; nothing of that message is in the guest; the thread that
 * waited gets the right bytes from the next connection.
 */
#include "loop/daemon_lane_source.h"

#define ASKED 5 /* the page that a guest's thread waits for */

struct hostile_case {
	const char *name;
	void (*act)(struct links *l, uint64_t id);
	const char *text;
};

/* ---- answers ---- */

static void act_unknown_id(struct links *l, uint64_t id)
{
	peer_pages(l->urgent, id + 1, ASKED, 1, PAGE_KIND_DATA);
}

static void act_huge_id(struct links *l, uint64_t id)
{
	peer_pages(l->urgent, id | UINT64_MAX << 40, ASKED, 1, PAGE_KIND_POISONED);
}

static void act_id_0(struct links *l, uint64_t id)
{
	(void)id;
	peer_pages(l->urgent, 0, ASKED, 1, PAGE_KIND_DATA);
}

static void act_other_page(struct links *l, uint64_t id)
{
	peer_pages(l->urgent, id, ASKED + 1, 1, PAGE_KIND_DATA);
}

static void act_page_before(struct links *l, uint64_t id)
{
	peer_pages(l->urgent, id, ASKED - 1, 1, PAGE_KIND_POISONED);
}

static void act_too_many(struct links *l, uint64_t id)
{
	peer_pages(l->urgent, id, ASKED, 2, PAGE_KIND_ZERO);
}

static void act_count_max(struct links *l, uint64_t id)
{
	peer_pages(l->urgent, id, ASKED, UINT32_MAX, PAGE_KIND_POISONED);
}

/* The first run is what was asked for: it must not be taken before the second is seen. */
static void act_good_then_bad(struct links *l, uint64_t id)
{
	struct page_run runs[] = {{ASKED, 1, PAGE_KIND_DATA}, {ASKED + 1, 1, PAGE_KIND_DATA}};

	peer_pages_runs(l->urgent, id, runs, 2);
}

static void act_overlap(struct links *l, uint64_t id)
{
	struct page_run runs[] = {{ASKED, 1, PAGE_KIND_DATA}, {ASKED, 1, PAGE_KIND_ZERO}};

	peer_pages_runs(l->urgent, id, runs, 2);
}

static void act_outside(struct links *l, uint64_t id)
{
	peer_pages(l->urgent, id, 1 << 20, 1, PAGE_KIND_DATA);
}

static void act_last_page(struct links *l, uint64_t id)
{
	peer_pages(l->urgent, id, (UINT64_C(1) << 52) - 1, 2, PAGE_KIND_ZERO);
}

static void act_data_too_short(struct links *l, uint64_t id)
{
	struct page_run run = {ASKED, 1, PAGE_KIND_DATA};
	struct page_message m = {.type = PAGE_MESSAGE_PAGES,
	                         .pages = {.id = id, .runs = {&run, 1}, .bytes_len = PAGE - 1}};
	uint8_t payload[WIRE_PAGE_SIZE];

	memset(payload, EVIL_BYTE, sizeof(payload));
	peer_send_payload(l->urgent, &m, payload, PAGE - 1);
}

static void act_zero_with_data(struct links *l, uint64_t id)
{
	struct page_run run = {ASKED, 1, PAGE_KIND_ZERO};
	struct page_message m = {.type = PAGE_MESSAGE_PAGES,
	                         .pages = {.id = id, .runs = {&run, 1}, .bytes_len = PAGE}};
	uint8_t payload[WIRE_PAGE_SIZE];

	memset(payload, EVIL_BYTE, sizeof(payload));
	peer_send_payload(l->urgent, &m, payload, PAGE);
}

static void act_no_kind(struct links *l, uint64_t id)
{
	peer_pages(l->urgent, id, ASKED, 1, PAGE_KIND_UNSPECIFIED);
}

/* ---- frames ---- */

static void act_header_too_long(struct links *l, uint64_t id)
{
	(void)id;
	peer_write(l->urgent, "\x01\x00\x01\x00", 4);
}

static void act_payload_too_long(struct links *l, uint64_t id)
{
	(void)id;
	peer_write(l->urgent, "\x04\0\0\0\x01\0\x04\0", 8);
}

static void act_empty_header(struct links *l, uint64_t id)
{
	(void)id;
	peer_write(l->urgent, "\0\0\0\0", 4);
}

static void act_unknown_type(struct links *l, uint64_t id)
{
	(void)id;
	peer_write(l->urgent, "\x03\0\0\0\0\0\0\0\x9a\x06\0", 11); /* field 99 */
}

static void act_garbage(struct links *l, uint64_t id)
{
	(void)id;
	peer_write(l->urgent, "\x06\0\0\0\0\0\0\0\xff\xee\xdd\xcc\xbb\xaa", 14);
}

/* ---- messages that have no place here ---- */

static void act_progress(struct links *l, uint64_t id)
{
	(void)id;
	peer_progress_end(l->urgent);
}

static void act_page_request(struct links *l, uint64_t id)
{
	struct page_run run = {0, 1, PAGE_KIND_UNSPECIFIED};
	struct page_message m = {.type = PAGE_MESSAGE_PAGE_REQUEST,
	                         .page_request = {.id = id, .runs = {&run, 1}}};

	peer_send(l->urgent, &m);
}

static void act_complete(struct links *l, uint64_t id)
{
	(void)id;
	peer_send_type(l->urgent, PAGE_MESSAGE_COMPLETE);
}

static void act_frozen_twice(struct links *l, uint64_t id)
{
	(void)id;
	peer_send_type(l->urgent, PAGE_MESSAGE_FROZEN);
}

static void act_bulk_frozen_twice(struct links *l, uint64_t id)
{
	(void)id;
	peer_send_type(l->bulk, PAGE_MESSAGE_FROZEN);
}

/* ---- poison ---- */

static void act_poison_outside(struct links *l, uint64_t id)
{
	(void)id;
	peer_poison(l->urgent, 64, 1);
}

static void act_poison_crossing(struct links *l, uint64_t id)
{
	(void)id;
	peer_poison(l->urgent, 60, 5);
}

static void act_poison_absurd(struct links *l, uint64_t id)
{
	(void)id;
	peer_poison(l->urgent, 0, UINT32_MAX);
}

static void act_poison_good_then_bad(struct links *l, uint64_t id)
{
	struct page_run runs[] = {{1, 3, PAGE_KIND_UNSPECIFIED}, {63, 2, PAGE_KIND_UNSPECIFIED}};
	struct page_message m = {
	        .type = PAGE_MESSAGE_POISON_NOTICE,
	        .poison_notice = {.runs = {runs, 2}, .reason = POISON_REASON_REPORTED}};

	(void)id;
	peer_send(l->urgent, &m);
}

static void act_poison_no_reason(struct links *l, uint64_t id)
{
	struct page_run run = {0, 1, PAGE_KIND_UNSPECIFIED};
	struct page_message m = {.type = PAGE_MESSAGE_POISON_NOTICE,
	                         .poison_notice = {.runs = {&run, 1}}};

	(void)id;
	peer_send(l->urgent, &m);
}

static void run_case(const struct hostile_case *c)
{
	struct bed *b = bed_start_small();
	struct links l = links_up(b, 0, true);
	struct waiter w;

	if (getenv("TEST_VERBOSE"))
		printf("  %s\n", c->name);
	waiter_start(b, ASKED, &w);
	c->act(&l, peer_request(l.urgent));
	expect_lost(b, 0, c->text, true);
	expect_untouched(b);
	expect_no_event(b);
	links_down(&l);
	bed_finish(b);
	assert_true(waiter_end(&w));
	assert_int_not_equal(w.byte, EVIL_BYTE);
}

static void test_cases(void **state)
{
	static const struct hostile_case cases[] = {
	        {"unknown id", act_unknown_id, "never sent or is answered already"},
	        {"huge id", act_huge_id, "never sent or is answered already"},
	        {"id 0", act_id_0, "request 0, which was never sent"},
	        {"another page", act_other_page, "for pages 5+1 with pages 6+1"},
	        {"the page before", act_page_before, "for pages 5+1 with pages 4+1"},
	        {"too many pages", act_too_many, "for pages 5+1 with pages 5+2"},
	        {"2^32 pages", act_count_max, "with pages 5+4294967295"},
	        {"good, then bad", act_good_then_bad, "for pages 5+1 with pages 6+1"},
	        {"overlap", act_overlap, "Pages.runs overlap: pages 5..5 and 5..5"},
	        {"outside", act_outside, "with pages 1048576+1"},
	        {"over the largest page", act_last_page, "over the largest page number"},
	        {"DATA too short", act_data_too_short, "payload of 4095 bytes, expected 4096"},
	        {"ZERO with data", act_zero_with_data, "payload of 4096 bytes, expected 0"},
	        {"no kind", act_no_kind, "kind is 0, expected 1"},
	        {"header too long", act_header_too_long,
	         "header of 65537 bytes, the limit is 65536"},
	        {"payload too long", act_payload_too_long, "payload of 262145 bytes, the limit"},
	        {"empty header", act_empty_header, "empty header"},
	        {"unknown type", act_unknown_type, "unknown type 99"},
	        {"garbage", act_garbage, "not a valid message"},
	        {"Progress", act_progress, "sent Progress on the urgent connection"},
	        {"PageRequest", act_page_request, "sent PageRequest on the urgent connection"},
	        {"Complete", act_complete, "sent Complete on the urgent connection"},
	        {"Frozen twice", act_frozen_twice, "says twice that it is frozen"},
	        {"Frozen twice on BULK", act_bulk_frozen_twice, "says twice that it is frozen"},
	        {"poison outside", act_poison_outside, "poison for pages 64+1, outside every"},
	        {"poison over an end", act_poison_crossing, "poison for pages 60+5, outside every"},
	        {"2^32 poisoned", act_poison_absurd,
	         "poison for pages 0+4294967295, outside every"},
	        {"poison good, then bad", act_poison_good_then_bad,
	         "poison for pages 63+2, outside"},
	        {"poison without reason", act_poison_no_reason, "PoisonNotice.reason is 0"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
		run_case(&cases[i]);
}

/* ---- what needs more than one step ---- */

/* A second answer is refused, and the page keeps the first one's bytes. */
static void test_answered_twice(void **state)
{
	struct bed *b = bed_start_small();
	struct links l = links_up(b, 0, true);
	struct waiter w;
	uint64_t id;

	(void)state;
	l.urgent->evil = false;
	waiter_start(b, ASKED, &w);
	id = peer_request(l.urgent);
	peer_pages(l.urgent, id, ASKED, 1, PAGE_KIND_DATA);
	assert_true(waiter_end(&w));
	l.urgent->evil = true;
	peer_pages(l.urgent, id, ASKED, 1, PAGE_KIND_DATA);
	expect_lost(b, 0, "never sent or is answered already", true);
	links_down(&l);
	bed_finish(b);
}

/* An id belongs to its connection: the request that is asked again has another one. */
static void test_id_of_an_earlier_connection(void **state)
{
	struct bed *b = bed_start_small();
	struct links l = links_up(b, 0, true);
	struct waiter w;
	uint64_t old;

	(void)state;
	waiter_start(b, ASKED, &w);
	old = peer_request(l.urgent);
	links_down(&l);
	bed_wait(b, 0, LANE_EVENT_LINK_LOST);
	l = links_up(b, 0, true);
	assert_int_not_equal(peer_request(l.urgent), old);
	peer_pages(l.urgent, old, ASKED, 1, PAGE_KIND_DATA);
	expect_lost(b, 0, "never sent or is answered already", true);
	expect_untouched(b);
	links_down(&l);
	bed_finish(b);
	assert_true(waiter_end(&w));
}

/* Before Frozen nothing was asked for, so nothing can be an answer; faults wait. */
static void test_pages_before_frozen(void **state)
{
	struct bed *b = bed_start_small();

	(void)state;
	for (int bulk = 0; bulk < 2; bulk++) {
		struct links l = links_up(b, 0, false);

		peer_pages(bulk ? l.bulk : l.urgent, !bulk, ASKED, 1, PAGE_KIND_DATA);
		expect_lost(b, 0, bulk ? "not asked for" : "never sent", true);
		links_down(&l);
	}
	expect_untouched(b);
	bed_finish(b);
}

/* Known poison may come before Frozen, and holds. */
static void test_poison_before_frozen(void **state)
{
	struct bed *b = bed_start_small();
	struct links l = links_up(b, 0, false);
	struct waiter w;

	(void)state;
	waiter_start(b, 10, &w);
	peer_poison(l.urgent, 10, 2);
	b->lost[10] = b->lost[11] = true;
	assert_false(waiter_end(&w));
	assert_true(ledger_count(&b->state->ledger) <= 2);
	links_down(&l);
	bed_wait(b, 0, LANE_EVENT_LINK_LOST);
	bed_finish(b);
}

/* Pings without reading the Pongs: until the socket is full, and then some. */
static size_t flood_pings(struct peer *p, size_t n)
{
	struct page_message m = {.type = PAGE_MESSAGE_PING, .ping = {.cookie = UINT64_MAX}};
	uint8_t buf[64 * 1024];
	size_t len = 0;
	ssize_t one = page_message_encode(&m, buf, sizeof(buf));

	must(one > 0);
	for (len = (size_t)one; len + (size_t)one <= sizeof(buf); len += (size_t)one)
		memcpy(buf + len, buf, (size_t)one);
	for (size_t sent = 0; sent < n; sent += len / (size_t)one)
		peer_write(p, buf, len);
	return (size_t)one;
}

/*
 * The Pongs of a source that does not read are bounded, and never take the room
 * of a request: when it reads again, the request is there.
 */
static void test_ping_flood(void **state)
{
	struct bed *b = bed_start_small();
	struct links l;
	struct waiter w;
	int small = 64 * 1024;
	size_t n_pongs = 0;

	(void)state;
	setsockopt(b->listener, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small));
	l = links_up(b, 0, true);
	flood_pings(l.urgent, 1000000);
	waiter_start(b, ASKED, &w);
	while (peer_receive(l.urgent) == PAGE_MESSAGE_PONG || l.urgent->m.type == PAGE_MESSAGE_PING)
		n_pongs++;
	assert_int_equal(l.urgent->m.type, PAGE_MESSAGE_PAGE_REQUEST);
	assert_true(n_pongs > 0 && n_pongs < 1000000);
	l.urgent->evil = false;
	peer_pages(l.urgent, l.urgent->m.page_request.id, ASKED, 1, PAGE_KIND_DATA);
	assert_true(waiter_end(&w));
	expect_no_event(b);
	links_down(&l);
	bed_wait(b, 0, LANE_EVENT_LINK_LOST);
	bed_finish(b);
}

static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cases),
        cmocka_unit_test(test_answered_twice),
        cmocka_unit_test(test_id_of_an_earlier_connection),
        cmocka_unit_test(test_pages_before_frozen),
        cmocka_unit_test(test_poison_before_frozen),
        cmocka_unit_test(test_ping_flood),
};

LANE_TEST_MAIN(tests)
