/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An export's record: each field comes back as it was written, and so does what is
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
#include "wire/export_record.h"

static struct export_region regions[] = {
        {.name = "pc.ram",
         .gpa = {UINT64_C(4) << 30},
         .length_bytes = 2 << 20,
         .page_size_bytes = 4096,
         .backing = BACKING_MEMFD,
         .fd = 1,
         .fd_offset = {8192}},
        {.name = "pc.anon",
         .length_bytes = 4096,
         .page_size_bytes = 4096,
         .backing = BACKING_ANONYMOUS,
         .fd = 0,
         .fd_offset = {0x7f1234567000}},
};

static struct export_record exported(void)
{
	return (struct export_record){
	        .program_version = "0.1.0~rc1+git",
	        .export = {.type = ATTACH_REQUEST_EXPORT,
	                   .version = 1,
	                   .migration_id = {{1, 2, 3}},
	                   .token = {9, 8, 7},
	                   .token_len = 32,
	                   .export = {"spiffe://example/destination", regions,
	                              ARRAY_SIZE(regions)}},
	        .n_memory = 2,
	        .exporter = "pid 12 uid 0",
	        .started_us = 1,
	};
}

static struct export_record turn(const struct export_record *m)
{
	struct export_record ret = {0};
	struct error err = {0};
	uint8_t *buf;
	size_t len;

	assert_int_equal(export_record_encode(m, &buf, &len), 0);
	if (export_record_decode(buf, len, &ret, &err) < 0)
		fail_msg("%s", err.text);
	free(buf);
	return ret;
}

static void refuse_bytes(const void *buf, size_t len, const char *text)
{
	struct export_record ret, before;
	struct error err = {0};

	memset(&ret, 0x77, sizeof(ret));
	before = ret;
	assert_int_equal(export_record_decode(buf, len, &ret, &err), -EBADMSG);
	if (!strstr(err.text, text))
		fail_msg("\"%s\" does not say \"%s\"", err.text, text);
	assert_memory_equal(&ret, &before, sizeof(ret));
}

static void refuse_to_encode(const struct export_record *m)
{
	uint8_t *buf;
	size_t len;

	assert_int_equal(export_record_encode(m, &buf, &len), -EINVAL);
}

static void comes_back(void **state)
{
	struct export_record m = exported(), got;

	(void)state;
	m.started_us = UINT64_MAX;
	m.ended_us = 14;
	got = turn(&m);
	assert_string_equal(got.program_version, "0.1.0~rc1+git");
	assert_int_equal(got.export.type, ATTACH_REQUEST_EXPORT);
	assert_int_equal(got.export.version, 1);
	assert_true(uuid_equal(&got.export.migration_id, &m.export.migration_id));
	assert_int_equal(got.export.token_len, 32);
	assert_memory_equal(got.export.token, m.export.token, 32);
	assert_string_equal(got.export.export.peer_identity, "spiffe://example/destination");
	assert_int_equal(got.export.export.n_regions, 2);
	for (size_t i = 0; i < 2; i++) {
		const struct export_region *r = &got.export.export.regions[i];

		assert_string_equal(r->name, regions[i].name);
		assert_true(r->gpa.addr == regions[i].gpa.addr);
		assert_true(r->length_bytes == regions[i].length_bytes);
		assert_int_equal(r->page_size_bytes, 4096);
		assert_int_equal(r->backing, regions[i].backing);
		assert_int_equal(r->fd, regions[i].fd);
		assert_true(r->fd_offset.off == regions[i].fd_offset.off);
	}
	assert_int_equal(got.n_memory, 2);
	assert_string_equal(got.exporter, "pid 12 uid 0");
	assert_int_equal(got.state, EXPORT_RECORD_EXPORTED);
	assert_string_equal(got.state_text, "");
	assert_true(got.started_us == UINT64_MAX);
	assert_int_equal(got.ended_us, 14);
	export_record_free(&got);
	export_record_free(&got); /* also of a zeroed one */
}

/* Its text is made fit to be shown. */
static void every_state(void **state)
{
	(void)state;
	for (int i = EXPORT_RECORD_EXPORTED; i <= EXPORT_RECORD_WITHDRAWN; i++) {
		struct export_record m = exported(), got;

		m.state = (enum export_record_state)i;
		strcpy(m.state_text, "by an operator\x1b");
		got = turn(&m);
		assert_int_equal(got.state, i);
		assert_string_equal(got.state_text, "by an operator?");
		export_record_free(&got);
	}
}

