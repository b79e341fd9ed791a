/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a test guest's memory holds: every 64-bit word is a function of seed,
 * region, page and position, so a page that is misplaced, stale, torn or zero
 * without reason is caught. A quarter of the pages is zero.
 *
 * Word 0 of some pages is overwritten by the guest on the destination: that
 * catches a page which is placed a second time over the guest's own write.
 */
#ifndef SUPPORT_PATTERN_H
#define SUPPORT_PATTERN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PATTERN_PAGE 4096U
#define PATTERN_WORDS (PATTERN_PAGE / sizeof(uint64_t))

struct pattern_page {
	uint64_t seed;
	uint32_t region;
	uint64_t page; /* in the region, 4 KiB */
};

/* The mixing function behind all deterministic choices. */
uint64_t pattern_mix(uint64_t x);

bool pattern_is_zero(const struct pattern_page *p);
/* The guest writes word 0 of this page, and what it writes. */
bool pattern_is_written(const struct pattern_page *p);
uint64_t pattern_written_word(const struct pattern_page *p);

void pattern_fill(const struct pattern_page *p, void *memory);

enum pattern_word0 {
	PATTERN_WORD0_EITHER,  /* other threads may have written it, or not yet */
	PATTERN_WORD0_WRITTEN, /* must hold the guest's write */
	PATTERN_WORD0_ORIGINAL /* must be as on the source */
};

/* Byte offset of the first wrong word, or -1 if every byte is right. */
int pattern_verify(const struct pattern_page *p, const void *memory, enum pattern_word0 word0);

#endif
