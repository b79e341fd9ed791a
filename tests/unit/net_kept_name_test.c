/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Promises of net/kept_name.h: what was kept under a name is found by it again, and no
 * other name is taken for one.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "net/kept_name.h"

#define ID "01234567-89ab-4cde-8f01-23456789abcd"

static void test_names(void **state)
{
	static const char *const others[] = {
	        "",
	        ".",
	        "record",
	        ID,
	        ID ":record",
	        "x" ID ".record",
	        "control",
	        "of.somebody.else",
	        "0123456789ab-4cde-8f01-23456789abcd00.record",
	};
	struct uuid id, expected;
	const char *kind;

	(void)state;
	assert_int_equal(uuid_parse(ID, &expected), 0);
	assert_true(kept_name_parse(ID ".record", &id, &kind));
	assert_true(uuid_equal(&id, &expected));
	assert_string_equal(kind, "record");
	assert_true(kept_name_parse(ID ".", &id, &kind));
	assert_string_equal(kind, "");
	for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++)
		assert_false(kept_name_parse(others[i], &id, &kind));
}

static void test_indexes(void **state)
{
	(void)state;
	assert_int_equal(kept_name_index("memory0", "memory", 64), 0);
	assert_int_equal(kept_name_index("memory63", "memory", 64), 63);
	assert_int_equal(kept_name_index("memory64", "memory", 64), -1);
	assert_int_equal(kept_name_index("memory", "memory", 64), -1);
	assert_int_equal(kept_name_index("memory-1", "memory", 64), -1);
	assert_int_equal(kept_name_index("memory 1", "memory", 64), -1);
	assert_int_equal(kept_name_index("memory1x", "memory", 64), -1);
	assert_int_equal(kept_name_index("uffd1", "memory", 64), -1);
	assert_int_equal(kept_name_index("memory18446744073709551616", "memory", 64), -1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_names),
	        cmocka_unit_test(test_indexes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
