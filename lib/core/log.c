/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Logging for the programs; libpostcopy does not log, so no other file of core
 * calls this one. Each message is built on the stack and leaves in one call, so
 * that threads need no lock. errno is kept.
 */
#include "core/log.h"

#include "core/cleanup.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>

#define SD_JOURNAL_SUPPRESS_LOCATION /* it would name this file for every message */
#include <systemd/sd-journal.h>

#define MESSAGE_MAX 2048
#define FIELD_MAX 512 /* "NAME=value"; longer ones are cut */
#define FIELDS_MAX 16 /* in one message */

static struct {
	char ident[64];
	bool to_journal;
	int level; /* accessed atomically */
} state = {.level = LOG_INFO};

static const struct {
	const char *name;
	int level;
} level_names[] = {
        {"emerg", LOG_EMERG},   {"alert", LOG_ALERT}, {"crit", LOG_CRIT},
        {"error", LOG_ERR},     {"err", LOG_ERR},     {"warning", LOG_WARNING},
        {"notice", LOG_NOTICE}, {"info", LOG_INFO},   {"debug", LOG_DEBUG},
};

/* systemd names device and inode of the stream that it connected to the journal. */
static bool stderr_is_journal(void)
{
	const char *stream = getenv("JOURNAL_STREAM");
	char expected[64];
	struct stat st;

	if (!stream || fstat(STDERR_FILENO, &st) < 0)
		return false;
	(void)snprintf(expected, sizeof(expected), "%ju:%ju", (uintmax_t)st.st_dev,
	               (uintmax_t)st.st_ino);
	return strcmp(stream, expected) == 0;
}

void log_init(const char *ident, enum log_target target)
{
	(void)snprintf(state.ident, sizeof(state.ident), "%s", ident);
	state.to_journal =
	        target == LOG_TARGET_JOURNAL || (target == LOG_TARGET_AUTO && stderr_is_journal());
}

void log_set_level(int level)
{
	__atomic_store_n(&state.level, level, __ATOMIC_RELAXED);
}

int log_level(void)
{
	return __atomic_load_n(&state.level, __ATOMIC_RELAXED);
}

int log_level_parse(const char *text)
{
	for (size_t i = 0; i < ARRAY_SIZE(level_names); i++)
		if (strcmp(text, level_names[i].name) == 0)
			return level_names[i].level;
	return -EINVAL;
}

const char *log_number_u64(char buf[LOG_NUMBER_MAX], uint64_t value)
{
	(void)snprintf(buf, LOG_NUMBER_MAX, "%" PRIu64, value);
	return buf;
}

const char *log_number_hex(char buf[LOG_NUMBER_MAX], uint64_t value)
{
	(void)snprintf(buf, LOG_NUMBER_MAX, "0x%" PRIx64, value);
	return buf;
}

static bool field_is_empty(const struct log_field *field)
{
	return !field->value || !*field->value;
}

/* A line of text: fixed room, what does not fit is cut. */
struct line {
	size_t len;
	char text[MESSAGE_MAX + FIELDS_MAX * FIELD_MAX];
};

static void line_add(struct line *line, const char *text)
{
	size_t room = sizeof(line->text) - 1; /* 1: the newline */

	for (; *text && line->len < room; text++) {
		unsigned char c = (unsigned char)*text;

		/* A peer's text must neither start a line nor steer a terminal. */
		line->text[line->len++] = (char)(c < ' ' || c == 0x7f ? '?' : c);
	}
}

static void write_stderr(int level, const struct log_field *fields, size_t n_fields,
                         const char *message)
{
	struct line line = {.len = 0};
	char prefix[] = {'<', (char)('0' + level), '>', ' ', '\0'}; /* as sd-daemon(3) */

	line_add(&line, prefix);
	line_add(&line, message);
	for (size_t i = 0; i < n_fields; i++) {
		if (field_is_empty(&fields[i]))
			continue;
		line_add(&line, " ");
		line_add(&line, fields[i].name);
		line_add(&line, "=");
		line_add(&line, fields[i].value);
	}
	line.text[line.len++] = '\n';
	/* Nobody is left to be told when stderr itself fails. */
	ssize_t n = write(STDERR_FILENO, line.text, line.len);

	(void)n;
}

static struct iovec journal_entry(char *buf, size_t buf_len, const char *name, const char *value)
{
	int n = snprintf(buf, buf_len, "%s=%s", name, value);
	size_t len = n < 0 ? 0 : (size_t)n;

	return (struct iovec){.iov_base = buf, .iov_len = MIN(len, buf_len - 1)};
}

static int write_journal(int level, const struct log_field *fields, size_t n_fields,
                         const char *message)
{
	char text[MESSAGE_MAX + sizeof("MESSAGE=")];
	char priority[sizeof("PRIORITY=0")];
	char ident[sizeof(state.ident) + sizeof("SYSLOG_IDENTIFIER=")];
	char extra[FIELDS_MAX][FIELD_MAX];
	struct iovec iov[3 + FIELDS_MAX];
	char digit[] = {(char)('0' + level), '\0'};
	size_t n = 0;

	iov[n++] = journal_entry(text, sizeof(text), "MESSAGE", message);
	iov[n++] = journal_entry(priority, sizeof(priority), "PRIORITY", digit);
	iov[n++] = journal_entry(ident, sizeof(ident), "SYSLOG_IDENTIFIER", state.ident);
	for (size_t i = 0; i < n_fields; i++)
		if (!field_is_empty(&fields[i]))
			iov[n++] =
			        journal_entry(extra[i], FIELD_MAX, fields[i].name, fields[i].value);
	return sd_journal_sendv(iov, (int)n);
}

static void write_message(int level, const struct log_field *fields, size_t n_fields,
                          const char *fmt, va_list args)
{
	char message[MESSAGE_MAX];

	level = MIN(level, LOG_DEBUG); /* it becomes one digit */
	level = MAX(level, LOG_EMERG);
	if (vsnprintf(message, sizeof(message), fmt, args) < 0)
		message[0] = '\0';
	n_fields = MIN(n_fields, (size_t)FIELDS_MAX);
	if (!state.to_journal || write_journal(level, fields, n_fields, message) < 0)
		write_stderr(level, fields, n_fields, message);
}

void log_write(int level, const struct log_field *fields, size_t n_fields, const char *fmt, ...)
{
	int saved_errno = errno;
	va_list args;

	if (level > log_level())
		return;
	va_start(args, fmt);
	write_message(level, fields, n_fields, fmt, args);
	va_end(args);
	errno = saved_errno;
}

void log_event(int level, const char *message_id, const struct log_field *fields, size_t n_fields,
               const char *fmt, ...)
{
	struct log_field all[FIELDS_MAX] = {{"MESSAGE_ID", message_id}};
	int saved_errno = errno;
	va_list args;

	if (level > log_level())
		return;
	n_fields = MIN(n_fields, (size_t)FIELDS_MAX - 1);
	if (n_fields > 0)
		memcpy(all + 1, fields, n_fields * sizeof(*fields));
	va_start(args, fmt);
	write_message(level, all, n_fields + 1, fmt, args);
	va_end(args);
	errno = saved_errno;
}
