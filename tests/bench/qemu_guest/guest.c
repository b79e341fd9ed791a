/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The bare guest of the QEMU case: it fills its memory, waits for commands on
 * the serial port, and times its touches by the time stamp counter. peer_qemu.py
 * drives it. No interrupts, no paging: nothing but the wait for a page is slow.
 *
 *   t            answers with the counter
 *   g PACE HERE  touch missing pages, PACE ticks between two faults, until "s"
 *              or until no page is left; a touch of less than HERE ticks was no
 *              fault. Answers with the number of faults and the ticks of each
 * Numbers are hexadecimal, each ends a line.
 */
#include <stdbool.h>
#include <stdint.h>

#define COM1 0x3f8
#define LINE_STATUS (COM1 + 5)
#define PAGE 4096U
/* What is touched; the source fills from FILL_FIRST to FILL_END. */
#define TOUCH_FIRST (256U << 20)
#define TOUCH_PAGES (1U << 17)
#define FILL_FIRST (16U << 20)
#define FILL_END (1022U << 20)
#define SAMPLES_MAX 65536U

static uint32_t samples[SAMPLES_MAX];

void guest_main(void);

static inline void out8(uint16_t port, uint8_t value)
{
	__asm__ volatile("outb %0, %1" ::"a"(value), "Nd"(port));
}

static inline uint8_t in8(uint16_t port)
{
	uint8_t value;

	__asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
	return value;
}

static inline uint64_t ticks(void)
{
	uint32_t low, high;

	__asm__ volatile("rdtsc" : "=a"(low), "=d"(high)::"memory");
	return (uint64_t)high << 32 | low;
}

static bool has_input(void)
{
	return in8(LINE_STATUS) & 1;
}

static char get(void)
{
	while (!has_input())
		;
	return (char)in8(COM1);
}

static void put(char c)
{
	while (!(in8(LINE_STATUS) & 0x20))
		;
	out8(COM1, (uint8_t)c);
}

static void put_hex(uint64_t value)
{
	for (int shift = 60; shift >= 0; shift -= 4)
		put("0123456789abcdef"[value >> shift & 15]);
	put('\n');
}

static uint32_t get_hex(void)
{
	uint32_t value = 0;

	for (char c = get(); c != '\n'; c = get())
		if (c != ' ')
			value = value << 4 | (uint32_t)(c <= '9' ? c - '0' : c - 'a' + 10);
	return value;
}

static void fill(void)
{
	for (uint32_t at = FILL_FIRST; at < FILL_END; at += sizeof(uint32_t))
		*(volatile uint32_t *)at = at | 1;
}

/* Touch pages until one was missing: its ticks, or 0 when none is left. */
static uint32_t fault_once(uint32_t *next, uint32_t here_ticks)
{
	while (*next < TOUCH_PAGES) {
		uint32_t page = (*next)++ * 0x9e3779b1U & (TOUCH_PAGES - 1);
		uint64_t start = ticks(), took;

		(void)*(volatile uint32_t *)(TOUCH_FIRST + page * PAGE);
		took = ticks() - start;
		if (took >= here_ticks)
			return took > UINT32_MAX ? UINT32_MAX : (uint32_t)took;
	}
	return 0;
}

static void touch(uint32_t pace, uint32_t here_ticks)
{
	uint64_t due = ticks();
	uint32_t next = 0, n = 0, took = 1;

	while (n < SAMPLES_MAX && took && !has_input()) {
		if (ticks() < due)
			continue;
		took = fault_once(&next, here_ticks);
		if (took)
			samples[n++] = took;
		due += pace;
		if (due < ticks())
			due = ticks() + pace;
	}
	put_hex(n);
	for (uint32_t i = 0; i < n; i++)
		put_hex(samples[i]);
}

void guest_main(void)
{
	uint32_t pace;

	fill();
	put('F');
	put('\n');
	for (;;) {
		switch (get()) {
		case 't':
			put_hex(ticks());
			break;
		case 'g':
			pace = get_hex();
			touch(pace, get_hex());
			break;
		default:
			break;
		}
	}
}
