/* SPDX-License-Identifier: Apache-2.0 */
/* A migration's identity: a UUID in its 16-byte and its 36-character form. */
#ifndef CORE_UUID_H
#define CORE_UUID_H

#include <stdbool.h>
#include <stdint.h>

#define UUID_TEXT_LEN 37 /* with the final NUL */

struct uuid {
	uint8_t bytes[16];
};

/* -EINVAL unless text is exactly 8-4-4-4-12 hexadecimal digits. */
int uuid_parse(const char *text, struct uuid *ret);

/* Lower case, into buf of UUID_TEXT_LEN bytes; returns buf. */
const char *uuid_format(const struct uuid *id, char buf[UUID_TEXT_LEN]);

bool uuid_equal(const struct uuid *a, const struct uuid *b);

/* A random (version 4) UUID from getrandom(). 0 or -errno. */
int uuid_random(struct uuid *ret);

#endif
