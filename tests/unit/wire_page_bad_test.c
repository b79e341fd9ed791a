/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Page messages, the bad ones: each is refused with a text that names message,
 * field and value, and leaves the caller's struct and the decoder as they were.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "wire/page_message.h"

static struct page_decoder *decoder;
static uint8_t buf[FRAME_MAX];
static const uint8_t zeros[FRAME_PAYLOAD_MAX];

static int setup(void **state)
{
	(void)state;
	return page_decoder_new(&decoder);
}

static int teardown(void **state)
{
	(void)state;
	decoder = page_decoder_free(decoder);
	return 0;
}

static void refuse_frame(const struct frame *frame, int code, const char *text)
{
	struct page_message ret, before;
	struct error err = {0};

	memset(&ret, 0x77, sizeof(ret));
	before = ret;
	assert_int_equal(page_message_decode(decoder, frame, &ret, &err), code);
	assert_int_equal(err.code, code);
	if (!strstr(err.text, text))
		fail_msg("\"%s\" does not say \"%s\"", err.text, text);
	assert_memory_equal(&ret, &before, sizeof(ret));
}

static void refuse_bytes(const void *header, size_t len, int code, const char *text)
{
	struct frame frame = {header, len, zeros, 0};

	refuse_frame(&frame, code, text);
}

/* Encode m, which the encoder does not judge, and expect decode to refuse it. */
static void refuse(const struct page_message *m, const void *payload, size_t payload_len,
                   const char *text)
{
	ssize_t n = page_message_encode(m, buf, sizeof(buf));
	struct frame frame = {buf + FRAME_PREFIX_BYTES, (size_t)n - FRAME_PREFIX_BYTES, payload,
	                      payload_len};

	assert_true(n > 0);
	refuse_frame(&frame, -EBADMSG, text);
}

static void refuse_runs(enum page_message_type type, const struct page_run *runs, size_t n,
                        size_t payload_len, const char *text)
{
	struct page_message m = {.type = type};

	if (type == PAGE_MESSAGE_PAGE_REQUEST) {
		m.page_request.id = 1;
		m.page_request.runs = (struct page_runs){runs, n};
	} else if (type == PAGE_MESSAGE_PAGES) {
		m.pages.runs = (struct page_runs){runs, n};
	} else {
		m.poison_notice.reason = POISON_REASON_REPORTED;
		m.poison_notice.runs = (struct page_runs){runs, n};
	}
	refuse(&m, zeros, payload_len, text);
}

static void garbage(void **state)
{
	uint8_t noise[64];

	(void)state;
	memset(noise, 0xff, sizeof(noise));
	refuse_bytes(noise, sizeof(noise), -EBADMSG, "not a valid message");
	/* PageRequest, whose length points past the end of the header */
	refuse_bytes("\x22\x7f\x08\x01", 4, -EBADMSG, "not a valid message");
	/* Hello.version with the wire type of a string */
	refuse_bytes("\x0a\x03\x0a\x01x", 5, -EBADMSG, "not a valid message");
}

static void unknown_message(void **state)
{
	(void)state;
	refuse_bytes("\x7a\x00", 2, -EPROTO, "unknown type 15");
	refuse_bytes("\xf8\x07\x01", 3, -EPROTO, "unknown type 127");
}

static void unknown_fields_are_ignored(void **state)
{
	/* Ping{cookie 5} with an unknown field 9 inside and one of 99 beside it */
	static const uint8_t header[] = {0x62, 0x04, 0x08, 0x05, 0x48, 0x01, 0x9a, 0x06, 0x01, 'x'};
	struct frame frame = {header, sizeof(header), zeros, 0};
	struct page_message m;

	(void)state;
	assert_int_equal(page_message_decode(decoder, &frame, &m, NULL), 0);
	assert_int_equal(m.type, PAGE_MESSAGE_PING);
	assert_int_equal(m.ping.cookie, 5);
}

