/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Promises of core/config.h: every parser, the place of the first bad line, no
 * unknown name, and a failed load leaves nothing behind.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/cleanup.h"
#include "core/config.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <syslog.h>

struct settings {
	char *name;
	char *path;
	bool enabled;
	unsigned lanes;
	uint64_t memory_bytes;
	uint64_t timeout_us;
	mode_t mode;
	int log_level;
	int colour; /* of a parser of our own */
};

static int parse_colour(const char *value, void *dest, struct error *err)
{
	if (strcmp(value, "red") != 0)
		return error_set(err, -EINVAL, "expected red, not \"%s\"", value);
	*(int *)dest = 1;
	return 0;
}

#define FIELD(f) offsetof(struct settings, f)
static const struct config_option table[] = {
        {"main", "name", config_parse_string, FIELD(name), "nobody", true, NULL, "a name"},
        {"main", "path", config_parse_string, FIELD(path), NULL, false, NULL, "a path"},
        {"main", "enabled", config_parse_bool, FIELD(enabled), "yes", true, NULL, "on or off"},
        {"main", "lanes", config_parse_uint, FIELD(lanes), "4", false, NULL, "how many"},
        {"limits", "memory", config_parse_bytes, FIELD(memory_bytes), "64K", true, "bytes", "m"},
        {"limits", "timeout", config_parse_duration, FIELD(timeout_us), "5s", true, "us", "t"},
        {"limits", "mode", config_parse_mode, FIELD(mode), "0660", true, NULL, "of the socket"},
        {"log", "level", config_parse_log_level, FIELD(log_level), "info", true, NULL, "level"},
        {"log", "colour", parse_colour, FIELD(colour), NULL, false, NULL, "of the lines"},
};
#define N_OPTIONS ARRAY_SIZE(table)

static char path[] = "/tmp/core_config_test.XXXXXX";

static void write_bytes(const char *text, size_t len)
{
	FILE *f = fopen(path, "we");

	assert_non_null(f);
	assert_int_equal(fwrite(text, 1, len, f), len);
	assert_int_equal(fclose(f), 0);
}

static int load(const char *text, struct settings *s, struct error *err)
{
	memset(s, 0, sizeof(*s));
	write_bytes(text, strlen(text));
	return config_load(table, N_OPTIONS, path, s, err);
}

static void assert_zero(const struct settings *s)
{
	const struct settings zero = {0};

	assert_null(s->name);
	assert_null(s->path);
	assert_true(s->enabled == zero.enabled && s->lanes == 0 && s->memory_bytes == 0);
	assert_true(s->timeout_us == 0 && s->mode == 0 && s->log_level == 0 && s->colour == 0);
}

/* The load fails with "FILE:" and then exactly this text, and leaves a zero object. */
static void fails_with(const char *text, const char *expected)
{
	struct settings s;
	struct error err = {0};

	assert_int_equal(load(text, &s, &err), -EINVAL);
	assert_int_equal(err.code, -EINVAL);
	assert_memory_equal(err.text, path, strlen(path));
	assert_string_equal(err.text + strlen(path) + 1, expected);
	assert_zero(&s);
}

static void defaults_alone(void **state)
{
	struct settings s = {0};

	(void)state;
	assert_int_equal(config_load(table, N_OPTIONS, NULL, &s, NULL), 0);
	assert_string_equal(s.name, "nobody");
	assert_null(s.path);
	assert_true(s.enabled);
	assert_int_equal(s.lanes, 4);
	assert_int_equal(s.memory_bytes, 65536);
	assert_int_equal(s.timeout_us, 5000000);
	assert_int_equal(s.mode, 0660);
	assert_int_equal(s.log_level, LOG_INFO);
	config_free(table, N_OPTIONS, &s);
	assert_null(s.name);
}

