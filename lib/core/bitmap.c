/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bitmaps: what is still missing (Resume), what has been sent, what is wanted.
 * Bits past n_bits in the last word are always zero. Ranges outside the bitmap
 * are bugs of the caller, who checks what came from a peer.
 */
#include "core/bitmap.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define WORD_BITS 64

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the words are wire format");

static uint64_t n_words(uint64_t n_bits)
{
	return n_bits / WORD_BITS + (n_bits % WORD_BITS != 0);
}

int bitmap_new(uint64_t n_bits, struct bitmap **ret)
{
	struct bitmap *b = calloc(1, sizeof(*b));

	if (!b)
		return -ENOMEM;
	b->n_bits = n_bits;
	b->words = calloc(n_bits ? n_words(n_bits) : 1, sizeof(*b->words));
	if (!b->words) {
		bitmap_free(b);
		return -ENOMEM;
	}
	*ret = b;
	return 0;
}

struct bitmap *bitmap_free(struct bitmap *b)
{
	if (b)
		free(b->words);
	free(b);
	return NULL;
}

/* The n lowest bits, 1 <= n <= 64. */
static uint64_t low_mask(uint64_t n)
{
	/* cppcheck-suppress shiftTooManyBits ; n is at least 1 */
	return UINT64_MAX >> (WORD_BITS - n);
}

static uint64_t bit_mask(uint64_t bit)
{
	return UINT64_C(1) << (bit % WORD_BITS);
}

static void assert_range(const struct bitmap *b, uint64_t first, uint64_t count)
{
	assert(first <= b->n_bits && count <= b->n_bits - first);
	(void)b;
	(void)first;
	(void)count;
}

bool bitmap_test(const struct bitmap *b, uint64_t bit)
{
	assert_range(b, bit, 1);
	return (b->words[bit / WORD_BITS] & bit_mask(bit)) != 0;
}

/* Write all bits of the range with fill, zero or all ones, a word at a time. */
static void fill_range(struct bitmap *b, uint64_t first, uint64_t count, uint64_t fill)
{
	assert_range(b, first, count);
	while (count > 0) {
		uint64_t shift = first % WORD_BITS;
		uint64_t n = MIN(count, WORD_BITS - shift);
		uint64_t mask = low_mask(n) << shift;
		uint64_t *word = &b->words[first / WORD_BITS];

		*word = (*word & ~mask) | (fill & mask);
		first += n;
		count -= n;
	}
}

void bitmap_set_range(struct bitmap *b, uint64_t first, uint64_t count)
{
	fill_range(b, first, count, UINT64_MAX);
}

void bitmap_clear_range(struct bitmap *b, uint64_t first, uint64_t count)
{
	fill_range(b, first, count, 0);
}

/* The first bit at or after from that is set once each word is XORed with flip. */
static uint64_t next_bit(const struct bitmap *b, uint64_t from, uint64_t flip)
{
	uint64_t mask = UINT64_MAX << (from % WORD_BITS);

	if (from >= b->n_bits)
		return b->n_bits;
	for (uint64_t i = from / WORD_BITS; i < n_words(b->n_bits); i++) {
		uint64_t found = (b->words[i] ^ flip) & mask;

		if (found) /* the padding of the last word, being clear, is bit n_bits at most */
			return i * WORD_BITS + (uint64_t)__builtin_ctzll(found);
		mask = UINT64_MAX;
	}
	return b->n_bits;
}

uint64_t bitmap_next_set(const struct bitmap *b, uint64_t from)
{
	return next_bit(b, from, 0);
}

uint64_t bitmap_next_clear(const struct bitmap *b, uint64_t from)
{
	return next_bit(b, from, UINT64_MAX);
}

uint64_t bitmap_count(const struct bitmap *b)
{
	uint64_t count = 0;

	for (uint64_t i = 0; i < n_words(b->n_bits); i++)
		count += (uint64_t)__builtin_popcountll(b->words[i]);
	return count;
}

/* n bits from bit on, 1 <= n <= 64: they may straddle two words. */
static uint64_t get_bits(const struct bitmap *b, uint64_t bit, uint64_t n)
{
	uint64_t shift = bit % WORD_BITS;
	const uint64_t *word = &b->words[bit / WORD_BITS];
	uint64_t value = word[0] >> shift;

	if (shift + n > WORD_BITS)
		value |= word[1] << (WORD_BITS - shift);
	return value & low_mask(n);
}

static void put_bits(struct bitmap *b, uint64_t bit, uint64_t n, uint64_t value)
{
	uint64_t shift = bit % WORD_BITS;
	uint64_t *word = &b->words[bit / WORD_BITS];

	value &= low_mask(n);
	word[0] = (word[0] & ~(low_mask(n) << shift)) | (value << shift);
	if (shift + n > WORD_BITS)
		word[1] = (word[1] & ~(low_mask(n) >> (WORD_BITS - shift))) |
		          (value >> (WORD_BITS - shift));
}

void bitmap_import(struct bitmap *b, uint64_t first, uint64_t count, const uint8_t *bytes)
{
	assert_range(b, first, count);
	for (uint64_t done = 0; done < count; done += WORD_BITS) {
		uint64_t n = MIN(count - done, (uint64_t)WORD_BITS);
		uint64_t value = 0;

		memcpy(&value, bytes + done / 8, bitmap_bytes(n));
		put_bits(b, first + done, n, value);
	}
}

void bitmap_export(const struct bitmap *b, uint64_t first, uint64_t count, uint8_t *bytes)
{
	assert_range(b, first, count);
	for (uint64_t done = 0; done < count; done += WORD_BITS) {
		uint64_t n = MIN(count - done, (uint64_t)WORD_BITS);
		uint64_t value = get_bits(b, first + done, n);

		memcpy(bytes + done / 8, &value, bitmap_bytes(n));
	}
}

/*
 * Acquire and release: who sees a bit change also sees what was written before
 * the change.
 */
bool bitmap_test_and_clear_atomic(struct bitmap *b, uint64_t bit)
{
	assert_range(b, bit, 1);
	uint64_t old =
	        __atomic_fetch_and(&b->words[bit / WORD_BITS], ~bit_mask(bit), __ATOMIC_ACQ_REL);

	return (old & bit_mask(bit)) != 0;
}

bool bitmap_test_and_set_atomic(struct bitmap *b, uint64_t bit)
{
	assert_range(b, bit, 1);
	uint64_t old =
	        __atomic_fetch_or(&b->words[bit / WORD_BITS], bit_mask(bit), __ATOMIC_ACQ_REL);

	return (old & bit_mask(bit)) != 0;
}

bool bitmap_test_atomic(const struct bitmap *b, uint64_t bit)
{
	assert_range(b, bit, 1);
	uint64_t word = __atomic_load_n(&b->words[bit / WORD_BITS], __ATOMIC_ACQUIRE);

	return (word & bit_mask(bit)) != 0;
}
