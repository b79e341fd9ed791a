/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A migration's record: each field comes back as it was written, and so does what is
 * inside it; whatever else stands there is refused with a text that names the field, or
 * is a record that holds together. Nothing leaks, nothing crashes.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/cleanup.h"
#include "core/fdpass.h"
#include "wire/state_message.h"

static struct attach_region region = {.name = "pc.ram",
                                      .gpa = {UINT64_C(4) << 30},
                                      .hva = {0x7f1234567000},
                                      .length_bytes = 2 << 20,
                                      .page_size_bytes = 4096,
                                      .backing = BACKING_MEMFD,
                                      .mode = UFFD_MODE_MINOR,
                                      .has_fd = true,
                                      .fd_offset = {8192},
                                      .registered = true};

static struct state_message started(void)
{
	struct state_message m = {.program_version = "0.1.0~rc1+git", .started_us = 1};

	m.start = (struct control_request){
	        .type = CONTROL_REQUEST_START,
	        .has_migration_id = true,
	        .migration_id = {{1, 2, 3}},
	        .start = {.source = "source.example:4567",
	                  .peer_identity = "spiffe://example/source",
	                  .token = {9, 8, 7},
	                  .token_len = 32,
	                  .lost_policy = LOST_POLICY_POISON,
	                  .lost_deadline_us = 60000000,
	                  .bandwidth = 12345,
	                  .stop_on_poison = true},
	};
	return m;
}

static struct state_message attached(void)
{
	struct state_message m = started();

	m.attach = (struct attach_request){.type = ATTACH_REQUEST_ATTACH,
	                                   .version = 1,
	                                   .migration_id = m.start.migration_id,
	                                   .token = {9, 8, 7},
	                                   .token_len = 32,
	                                   .attach = {2, &region, 1}};
	m.vmm_pid = 4711;
	return m;
}

static struct state_message turn(const struct state_message *m)
{
	struct state_message ret = {0};
	struct error err = {0};
	uint8_t *buf;
	size_t len;

	assert_int_equal(state_message_encode(m, &buf, &len), 0);
	if (state_message_decode(buf, len, &ret, &err) < 0)
		fail_msg("%s", err.text);
	free(buf);
	return ret;
}

static void refuse_bytes(const void *buf, size_t len, const char *text)
{
	struct state_message ret, before;
	struct error err = {0};

	memset(&ret, 0x77, sizeof(ret));
	before = ret;
	assert_int_equal(state_message_decode(buf, len, &ret, &err), -EBADMSG);
	if (!strstr(err.text, text))
		fail_msg("\"%s\" does not say \"%s\"", err.text, text);
	assert_memory_equal(&ret, &before, sizeof(ret));
}

static void refuse_to_encode(const struct state_message *m)
{
	uint8_t *buf;
	size_t len;

	assert_int_equal(state_message_encode(m, &buf, &len), -EINVAL);
}

static void only_started(void **state)
{
	struct state_message m = started(), got = turn(&m);

	(void)state;
	assert_string_equal(got.program_version, "0.1.0~rc1+git");
	assert_int_equal(got.start.type, CONTROL_REQUEST_START);
	assert_true(uuid_equal(&got.start.migration_id, &m.start.migration_id));
	assert_string_equal(got.start.start.source, "source.example:4567");
	assert_string_equal(got.start.start.peer_identity, "spiffe://example/source");
	assert_int_equal(got.start.start.token_len, 32);
	assert_memory_equal(got.start.start.token, m.start.start.token, 32);
	assert_int_equal(got.start.start.lost_policy, LOST_POLICY_POISON);
	assert_int_equal(got.start.start.lost_deadline_us, 60000000);
	assert_int_equal(got.start.start.bandwidth, 12345);
	assert_true(got.start.start.stop_on_poison);
	assert_int_equal(got.attach.type, ATTACH_REQUEST_NONE);
	assert_int_equal(got.started_us, 1);
	assert_false(got.served || got.abandoned || got.completing || got.unregistered);
	assert_int_equal(got.ended, STATE_ENDED_NOT);
	assert_string_equal(got.ended_text, "");
	state_message_free(&got);
	state_message_free(&got); /* also of a zeroed one */
}

