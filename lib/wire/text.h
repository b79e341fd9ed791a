/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Private to lib/wire: what strings may hold, checked in both directions.
 */
#ifndef WIRE_TEXT_H
#define WIRE_TEXT_H

#include <stddef.h>

#include "core/error.h"

enum text_rule {
	TEXT_FREE,    /* UTF-8 without control characters; may be empty */
	TEXT_GRAPHIC, /* printable ASCII without spaces; may be empty */
	TEXT_NAME,    /* 1 or more of [A-Za-z0-9._:/-] */
};

/*
 * Check the len bytes at s against the rule and cap (with the final NUL).
 * -EBADMSG with a text that begins with field. err may be NULL.
 */
int text_check(const char *s, size_t len, size_t cap, enum text_rule rule, const char *field,
               struct error *err);

/* The same for a string unpacked into an arena, and copy it to ret[cap]. */
int text_get(const char *s, size_t cap, enum text_rule rule, const char *field, char *ret,
             struct error *err);

/*
 * Copy a text of our own, in an array of cap bytes, to ret[cap] so that
 * text_check() with TEXT_FREE accepts it: what does not fit the rule becomes '?'.
 */
void text_clean(const char *s, size_t cap, char *ret);

/* The length of the string in an array of cap bytes, or -EINVAL when it breaks the rule. */
int text_own_check(const char *s, size_t cap, enum text_rule rule);

#endif
