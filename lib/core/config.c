/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Configuration files, for the daemons at start and on SIGHUP. inih splits the
 * lines; we hand them to it one by one, which gives every message its line
 * number, and check what it lets pass: unknown sections, long lines, NULs.
 */
#include "core/config.h"

#include "core/cleanup.h"
#include "core/config_value.h"

#include <errno.h>
#include <ini.h>
#include <stdio.h>
#include <string.h>

/* Longer than any path and most lists; inih's default is 200. */
#define LINE_MAX_BYTES 8192

/* One load. The first error wins; what inih still reports after it is skipped. */
struct load {
	const struct config_option *table;
	size_t n_options;
	void *object;
	FILE *file;
	char *line;
	size_t line_size;
	unsigned line_number;
	unsigned error_line; /* 0: none */
	struct error error;
};

static void *field_of(const struct config_option *option, void *object)
{
	return (char *)object + option->offset;
}

static const void *const_field_of(const struct config_option *option, const void *object)
{
	return (const char *)object + option->offset;
}

static bool section_known(const struct load *load, const char *section, size_t len)
{
	for (size_t i = 0; i < load->n_options; i++)
		if (strlen(load->table[i].section) == len &&
		    strncmp(load->table[i].section, section, len) == 0)
			return true;
	return false;
}

static const struct config_option *option_find(const struct load *load, const char *section,
                                               const char *key)
{
	for (size_t i = 0; i < load->n_options; i++)
		if (strcmp(load->table[i].section, section) == 0 &&
		    strcmp(load->table[i].key, key) == 0)
			return &load->table[i];
	return NULL;
}

/* Remember where the first error is; its text is in load->error. */
static int load_fail(struct load *load)
{
	load->error_line = load->line_number;
	return 0; /* inih's word for failure */
}

static int on_value(void *user, const char *section, const char *key, const char *value)
{
	struct load *load = user;
	const struct config_option *option = option_find(load, section, key);

	if (load->error_line)
		return 0;
	if (!option) {
		error_set(&load->error, -EINVAL, "[%s] %s: there is no such option", section, key);
		return load_fail(load);
	}
	if (option->parse(value ? value : "", field_of(option, load->object), &load->error) < 0) {
		error_prefix(&load->error, "[%s] %s", section, key);
		return load_fail(load);
	}
	return 1;
}

/* What inih would let pass or misread. */
static int line_check(struct load *load, const char *line, size_t len, size_t room)
{
	const char *end;

	if (strlen(line) != len)
		return error_set(&load->error, -EINVAL,
		                 "a NUL byte: expected a text file of [section] and key = value");
	if (len >= room)
		return error_set(&load->error, -EINVAL, "expected a line of at most %zu bytes",
		                 room - 1);
	if (line[0] != '[')
		return 0;
	end = strchr(line, ']');
	if (end && !section_known(load, line + 1, (size_t)(end - line - 1)))
		return error_set(&load->error, -EINVAL, "[%.*s]: there is no such section",
		                 (int)(end - line - 1), line + 1);
	return 0;
}

/* ini_reader: like fgets(). NULL ends the file, also after an error. */
static char *read_line(char *buf, int buf_len, void *stream)
{
	struct load *load = stream;
	ssize_t len;

	if (load->error_line)
		return NULL;
	len = getline(&load->line, &load->line_size, load->file);
	if (len < 0)
		return NULL;
	load->line_number++;
	/* inih takes an indented line for more of the value before; we do not. */
	size_t blanks = strspn(load->line, " \t");

	if (line_check(load, load->line + blanks, (size_t)len - blanks, (size_t)buf_len) < 0) {
		load_fail(load);
		return NULL;
	}
	return memcpy(buf, load->line + blanks, (size_t)len - blanks + 1);
}

static int load_file(struct load *load, const char *path, struct error *err)
{
	int r;

	load->file = fopen(path, "re");
	if (!load->file)
		return error_set_errno(err, -errno, "cannot read %s", path);
	ini_max_line = LINE_MAX_BYTES; /* a global of inih, used by nobody else */
	r = ini_parse_stream(read_line, load, on_value, load);
	int read_error = ferror(load->file) ? errno : 0;

	(void)fclose(load->file);
	free(load->line);
	if (read_error)
		return error_set_errno(err, -read_error, "cannot read %s", path);
	if (r < 0)
		return error_set(err, -ENOMEM, "not enough memory to read %s", path);
	if (r > 0 && (!load->error_line || (unsigned)r < load->error_line))
		return error_set(err, -EINVAL,
		                 "%s:%d: expected [section], key = value or # comment", path, r);
	if (load->error_line)
		return error_set(err, load->error.code, "%s:%u: %s", path, load->error_line,
		                 load->error.text);
	return 0;
}

static int load_defaults(const struct load *load, struct error *err)
{
	for (size_t i = 0; i < load->n_options; i++) {
		const struct config_option *option = &load->table[i];

		if (!option->default_value)
			continue;
		int r = option->parse(option->default_value, field_of(option, load->object), err);

		if (r < 0) {
			(void)error_prefix(err, "default of [%s] %s", option->section, option->key);
			return r;
		}
	}
	return 0;
}

int config_load(const struct config_option *table, size_t n_options, const char *path, void *object,
                struct error *err)
{
	struct load load = {.table = table, .n_options = n_options, .object = object};
	int r = load_defaults(&load, err);

	if (r == 0 && path)
		r = load_file(&load, path, err);
	if (r < 0) {
		config_free(table, n_options, object);
		for (size_t i = 0; i < n_options; i++)
			memset(field_of(&table[i], object), 0, config_value_size(table[i].parse));
	}
	return r;
}

void config_free(const struct config_option *table, size_t n_options, void *object)
{
	for (size_t i = 0; i < n_options; i++) {
		if (table[i].parse != config_parse_string)
			continue;
		char **field = field_of(&table[i], object);

		free(*field);
		*field = NULL;
	}
}

static bool value_equal(const struct config_option *option, const void *a, const void *b)
{
	if (option->parse != config_parse_string)
		return memcmp(a, b, config_value_size(option->parse)) == 0;
	const char *text_a = *(char *const *)a;
	const char *text_b = *(char *const *)b;

	return text_a && text_b ? strcmp(text_a, text_b) == 0 : text_a == text_b;
}

const struct config_option *config_first_fixed_change(const struct config_option *table,
                                                      size_t n_options, const void *old_object,
                                                      const void *new_object)
{
	for (size_t i = 0; i < n_options; i++)
		if (!table[i].reloadable &&
		    !value_equal(&table[i], const_field_of(&table[i], old_object),
		                 const_field_of(&table[i], new_object)))
			return &table[i];
	return NULL;
}

int config_check_reload(const struct config_option *table, size_t n_options, const void *old_object,
                        const void *new_object, struct error *err)
{
	const struct config_option *fixed =
	        config_first_fixed_change(table, n_options, old_object, new_object);

	if (!fixed)
		return 0;
	return error_set(err, -EINVAL, "[%s] %s has changed: that needs a restart", fixed->section,
	                 fixed->key);
}

int config_override(char **field, const char *value, struct error *err)
{
	return value ? config_parse_string(value, field, err) : 0;
}