static void with_a_vmm(void **state)
{
	struct state_message m = attached(), got = turn(&m);
	const struct attach_region *r = got.attach.attach.regions;

	(void)state;
	assert_int_equal(got.vmm_pid, 4711);
	assert_int_equal(got.attach.type, ATTACH_REQUEST_ATTACH);
	assert_int_equal(got.attach.version, 1);
	assert_true(uuid_equal(&got.attach.migration_id, &m.start.migration_id));
	assert_int_equal(got.attach.token_len, 32);
	assert_int_equal(got.attach.attach.n_uffds, 2);
	assert_int_equal(got.attach.attach.n_regions, 1);
	assert_string_equal(r->name, "pc.ram");
	assert_true(r->gpa.addr == region.gpa.addr && r->hva.addr == region.hva.addr);
	assert_true(r->length_bytes == region.length_bytes && r->page_size_bytes == 4096);
	assert_true(r->backing == BACKING_MEMFD && r->mode == UFFD_MODE_MINOR);
	assert_true(r->has_fd && r->fd == 0 && r->fd_offset.off == 8192 && r->registered);
	state_message_free(&got);
}

/* One at a time, so that no field is taken for another. */
static void every_flag(void **state)
{
	(void)state;
	for (int i = 0; i < 4; i++) {
		struct state_message m = attached(), got;

		m.served = i == 0;
		m.abandoned = i == 1;
		m.completing = i == 2;
		m.unregistered = i == 3;
		got = turn(&m);
		assert_int_equal(got.served, i == 0);
		assert_int_equal(got.abandoned, i == 1);
		assert_int_equal(got.completing, i == 2);
		assert_int_equal(got.unregistered, i == 3);
		state_message_free(&got);
	}
}

static void every_number(void **state)
{
	struct state_message m = attached(), got;

	(void)state;
	m.started_us = UINT64_MAX;
	m.paused_us = 11;
	m.paused_since_us = 12;
	m.reconnects = 13;
	m.ended_us = 14;
	m.ended_remaining = 15;
	got = turn(&m);
	assert_true(got.started_us == UINT64_MAX);
	assert_int_equal(got.paused_us, 11);
	assert_int_equal(got.paused_since_us, 12);
	assert_int_equal(got.reconnects, 13);
	assert_int_equal(got.ended_us, 14);
	assert_int_equal(got.ended_remaining, 15);
	state_message_free(&got);
}

/* Also of one that no VMM attached to; its text is made fit to be shown. */
static void every_end(void **state)
{
	(void)state;
	for (int i = STATE_ENDED_NOT; i <= STATE_ENDED_CANCELLED; i++) {
		struct state_message m = i % 2 ? attached() : started(), got;

		m.ended = (enum state_ended)i;
		strcpy(m.ended_text, "by an operator\x1b");
		got = turn(&m);
		assert_int_equal(got.ended, i);
		assert_string_equal(got.ended_text, "by an operator?");
		state_message_free(&got);
	}
}

/* 512 regions with long names: the largest there is. */
static struct state_message mapped(void)
{
	struct state_message m = attached();

	m.mappings[0] = (struct state_mapping){.id = 6, .attach = m.attach, .pid = 815};
	m.mappings[1] = (struct state_mapping){.id = 2, .attach = m.attach};
	m.mappings[0].attach.type = m.mappings[1].attach.type = ATTACH_REQUEST_ATTACH_MAPPING;
	m.n_mappings = 2;
	return m;
}

