/* SPDX-License-Identifier: Apache-2.0 */
/* A few lines on a terminal that are redrawn in place. */
#ifndef CTL_SCREEN_H
#define CTL_SCREEN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#define SCREEN_LINES_MAX 512

struct screen {
	FILE *out;
	size_t lengths[SCREEN_LINES_MAX]; /* of the lines drawn last, in columns */
	size_t n_lines;
};

/* A terminal that understands cursor movement (TERM is set and not "dumb"). */
bool screen_is_usable(int fd);

/* Columns of the terminal, 80 when it does not say. */
size_t screen_width(int fd);
size_t screen_height(int fd);

/*
 * Move to the first line drawn last and clear from there. Lines wider than the
 * terminal is now (it was made narrower) count as the rows that they take.
 */
void screen_rewind(struct screen *s, size_t width);

/* Draw one more line; those beyond SCREEN_LINES_MAX are left out. */
void screen_line(struct screen *s, const char *text);

#endif
