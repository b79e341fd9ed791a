/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guest's program: no operating system, ring 0, 64-bit mode. walk.c is what
 * it does, machine_check.c how it survives the loss of a page, console.c what
 * it says.
 */
#ifndef PAYLOAD_H
#define PAYLOAD_H

#include <stdbool.h>
#include <stdint.h>

#include "../guest_abi.h"

#define WALK_PAGES_MAX ((GUEST_MEMORY_MAX - GUEST_WALK_START) / GUEST_PAGE)

extern struct guest_head guest_head; /* start.S */

enum look {
	LOOK_RIGHT = 0,
	LOOK_WRONG = 1,
	LOOK_LOST = 2, /* a machine check came */
};

/* start.S */
enum look page_check(const uint64_t *page, uint64_t word, uint64_t step);
enum look page_fill(uint64_t *page, uint64_t word, uint64_t step);
_Noreturn void guest_halt(void);

/* walk.c */
_Noreturn void guest_main(unsigned vcpu);

/* machine_check.c */
void exceptions_setup(void);  /* once, for all vCPUs */
void exceptions_enable(void); /* on each vCPU */
/* How often a machine check has named this page of the walk. */
unsigned machine_checks(uint64_t page);

/* console.c */
void console_lock(void);
void console_unlock(void);
void print(const char *text);
void print_number(uint64_t value);
void print_hex(uint64_t value);
/* The last words of a guest that cannot go on. */
_Noreturn void die(const char *why, uint64_t value);

static inline void out8(uint16_t port, uint8_t value)
{
	__asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static inline void out32(uint16_t port, uint32_t value)
{
	__asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port));
}

static inline uint32_t in32(uint16_t port)
{
	uint32_t value;

	__asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port));
	return value;
}

static inline uint64_t rdmsr(uint32_t msr)
{
	uint32_t low, high;

	__asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(msr));
	return (uint64_t)high << 32 | low;
}

static inline void wrmsr(uint32_t msr, uint64_t value)
{
	__asm__ volatile("wrmsr" : : "c"(msr), "a"((uint32_t)value), "d"((uint32_t)(value >> 32)));
}

static inline void relax(void)
{
	__asm__ volatile("pause" ::: "memory");
}

#endif
