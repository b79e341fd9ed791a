/* SPDX-License-Identifier: Apache-2.0 */
/* Promises of core/units.h and core/clock.h: what parses, what is refused, how it reads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/cleanup.h"
#include "core/clock.h"
#include "core/units.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

struct parse_case {
	const char *text;
	uint64_t value;
};

static const struct parse_case good_bytes[] = {
        {"0", 0},
        {"4096", 4096},
        {"64K", 65536},
        {"64KiB", 65536},
        {"3M", 3 << 20},
        {"3MiB", 3 << 20},
        {"2G", UINT64_C(2) << 30},
        {"2GiB", UINT64_C(2) << 30},
        {"1T", UINT64_C(1) << 40},
        {"1TiB", UINT64_C(1) << 40},
        {"18446744073709551615", UINT64_MAX},
        {"16777215T", UINT64_C(16777215) << 40},
};

static const struct parse_case good_durations[] = {
        {"7", 7000000},  {"250us", 250},      {"20ms", 20000},
        {"5s", 5000000}, {"2min", 120000000}, {"1h", UINT64_C(3600000000)},
};

static void good_sizes_parse(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(good_bytes); i++) {
		uint64_t value = 1;

		assert_int_equal(units_parse_bytes(good_bytes[i].text, &value, NULL), 0);
		assert_int_equal(value, good_bytes[i].value);
	}
}

static void good_durations_parse(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(good_durations); i++) {
		uint64_t value = 1;

		assert_int_equal(units_parse_duration(good_durations[i].text, &value, NULL), 0);
		assert_int_equal(value, good_durations[i].value);
	}
}

typedef int (*parse_fn)(const char *text, uint64_t *ret, struct error *err);

static void refuses(parse_fn parse, const char *text, int code)
{
	uint64_t value = 42;
	struct error err = {0};

	assert_int_equal(parse(text, &value, &err), code);
	assert_int_equal(err.code, code);
	assert_non_null(strstr(err.text, "expected a "));
	assert_non_null(strstr(err.text, text)); /* the value is named */
	assert_int_equal(value, 42);
}

static void bad_values_are_refused_and_named(void **state)
{
	static const char *const bad[] = {"",     "K",    "-1",   "+1",   " 1",  "1 ",  "1KB",
	                                  "1.5G", "0x10", "1kib", "12Kx", "ten", "1 K", "1Ki"};
	static const char *const bad_durations[] = {"", "s", "-1s", "1.5s", "1d", "1 s", "1m"};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		refuses(units_parse_bytes, bad[i], -EINVAL);
	for (size_t i = 0; i < ARRAY_SIZE(bad_durations); i++)
		refuses(units_parse_duration, bad_durations[i], -EINVAL);
}

static void overflow_is_erange(void **state)
{
	(void)state;
	refuses(units_parse_bytes, "18446744073709551616", -ERANGE);
	refuses(units_parse_bytes, "99999999999999999999999", -ERANGE);
	refuses(units_parse_bytes, "184467440737095516160", -ERANGE); /* wraps to 0 */
	refuses(units_parse_bytes, "16777216T", -ERANGE);
	refuses(units_parse_duration, "18446744073710", -ERANGE);
	refuses(units_parse_duration, "5124095577h", -ERANGE);
	refuses(units_parse_bytes, "99999999999999999999999x", -EINVAL);
}

static void sizes_read_well(void **state)
{
	static const struct {
		uint64_t bytes;
		const char *text;
	} cases[] = {
	        {0, "0 B"},
	        {512, "512 B"},
	        {1023, "1023 B"},
	        {4096, "4 KiB"},
	        {1536, "1.5 KiB"},
	        {UINT64_C(3) << 29, "1.5 GiB"},
	        {(1 << 20) - 1, "1 MiB"},
	        {UINT64_C(1) << 40, "1 TiB"},
	        {UINT64_MAX, "16 EiB"},
	};
	char buf[16];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
		assert_string_equal(units_format_bytes(buf, sizeof(buf), cases[i].bytes),
		                    cases[i].text);
}

static void durations_read_well(void **state)
{
	static const struct {
		uint64_t us;
		const char *text;
	} cases[] = {
	        {0, "0 us"},
	        {850, "850 us"},
	        {12345, "12.3 ms"},
	        {999960, "1 s"},
	        {1500000, "1.5 s"},
	        {59949999, "59.9 s"},
	        {59950000, "1 min"},
	        {65000000, "1 min 5 s"},
	        {119600000, "2 min"},
	        {UINT64_C(3599400000), "59 min 59 s"},
	        {UINT64_C(3599500000), "1 h"},
	        {UINT64_C(7380000000), "2 h 3 min"},
	        {UINT64_MAX, "5124095576 h 1 min"},
	};
	char buf[24];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
		assert_string_equal(units_format_duration(buf, sizeof(buf), cases[i].us),
		                    cases[i].text);
}

/* Every value near a change of unit fits the smallest buffer the header allows. */
static void the_smallest_buffers_suffice(void **state)
{
	char bytes[16], duration[24];

	(void)state;
	for (unsigned bit = 0; bit < 64; bit++) {
		for (int off = -3; off <= 3; off++) {
			uint64_t value = (UINT64_C(1) << bit) + (uint64_t)off;

			units_format_bytes(bytes, sizeof(bytes), value);
			units_format_duration(duration, sizeof(duration), value);
			assert_true(bytes[strlen(bytes) - 1] == 'B');
			assert_non_null(strpbrk(duration, "snh"));
			assert_true(strlen(duration) < sizeof(duration) - 1);
			assert_true(strlen(bytes) < sizeof(bytes) - 1);
		}
	}
}

static void alignment_helpers(void **state)
{
	(void)state;
	assert_true(is_aligned(8192, WIRE_PAGE_SIZE));
	assert_false(is_aligned(8193, WIRE_PAGE_SIZE));
	assert_true(is_power_of_two(UINT64_C(1) << 63));
	assert_false(is_power_of_two(0));
	assert_false(is_power_of_two(12));
}

static void clocks_agree_on_their_units(void **state)
{
	uint64_t ns = clock_monotonic_ns();
	uint64_t us = clock_monotonic_us();

	(void)state;
	assert_true(us >= ns / 1000 && us - ns / 1000 < 60000000);
	assert_true(clock_monotonic_ns() >= ns);
	assert_true(clock_realtime_us() > UINT64_C(1600000000000000)); /* September 2020 */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(good_sizes_parse),
	        cmocka_unit_test(good_durations_parse),
	        cmocka_unit_test(bad_values_are_refused_and_named),
	        cmocka_unit_test(overflow_is_erange),
	        cmocka_unit_test(sizes_read_well),
	        cmocka_unit_test(durations_read_well),
	        cmocka_unit_test(the_smallest_buffers_suffice),
	        cmocka_unit_test(alignment_helpers),
	        cmocka_unit_test(clocks_agree_on_their_units),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
