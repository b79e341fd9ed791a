/* SPDX-License-Identifier: Apache-2.0 */
/* Framing: whole frames only, lengths refused as early as they are known. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "wire/frame.h"

static void frame_is_found_only_when_whole(void **state)
{
	uint8_t buf[FRAME_PREFIX_BYTES + 5 + 3 + 1] = {0};
	struct frame f = {0};

	(void)state;
	frame_prefix_write(buf, 5, 3);
	for (size_t len = 0; len < FRAME_PREFIX_BYTES + 8; len++)
		assert_int_equal(frame_parse(buf, len, &f, NULL), 0);
	assert_null(f.header);
	assert_int_equal(frame_parse(buf, sizeof(buf), &f, NULL), FRAME_PREFIX_BYTES + 8);
	assert_ptr_equal(f.header, buf + FRAME_PREFIX_BYTES);
	assert_ptr_equal(f.payload, buf + FRAME_PREFIX_BYTES + 5);
	assert_int_equal(f.header_len, 5);
	assert_int_equal(f.payload_len, 3);
}

static void prefix_is_little_endian(void **state)
{
	static const uint8_t expected[] = {0x02, 0x01, 0, 0, 0x04, 0x03, 0x01, 0};
	uint8_t prefix[FRAME_PREFIX_BYTES];

	(void)state;
	frame_prefix_write(prefix, 0x0102, 0x010304);
	assert_memory_equal(prefix, expected, sizeof(prefix));
}

static void largest_frame_is_accepted(void **state)
{
	uint8_t *buf = calloc(1, FRAME_MAX);
	struct frame f;

	(void)state;
	assert_non_null(buf);
	frame_prefix_write(buf, FRAME_HEADER_MAX, FRAME_PAYLOAD_MAX);
	assert_int_equal(frame_parse(buf, FRAME_MAX - 1, &f, NULL), 0);
	assert_int_equal(frame_parse(buf, FRAME_MAX, &f, NULL), FRAME_MAX);
	free(buf);
}

static void header_over_limit_is_refused_after_four_bytes(void **state)
{
	uint8_t buf[FRAME_PREFIX_BYTES];
	struct error err = {0};
	struct frame f;

	(void)state;
	frame_prefix_write(buf, FRAME_HEADER_MAX + 1, 0);
	assert_int_equal(frame_parse(buf, 3, &f, &err), 0);
	assert_int_equal(frame_parse(buf, 4, &f, &err), -EMSGSIZE);
	assert_string_equal(err.text, "frame header of 65537 bytes, the limit is 65536");
	frame_prefix_write(buf, UINT32_MAX, UINT32_MAX);
	assert_int_equal(frame_parse(buf, sizeof(buf), &f, &err), -EMSGSIZE);
}

static void payload_over_limit_is_refused_with_the_prefix(void **state)
{
	uint8_t buf[FRAME_PREFIX_BYTES];
	struct error err = {0};
	struct frame f;

	(void)state;
	frame_prefix_write(buf, 1, FRAME_PAYLOAD_MAX + 1);
	assert_int_equal(frame_parse(buf, 7, &f, &err), 0);
	assert_int_equal(frame_parse(buf, 8, &f, &err), -EMSGSIZE);
	assert_string_equal(err.text, "frame payload of 262145 bytes, the limit is 262144");
}

static void empty_header_is_refused(void **state)
{
	uint8_t buf[FRAME_PREFIX_BYTES];
	struct error err = {0};
	struct frame f;

	(void)state;
	frame_prefix_write(buf, 0, 4096);
	assert_int_equal(frame_parse(buf, sizeof(buf), &f, &err), -EBADMSG);
	assert_non_null(strstr(err.text, "empty header"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(frame_is_found_only_when_whole),
	        cmocka_unit_test(prefix_is_little_endian),
	        cmocka_unit_test(largest_frame_is_accepted),
	        cmocka_unit_test(header_over_limit_is_refused_after_four_bytes),
	        cmocka_unit_test(payload_over_limit_is_refused_with_the_prefix),
	        cmocka_unit_test(empty_header_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