static void with_further_mappings(void **state)
{
	struct state_message m = mapped(), got = turn(&m);

	(void)state;
	assert_int_equal(got.n_mappings, 2);
	assert_int_equal(got.mappings[0].id, 6);
	assert_int_equal(got.mappings[0].pid, 815);
	assert_int_equal(got.mappings[0].attach.type, ATTACH_REQUEST_ATTACH_MAPPING);
	assert_string_equal(got.mappings[0].attach.attach.regions[0].name, "pc.ram");
	assert_int_equal(got.mappings[1].id, 2);
	assert_int_equal(got.mappings[1].pid, 0);
	state_message_free(&got);
	state_message_free(&got);
}

static void refuse_mapped(struct state_message *m, const char *text)
{
	uint8_t *buf;
	size_t len;

	assert_int_equal(state_message_encode(m, &buf, &len), 0);
	refuse_bytes(buf, len, text);
	free(buf);
}

static void bad_mappings(void **state)
{
	struct state_message m = mapped();

	(void)state;
	m.mappings[1].id = 6;
	refuse_mapped(&m, "MigrationRecord.mappings[1]: two have the id 6");
	m.mappings[1].id = STATE_MAPPINGS_MAX;
	refuse_mapped(&m, "MigrationRecord.mappings[1]: id is 8, expected less than 8");
	m.mappings[1].id = 2;
	m.mappings[1].attach.type = ATTACH_REQUEST_ATTACH;
	refuse_mapped(&m, "MigrationRecord.mappings[1]: is a request of type 1, expected an "
	                  "attach_mapping");
	m.mappings[1].attach.type = ATTACH_REQUEST_ATTACH_MAPPING;
	m.mappings[1].pid = -1;
	refuse_mapped(&m, "MigrationRecord.mappings[1]");
	m.mappings[1].pid = 0;
	m.mappings[1].attach.migration_id.bytes[0] ^= 1;
	refuse_to_encode(&m);
	m = mapped();
	m.attach = (struct attach_request){.type = ATTACH_REQUEST_NONE};
	m.vmm_pid = 0;
	refuse_to_encode(&m);
	m = mapped();
	m.n_mappings = STATE_MAPPINGS_MAX + 1;
	refuse_to_encode(&m);
}

static void the_largest(void **state)
{
	static struct attach_region regions[REGIONS_MAX];
	struct state_message m = attached(), got;

	(void)state;
	for (size_t i = 0; i < REGIONS_MAX; i++) {
		regions[i] = region;
		memset(regions[i].name, 'r', sizeof(regions[i].name) - 1);
		regions[i].length_bytes = UINT64_MAX;
		regions[i].fd_offset.off = UINT64_MAX;
	}
	m.attach.attach.regions = regions;
	m.attach.attach.n_regions = REGIONS_MAX;
	for (uint32_t i = 0; i < STATE_MAPPINGS_MAX; i++) {
		m.mappings[i] = (struct state_mapping){.id = i, .attach = m.attach, .pid = 1};
		m.mappings[i].attach.type = ATTACH_REQUEST_ATTACH_MAPPING;
	}
	m.n_mappings = STATE_MAPPINGS_MAX;
	got = turn(&m);
	assert_int_equal(got.attach.attach.n_regions, REGIONS_MAX);
	assert_int_equal(got.n_mappings, STATE_MAPPINGS_MAX);
	assert_true(got.attach.attach.regions[REGIONS_MAX - 1].fd_offset.off == UINT64_MAX);
	state_message_free(&got);
}

/* Protobuf by hand: tag, length, bytes. */
static size_t put(uint8_t *to, uint8_t field, const void *bytes, size_t len)
{
	size_t n = 0;

	to[n++] = (uint8_t)(field << 3 | 2);
	if (len >= 128) {
		to[n++] = (uint8_t)(len & 127) | 128;
		to[n++] = (uint8_t)(len >> 7);
	} else {
		to[n++] = (uint8_t)len;
	}
	if (len > 0)
		memcpy(to + n, bytes, len);
	return n + len;
}

