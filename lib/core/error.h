/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An error that a person can act on: a negative errno and one sentence that
 * says what was wrong and, where there is one, what to do about it.
 *
 * Leaves fill it and return the code; the caller that can act logs it once or
 * sends it to the peer concerned. All functions accept err == NULL.
 */
#ifndef CORE_ERROR_H
#define CORE_ERROR_H

#include <stdarg.h>
#include <stddef.h>

#define ERROR_TEXT_MAX 384

struct error {
	int code; /* negative errno, 0 while nothing went wrong */
	char text[ERROR_TEXT_MAX];
};

/* Set and return code (a negative errno). Long texts are cut at the end. */
int error_set(struct error *err, int code, const char *fmt, ...)
        __attribute__((format(printf, 3, 4)));

/* The same, with ": strerror(-code)" appended. */
int error_set_errno(struct error *err, int code, const char *fmt, ...)
        __attribute__((format(printf, 3, 4)));

/* Put "fmt: " before the text that is already there. Returns err->code. */
int error_prefix(struct error *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
