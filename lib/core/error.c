/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Error texts. Every layer fills them; nothing here allocates, and a text is
 * formatted aside first, so that a caller may use err->text as an argument.
 */
#include "core/error.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

static void text_format(char text[ERROR_TEXT_MAX], const char *fmt, va_list args)
        __attribute__((format(printf, 2, 0)));

static void text_format(char text[ERROR_TEXT_MAX], const char *fmt, va_list args)
{
	if (vsnprintf(text, ERROR_TEXT_MAX, fmt, args) < 0)
		text[0] = '\0';
}

/* Append as much of more as fits. */
static void text_append(char text[ERROR_TEXT_MAX], const char *more)
{
	size_t used = strlen(text);
	size_t n = strnlen(more, ERROR_TEXT_MAX - 1 - used);

	memcpy(text + used, more, n);
	text[used + n] = '\0';
}

static void error_store(struct error *err, int code, const char text[ERROR_TEXT_MAX])
{
	err->code = code;
	memcpy(err->text, text, ERROR_TEXT_MAX);
}

int error_set(struct error *err, int code, const char *fmt, ...)
{
	char text[ERROR_TEXT_MAX] = "";
	va_list args;

	assert(code < 0);
	if (!err)
		return code;
	va_start(args, fmt);
	text_format(text, fmt, args);
	va_end(args);
	error_store(err, code, text);
	return code;
}

int error_set_errno(struct error *err, int code, const char *fmt, ...)
{
	char text[ERROR_TEXT_MAX] = "";
	const char *name = strerrordesc_np(-code); /* unlike strerror(), safe in threads */
	va_list args;

	assert(code < 0);
	if (!err)
		return code;
	va_start(args, fmt);
	text_format(text, fmt, args);
	va_end(args);
	text_append(text, ": ");
	text_append(text, name ? name : "unknown error");
	error_store(err, code, text);
	return code;
}

/*
 * A caller that returns our result must never turn its failure into success:
 * where no code is known, because err is NULL or was never set, it is -EIO.
 */
int error_prefix(struct error *err, const char *fmt, ...)
{
	char text[ERROR_TEXT_MAX] = "";
	va_list args;

	if (!err)
		return -EIO;
	va_start(args, fmt);
	text_format(text, fmt, args);
	va_end(args);
	text_append(text, ": ");
	text_append(text, err->text);
	error_store(err, err->code < 0 ? err->code : -EIO, text);
	return err->code;
}
