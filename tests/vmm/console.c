/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guest's console; called by the vCPU threads. Always holds: `line` is NUL
 * terminated and has no newline in it.
 */
#include "vmm/console.h"

#include <stdlib.h>
#include <string.h>

#include "vmm/vmm.h"

void console_setup(struct console *c)
{
	*c = (struct console){.n_lines = 0};
	pthread_mutex_init(&c->lock, NULL);
}

void console_free(struct console *c)
{
	for (size_t i = 0; i < c->n_lines; i++)
		free(c->lines[i]);
	free(c->lines);
	pthread_mutex_destroy(&c->lock);
}

/* A test's guest says little: one allocation a line. */
static void line_keep(struct console *c)
{
	char **lines = realloc(c->lines, (c->n_lines + 1) * sizeof(*lines));
	char *copy = strdup(c->line);

	if (!lines || !copy)
		abort();
	c->lines = lines;
	c->lines[c->n_lines++] = copy;
	driven_event("console", "%s", copy);
	c->line[0] = '\0';
}

void console_put(struct console *c, char character)
{
	size_t length;

	pthread_mutex_lock(&c->lock);
	length = strlen(c->line);
	if (character == '\n') {
		line_keep(c);
	} else if (length < sizeof(c->line) - 1) {
		c->line[length] = character;
		c->line[length + 1] = '\0';
	}
	pthread_mutex_unlock(&c->lock);
}
