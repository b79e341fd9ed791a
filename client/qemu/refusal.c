/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What this QEMU does that a migration by postcopyd does not permit. Called where
 * it is found; a destination does not live on after it.
 */
#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "client/qemu/qemu.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct error first; /* code 0: none */

/* One write(), for QEMU's other threads write there, too. */
static void text_write(const char *text)
{
	char line[ERROR_TEXT_MAX + 32];
	int len = snprintf(line, sizeof(line), "libpostcopy-qemu: %s\n", text);

	if (write(STDERR_FILENO, line, (size_t)len) < 0)
		return; /* nobody to tell */
}

void say(const char *fmt, ...)
{
	char text[ERROR_TEXT_MAX];
	va_list args;

	va_start(args, fmt);
	(void)vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	text_write(text);
}

void refuse(const char *fmt, ...)
{
	char text[ERROR_TEXT_MAX];
	va_list args;

	va_start(args, fmt);
	(void)vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	text_write(text);
	/* No atexit() handler of a half-started QEMU is wanted. */
	if (atomic_load(&command_line.waits))
		_exit(1);
	pthread_mutex_lock(&lock);
	if (first.code == 0)
		error_set(&first, -ENOTSUP, "%s", text);
	pthread_mutex_unlock(&lock);
}

int refusal_check(struct error *err)
{
	int r;

	pthread_mutex_lock(&lock);
	r = first.code == 0 ? 0 : error_set(err, first.code, "%s", first.text);
	pthread_mutex_unlock(&lock);
	return r;
}
