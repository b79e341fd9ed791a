/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Page messages, the good ones: each comes back as it was sent, the largest fit
 * the limits, encoding and decoding allocate nothing.
 */
#include <errno.h>
#include <malloc.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "wire/page_message.h"

static struct page_decoder *decoder;
static uint8_t buf[FRAME_MAX];

static int setup(void **state)
{
	(void)state;
	return page_decoder_new(&decoder);
}

static int teardown(void **state)
{
	(void)state;
	decoder = page_decoder_free(decoder);
	assert_null(page_decoder_free(NULL));
	return 0;
}

static struct page_message turn(const struct page_message *m, const void *payload, size_t len)
{
	struct page_message ret = {0};
	struct error err = {0};
	struct frame frame;
	ssize_t n = page_message_encode(m, buf, PAGE_MESSAGE_HEAD_MAX);

	assert_true(n > 0);
	if (len > 0)
		memcpy(buf + n, payload, len);
	assert_int_equal(frame_parse(buf, sizeof(buf), &frame, NULL), n + (ssize_t)len);
	assert_int_equal(page_message_decode(decoder, &frame, &ret, &err), 0);
	assert_string_equal(err.text, "");
	assert_int_equal(ret.type, m->type);
	return ret;
}

static void assert_runs_equal(const struct page_runs *a, const struct page_runs *b)
{
	assert_int_equal(a->n_runs, b->n_runs);
	for (size_t i = 0; i < a->n_runs; i++) {
		assert_int_equal(a->runs[i].first, b->runs[i].first);
		assert_int_equal(a->runs[i].count, b->runs[i].count);
		assert_int_equal(a->runs[i].kind, b->runs[i].kind);
	}
}

static void hello(void **state)
{
	struct page_message m = {.type = PAGE_MESSAGE_HELLO}, got;

	(void)state;
	for (size_t len = TOKEN_BYTES_MIN; len <= TOKEN_BYTES_MAX; len += 48) {
		m.hello.version = 3;
		m.hello.version_min = 2;
		memset(m.hello.migration_id.bytes, 0xa5, 16);
		memset(m.hello.token, 0x11, len);
		m.hello.token_len = len;
		m.hello.role = LINK_ROLE_URGENT;
		m.hello.lane = UINT32_MAX;
		got = turn(&m, NULL, 0);
		assert_int_equal(got.hello.version, 3);
		assert_int_equal(got.hello.version_min, 2);
		assert_true(uuid_equal(&got.hello.migration_id, &m.hello.migration_id));
		assert_int_equal(got.hello.token_len, len);
		assert_memory_equal(got.hello.token, m.hello.token, len);
		assert_int_equal(got.hello.role, LINK_ROLE_URGENT);
		assert_int_equal(got.hello.lane, UINT32_MAX);
	}
}

/* REGIONS_MAX regions of the longest names and largest numbers fit one header. */
static void largest_hello_ack(void **state)
{
	static struct wire_region regions[REGIONS_MAX];
	struct page_message m = {.type = PAGE_MESSAGE_HELLO_ACK}, got;

	(void)state;
	for (size_t i = 0; i < REGIONS_MAX; i++) {
		memset(regions[i].name, 'n', REGION_NAME_MAX - 1);
		snprintf(regions[i].name, 5, "%04zu", i);
		regions[i].name[4] = '-';
		regions[i].gpa.addr = UINT64_C(1) << 63;
		regions[i].length_bytes = UINT64_C(1) << 54;
		regions[i].page_size_bytes = UINT64_C(1) << 54;
	}
	m.hello_ack.version = UINT32_MAX;
	m.hello_ack.regions = regions;
	m.hello_ack.n_regions = REGIONS_MAX;
	m.hello_ack.frozen = true;
	m.hello_ack.poisoned_pages = UINT64_MAX;
	got = turn(&m, NULL, 0);
	assert_int_equal(got.hello_ack.version, UINT32_MAX);
	assert_int_equal(got.hello_ack.n_regions, REGIONS_MAX);
	assert_true(got.hello_ack.frozen);
	assert_true(got.hello_ack.poisoned_pages == UINT64_MAX);
	for (size_t i = 0; i < REGIONS_MAX; i++) {
		assert_string_equal(got.hello_ack.regions[i].name, regions[i].name);
		assert_true(got.hello_ack.regions[i].gpa.addr == regions[i].gpa.addr);
		assert_true(got.hello_ack.regions[i].length_bytes == regions[i].length_bytes);
		assert_true(got.hello_ack.regions[i].page_size_bytes == regions[i].page_size_bytes);
	}
}