static void header_that_wants_too_much_memory(void **state)
{
	static uint8_t header[4 + 2 * 32000] = {0x22, 0x80, 0xf4, 0x03}; /* PageRequest, 64000 */

	(void)state;
	for (size_t i = 4; i < sizeof(header); i += 2)
		header[i] = 0x12; /* runs, each empty */
	refuse_bytes(header, sizeof(header), -EBADMSG, "too large to decode");
}

static void payload_where_none_belongs(void **state)
{
	struct page_message m = {.type = PAGE_MESSAGE_PING};

	(void)state;
	refuse(&m, zeros, 1, "Ping has a payload of 1 bytes, expected none");
	m.type = PAGE_MESSAGE_FROZEN;
	refuse(&m, zeros, 4096, "Frozen has a payload of 4096 bytes, expected none");
}

static struct page_message good_hello(void)
{
	struct page_message m = {.type = PAGE_MESSAGE_HELLO};

	m.hello.version = 2;
	m.hello.version_min = 1;
	m.hello.token_len = 32;
	m.hello.role = LINK_ROLE_BULK;
	return m;
}

static void hello(void **state)
{
	struct page_message m = good_hello();

	(void)state;
	m.hello.version = 0;
	refuse(&m, NULL, 0, "Hello.version is 0");
	m = good_hello();
	m.hello.version_min = 3;
	refuse(&m, NULL, 0, "Hello.version_min is 3, expected 1 to version 2");
	m.hello.version_min = 0;
	refuse(&m, NULL, 0, "Hello.version_min is 0");
	m = good_hello();
	m.hello.token_len = TOKEN_BYTES_MIN - 1;
	refuse(&m, NULL, 0, "Hello.token has 15 bytes, expected 16 to 64");
	m = good_hello();
	m.hello.role = (enum link_role)3;
	refuse(&m, NULL, 0, "Hello.role is 3");
	m.hello.role = (enum link_role)0;
	refuse(&m, NULL, 0, "Hello.role is 0");
}

static void hello_lengths(void **state)
{
	uint8_t id[] = {0x0a, 4 + 17, 0x08, 1, 0x10, 1, 0x1a, 15, 0, 0, 0, 0,
	                0,    0,      0,    0, 0,    0, 0,    0,  0, 0, 0};
	uint8_t token[2 + 4 + 18 + 2 + 65] = {0x0a, 4 + 18 + 67, 0x08, 1, 0x10, 1, 0x1a, 16};

	(void)state;
	refuse_bytes(id, sizeof(id), -EBADMSG, "Hello.migration_id has 15 bytes, expected 16");
	token[24] = 0x22;
	token[25] = 65;
	refuse_bytes(token, sizeof(token), -EBADMSG, "Hello.token has 65 bytes, expected 16 to 64");
}

static void refuse_region(struct wire_region region, const char *text)
{
	struct wire_region regions[] = {{"ok", {0}, 4096, 4096}, region};
	struct page_message m = {.type = PAGE_MESSAGE_HELLO_ACK,
	                         .hello_ack = {1, regions, 2, true, 0}};

	refuse(&m, NULL, 0, text);
}

