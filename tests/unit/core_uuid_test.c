/* SPDX-License-Identifier: Apache-2.0 */
/* Promises of core/uuid.h: one exact text form, random ones differ. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/cleanup.h"
#include "core/uuid.h"

#include <errno.h>
#include <string.h>

static const char sample[] = "00112233-4455-6677-8899-aabbccddeeff";

static void text_and_bytes_agree(void **state)
{
	struct uuid id;
	char text[UUID_TEXT_LEN];

	(void)state;
	assert_int_equal(uuid_parse(sample, &id), 0);
	for (size_t i = 0; i < sizeof(id.bytes); i++)
		assert_int_equal(id.bytes[i], i * 0x11);
	assert_string_equal(uuid_format(&id, text), sample);
}

static void upper_case_is_read_and_written_lower(void **state)
{
	struct uuid id;
	char text[UUID_TEXT_LEN];

	(void)state;
	assert_int_equal(uuid_parse("00112233-4455-6677-8899-AABBCCDDEEFF", &id), 0);
	assert_string_equal(uuid_format(&id, text), sample);
}

static void other_texts_are_refused(void **state)
{
	static const char *const bad[] = {
	        "",
	        "00112233",
	        "00112233-4455-6677-8899-aabbccddeef",
	        "00112233-4455-6677-8899-aabbccddeeff0",
	        "001122334-455-6677-8899-aabbccddeeff",
	        "0011223344556677-8899-aabbccddeeff00",
	        "00112233-4455-6677-8899-aabbccddeefg",
	        "00112233-4455-6677-8899-aabbccddee/f",
	        "{0112233-4455-6677-8899-aabbccddeef}",
	        "00112233 4455 6677 8899 aabbccddeeff",
	};
	struct uuid id, before;

	(void)state;
	memset(&id, 0x5a, sizeof(id));
	before = id;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(uuid_parse(bad[i], &id), -EINVAL);
	assert_int_equal(uuid_parse(NULL, &id), -EINVAL);
	assert_true(uuid_equal(&id, &before));
}

static void random_ones_differ_and_say_version_4(void **state)
{
	struct uuid a, b;

	(void)state;
	assert_int_equal(uuid_random(&a), 0);
	assert_int_equal(uuid_random(&b), 0);
	assert_false(uuid_equal(&a, &b));
	for (int i = 0; i < 100; i++) {
		assert_int_equal(uuid_random(&a), 0);
		assert_int_equal(a.bytes[6] >> 4, 4);
		assert_int_equal(a.bytes[8] >> 6, 2);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(text_and_bytes_agree),
	        cmocka_unit_test(upper_case_is_read_and_written_lower),
	        cmocka_unit_test(other_texts_are_refused),
	        cmocka_unit_test(random_ones_differ_and_say_version_4),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