static void every_parser_takes_its_value(void **state)
{
	struct settings s;
	struct error err = {0};

	(void)state;
	assert_int_equal(load("# comment\n; comment\n[main]\nname = first\n  name = a b # c\n"
	                      "path=/x/y ; why\nenabled = off\nlanes = 4294967295\n\n"
	                      "[limits]\nmemory = 2GiB\ntimeout = 250ms\nmode = 7777\n"
	                      "[log]\nlevel = debug\ncolour = red",
	                      &s, &err),
	                 0);
	assert_string_equal(s.name, "a b # c");
	assert_string_equal(s.path, "/x/y");
	assert_false(s.enabled);
	assert_int_equal(s.lanes, UINT32_MAX);
	assert_int_equal(s.memory_bytes, UINT64_C(2) << 30);
	assert_int_equal(s.timeout_us, 250000);
	assert_int_equal(s.mode, 07777);
	assert_int_equal(s.log_level, LOG_DEBUG);
	assert_int_equal(s.colour, 1);
	config_free(table, N_OPTIONS, &s);
}

static void bools_have_the_usual_words(void **state)
{
	static const char *const yes[] = {"yes", "true", "on", "1"};
	static const char *const no[] = {"no", "false", "off", "0"};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(yes); i++) {
		bool value = false;

		assert_int_equal(config_parse_bool(yes[i], &value, NULL), 0);
		assert_true(value);
		assert_int_equal(config_parse_bool(no[i], &value, NULL), 0);
		assert_false(value);
	}
}

static void a_bad_value_names_file_line_and_key(void **state)
{
	(void)state;
	fails_with("[main]\nname = x\nenabled = maybe\n",
	           "3: [main] enabled: expected yes or no, not \"maybe\"");
	fails_with("[main]\npath = y\nlanes = -1\n",
	           "3: [main] lanes: expected a whole number from 0 to 4294967295, not \"-1\"");
	fails_with("[main]\nlanes = 4294967296\n",
	           "2: [main] lanes: expected a whole number from 0 to 4294967295, not "
	           "\"4294967296\"");
	fails_with("[main]\nlanes =\n",
	           "2: [main] lanes: expected a whole number from 0 to 4294967295, not \"\"");
	fails_with("[limits]\nmemory = lots\n",
	           "2: [limits] memory: expected a size in bytes such as 4096, 64K, 512MiB, 2G or "
	           "1T, not \"lots\"");
	fails_with("\n\n[limits]\n\ntimeout = 1day\n",
	           "5: [limits] timeout: expected a duration such as 250us, 20ms, 5s, 2min or 1h, "
	           "not \"1day\"");
	fails_with("[limits]\nmode = 0888\n",
	           "2: [limits] mode: expected a file mode in octal such as 0660, not \"0888\"");
	fails_with("[limits]\nmode = 10000\n",
	           "2: [limits] mode: expected a file mode in octal such as 0660, not \"10000\"");
	fails_with("[log]\nlevel = loud\n",
	           "2: [log] level: expected error, warning, notice, info or debug, not \"loud\"");
	fails_with("[log]\ncolour = blue\n", "2: [log] colour: expected red, not \"blue\"");
}

static void a_value_that_does_not_fit_is_erange(void **state)
{
	struct settings s;
	struct error err = {0};

	(void)state;
	assert_int_equal(load("[limits]\nmemory = 99999999T\n", &s, &err), -ERANGE);
	assert_non_null(strstr(err.text, ":2: [limits] memory: expected a size"));
	assert_zero(&s);
}

static void unknown_names_are_refused(void **state)
{
	(void)state;
	fails_with("[main]\nnaem = x\n", "2: [main] naem: there is no such option");
	fails_with("[log]\nname = x\n", "2: [log] name: there is no such option");
	fails_with("name = x\n", "1: [] name: there is no such option");
	fails_with("[main]\nname = x\n[mian]\n", "3: [mian]: there is no such section");
}

static void the_first_bad_line_is_reported(void **state)
{
	(void)state;
	fails_with("[main]\nlanes = a\nlanes = b\nno equals sign\n",
	           "2: [main] lanes: expected a whole number from 0 to 4294967295, not \"a\"");
	fails_with("[main]\njust words\nlanes = b\n",
	           "2: expected [section], key = value or # comment");
	fails_with("[main\nlanes = 1\n", "1: expected [section], key = value or # comment");
}

static void an_indented_line_is_a_line_of_its_own(void **state)
{
	(void)state;
	fails_with("[main]\nname = x\n   lanes = many\n",
	           "3: [main] lanes: expected a whole number from 0 to 4294967295, not \"many\"");
}

