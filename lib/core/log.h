/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Logging to the journal with structured fields, or to stderr.
 *
 * Messages never contain guest memory. Non-fatal messages end in "ignoring" or
 * "retrying". Thread-safe; a message is one write.
 */
#ifndef CORE_LOG_H
#define CORE_LOG_H

#include <stddef.h>
#include <stdint.h>
#include <syslog.h>

enum log_target {
	LOG_TARGET_AUTO,    /* journal if stderr is connected to it, else stderr */
	LOG_TARGET_JOURNAL, /* sd_journal_sendv() */
	LOG_TARGET_STDERR,  /* "<level> text FIELD=value ..." on one line */
};

/*
 * A field in the journal's naming rules: "MIGRATION_ID", "PEER", "PAGE_OFFSET".
 * One whose value is NULL or empty is left out; long values are cut.
 */
struct log_field {
	const char *name;
	const char *value;
};

/* Two arguments of log_event() and log_write(): LOG_FIELDS({"PEER", name}, {"LANE", LOG_U64(3)}) */
#define LOG_FIELDS(...)                          \
	(const struct log_field[]){__VA_ARGS__}, \
	        sizeof((const struct log_field[]){__VA_ARGS__}) / sizeof(struct log_field)

/* A number as a field's value, good until the end of the block: "4096", "0x1000". */
#define LOG_NUMBER_MAX 24
#define LOG_U64(value) log_number_u64((char[LOG_NUMBER_MAX]){0}, (value))
#define LOG_HEX(value) log_number_hex((char[LOG_NUMBER_MAX]){0}, (value))
const char *log_number_u64(char buf[LOG_NUMBER_MAX], uint64_t value);
const char *log_number_hex(char buf[LOG_NUMBER_MAX], uint64_t value);

/* Once at program start, before threads. ident is SYSLOG_IDENTIFIER. */
void log_init(const char *ident, enum log_target target);

/* Messages above this syslog level are dropped. Default LOG_INFO. Any thread. */
void log_set_level(int level);
int log_level(void);

/* "error", "warning", "info", "debug" ... to a syslog level; -EINVAL. */
int log_level_parse(const char *text);

void log_write(int level, const struct log_field *fields, size_t n_fields, const char *fmt, ...)
        __attribute__((format(printf, 4, 5)));

/*
 * An event of a kind that operators and programs look for: message_id is one of
 * core/message_ids.h, and becomes the field MESSAGE_ID. NULL: of no such kind.
 */
void log_event(int level, const char *message_id, const struct log_field *fields, size_t n_fields,
               const char *fmt, ...) __attribute__((format(printf, 5, 6)));

#define log_error(...) log_write(LOG_ERR, NULL, 0, __VA_ARGS__)
#define log_warning(...) log_write(LOG_WARNING, NULL, 0, __VA_ARGS__)
#define log_notice(...) log_write(LOG_NOTICE, NULL, 0, __VA_ARGS__)
#define log_info(...) log_write(LOG_INFO, NULL, 0, __VA_ARGS__)
#define log_debug(...) log_write(LOG_DEBUG, NULL, 0, __VA_ARGS__)

/* The same with one structured field, the usual case: MIGRATION_ID. */
#define log_migration(level, id_text, ...) \
	log_write(level, (const struct log_field[]){{"MIGRATION_ID", (id_text)}}, 1, __VA_ARGS__)

#endif
