/* SPDX-License-Identifier: Apache-2.0 */
/* Promise: a page with any bit set, wherever, is not taken for zeros; at any alignment. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "core/units.h"
#include "source/zero.h"

static void test_every_byte(void **state)
{
	static uint8_t buf[WIRE_PAGE_SIZE + 1];

	(void)state;
	for (unsigned shift = 0; shift < 2; shift++) {
		memset(buf, 0, sizeof(buf));
		buf[shift ? 0 : WIRE_PAGE_SIZE] = 0xff; /* outside the page */
		assert_true(zero_page(buf + shift));
		for (size_t i = 0; i < WIRE_PAGE_SIZE; i++) {
			buf[shift + i] = (uint8_t)(1U << (i % 8));
			assert_false(zero_page(buf + shift));
			buf[shift + i] = 0;
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_every_byte)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
