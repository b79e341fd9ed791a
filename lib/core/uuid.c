/* SPDX-License-Identifier: Apache-2.0 */
/* UUIDs of migrations, parsed from clients and peers: the text is not trusted. */
#include "core/uuid.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>

#include "core/hex.h"

/* A hyphen stands before these bytes: 8-4-4-4-12 digits. */
static bool hyphen_before(size_t byte)
{
	return byte == 4 || byte == 6 || byte == 8 || byte == 10;
}

int uuid_parse(const char *text, struct uuid *ret)
{
	struct uuid id;

	if (!text || strnlen(text, UUID_TEXT_LEN) != UUID_TEXT_LEN - 1)
		return -EINVAL;
	for (size_t i = 0; i < sizeof(id.bytes); i++) {
		if (hyphen_before(i) && *text++ != '-')
			return -EINVAL;
		if (hex_read(text, 1, &id.bytes[i]) != 2)
			return -EINVAL;
		text += 2;
	}
	*ret = id;
	return 0;
}

const char *uuid_format(const struct uuid *id, char buf[UUID_TEXT_LEN])
{
	static const char digits[] = "0123456789abcdef";
	char *p = buf;

	for (size_t i = 0; i < sizeof(id->bytes); i++) {
		if (hyphen_before(i))
			*p++ = '-';
		*p++ = digits[id->bytes[i] >> 4];
		*p++ = digits[id->bytes[i] & 15];
	}
	*p = '\0';
	return buf;
}

bool uuid_equal(const struct uuid *a, const struct uuid *b)
{
	return memcmp(a->bytes, b->bytes, sizeof(a->bytes)) == 0;
}

int uuid_random(struct uuid *ret)
{
	struct uuid id;
	ssize_t n;

	/* Up to 256 bytes come whole; only the wait for the seed can be interrupted. */
	do {
		n = getrandom(id.bytes, sizeof(id.bytes), 0);
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	if ((size_t)n != sizeof(id.bytes))
		return -EIO;
	id.bytes[6] = (uint8_t)((id.bytes[6] & 0x0f) | 0x40); /* version 4 */
	id.bytes[8] = (uint8_t)((id.bytes[8] & 0x3f) | 0x80); /* RFC 4122 variant */
	*ret = id;
	return 0;
}
