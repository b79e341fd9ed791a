/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guest's console: a serial port that is always ready. Always holds: a
 * vCPU prints whole lines under the lock, and touches no walked page meanwhile,
 * so a machine check never finds the lock in its own hands.
 */
#include "payload.h"

static bool locked;

void console_lock(void)
{
	while (__atomic_test_and_set(&locked, __ATOMIC_ACQUIRE))
		relax();
}

void console_unlock(void)
{
	__atomic_clear(&locked, __ATOMIC_RELEASE);
}

void print(const char *text)
{
	while (*text)
		out8(PORT_SERIAL, (uint8_t)*text++);
}

static void print_digits(uint64_t value, unsigned base)
{
	char digits[24];
	unsigned n = 0;

	do {
		digits[n++] = "0123456789abcdef"[value % base];
		value /= base;
	} while (value);
	while (n)
		out8(PORT_SERIAL, (uint8_t)digits[--n]);
}

void print_number(uint64_t value)
{
	print_digits(value, 10);
}

void print_hex(uint64_t value)
{
	print("0x");
	print_digits(value, 16);
}

void die(const char *why, uint64_t value)
{
	print("\nguest: ");
	print(why);
	print(" ");
	print_hex(value);
	print("\n");
	guest_halt();
}
