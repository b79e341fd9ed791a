/* SPDX-License-Identifier: Apache-2.0 */
/* A few lines on a terminal that are redrawn in place. Called by watch.c. */
#include "ctl/screen.h"

#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

bool screen_is_usable(int fd)
{
	const char *term = getenv("TERM");

	return isatty(fd) && term && *term && strcmp(term, "dumb") != 0;
}

size_t screen_width(int fd)
{
	struct winsize size;

	return ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

size_t screen_height(int fd)
{
	struct winsize size;

	return ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_row > 0 ? size.ws_row : 24;
}

void screen_rewind(struct screen *s, size_t width)
{
	size_t rows = 0;

	for (size_t i = 0; i < s->n_lines; i++)
		rows += s->lengths[i] == 0 ? 1 : (s->lengths[i] + width - 1) / width;
	if (rows > 0)
		fprintf(s->out, "\033[%zuA\r\033[J", rows);
	s->n_lines = 0;
}

void screen_line(struct screen *s, const char *text)
{
	if (s->n_lines == SCREEN_LINES_MAX)
		return;
	fprintf(s->out, "%s\n", text);
	s->lengths[s->n_lines++] = strlen(text);
}
