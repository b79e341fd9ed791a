/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The progress of a migration as text, for watch: a block of lines for a
 * terminal of some width, or one plain line. Pure.
 */
#ifndef CTL_PROGRESS_H
#define CTL_PROGRESS_H

#include <stdbool.h>
#include <stddef.h>

#include "wire/control_message.h"

#define PROGRESS_WIDTH_MIN 20
#define PROGRESS_WIDTH_MAX 200
#define PROGRESS_LINES 6

struct progress_block {
	char lines[PROGRESS_LINES][PROGRESS_WIDTH_MAX + 1];
	size_t n_lines;
};

/*
 * No line is longer than width (cut to the limits above): what does not fit is
 * left out, the less important first.
 */
void progress_format_block(const struct control_migration *m, size_t width,
                           struct progress_block *ret);

/* "ID STATE 41.2% key=value ...", without a newline; cut at buf_len. */
void progress_format_line(const struct control_migration *m, char *buf, size_t buf_len);

/* Nothing follows this state; *ret_success: the guest has all its memory (or gave it away whole). */
bool progress_state_is_final(const char *state, bool *ret_success);

#endif