static void hello_ack(void **state)
{
	struct page_message m = {.type = PAGE_MESSAGE_HELLO_ACK, .hello_ack = {1, NULL, 0, 0, 0}};

	(void)state;
	refuse(&m, NULL, 0, "HelloAck has 0 regions, expected 1 to 512");
	m.hello_ack.version = 0;
	refuse(&m, NULL, 0, "HelloAck.version is 0");
	refuse_region((struct wire_region){"", {0}, 4096, 4096}, "HelloAck.regions[1]: name");
	refuse_region((struct wire_region){"a b", {0}, 4096, 4096},
	              "name \"a b\" has a character outside [A-Za-z0-9._:/-]");
	refuse_region((struct wire_region){"a\n", {0}, 4096, 4096}, "name \"a\\x0a\" has");
	refuse_region((struct wire_region){"ok", {0}, 4096, 4096}, "also that of region 0");
	refuse_region((struct wire_region){"a", {0}, 0, 4096}, "length 0 is not a positive");
	refuse_region((struct wire_region){"a", {0}, 4097, 4096}, "length 4097 is not");
	refuse_region((struct wire_region){"a", {1}, 4096, 4096}, "physical_address 0x1 is not");
	refuse_region((struct wire_region){"a", {UINT64_MAX - 4095}, 8192, 4096}, "wraps around");
	refuse_region((struct wire_region){"a", {0}, 4096, 2048}, "page_size 2048 is not");
	refuse_region((struct wire_region){"a", {0}, 12288, 12288}, "page_size 12288 is not");
	refuse_region((struct wire_region){"a", {0}, 4096, 8192}, "multiple of page_size 8192");
	refuse_region((struct wire_region){"a", {0}, UINT64_MAX - 4095, 4096}, "over 2^64 bytes");
}

static void hello_ack_names(void **state)
{
	static const uint8_t nul[] = {0x12, 14, 0x08, 1,    0x12, 10,   0x0a, 3,
	                              'a',  0,  'b',  0x18, 0x80, 0x20, 0x20, 0};
	uint8_t longest[2 + 2 + 2 + 2 + 64] = {0x12, 70, 0x08, 1, 0x12, 66, 0x0a, 64};

	(void)state;
	refuse_bytes(nul, sizeof(nul), -EBADMSG, "name \"a\\x00b\" has a character outside");
	memset(longest + 8, 'n', 64);
	refuse_bytes(longest, sizeof(longest), -EBADMSG, "has 64 bytes, expected at most 63");
}

static void hello_ack_with_too_many_regions(void **state)
{
	static uint8_t header[4 + 2 + 2 * (REGIONS_MAX + 1)] = {0x12, 0x84, 0x08, 0x08, 0x01};
	size_t at = 5;

	(void)state;
	for (size_t i = 0; i <= REGIONS_MAX; i++, at += 2)
		header[at] = 0x12;
	header[1] = (uint8_t)(0x80 | ((at - 3) & 0x7f));
	header[2] = (uint8_t)((at - 3) >> 7);
	refuse_bytes(header, at, -EBADMSG, "HelloAck has 513 regions, expected 1 to 512");
}

static void runs_of_any_message(void **state)
{
	static const enum page_message_type types[] = {
	        PAGE_MESSAGE_PAGE_REQUEST, PAGE_MESSAGE_PAGES, PAGE_MESSAGE_POISON_NOTICE};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(types); i++) {
		enum page_kind kind = types[i] == PAGE_MESSAGE_PAGES ? PAGE_KIND_ZERO : 0;
		struct page_run zero[] = {{1, 1, kind}, {2, 0, kind}};
		struct page_run wrap[] = {{UINT64_MAX, 1, kind}};
		struct page_run last[] = {{(UINT64_C(1) << 52) - 1, 2, kind}};
		struct page_run kinds[] = {{1, 1, kind ? 0 : PAGE_KIND_DATA}};
		struct page_run same[] = {{4, 1, kind}, {4, 1, kind}};
		struct page_run sorted[] = {{1, 4, kind}, {4, 1, kind}};
		struct page_run unsorted[] = {{9, 1, kind}, {20, 1, kind}, {2, 8, kind}};
		struct page_run inside[] = {{50, 1, kind}, {1, 100, kind}, {200, 1, kind}};

		refuse_runs(types[i], NULL, 0, 0, "has 0 runs, expected 1 to 1024");
		refuse_runs(types[i], zero, 2, 0, "runs[1].count is 0");
		refuse_runs(types[i], wrap, 1, 0, "first 18446744073709551615 + count 1");
		refuse_runs(types[i], last, 1, 0, "over the largest page number");
		refuse_runs(types[i], kinds, 1, 0, "runs[0].kind is");
		refuse_runs(types[i], same, 2, 0, "overlap: pages 4..4 and 4..4");
		refuse_runs(types[i], sorted, 2, 0, "overlap: pages 1..4 and 4..4");
		refuse_runs(types[i], unsorted, 3, 0, "overlap: pages 2..9 and 9..9");
		refuse_runs(types[i], inside, 3, 0, "overlap: pages 1..100 and 50..50");
	}
}