/* 512 regions with long names: the largest there is. */
static void the_largest(void **state)
{
	static struct export_region many[REGIONS_MAX];
	struct export_record m = exported(), got;

	(void)state;
	for (size_t i = 0; i < REGIONS_MAX; i++) {
		many[i] = regions[0];
		memset(many[i].name, 'r', sizeof(many[i].name) - 1);
		many[i].length_bytes = UINT64_MAX;
		many[i].fd_offset.off = UINT64_MAX;
		many[i].fd = ATTACH_FDS_MAX - 1;
	}
	m.export.export.regions = many;
	m.export.export.n_regions = REGIONS_MAX;
	m.n_memory = ATTACH_FDS_MAX;
	got = turn(&m);
	assert_int_equal(got.export.export.n_regions, REGIONS_MAX);
	assert_true(got.export.export.regions[REGIONS_MAX - 1].fd_offset.off == UINT64_MAX);
	export_record_free(&got);
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

/* A record's beginning: version, this request (NULL: none), and so many descriptors. */
static size_t record_of(uint8_t *to, const struct attach_request *request, uint8_t n_memory)
{
	_cleanup_free_ uint8_t *bytes = NULL;
	size_t n = put(to, 1, "1.0", 3), len;

	if (request) {
		assert_int_equal(attach_request_encode(request, &bytes, &len), 0);
		n += put(to + n, 2, bytes, len);
	}
	to[n++] = 3 << 3;
	to[n++] = n_memory;
	return n;
}

static void bad_requests(void **state)
{
	struct attach_request freeze = {.type = ATTACH_REQUEST_FREEZE};
	struct export_record m = exported();
	uint8_t buf[1024];

	(void)state;
	refuse_bytes(buf, record_of(buf, NULL, 2), "ExportRecord.export is missing");
	refuse_bytes(buf, record_of(buf, &freeze, 2),
	             "ExportRecord.export: is a request of type 3, expected an Export");
	m.export.version = 0;
	refuse_bytes(buf, record_of(buf, &m.export, 2), "ExportRecord.export: Export.version is 0");
	refuse_bytes("\x0a\x03"
	             "1.0\x12\x01\xff",
	             8, "ExportRecord.export: AttachRequest of 1 bytes is not a valid message");
	m = exported();
	m.export.export.n_regions = 0;
	refuse_to_encode(&m);
}

/* An agent that took these would read a descriptor that is none of the export's. */
static void descriptors_that_are_not_there(void **state)
{
	struct export_record m = exported();
	uint8_t buf[1024];

	(void)state;
	refuse_bytes(buf, record_of(buf, &m.export, 0), "ExportRecord.memory_fds is 0, expected 1");
	refuse_bytes(buf, record_of(buf, &m.export, 65), "ExportRecord.memory_fds is 65, expected");
	refuse_bytes(buf, record_of(buf, &m.export, 1),
	             "ExportRecord.export: region 0 has descriptor 1 of 1");
	for (unsigned n = 0; n < 2; n++) {
		m.n_memory = n;
		refuse_to_encode(&m);
	}
	m.n_memory = 65;
	refuse_to_encode(&m);
}

static void bad_fields(void **state)
{
	struct export_record m = exported();
	uint8_t buf[2048];
	char text[600];
	size_t n;

	(void)state;
	refuse_bytes("", 0, "ExportRecord.program_version is empty");
	n = put(buf, 1, "1 0", 3);
	refuse_bytes(buf, n, "ExportRecord.program_version \"1 0\" has a space");
	n = record_of(buf, &m.export, 2);
	memcpy(buf + n, "\x28\x06", 2); /* state */
	refuse_bytes(buf, n + 2, "ExportRecord.state is 6, expected");
	refuse_bytes(buf, n + put(buf + n, 6, "\n", 1), "ExportRecord.state_text \"\\x0a\"");
	memset(text, 'x', sizeof(text));
	refuse_bytes(buf, n + put(buf + n, 6, text, sizeof(text)), "600 bytes, expected at most");
	refuse_bytes(buf, n + put(buf + n, 4, text, 64), "ExportRecord.exporter");
}

static void encode_keeps_to_the_limits(void **state)
{
	struct export_record m = exported();

	(void)state;
	m.program_version[0] = '\0';
	refuse_to_encode(&m);
	m = exported();
	m.state = (enum export_record_state)6;
	refuse_to_encode(&m);
	m = exported();
	m.export.type = ATTACH_REQUEST_FREEZE;
	refuse_to_encode(&m);
}

/* Cut off anywhere, and with any byte changed: an error, or a record that can be written again. */
static void hostile_bytes(void **state)
{
	struct export_record m = exported(), got;
	struct error err;
	uint8_t *buf, *copy;
	size_t len;

	(void)state;
	m.ended_us = 300;
	assert_int_equal(export_record_encode(&m, &buf, &len), 0);
	for (size_t i = 0; i < len * 256; i++) {
		uint8_t *bytes = malloc(len);
		size_t n = i % 256 == 0 ? i / 256 : len;
		size_t copy_len;

		memcpy(bytes, buf, len);
		bytes[i / 256] ^= (uint8_t)(i % 256);
		if (export_record_decode(bytes, n, &got, &err) == 0) {
			assert_int_equal(export_record_encode(&got, &copy, &copy_len), 0);
			free(copy);
			export_record_free(&got);
		}
		free(bytes);
	}
	free(buf);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(comes_back),
	        cmocka_unit_test(every_state),
	        cmocka_unit_test(the_largest),
	        cmocka_unit_test(bad_requests),
	        cmocka_unit_test(descriptors_that_are_not_there),
	        cmocka_unit_test(bad_fields),
	        cmocka_unit_test(encode_keeps_to_the_limits),
	        cmocka_unit_test(hostile_bytes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
