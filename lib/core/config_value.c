/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The parsers of configuration values. Each writes its field only when the whole
 * value is right, and says "expected ..." otherwise: config.c puts the place
 * before it.
 */
#include "core/config_value.h"

#include "core/cleanup.h"
#include "core/cpu_list.h"
#include "core/log.h"
#include "core/units.h"

#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/types.h>

static const struct {
	config_parse_fn parse;
	size_t size;
} value_sizes[] = {
        {config_parse_string, sizeof(char *)},        {config_parse_bool, sizeof(bool)},
        {config_parse_uint, sizeof(unsigned)},        {config_parse_bytes, sizeof(uint64_t)},
        {config_parse_duration, sizeof(uint64_t)},    {config_parse_mode, sizeof(mode_t)},
        {config_parse_cpus, sizeof(struct cpu_list)},
};

static const struct {
	const char *text;
	bool value;
} bool_names[] = {
        {"yes", true}, {"true", true},   {"on", true},   {"1", true},
        {"no", false}, {"false", false}, {"off", false}, {"0", false},
};

size_t config_value_size(config_parse_fn parse)
{
	for (size_t i = 0; i < ARRAY_SIZE(value_sizes); i++)
		if (value_sizes[i].parse == parse)
			return value_sizes[i].size;
	return sizeof(int);
}

/* Digits of the base only: no sign, no blanks, no prefix, which strtoul() would take. */
static bool parse_digits(const char *text, unsigned base, uint64_t max, uint64_t *ret)
{
	uint64_t value = 0;

	if (!*text)
		return false;
	for (; *text; text++) {
		if (*text < '0' || (unsigned)(*text - '0') >= base)
			return false;
		value = value * base + (uint64_t)(*text - '0');
		if (value > max) /* max is far below where the next step could wrap */
			return false;
	}
	*ret = value;
	return true;
}

int config_parse_string(const char *value, void *dest, struct error *err)
{
	char **field = dest;
	char *copy = strdup(value);

	if (!copy)
		return error_set(err, -ENOMEM, "not enough memory");
	free(*field); /* the default, or an earlier line */
	*field = copy;
	return 0;
}

int config_parse_cpus(const char *value, void *dest, struct error *err)
{
	return cpu_list_parse(value, dest, err);
}

int config_parse_bool(const char *value, void *dest, struct error *err)
{
	for (size_t i = 0; i < ARRAY_SIZE(bool_names); i++) {
		if (strcmp(value, bool_names[i].text) == 0) {
			*(bool *)dest = bool_names[i].value;
			return 0;
		}
	}
	return error_set(err, -EINVAL, "expected yes or no, not \"%.64s\"", value);
}

int config_parse_uint(const char *value, void *dest, struct error *err)
{
	uint64_t number;

	if (!parse_digits(value, 10, UINT_MAX, &number))
		return error_set(err, -EINVAL,
		                 "expected a whole number from 0 to %u, not \"%.64s\"", UINT_MAX,
		                 value);
	*(unsigned *)dest = (unsigned)number;
	return 0;
}

int config_parse_bytes(const char *value, void *dest, struct error *err)
{
	return units_parse_bytes(value, dest, err);
}

int config_parse_duration(const char *value, void *dest, struct error *err)
{
	return units_parse_duration(value, dest, err);
}

int config_parse_mode(const char *value, void *dest, struct error *err)
{
	uint64_t number;

	if (!parse_digits(value, 8, 07777, &number))
		return error_set(err, -EINVAL,
		                 "expected a file mode in octal such as 0660, not \"%.64s\"",
		                 value);
	*(mode_t *)dest = (mode_t)number;
	return 0;
}

int config_parse_log_level(const char *value, void *dest, struct error *err)
{
	int level = log_level_parse(value);

	if (level < 0)
		return error_set(err, level,
		                 "expected error, warning, notice, info or debug, not \"%.64s\"",
		                 value);
	*(int *)dest = level;
	return 0;
}

int config_parse_log_target(const char *value, void *dest, struct error *err)
{
	static const char *const names[] = {
	        [LOG_TARGET_AUTO] = "auto",
	        [LOG_TARGET_JOURNAL] = "journal",
	        [LOG_TARGET_STDERR] = "stderr",
	};

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		if (strcmp(value, names[i]) == 0) {
			*(int *)dest = (int)i;
			return 0;
		}
	}
	return error_set(err, -EINVAL, "expected auto, journal or stderr, not \"%.64s\"", value);
}
