/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A bitmap of fixed length over 64-bit words, little-endian bit order, so that
 * its words can go on the wire as they are.
 *
 * The _atomic functions may be called from any thread at any time; the others
 * need the caller to be alone with the bitmap.
 */
#ifndef CORE_BITMAP_H
#define CORE_BITMAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/cleanup.h"

struct bitmap {
	uint64_t n_bits;
	uint64_t *words;
};

/* All bits clear. -ENOMEM. */
int bitmap_new(uint64_t n_bits, struct bitmap **ret);
struct bitmap *bitmap_free(struct bitmap *b); /* always NULL */
DEFINE_CLEANUP(struct bitmap, bitmap_free)

/* Bytes that n_bits take on the wire: whole bytes, the last one zero-padded. */
static inline size_t bitmap_bytes(uint64_t n_bits)
{
	return (size_t)((n_bits + 7) / 8);
}

/* Of the range's bits those that lie in the word of bit first, and in *ret_n how many these are. */
static inline uint64_t bitmap_word_mask(uint64_t first, uint64_t count, uint64_t *ret_n)
{
	unsigned shift = first % 64;
	uint64_t n = MIN((uint64_t)(64 - shift), count);

	*ret_n = n;
	return (n == 64 ? UINT64_MAX : (UINT64_C(1) << n) - 1) << shift;
}

bool bitmap_test(const struct bitmap *b, uint64_t bit);
void bitmap_set_range(struct bitmap *b, uint64_t first, uint64_t count);
void bitmap_clear_range(struct bitmap *b, uint64_t first, uint64_t count);

/* The first set (clear) bit at or after from; n_bits if there is none. */
uint64_t bitmap_next_set(const struct bitmap *b, uint64_t from);
uint64_t bitmap_next_clear(const struct bitmap *b, uint64_t from);
uint64_t bitmap_count(const struct bitmap *b);

/* Set from / read into wire bytes; bit i of the bytes is bit first + i. */
void bitmap_import(struct bitmap *b, uint64_t first, uint64_t count, const uint8_t *bytes);
void bitmap_export(const struct bitmap *b, uint64_t first, uint64_t count, uint8_t *bytes);

/* Atomically clear; true if the bit was set. */
bool bitmap_test_and_clear_atomic(struct bitmap *b, uint64_t bit);
/* Atomically set; true if the bit was set before. */
bool bitmap_test_and_set_atomic(struct bitmap *b, uint64_t bit);
bool bitmap_test_atomic(const struct bitmap *b, uint64_t bit);

#endif