static void neighbours_are_no_overlap(void **state)
{
	static const struct page_run runs[] = {{8, 4, 0}, {4, 4, 0}, {12, 1, 0}, {0, 4, 0}};
	struct page_message m = {.type = PAGE_MESSAGE_PAGE_REQUEST, .page_request = {1, {runs, 4}}};
	struct frame frame;

	(void)state;
	assert_true(page_message_encode(&m, buf, sizeof(buf)) > 0);
	assert_true(frame_parse(buf, sizeof(buf), &frame, NULL) > 0);
	assert_int_equal(page_message_decode(decoder, &frame, &m, NULL), 0);
}

/* One overlap, anywhere among PAGE_RUNS_MAX shuffled runs, is found. */
static void overlap_in_a_shuffle(void **state)
{
	static struct page_run runs[PAGE_RUNS_MAX];

	(void)state;
	for (size_t bad = 1; bad < PAGE_RUNS_MAX; bad += 93) {
		for (size_t i = 0; i < PAGE_RUNS_MAX; i++)
			runs[i] = (struct page_run){(i * 389) % PAGE_RUNS_MAX * 10, 10, 0};
		runs[bad].first += runs[bad].first ? -1ull : 1;
		refuse_runs(PAGE_MESSAGE_PAGE_REQUEST, runs, PAGE_RUNS_MAX, 0, "overlap");
	}
}

static void too_many_runs(void **state)
{
	uint8_t header[4 + 2 * (PAGE_RUNS_MAX + 1)] = {0x22, 0x82, 0x10};
	size_t at = 3;

	(void)state;
	for (size_t i = 0; i <= PAGE_RUNS_MAX; i++, at += 2) {
		header[at] = 0x12;
		header[at + 1] = 0;
	}
	refuse_bytes(header, at, -EBADMSG, "PageRequest.id is 0");
	header[0] = 0x2a; /* Pages, whose id may be 0 */
	refuse_bytes(header, at, -EBADMSG, "Pages has 1025 runs, expected 1 to 1024");
}

static void pages_payload(void **state)
{
	static const struct page_run two[] = {{1, 2, PAGE_KIND_DATA}, {3, 5, PAGE_KIND_ZERO}};
	static const struct page_run many[] = {{1, 64, PAGE_KIND_DATA}, {65, 1, PAGE_KIND_DATA}};
	static const struct page_run unknown[] = {{1, 1, (enum page_kind)4}};

	(void)state;
	refuse_runs(PAGE_MESSAGE_PAGES, two, 2, 4096,
	            "payload of 4096 bytes, expected 8192 for its 2 data pages");
	refuse_runs(PAGE_MESSAGE_PAGES, two, 2, 8193, "payload of 8193 bytes");
	refuse_runs(PAGE_MESSAGE_PAGES, two + 1, 1, 4096, "expected 0 for its 0 data pages");
	refuse_runs(PAGE_MESSAGE_PAGES, many, 2, 0, "65 data pages or more, expected at most 64");
	refuse_runs(PAGE_MESSAGE_PAGES, unknown, 1, 0, "Pages.runs[0].kind is 4");
}

