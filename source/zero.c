/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Zero detection. Called for every page that was read, just after the read
 * brought it into the cache. Most pages with data show it in one of the few
 * words that are looked at first; for the rest memcmp() is as fast as memory.
 */
#include "source/zero.h"

#include <string.h>

#include "core/units.h"

static const uint8_t zeros[WIRE_PAGE_SIZE];

static uint64_t word_at(const uint8_t *page, size_t offset)
{
	uint64_t word;

	memcpy(&word, page + offset, sizeof(word));
	return word;
}

bool zero_page(const uint8_t *page)
{
	if (word_at(page, 0) | word_at(page, WIRE_PAGE_SIZE / 2) |
	    word_at(page, WIRE_PAGE_SIZE - sizeof(uint64_t)))
		return false;
	return memcmp(page, zeros, WIRE_PAGE_SIZE) == 0;
}