/* PAGE_RUNS_MAX runs of the largest numbers fit, sorted or backwards. */
static void largest_runs(void **state)
{
	static struct page_run runs[PAGE_RUNS_MAX];
	struct page_message m, got;

	(void)state;
	for (int backwards = 0; backwards < 2; backwards++) {
		for (size_t i = 0; i < PAGE_RUNS_MAX; i++) {
			uint64_t at = backwards ? PAGE_RUNS_MAX - 1 - i : i;

			runs[i].first = (UINT64_C(1) << 51) + at * UINT32_MAX;
			runs[i].count = UINT32_MAX;
			runs[i].kind = PAGE_KIND_UNSPECIFIED;
		}
		m = (struct page_message){.type = PAGE_MESSAGE_PAGE_REQUEST};
		m.page_request.id = UINT64_MAX;
		m.page_request.runs = (struct page_runs){runs, PAGE_RUNS_MAX};
		got = turn(&m, NULL, 0);
		assert_true(got.page_request.id == UINT64_MAX);
		assert_runs_equal(&got.page_request.runs, &m.page_request.runs);
		for (size_t i = 0; i < PAGE_RUNS_MAX; i++)
			runs[i].kind = PAGE_KIND_POISONED;
		m = (struct page_message){.type = PAGE_MESSAGE_PAGES};
		m.pages.id = UINT64_MAX;
		m.pages.runs = (struct page_runs){runs, PAGE_RUNS_MAX};
		got = turn(&m, NULL, 0);
		assert_runs_equal(&got.pages.runs, &m.pages.runs);
	}
}

static void pages_with_all_kinds(void **state)
{
	static const struct page_run runs[] = {{40, 60, PAGE_KIND_DATA},
	                                       {7, 1, PAGE_KIND_POISONED},
	                                       {8, 32, PAGE_KIND_ZERO},
	                                       {1, 4, PAGE_KIND_DATA}};
	static uint8_t bytes[FRAME_PAYLOAD_MAX];
	struct page_message m = {.type = PAGE_MESSAGE_PAGES}, got;

	(void)state;
	memset(bytes, 0x5a, sizeof(bytes));
	m.pages.runs = (struct page_runs){runs, ARRAY_SIZE(runs)};
	m.pages.bytes = bytes;
	m.pages.bytes_len = sizeof(bytes); /* 64 pages, the most */
	got = turn(&m, bytes, sizeof(bytes));
	assert_int_equal(got.pages.id, 0);
	assert_runs_equal(&got.pages.runs, &m.pages.runs);
	assert_int_equal(got.pages.bytes_len, sizeof(bytes));
	assert_memory_equal(got.pages.bytes, bytes, sizeof(bytes));
}

static void poison_notice(void **state)
{
	static const struct page_run runs[] = {{5, 1, 0}, {6, 512, 0}};
	struct page_message m = {.type = PAGE_MESSAGE_POISON_NOTICE}, got;

	(void)state;
	for (int reason = POISON_REASON_REPORTED; reason <= POISON_REASON_INHERITED; reason++) {
		m.poison_notice.runs = (struct page_runs){runs, 2};
		m.poison_notice.reason = (enum poison_reason)reason;
		got = turn(&m, NULL, 0);
		assert_runs_equal(&got.poison_notice.runs, &m.poison_notice.runs);
		assert_int_equal(got.poison_notice.reason, reason);
	}
}

