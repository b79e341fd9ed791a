/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the guest does: fill its memory, then walk over it again and again,
 * read and verify each page, and write a quarter of them anew, each walk another
 * quarter. It does not know that it migrates. Each vCPU has its own part of the
 * pages; the first one prints the end.
 *
 * What a page holds follows from its number and its generation, and that
 * follows from the number of the walk, which is in a register or on the stack:
 * a page from before the last write, of another place, or of zeros is wrong.
 */
#include "payload.h"

#define WORD_STEP UINT64_C(0x9e3779b97f4a7c15)
#define WRONG_SHOWN_MAX 8

enum verdict {
	VERDICT_WRONG = 1,
	VERDICT_CAME_BACK = 2, /* healthy after a machine check */
};

static bool ready;
static unsigned arrived;
static uint8_t verdicts[WALK_PAGES_MAX]; /* bits of enum verdict */
static unsigned wrong_shown;

static uint64_t mix(uint64_t x)
{
	x = (x ^ (x >> 31)) * UINT64_C(0x7fb5d329728ea185);
	x = (x ^ (x >> 27)) * UINT64_C(0x81dadef4bc2dd44d);
	return x ^ (x >> 33);
}

static uint64_t first_word(uint64_t page, uint64_t generation)
{
	return mix(guest_head.seed ^ (page << 32) ^ (generation + 1)) | 1;
}

static bool is_rewritten(uint64_t page, uint64_t walk)
{
	return (page + walk) % 4 == 0;
}

/* How often the page has been written anew in the walks before this one; the first is 1. */
static uint64_t generation(uint64_t page, uint64_t walk)
{
	return (page + walk - 1) / 4 - page / 4;
}

static uint64_t *page_address(uint64_t page)
{
	return (uint64_t *)(uintptr_t)(GUEST_WALK_START + page * GUEST_PAGE);
}

static void wrong_show(uint64_t page, uint64_t walk)
{
	if (__atomic_fetch_add(&wrong_shown, 1, __ATOMIC_RELAXED) >= WRONG_SHOWN_MAX)
		return;
	console_lock();
	print("WRONG page ");
	print_hex((uintptr_t)page_address(page));
	print(" in walk ");
	print_number(walk);
	print(", its first word is ");
	print_hex(*page_address(page));
	print("\n");
	console_unlock();
}

static void page_visit(uint64_t page, uint64_t walk)
{
	uint64_t before = generation(page, walk);
	enum look look = page_check(page_address(page), first_word(page, before), WORD_STEP);

	if (look == LOOK_LOST)
		return;
	if (machine_checks(page))
		verdicts[page] |= VERDICT_CAME_BACK;
	if (look == LOOK_WRONG && !(verdicts[page] & VERDICT_WRONG)) {
		verdicts[page] |= VERDICT_WRONG;
		wrong_show(page, walk);
	}
	if (is_rewritten(page, walk))
		page_fill(page_address(page), first_word(page, before + 1), WORD_STEP);
}

static void walk(uint64_t first, uint64_t end)
{
	uint64_t n_walks = 0;

	do {
		n_walks++;
		for (uint64_t page = first; page < end; page++)
			page_visit(page, n_walks);
		out32(PORT_PASS, (uint32_t)n_walks);
	} while (in32(PORT_PASS));
}

/* Until all vCPUs have come here, for the n-th time. */
static void wait_for_all(unsigned n)
{
	__atomic_fetch_add(&arrived, 1, __ATOMIC_ACQ_REL);
	while (__atomic_load_n(&arrived, __ATOMIC_ACQUIRE) < n * guest_head.n_vcpus)
		relax();
}

static void print_lost_pages(void)
{
	for (uint64_t page = 0; page < guest_head.n_pages; page++) {
		if (!machine_checks(page))
			continue;
		print("page ");
		print_hex((uintptr_t)page_address(page));
		print(": machine check x");
		print_number(machine_checks(page));
		print("\n");
	}
}

static void print_summary(void)
{
	unsigned lost = 0, wrong = 0, came_back = 0;

	for (uint64_t page = 0; page < guest_head.n_pages; page++) {
		lost += machine_checks(page) != 0;
		wrong += (verdicts[page] & VERDICT_WRONG) != 0;
		came_back += (verdicts[page] & VERDICT_CAME_BACK) != 0;
	}
	print_number(guest_head.n_pages - lost - wrong);
	print(" pages right, ");
	print_number(lost);
	print(" lost, healthy pages wrong: ");
	print_number(wrong);
	print(", lost pages that came back: ");
	print_number(came_back);
	print("\n" LINE_END "\n");
}

static void boot(unsigned vcpu)
{
	if (vcpu == 0) {
		exceptions_setup();
		print("guest: ");
		print_number(guest_head.n_vcpus);
		print(" vCPU, ");
		print_number(guest_head.n_pages);
		print(" pages from ");
		print_hex(GUEST_WALK_START);
		print(" on\n");
		__atomic_store_n(&ready, true, __ATOMIC_RELEASE);
	}
	while (!__atomic_load_n(&ready, __ATOMIC_ACQUIRE))
		relax();
	exceptions_enable();
}

void guest_main(unsigned vcpu)
{
	uint64_t first = guest_head.n_pages * vcpu / guest_head.n_vcpus;
	uint64_t end = guest_head.n_pages * (vcpu + 1) / guest_head.n_vcpus;

	boot(vcpu);
	for (uint64_t page = first; page < end; page++)
		page_fill(page_address(page), first_word(page, 0), WORD_STEP);
	wait_for_all(1);
	if (vcpu == 0)
		print("guest: memory filled, the walk begins\n");
	walk(first, end);
	wait_for_all(2);
	if (vcpu == 0) {
		print_lost_pages();
		print_summary();
	}
	guest_halt();
}