static void ids_and_reasons(void **state)
{
	static const struct page_run run = {1, 1, 0};
	struct page_message m = {.type = PAGE_MESSAGE_POISON_NOTICE};

	(void)state;
	m.poison_notice.runs = (struct page_runs){&run, 1};
	refuse(&m, NULL, 0, "PoisonNotice.reason is 0");
	m.poison_notice.reason = (enum poison_reason)4;
	refuse(&m, NULL, 0, "PoisonNotice.reason is 4");
	m = (struct page_message){.type = PAGE_MESSAGE_PAGE_REQUEST,
	                          .page_request = {0, {&run, 1}}};
	refuse(&m, NULL, 0, "PageRequest.id is 0");
	m = (struct page_message){.type = PAGE_MESSAGE_STREAM_CONTROL};
	m.stream_control.has_position = true;
	m.stream_control.position = UINT64_C(1) << 52;
	refuse(&m, NULL, 0, "StreamControl.position 4503599627370496");
}

static void refuse_resume(uint64_t first, uint64_t count, uint32_t unit, const void *bits,
                          size_t len, const char *text)
{
	struct page_message m = {.type = PAGE_MESSAGE_RESUME};

	m.resume.first = first;
	m.resume.count = count;
	m.resume.unit_pages = unit;
	refuse(&m, bits, len, text);
}

static void resume(void **state)
{
	(void)state;
	refuse_resume(0, 8, 0, NULL, 0, "Resume.unit_pages is 0, expected a power of two");
	refuse_resume(0, 9, 3, NULL, 0, "Resume.unit_pages is 3");
	refuse_resume(4, 6, 4, NULL, 0, "Resume.count 6 is not a multiple of unit_pages 4");
	refuse_resume(UINT64_MAX - 1, 2, 1, NULL, 0, "over the largest page number");
	refuse_resume(1, UINT64_C(1) << 52, 1, NULL, 0, "over the largest page number");
	refuse_resume(0, 0, 1, NULL, 0, "Resume.count is 0");
	refuse_resume(0, 9, 1, zeros, 1, "bitmap of 1 bytes, expected none or 2 for 9 units");
	refuse_resume(0, 8, 1, zeros, 2, "bitmap of 2 bytes, expected none or 1 for 8 units");
	refuse_resume(0, 9, 1, "\x00\x02", 2, "bits set after its 9 units");
	refuse_resume(0, UINT64_C(1) << 51, 1, zeros, FRAME_PAYLOAD_MAX, "bitmap of 262144 bytes");
}

static void error_message(void **state)
{
	struct page_message m = {.type = PAGE_MESSAGE_ERROR};

	(void)state;
	m.error.code = (enum wire_error_code)11;
	strcpy(m.error.text, "out of ink");
	refuse(&m, NULL, 0, "Error.code is 11, expected 1 to 10; its text was: out of ink");
	m.error.code = (enum wire_error_code)0;
	refuse(&m, NULL, 0, "Error.code is 0");
	refuse_bytes("\x72\x07\x08\x01\x12\x03"
	             "a\x1b"
	             "b",
	             9, -EBADMSG, "Error.text \"a\\x1bb\" has a control character");
	refuse_bytes("\x72\x06\x08\x01\x12\x02\xc0\xaf", 8, -EBADMSG, "not UTF-8");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(garbage),
	        cmocka_unit_test(unknown_message),
	        cmocka_unit_test(unknown_fields_are_ignored),
	        cmocka_unit_test(header_that_wants_too_much_memory),
	        cmocka_unit_test(payload_where_none_belongs),
	        cmocka_unit_test(hello),
	        cmocka_unit_test(hello_lengths),
	        cmocka_unit_test(hello_ack),
	        cmocka_unit_test(hello_ack_names),
	        cmocka_unit_test(hello_ack_with_too_many_regions),
	        cmocka_unit_test(runs_of_any_message),
	        cmocka_unit_test(neighbours_are_no_overlap),
	        cmocka_unit_test(overlap_in_a_shuffle),
	        cmocka_unit_test(too_many_runs),
	        cmocka_unit_test(pages_payload),
	        cmocka_unit_test(ids_and_reasons),
	        cmocka_unit_test(resume),
	        cmocka_unit_test(error_message),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
