/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guest's console, a device of this VMM: characters in, lines out, as
 * "console TEXT" events and kept for later. Its state, the line that is not
 * ended yet, migrates.
 */
#ifndef VMM_CONSOLE_H
#define VMM_CONSOLE_H

#include <pthread.h>
#include <stddef.h>

#define CONSOLE_LINE_MAX 200

struct console {
	pthread_mutex_t lock; /* several vCPUs write */
	char line[CONSOLE_LINE_MAX];
	char **lines;
	size_t n_lines;
};

void console_setup(struct console *c);
void console_free(struct console *c);
void console_put(struct console *c, char character);

#endif
