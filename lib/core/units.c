/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sizes and durations as people write and read them: for configuration files,
 * command lines and messages.
 */
#include "core/units.h"

#include "core/cleanup.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

struct unit {
	const char *name;
	uint64_t size;
};

static const struct unit byte_suffixes[] = {
        {"", 1},
        {"K", UINT64_C(1) << 10},
        {"KiB", UINT64_C(1) << 10},
        {"M", UINT64_C(1) << 20},
        {"MiB", UINT64_C(1) << 20},
        {"G", UINT64_C(1) << 30},
        {"GiB", UINT64_C(1) << 30},
        {"T", UINT64_C(1) << 40},
        {"TiB", UINT64_C(1) << 40},
};

static const struct unit duration_suffixes[] = {
        {"", 1000000},  {"us", 1},         {"ms", 1000},
        {"s", 1000000}, {"min", 60000000}, {"h", UINT64_C(3600000000)},
};

/* Smallest first: formatting takes the first in which the number stays short. */
static const struct unit byte_scale[] = {
        {"B", 1},
        {"KiB", UINT64_C(1) << 10},
        {"MiB", UINT64_C(1) << 20},
        {"GiB", UINT64_C(1) << 30},
        {"TiB", UINT64_C(1) << 40},
        {"PiB", UINT64_C(1) << 50},
        {"EiB", UINT64_C(1) << 60},
};

static const struct unit duration_scale[] = {{"us", 1}, {"ms", 1000}, {"s", 1000000}};

/* Digits and one of the suffixes; expected says in words what a value looks like. */
static int parse_with_suffix(const char *text, const struct unit *units, size_t n_units,
                             const char *expected, uint64_t *ret, struct error *err)
{
	const char *p = text;
	uint64_t number = 0;
	bool fits = true;

	for (; *p >= '0' && *p <= '9'; p++) {
		fits = fits && !__builtin_mul_overflow(number, 10, &number);
		fits = fits && !__builtin_add_overflow(number, (uint64_t)(*p - '0'), &number);
	}
	for (size_t i = 0; p != text && i < n_units; i++) {
		uint64_t value;

		if (strcmp(p, units[i].name) != 0)
			continue;
		if (!fits || __builtin_mul_overflow(number, units[i].size, &value))
			return error_set(err, -ERANGE, "expected %s, \"%.64s\" is too large",
			                 expected, text);
		*ret = value;
		return 0;
	}
	return error_set(err, -EINVAL, "expected %s, not \"%.64s\"", expected, text);
}

int units_parse_bytes(const char *text, uint64_t *ret_bytes, struct error *err)
{
	return parse_with_suffix(text, byte_suffixes, ARRAY_SIZE(byte_suffixes),
	                         "a size in bytes such as 4096, 64K, 512MiB, 2G or 1T", ret_bytes,
	                         err);
}

int units_parse_duration(const char *text, uint64_t *ret_us, struct error *err)
{
	return parse_with_suffix(text, duration_suffixes, ARRAY_SIZE(duration_suffixes),
	                         "a duration such as 250us, 20ms, 5s, 2min or 1h", ret_us, err);
}

/* value in tenths of the unit, rounded; by parts, as value * 10 might not fit. */
static uint64_t tenths_of(uint64_t value, uint64_t unit_size)
{
	return value / unit_size * 10 + (value % unit_size * 10 + unit_size / 2) / unit_size;
}

/* One decimal, and none where it would be zero. */
static void format_scaled(char *buf, size_t buf_len, uint64_t value, const struct unit *scale,
                          size_t n_scale)
{
	size_t i = 0;

	/* The rounded number decides, else 1023.99 KiB would read "1024 KiB". */
	while (i + 1 < n_scale &&
	       tenths_of(value, scale[i].size) >= scale[i + 1].size / scale[i].size * 10)
		i++;
	uint64_t tenths = tenths_of(value, scale[i].size);

	if (tenths % 10 == 0)
		(void)snprintf(buf, buf_len, "%" PRIu64 " %s", tenths / 10, scale[i].name);
	else
		(void)snprintf(buf, buf_len, "%" PRIu64 ".%" PRIu64 " %s", tenths / 10, tenths % 10,
		               scale[i].name);
}

const char *units_format_bytes(char *buf, size_t buf_len, uint64_t bytes)
{
	/* Whole bytes need no rounding, and bytes * 10 must not overflow above. */
	size_t skip = bytes < byte_scale[1].size ? 0 : 1;

	format_scaled(buf, buf_len, bytes, byte_scale + skip, ARRAY_SIZE(byte_scale) - skip);
	return buf;
}

const char *units_format_duration(char *buf, size_t buf_len, uint64_t us)
{
	uint64_t seconds = us / 1000000;
	uint64_t big = 60, small = 1;
	const char *big_name = "min", *small_name = "s";

	if (us < 59950000) { /* what rounds to 60.0 s is a minute */
		format_scaled(buf, buf_len, us, duration_scale, ARRAY_SIZE(duration_scale));
		return buf;
	}
	seconds += us % 1000000 >= 500000;
	if (seconds >= 3600) {
		big = 3600;
		small = 60;
		big_name = "h";
		small_name = "min";
	}
	uint64_t rest = seconds % big / small;

	if (rest == 0)
		(void)snprintf(buf, buf_len, "%" PRIu64 " %s", seconds / big, big_name);
	else
		(void)snprintf(buf, buf_len, "%" PRIu64 " %s %" PRIu64 " %s", seconds / big,
		               big_name, rest, small_name);
	return buf;
}
