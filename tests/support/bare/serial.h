/* SPDX-License-Identifier: Apache-2.0 */
/* The serial port of a bare guest: how a test talks to it. Numbers are hexadecimal, one a line. */
#ifndef SUPPORT_BARE_SERIAL_H
#define SUPPORT_BARE_SERIAL_H

#include <stdbool.h>
#include <stdint.h>

#define COM1 0x3f8
#define LINE_STATUS (COM1 + 5)

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

static inline bool has_input(void)
{
	return in8(LINE_STATUS) & 1;
}

static inline char get(void)
{
	while (!has_input())
		;
	return (char)in8(COM1);
}

static inline void put(char c)
{
	while (!(in8(LINE_STATUS) & 0x20))
		;
	out8(COM1, (uint8_t)c);
}

static inline void put_hex(uint64_t value)
{
	for (int shift = 60; shift >= 0; shift -= 4)
		put("0123456789abcdef"[value >> shift & 15]);
	put('\n');
}

static inline uint32_t get_hex(void)
{
	uint32_t value = 0;

	for (char c = get(); c != '\n'; c = get())
		if (c != ' ')
			value = value << 4 | (uint32_t)(c <= '9' ? c - '0' : c - 'a' + 10);
	return value;
}

#endif