static void stream_control_and_progress(void **state)
{
	struct page_message m = {.type = PAGE_MESSAGE_STREAM_CONTROL,
	                         .stream_control = {true, 12345, 64, true, 1u << 30}};
	struct page_message got = turn(&m, NULL, 0);

	(void)state;
	assert_true(got.stream_control.has_position && got.stream_control.has_bandwidth);
	assert_int_equal(got.stream_control.position, 12345);
	assert_int_equal(got.stream_control.window, 64);
	assert_int_equal(got.stream_control.bandwidth, 1u << 30);
	m = (struct page_message){.type = PAGE_MESSAGE_STREAM_CONTROL};
	got = turn(&m, NULL, 0);
	assert_false(got.stream_control.has_position || got.stream_control.has_bandwidth);
	m = (struct page_message){.type = PAGE_MESSAGE_PROGRESS, .progress = {99, true}};
	got = turn(&m, NULL, 0);
	assert_int_equal(got.progress.sent, 99);
	assert_true(got.progress.end);
}

static void resume(void **state)
{
	static const uint8_t bits[] = {0xff, 0x01};
	struct page_message m = {.type = PAGE_MESSAGE_RESUME}, got;

	(void)state;
	m.resume.first = 512;
	m.resume.count = 9 * 512;
	m.resume.unit_pages = 512;
	m.resume.bitmap = bits;
	m.resume.bitmap_len = sizeof(bits);
	got = turn(&m, bits, sizeof(bits));
	assert_int_equal(got.resume.first, 512);
	assert_int_equal(got.resume.count, 9 * 512);
	assert_int_equal(got.resume.unit_pages, 512);
	assert_false(got.resume.last);
	assert_int_equal(got.resume.bitmap_len, 2);
	assert_memory_equal(got.resume.bitmap, bits, 2);
	m.resume.bitmap_len = 0;
	m.resume.count = UINT64_C(1) << 40; /* without a bitmap any length is a message */
	got = turn(&m, NULL, 0);
	assert_null(got.resume.bitmap);
	m = (struct page_message){.type = PAGE_MESSAGE_RESUME};
	m.resume.unit_pages = 1;
	m.resume.last = true;
	got = turn(&m, NULL, 0);
	assert_true(got.resume.last);
	assert_int_equal(got.resume.count, 0);
}

static void the_small_ones(void **state)
{
	struct page_message m = {.type = PAGE_MESSAGE_COMPLETE, .complete = {1, 2, 3, 4}};
	struct page_message got = turn(&m, NULL, 0);

	(void)state;
	assert_int_equal(got.complete.present, 1);
	assert_int_equal(got.complete.zero, 2);
	assert_int_equal(got.complete.poisoned, 3);
	assert_int_equal(got.complete.removed, 4);
	m = (struct page_message){.type = PAGE_MESSAGE_PING, .ping = {0}};
	got = turn(&m, NULL, 0);
	assert_int_equal(got.ping.cookie, 0);
	m = (struct page_message){.type = PAGE_MESSAGE_PONG, .ping = {UINT64_MAX}};
	got = turn(&m, NULL, 0);
	assert_true(got.ping.cookie == UINT64_MAX);
	m = (struct page_message){.type = PAGE_MESSAGE_FROZEN};
	turn(&m, NULL, 0);
	m = (struct page_message){.type = PAGE_MESSAGE_COMPLETE_ACK};
	turn(&m, NULL, 0);
}

static void error_text_always_arrives(void **state)
{
	struct page_message m = {.type = PAGE_MESSAGE_ERROR}, got;

	(void)state;
	for (int code = WIRE_ERROR_PROTOCOL; code <= WIRE_ERROR_INTERNAL; code++) {
		m.error.code = (enum wire_error_code)code;
		strcpy(m.error.text, "a\nb\x1b[2J\xff \xc3\xa4\xc2\x9b.");
		got = turn(&m, NULL, 0);
		assert_int_equal(got.error.code, code);
		assert_string_equal(got.error.text, "a?b?[2J? \xc3\xa4??.");
	}
	memset(m.error.text, 'x', sizeof(m.error.text)); /* not even terminated */
	got = turn(&m, NULL, 0);
	assert_int_equal(strlen(got.error.text), WIRE_ERROR_TEXT_MAX - 1);
}

