/* SPDX-License-Identifier: Apache-2.0 */
/* Bytes as people write and pass them: two hexadecimal digits each, in either case. */
#ifndef CORE_HEX_H
#define CORE_HEX_H

#include <stddef.h>
#include <stdint.h>

/* Its value; -1: not a digit, in any locale. */
static inline int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/*
 * n_bytes from the digits of text, which has two for each. Returns how many characters
 * are digits, up to the first that is not: 2 * n_bytes when all are read.
 */
static inline size_t hex_read(const char *text, size_t n_bytes, uint8_t *ret)
{
	for (size_t i = 0; i < n_bytes; i++) {
		int high = hex_digit(text[2 * i]), low = high < 0 ? -1 : hex_digit(text[2 * i + 1]);

		if (low < 0)
			return high < 0 ? 2 * i : 2 * i + 1;
		ret[i] = (uint8_t)(high << 4 | low);
	}
	return 2 * n_bytes;
}

/* Two digits a byte and a NUL: ret has room for 2 * n_bytes + 1. */
static inline void hex_write(const uint8_t *bytes, size_t n_bytes, char *ret)
{
	static const char digits[] = "0123456789abcdef";

	for (size_t i = 0; i < n_bytes; i++) {
		ret[2 * i] = digits[bytes[i] >> 4];
		ret[2 * i + 1] = digits[bytes[i] & 15];
	}
	ret[2 * n_bytes] = '\0';
}

#endif
