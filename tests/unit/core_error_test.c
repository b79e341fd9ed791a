/* SPDX-License-Identifier: Apache-2.0 */
/* Promises of core/error.h: codes are kept, texts are whole or cut, NULL is safe. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/error.h"

#include <errno.h>
#include <string.h>

static void sets_code_and_text(void **state)
{
	struct error err = {0};

	(void)state;
	assert_int_equal(error_set(&err, -EINVAL, "page %d of %s", 7, "ram"), -EINVAL);
	assert_int_equal(err.code, -EINVAL);
	assert_string_equal(err.text, "page 7 of ram");
}

static void appends_the_name_of_the_errno(void **state)
{
	struct error err = {0};

	(void)state;
	assert_int_equal(error_set_errno(&err, -ENOENT, "cannot open %s", "x"), -ENOENT);
	assert_string_equal(err.text, "cannot open x: No such file or directory");
}

static void prefixes_keep_the_code(void **state)
{
	struct error err = {0};

	(void)state;
	error_set(&err, -EPERM, "denied");
	assert_int_equal(error_prefix(&err, "lane %u", 3U), -EPERM);
	assert_string_equal(err.text, "lane 3: denied");
}

static void own_text_may_be_an_argument(void **state)
{
	struct error err = {0};

	(void)state;
	error_set(&err, -EPERM, "inner");
	error_set(&err, -EIO, "outer: %s", err.text);
	assert_string_equal(err.text, "outer: inner");
}

static void long_texts_are_cut_at_the_end(void **state)
{
	struct error err = {0};
	char big[2 * ERROR_TEXT_MAX];

	(void)state;
	memset(big, 'a', sizeof(big) - 1);
	big[sizeof(big) - 1] = '\0';
	error_set(&err, -EIO, "%s", big);
	assert_int_equal(strlen(err.text), ERROR_TEXT_MAX - 1);
	error_set_errno(&err, -EIO, "%s", big);
	assert_int_equal(strlen(err.text), ERROR_TEXT_MAX - 1);
	error_prefix(&err, "first");
	assert_int_equal(strlen(err.text), ERROR_TEXT_MAX - 1);
	assert_memory_equal(err.text, "first: aaa", 10);
}

static void null_is_accepted_and_never_success(void **state)
{
	struct error never_set = {0};

	(void)state;
	assert_int_equal(error_set(NULL, -EINVAL, "x"), -EINVAL);
	assert_int_equal(error_set_errno(NULL, -ENOENT, "x"), -ENOENT);
	assert_true(error_prefix(NULL, "x") < 0);
	assert_true(error_prefix(&never_set, "x") < 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(sets_code_and_text),
	        cmocka_unit_test(appends_the_name_of_the_errno),
	        cmocka_unit_test(prefixes_keep_the_code),
	        cmocka_unit_test(own_text_may_be_an_argument),
	        cmocka_unit_test(long_texts_are_cut_at_the_end),
	        cmocka_unit_test(null_is_accepted_and_never_success),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