static void encode_keeps_to_the_limits(void **state)
{
	static struct page_run runs[PAGE_RUNS_MAX + 1];
	struct page_message m = {.type = PAGE_MESSAGE_PAGE_REQUEST};
	ssize_t n;

	(void)state;
	m.page_request.runs = (struct page_runs){runs, PAGE_RUNS_MAX + 1};
	assert_int_equal(page_message_encode(&m, buf, sizeof(buf)), -EMSGSIZE);
	m = (struct page_message){.type = PAGE_MESSAGE_PAGES};
	m.pages.bytes_len = FRAME_PAYLOAD_MAX + 1;
	assert_int_equal(page_message_encode(&m, buf, sizeof(buf)), -EMSGSIZE);
	m = (struct page_message){.type = PAGE_MESSAGE_HELLO_ACK};
	m.hello_ack.n_regions = REGIONS_MAX + 1;
	assert_int_equal(page_message_encode(&m, buf, sizeof(buf)), -EMSGSIZE);
	m = (struct page_message){.type = PAGE_MESSAGE_PING, .ping = {300}};
	n = page_message_encode(&m, buf, sizeof(buf));
	assert_int_equal(page_message_encode(&m, buf, (size_t)n), n);
	assert_int_equal(page_message_encode(&m, buf, (size_t)n - 1), -ENOSPC);
	m.type = PAGE_MESSAGE_NONE;
	assert_int_equal(page_message_encode(&m, buf, sizeof(buf)), -EINVAL);
}

/* The fault path: nothing is allocated for a request, an answer, its decoding. */
static void hot_messages_allocate_nothing(void **state)
{
	static struct page_run runs[PAGE_RUNS_MAX];
	struct page_message m = {.type = PAGE_MESSAGE_PAGES};
	struct page_message got = {0};
	struct mallinfo2 before, after;
	struct frame frame;
	int r = 0;

	(void)state;
	for (size_t i = 0; i < PAGE_RUNS_MAX; i++) /* unsorted: the dear path */
		runs[i] = (struct page_run){(i * 7919) % 8192 * 2, 1, PAGE_KIND_ZERO};
	m.pages.runs = (struct page_runs){runs, PAGE_RUNS_MAX};
	before = mallinfo2();
	for (int i = 0; i < 100; i++) {
		r |= page_message_encode(&m, buf, sizeof(buf)) < 0;
		r |= frame_parse(buf, sizeof(buf), &frame, NULL) <= 0;
		r |= page_message_decode(decoder, &frame, &got, NULL);
		after = mallinfo2();
		r |= after.uordblks != before.uordblks || after.hblkhd != before.hblkhd;
	}
	assert_int_equal(r, 0);
	assert_runs_equal(&got.pages.runs, &m.pages.runs);
}

static void names(void **state)
{
	(void)state;
	assert_string_equal(page_message_type_name(PAGE_MESSAGE_HELLO), "Hello");
	assert_string_equal(page_message_type_name(PAGE_MESSAGE_ERROR), "Error");
	assert_string_equal(page_message_type_name(PAGE_MESSAGE_TYPES_), "unknown");
	assert_string_equal(page_message_type_name((enum page_message_type) - 1), "unknown");
	assert_string_equal(wire_error_code_name(WIRE_ERROR_DENIED), "DENIED");
	assert_string_equal(wire_error_code_name((enum wire_error_code)0), "unknown");
	assert_string_equal(wire_error_code_name((enum wire_error_code)11), "unknown");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(hello),
	        cmocka_unit_test(largest_hello_ack),
	        cmocka_unit_test(largest_runs),
	        cmocka_unit_test(pages_with_all_kinds),
	        cmocka_unit_test(poison_notice),
	        cmocka_unit_test(stream_control_and_progress),
	        cmocka_unit_test(resume),
	        cmocka_unit_test(the_small_ones),
	        cmocka_unit_test(error_text_always_arrives),
	        cmocka_unit_test(encode_keeps_to_the_limits),
	        cmocka_unit_test(hot_messages_allocate_nothing),
	        cmocka_unit_test(names),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
