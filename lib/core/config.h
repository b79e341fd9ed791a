/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Configuration from an INI file (inih), driven by one table an option a row:
 * name, parser, default, reloadable, unit.
 *
 * A load fills a whole new object from the defaults and the file and reports
 * the first bad line as "FILE:LINE: [section] key: what was expected"; the
 * caller swaps the object in only when the load succeeded.
 */
#ifndef CORE_CONFIG_H
#define CORE_CONFIG_H

#include <stdbool.h>
#include <stddef.h>

#include "core/error.h"

/*
 * Parse value into the field at dest. 0 or -errno with err->text = "expected ...".
 * Besides the parsers below a program may have its own, whose field is then an
 * int or enum.
 */
typedef int (*config_parse_fn)(const char *value, void *dest, struct error *err);

struct config_option {
	const char *section;
	const char *key;
	config_parse_fn parse;
	size_t offset;             /* of the field in the caller's struct */
	const char *default_value; /* parsed like a value from the file; NULL: leave zero */
	bool reloadable;           /* may change on SIGHUP */
	const char *unit;          /* "bytes", "us", NULL */
	const char *help;          /* one line */
};

/* A row of the table for a field of the given struct. */
#define CONFIG_OPTION(type, section, key, parser, field, value, may_reload, unit_name, text)    \
	{                                                                                       \
		section, key, parser, offsetof(type, field), value, may_reload, unit_name, text \
	}

/* Parsers. Strings are malloc()ed char * fields, released by config_free(). */
int config_parse_string(const char *value, void *dest, struct error *err);     /* char * */
int config_parse_bool(const char *value, void *dest, struct error *err);       /* bool */
int config_parse_uint(const char *value, void *dest, struct error *err);       /* unsigned */
int config_parse_bytes(const char *value, void *dest, struct error *err);      /* uint64_t */
int config_parse_duration(const char *value, void *dest, struct error *err);   /* uint64_t us */
int config_parse_cpus(const char *value, void *dest, struct error *err);       /* cpu_list */
int config_parse_mode(const char *value, void *dest, struct error *err);       /* mode_t, octal */
int config_parse_log_level(const char *value, void *dest, struct error *err);  /* int */
int config_parse_log_target(const char *value, void *dest, struct error *err); /* int */

/*
 * Fill *object (zeroed by the caller, all of the table's fields) with the
 * defaults, then with the file; path NULL means defaults only. On failure all
 * strings are released again and *object is zero. -ENOENT when there is no
 * such file; an unknown section or key is an error (it is likely a typo).
 */
int config_load(const struct config_option *table, size_t n_options, const char *path, void *object,
                struct error *err);

/* Release the strings of the table's fields and set them NULL. */
void config_free(const struct config_option *table, size_t n_options, void *object);

/*
 * Name the first option that differs between the two objects and is not
 * reloadable; NULL if a reload may swap them.
 */
const struct config_option *config_first_fixed_change(const struct config_option *table,
                                                      size_t n_options, const void *old_object,
                                                      const void *new_object);

/* -EINVAL with the name of that option when there is one. */
int config_check_reload(const struct config_option *table, size_t n_options, const void *old_object,
                        const void *new_object, struct error *err);

/* Replace a string by what the command line gives; NULL: nothing is given. */
int config_override(char **field, const char *value, struct error *err);

#endif