static void long_lines_and_nuls_are_refused(void **state)
{
	static const char with_nul[] = "[main]\nname = a\0b\n";
	char line[10000] = "[main]\nname = ";
	struct settings s = {0};
	struct error err = {0};
	size_t used = strlen(line);

	(void)state;
	memset(line + used, 'a', 4096); /* as long as a path may be */
	assert_int_equal(load(line, &s, &err), 0);
	assert_int_equal(strlen(s.name), 4096);
	config_free(table, N_OPTIONS, &s);
	memset(line + used, 'a', sizeof(line) - used - 1);
	fails_with(line, "2: expected a line of at most 8191 bytes");
	memset(&s, 0, sizeof(s));
	write_bytes(with_nul, sizeof(with_nul) - 1);
	assert_int_equal(config_load(table, N_OPTIONS, path, &s, &err), -EINVAL);
	assert_non_null(strstr(err.text, ":2: a NUL byte"));
	assert_zero(&s);
}

static void what_cannot_be_read_is_said(void **state)
{
	struct settings s = {0};
	struct error err = {0};

	(void)state;
	assert_int_equal(config_load(table, N_OPTIONS, "/nonexistent/x.conf", &s, &err), -ENOENT);
	assert_string_equal(err.text, "cannot read /nonexistent/x.conf: No such file or directory");
	assert_zero(&s);
	assert_int_equal(config_load(table, N_OPTIONS, "/tmp", &s, &err), -EISDIR);
	assert_zero(&s);
}

static void a_bad_default_is_named(void **state)
{
	static const struct config_option bad[] = {
	        {"main", "lanes", config_parse_uint, 0, "x", true, NULL, ""}};
	unsigned lanes = 0;
	struct error err = {0};

	(void)state;
	assert_int_equal(config_load(bad, 1, NULL, &lanes, &err), -EINVAL);
	assert_memory_equal(err.text, "default of [main] lanes: expected", 33);
}

static const char *fixed_change(const char *old_text, const char *new_text)
{
	struct settings old_settings, new_settings;
	const struct config_option *option;

	assert_int_equal(load(old_text, &old_settings, NULL), 0);
	assert_int_equal(load(new_text, &new_settings, NULL), 0);
	option = config_first_fixed_change(table, N_OPTIONS, &old_settings, &new_settings);
	config_free(table, N_OPTIONS, &old_settings);
	config_free(table, N_OPTIONS, &new_settings);
	return option ? option->key : NULL;
}

static void a_reload_may_change_only_what_is_reloadable(void **state)
{
	(void)state;
	assert_null(
	        fixed_change("[main]\nname = a\npath = /x\n",
	                     "[main]\nname = b\npath = /x\nenabled = no\n[limits]\nmode = 0\n"));
	assert_string_equal(fixed_change("[main]\npath = /x\n", "[main]\npath = /y\n"), "path");
	assert_string_equal(fixed_change("", "[main]\npath = /y\n"), "path");
	assert_string_equal(fixed_change("[main]\npath =\n", ""), "path");
	assert_string_equal(fixed_change("", "[main]\nlanes = 5\n"), "lanes");
	assert_string_equal(fixed_change("", "[log]\ncolour = red\n"), "colour");
}

static int make_file(void **state)
{
	int fd = mkstemp(path);

	(void)state;
	if (fd < 0)
		return -1;
	return close(fd);
}

static int remove_file(void **state)
{
	(void)state;
	return unlink(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(defaults_alone),
	        cmocka_unit_test(every_parser_takes_its_value),
	        cmocka_unit_test(bools_have_the_usual_words),
	        cmocka_unit_test(a_bad_value_names_file_line_and_key),
	        cmocka_unit_test(a_value_that_does_not_fit_is_erange),
	        cmocka_unit_test(unknown_names_are_refused),
	        cmocka_unit_test(the_first_bad_line_is_reported),
	        cmocka_unit_test(an_indented_line_is_a_line_of_its_own),
	        cmocka_unit_test(long_lines_and_nuls_are_refused),
	        cmocka_unit_test(what_cannot_be_read_is_said),
	        cmocka_unit_test(a_bad_default_is_named),
	        cmocka_unit_test(a_reload_may_change_only_what_is_reloadable),
	};

	return cmocka_run_group_tests(tests, make_file, remove_file);
}
