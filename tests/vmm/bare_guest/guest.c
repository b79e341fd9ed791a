/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The bare guest that checks its own memory, for the tests of an unmodified QEMU.
 * Page after page, in an order that jumps about, it checks that a page holds what it
 * wrote last (the page's generation), word for word, and writes the next generation.
 * A page that comes late, twice, from another time or as zeros is a wrong answer.
 *
 *   b END   begin with the memory from 16 MiB to END MiB; answers "1" when all is written
 *   r       answers with three lines: pages checked, words that were wrong, and the
 *           address of the first of them
 * Numbers are hexadecimal, each ends a line.
 */
#include "support/bare/serial.h"

#define PAGE 4096U
#define WORDS (PAGE / sizeof(uint32_t))
#define FIRST (16U << 20)

void guest_main(void);

static uint32_t n_pages, generation, position;
static uint64_t checked, wrong, first_wrong;

/* No two words of two pages or generations are alike for long. */
static inline uint32_t word_of(uint32_t page, uint32_t gen, uint32_t i)
{
	return (page * 0x9e3779b1U ^ gen * 0x85ebca6bU) + i * 0xc2b2ae35U + 1;
}

static inline volatile uint32_t *page_at(uint32_t page)
{
	return (volatile uint32_t *)(FIRST + page * PAGE);
}

static void page_write(uint32_t page, uint32_t gen)
{
	volatile uint32_t *at = page_at(page);

	for (uint32_t i = 0; i < WORDS; i++)
		at[i] = word_of(page, gen, i);
}

static void page_check(uint32_t page, uint32_t gen)
{
	volatile uint32_t *at = page_at(page);

	for (uint32_t i = 0; i < WORDS; i++) {
		if (at[i] == word_of(page, gen, i))
			continue;
		if (wrong++ == 0)
			first_wrong = (uint32_t)&at[i];
	}
	checked++;
}

/* A number of pages that is a power of two is gone over by an odd multiplier. */
static void step(void)
{
	uint32_t page = position * 0x9e3779b1U & (n_pages - 1);

	page_check(page, generation);
	page_write(page, generation + 1);
	if (++position == n_pages) {
		position = 0;
		generation++;
	}
}

static void begin(uint32_t end_mib)
{
	uint32_t room = ((end_mib << 20) - FIRST) / PAGE;

	for (n_pages = 1; n_pages * 2 <= room;)
		n_pages *= 2;
	generation = position = 0;
	for (uint32_t page = 0; page < n_pages; page++)
		page_write(page, 0);
	put_hex(1);
}

void guest_main(void)
{
	for (;;) {
		if (n_pages > 0 && !has_input()) {
			step();
			continue;
		}
		switch (get()) {
		case 'b':
			begin(get_hex());
			break;
		case 'r':
			put_hex(checked);
			put_hex(wrong);
			put_hex(first_wrong);
			break;
		default:
			break;
		}
	}
}
