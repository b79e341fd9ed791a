/* SPDX-License-Identifier: Apache-2.0 */
/* Comparing secrets of migrations. */
#ifndef CORE_TOKEN_H
#define CORE_TOKEN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* In a time that does not tell how much of it is right. */
static inline bool token_equal(const uint8_t *a, size_t a_len, const uint8_t *b, size_t b_len)
{
	uint8_t difference = a_len != b_len;

	for (size_t i = 0; i < a_len && i < b_len; i++)
		difference |= a[i] ^ b[i];
	return difference == 0;
}

#endif
