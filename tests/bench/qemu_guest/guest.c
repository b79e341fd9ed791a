/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The bare guest of the QEMU case: it fills its memory, waits for commands on
 * the serial port, and times its touches by the time stamp counter. peer_qemu.py
 * drives it. No paging: nothing but the wait for a page is slow.
 *
 *   t                  answers with the counter
 *   g PACE TIMER HERE  touch missing pages, PACE ticks between two faults, which
 *                      are TIMER periods of the interval timer, until "s" or until
 *                      no page is left; a touch of less than HERE ticks was no
 *                      fault. Answers with the number of faults and the ticks of each
 * Numbers are hexadecimal, each ends a line. Between two faults the CPU halts.
 */
#include "support/bare/serial.h"

/* The interrupt controllers and the interval timer (Intel 8259A and 8254). */
#define PIC1 0x20
#define PIC2 0xa0
#define END_OF_INTERRUPT 0x20
#define TIMER 0x40
#define TIMER_CONTROL 0x43
#define TIMER_0_ONE_SHOT 0x30
#define TIMER_VECTOR 32
#define PAGE 4096U
/* What is touched; the source fills from FILL_FIRST to FILL_END. */
#define TOUCH_FIRST (256U << 20)
#define TOUCH_PAGES (1U << 17)
#define FILL_FIRST (16U << 20)
#define FILL_END (1022U << 20)
#define SAMPLES_MAX 65536U

static uint32_t samples[SAMPLES_MAX];

void guest_main(void);

static inline uint64_t ticks(void)
{
	uint32_t low, high;

	__asm__ volatile("rdtsc" : "=a"(low), "=d"(high)::"memory");
	return (uint64_t)high << 32 | low;
}

struct descriptor_pointer {
	uint16_t limit;
	uint32_t address;
} __attribute__((packed));

/* Who starts a multiboot program need not leave it descriptors: flat code and data. */
static const uint64_t segments[] = {0, UINT64_C(0x00cf9b000000ffff), UINT64_C(0x00cf93000000ffff)};
static uint64_t interrupts[TIMER_VECTOR + 1];

__attribute__((interrupt)) static void timer_interrupt(void *frame)
{
	(void)frame;
	out8(PIC1, END_OF_INTERRUPT);
}

static void load_descriptors(void)
{
	uint32_t handler = (uint32_t)timer_interrupt;
	struct descriptor_pointer s = {sizeof(segments) - 1, (uint32_t)segments};
	struct descriptor_pointer i = {sizeof(interrupts) - 1, (uint32_t)interrupts};

	interrupts[TIMER_VECTOR] = (uint64_t)(handler >> 16) << 48 | UINT64_C(0x8e00) << 32 |
	                           8U << 16 | (handler & 0xffff);
	__asm__ volatile("lgdt %0\n\t"
	                 "ljmp $8, $1f\n"
	                 "1:\n\t"
	                 "movw $16, %%ax\n\t"
	                 "movw %%ax, %%ds\n\t"
	                 "movw %%ax, %%es\n\t"
	                 "movw %%ax, %%ss\n\t"
	                 "lidt %1"
	                 :
	                 : "m"(s), "m"(i)
	                 : "eax", "memory");
}

/* The timer's interrupt, no other. */
static void interrupts_init(void)
{
	static const uint8_t start[][2] = {
	        {PIC1, 0x11},   {PIC2, 0x11}, /* initialise: four words follow */
	        {PIC1 + 1, 32}, {PIC2 + 1, 40}, {PIC1 + 1, 4},    {PIC2 + 1, 2},
	        {PIC1 + 1, 1},  {PIC2 + 1, 1},  {PIC1 + 1, 0xfe}, {PIC2 + 1, 0xff},
	};

	load_descriptors();
	for (unsigned i = 0; i < sizeof(start) / sizeof(start[0]); i++)
		out8(start[i][0], start[i][1]);
}

/* Halt for so many periods of the timer, at most 65535. */
static void sleep_periods(uint32_t n)
{
	out8(TIMER_CONTROL, TIMER_0_ONE_SHOT);
	out8(TIMER, (uint8_t)n);
	out8(TIMER, (uint8_t)(n >> 8));
	__asm__ volatile("sti\n\thlt\n\tcli" ::: "memory");
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

struct pace {
	uint32_t ticks;
	uint32_t periods; /* of the timer; 0 would be its longest */
};

static void sleep_until(uint64_t due, struct pace pace)
{
	for (uint64_t now = ticks(); now < due; now = ticks()) {
		uint32_t left = due - now < pace.ticks ? (uint32_t)(due - now) : pace.ticks;
		uint32_t periods = left * pace.periods / pace.ticks;

		sleep_periods(periods ? periods : 1);
	}
}

static void touch(struct pace pace, uint32_t here_ticks)
{
	uint64_t due = ticks();
	uint32_t next = 0, n = 0, took = 1;

	while (n < SAMPLES_MAX && took && !has_input()) {
		sleep_until(due, pace);
		took = fault_once(&next, here_ticks);
		if (took)
			samples[n++] = took;
		due += pace.ticks;
		if (due < ticks())
			due = ticks() + pace.ticks;
	}
	put_hex(n);
	for (uint32_t i = 0; i < n; i++)
		put_hex(samples[i]);
}

void guest_main(void)
{
	struct pace pace;

	interrupts_init();
	fill();
	put('F');
	put('\n');
	for (;;) {
		switch (get()) {
		case 't':
			put_hex(ticks());
			break;
		case 'g':
			pace.ticks = get_hex();
			pace.periods = get_hex();
			touch(pace, get_hex());
			break;
		default:
			break;
		}
	}
}