/* A good record's beginning with these requests in it. NULL: without. */
static size_t record_of(uint8_t *to, const struct control_request *start,
                        const struct attach_request *attach)
{
	_cleanup_free_ uint8_t *s = NULL, *a = NULL;
	size_t n = put(to, 1, "1.0", 3), len;

	if (start) {
		assert_int_equal(control_request_encode(start, &s, &len), 0);
		n += put(to + n, 2, s, len);
	}
	if (attach) {
		assert_int_equal(attach_request_encode(attach, &a, &len), 0);
		n += put(to + n, 3, a, len);
	}
	return n;
}

static void bad_requests(void **state)
{
	struct state_message m = attached();
	struct control_request list = {.type = CONTROL_REQUEST_LIST};
	struct attach_request freeze = {.type = ATTACH_REQUEST_FREEZE};
	uint8_t buf[1024];

	(void)state;
	refuse_bytes(buf, record_of(buf, NULL, NULL), "MigrationRecord.start is missing");
	refuse_bytes(buf, record_of(buf, &list, NULL),
	             "MigrationRecord.start: is a List, expected a StartMigration");
	refuse_bytes(buf, record_of(buf, &m.start, &freeze),
	             "MigrationRecord.attach: is a request of type 3, expected an Attach");
	m.attach.version = 0;
	refuse_bytes(buf, record_of(buf, &m.start, &m.attach),
	             "MigrationRecord.attach: Attach.version is 0");
	m = attached();
	m.attach.migration_id.bytes[0]++;
	refuse_bytes(buf, record_of(buf, &m.start, &m.attach),
	             "MigrationRecord: start and attach are of different migrations");
	refuse_to_encode(&m);
	m = attached();
	m.start.start.lost_policy = (enum lost_policy)7;
	refuse_bytes(buf, record_of(buf, &m.start, NULL),
	             "MigrationRecord.start: StartMigration: lost_policy is 7");
	refuse_bytes("\x0a\x03"
	             "1.0\x12\x01\xff",
	             8, "MigrationRecord.start: Request of 1 bytes is not a valid message");
}

static void bad_fields(void **state)
{
	struct state_message m = started();
	uint8_t buf[2048];
	char text[600];
	size_t n;

	(void)state;
	refuse_bytes("", 0, "MigrationRecord.program_version is empty");
	n = put(buf, 1, "1 0", 3);
	refuse_bytes(buf, n, "MigrationRecord.program_version \"1 0\" has a space");
	n = record_of(buf, &m.start, NULL);
	memcpy(buf + n, "\x48\x04", 2); /* ended */
	refuse_bytes(buf, n + 2, "MigrationRecord.ended is 4, expected");
	memcpy(buf + n, "\x20\xff\xff\xff\xff\x0f", 6); /* vmm_pid */
	refuse_bytes(buf, n + 6, "MigrationRecord.vmm_pid is -1, expected");
	refuse_bytes(buf, n + put(buf + n, 10, "\n", 1), "MigrationRecord.ended_text \"\\x0a\"");
	memset(text, 'x', sizeof(text));
	refuse_bytes(buf, n + put(buf + n, 10, text, sizeof(text)), "600 bytes, expected at most");
}

/* A daemon that found these would touch memory of which it knows nothing. */
static void memory_without_attach(void **state)
{
	static const char *const fields[] = {"\x20\x01", "\x28\x01", "\x30\x01", "\x38\x01",
	                                     "\x40\x01"};
	struct state_message m = started();
	uint8_t buf[1024];
	size_t n = record_of(buf, &m.start, NULL);

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(fields); i++) {
		memcpy(buf + n, fields[i], 2);
		refuse_bytes(buf, n + 2, "it tells of a VMM's memory, but has no attach");
	}
	m.served = true;
	refuse_to_encode(&m);
}

static void encode_keeps_to_the_limits(void **state)
{
	struct state_message m = started();

	(void)state;
	m.program_version[0] = '\0';
	refuse_to_encode(&m);
	memset(m.program_version, 'v', sizeof(m.program_version));
	refuse_to_encode(&m);
	m = started();
	m.start.type = CONTROL_REQUEST_CANCEL;
	refuse_to_encode(&m);
	m = started();
	m.start.has_migration_id = false;
	refuse_to_encode(&m);
	m = started();
	m.attach.type = ATTACH_REQUEST_FREEZE;
	refuse_to_encode(&m);
	m = started();
	m.ended = (enum state_ended)4;
	refuse_to_encode(&m);
	m = attached();
	m.vmm_pid = -1;
	refuse_to_encode(&m);
	m = attached();
	m.attach.token_len = 0;
	refuse_to_encode(&m);
}

