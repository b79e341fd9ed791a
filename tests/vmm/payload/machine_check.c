/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guest's exceptions. A machine check is read from the banks as on real
 * hardware; the page that it names is noted, and the access that met it goes on
 * at its fix-up. Everything else is the guest's end.
 */
#include "payload.h"

#define VECTOR_MACHINE_CHECK 18
#define SHOWN_MAX 4 /* machine checks that a line on the console is spent on; all are counted */

#define MSR_MCG_CAP 0x179
#define MSR_MCG_STATUS 0x17a
#define MSR_BANK_STATUS(bank) (0x401 + 4 * (bank))
#define MSR_BANK_ADDRESS(bank) (0x402 + 4 * (bank))

#define MCG_STATUS_MCIP (UINT64_C(1) << 2)
#define STATUS_VALID (UINT64_C(1) << 63)
#define STATUS_UNCORRECTED (UINT64_C(1) << 61)
#define STATUS_ADDRESS_VALID (UINT64_C(1) << 58)
#define STATUS_CONTEXT_CORRUPT (UINT64_C(1) << 57)
#define STATUS_ACTION_REQUIRED (UINT64_C(3) << 55) /* S and AR */

/* What exception_common pushes, from the top of the stack on. */
struct trap {
	uint64_t r15, r14, r13, r12, r11, r10, r9, r8, rdi, rsi, rbp, rbx, rdx, rcx, rax;
	uint64_t vector, error_code;
	uint64_t rip, cs, rflags, rsp, ss;
};

struct gate {
	uint16_t offset_low, selector;
	uint8_t stack, type;
	uint16_t offset_middle;
	uint32_t offset_high, reserved;
};

struct __attribute__((packed)) idt_pointer {
	uint16_t limit;
	uint64_t base;
};

extern const uint64_t exception_table[32];
extern const char walk_code[], walk_code_end[], page_lost[];
void trap(struct trap *t);

static struct gate idt[32];
static uint16_t counts[WALK_PAGES_MAX];
static unsigned shown;

void exceptions_setup(void)
{
	/* No stack of its own for a machine check: there is no red zone and no user mode here. */
	for (unsigned i = 0; i < 32; i++)
		idt[i] = (struct gate){
		        .offset_low = (uint16_t)exception_table[i],
		        .selector = 0x08,
		        .type = 0x8e, /* interrupt gate */
		        .offset_middle = (uint16_t)(exception_table[i] >> 16),
		        .offset_high = (uint32_t)(exception_table[i] >> 32),
		};
}

void exceptions_enable(void)
{
	struct idt_pointer pointer = {sizeof(idt) - 1, (uintptr_t)idt};

	__asm__ volatile("lidt %0" : : "m"(pointer));
}

unsigned machine_checks(uint64_t page)
{
	return __atomic_load_n(&counts[page], __ATOMIC_RELAXED);
}

static void show(unsigned bank, uint64_t status, uint64_t address)
{
	if (__atomic_fetch_add(&shown, 1, __ATOMIC_RELAXED) >= SHOWN_MAX)
		return;
	console_lock();
	print("machine check: bank ");
	print_number(bank);
	print(", status ");
	print_hex(status);
	print(", address ");
	print_hex(address);
	print("\n");
	console_unlock();
}

static void page_note(uint64_t address)
{
	uint64_t page = (address - GUEST_WALK_START) / GUEST_PAGE;

	if (address < GUEST_WALK_START || page >= guest_head.n_pages)
		die("machine check for memory that is not of the walk", address);
	__atomic_fetch_add(&counts[page], 1, __ATOMIC_RELAXED);
}

static void bank_take(unsigned bank, uint64_t status)
{
	uint64_t address = rdmsr(MSR_BANK_ADDRESS(bank));

	if (!(status & STATUS_UNCORRECTED) || !(status & STATUS_ADDRESS_VALID) ||
	    (status & STATUS_CONTEXT_CORRUPT) ||
	    (status & STATUS_ACTION_REQUIRED) != STATUS_ACTION_REQUIRED)
		die("machine check that software cannot recover from, status", status);
	page_note(address);
	show(bank, status, address);
	wrmsr(MSR_BANK_STATUS(bank), 0);
}

static void machine_check(struct trap *t)
{
	unsigned n_banks = rdmsr(MSR_MCG_CAP) & 0xff, found = 0;

	if (!(rdmsr(MSR_MCG_STATUS) & MCG_STATUS_MCIP))
		die("machine check, and none in progress, at", t->rip);
	if (t->rip < (uintptr_t)walk_code || t->rip >= (uintptr_t)walk_code_end)
		die("machine check outside the walk, at", t->rip);
	for (unsigned bank = 0; bank < n_banks; bank++) {
		uint64_t status = rdmsr(MSR_BANK_STATUS(bank));

		if (!(status & STATUS_VALID))
			continue;
		bank_take(bank, status);
		found++;
	}
	if (!found)
		die("machine check, and no bank knows why, at", t->rip);
	wrmsr(MSR_MCG_STATUS, 0);
	t->rip = (uintptr_t)page_lost;
}

/* Called by exception_common. */
void trap(struct trap *t)
{
	if (t->vector != VECTOR_MACHINE_CHECK) {
		print("\nguest: exception ");
		print_number(t->vector);
		die(" at", t->rip);
	}
	machine_check(t);
}