/* The next version may have more to say: this one reads what it knows. */
static void unknown_fields_are_ignored(void **state)
{
	struct state_message m = started(), got = {0};
	uint8_t buf[1024];
	static const uint8_t future[] = {0xa2, 0x06, 3, 'n', 'e', 'w'}; /* field 100 */
	size_t n = record_of(buf, &m.start, NULL);

	(void)state;
	memcpy(buf + n, future, sizeof(future));
	n += sizeof(future);
	assert_int_equal(state_message_decode(buf, n, &got, NULL), 0);
	assert_string_equal(got.program_version, "1.0");
	state_message_free(&got);
}

/* Decoded, or refused with a text; of exactly these bytes, so that sanitizers see reads past them. */
static void take_anything(const uint8_t *bytes, size_t len)
{
	_cleanup_free_ uint8_t *exact = malloc(len ? len : 1);
	struct state_message got = {0};
	struct error err = {0};
	int r;

	assert_non_null(exact);
	if (len > 0)
		memcpy(exact, bytes, len);
	r = state_message_decode(exact, len, &got, &err);
	assert_true(r == 0 || (r == -EBADMSG && err.text[0]));
	if (r == 0) {
		assert_int_equal(got.start.type, CONTROL_REQUEST_START);
		state_message_free(&got);
	}
}

static void cut_and_damaged(void **state)
{
	struct state_message m = attached();
	_cleanup_free_ uint8_t *buf = NULL;
	size_t len;

	(void)state;
	m.served = true;
	assert_int_equal(state_message_encode(&m, &buf, &len), 0);
	for (size_t n = 0; n < len; n++)
		take_anything(buf, n);
	for (size_t i = 0; i < len * 8; i++) {
		buf[i / 8] ^= (uint8_t)(1 << i % 8);
		take_anything(buf, len);
		buf[i / 8] ^= (uint8_t)(1 << i % 8);
	}
}

static void random_bytes(void **state)
{
	uint8_t buf[300];
	unsigned seed = 1;

	(void)state;
	for (int round = 0; round < 20000; round++) {
		size_t len = (size_t)rand_r(&seed) % sizeof(buf);

		for (size_t i = 0; i < len; i++)
			buf[i] = (uint8_t)rand_r(&seed);
		take_anything(buf, len);
	}
}

static void too_long(void **state)
{
	static uint8_t big[FDPASS_MESSAGE_MAX + 1];
	size_t i;

	(void)state;
	refuse_bytes(big, sizeof(big), "MigrationRecord of 1048577 bytes, the limit is 1048576");
	/* As long as may be, and of half a million fields. */
	for (i = 0; i + 1 < FDPASS_MESSAGE_MAX; i += 2)
		memcpy(big + i, "\x7a\x00", 2);
	take_anything(big, FDPASS_MESSAGE_MAX);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(only_started),
	        cmocka_unit_test(with_a_vmm),
	        cmocka_unit_test(every_flag),
	        cmocka_unit_test(every_number),
	        cmocka_unit_test(every_end),
	        cmocka_unit_test(with_further_mappings),
	        cmocka_unit_test(bad_mappings),
	        cmocka_unit_test(the_largest),
	        cmocka_unit_test(bad_requests),
	        cmocka_unit_test(bad_fields),
	        cmocka_unit_test(memory_without_attach),
	        cmocka_unit_test(encode_keeps_to_the_limits),
	        cmocka_unit_test(unknown_fields_are_ignored),
	        cmocka_unit_test(cut_and_damaged),
	        cmocka_unit_test(random_bytes),
	        cmocka_unit_test(too_long),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
