/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guest's first instructions, its tables, the entries of its exceptions,
 * and the only code that touches the walked pages. The VMM starts each vCPU at
 * guest_entry, in 64-bit mode on the page tables below, its number in RDI.
 */
#include "../guest_abi.h"

#define CODE_SELECTOR 0x08
#define DATA_SELECTOR 0x10
#define CR4_MCE 0x40
#define STACK_SIZE 8192

	.section .head, "ax"
	.global guest_head
guest_head: /* struct guest_head */
	.quad GUEST_MAGIC
	.quad guest_entry
	.quad page_tables
	.quad 0, 0, 0

	.text
	.global guest_entry
guest_entry:
	mov %rdi, %rbx
	lea 1(%rdi), %rax
	imul $STACK_SIZE, %rax
	lea stacks(%rax), %rsp
	lgdt gdt_pointer
	mov $DATA_SELECTOR, %eax
	mov %eax, %ds
	mov %eax, %es
	mov %eax, %ss
	pushq $CODE_SELECTOR
	pushq $1f
	lretq
1:	mov %cr4, %rax
	or $CR4_MCE, %rax /* without it a machine check is a shutdown */
	mov %rax, %cr4
	mov %rbx, %rdi
	call guest_main
	.global guest_halt
guest_halt:
	cli
	hlt
	jmp guest_halt

/*
 * enum look page_check(const uint64_t *page, uint64_t word, uint64_t step);
 * enum look page_fill(uint64_t *page, uint64_t word, uint64_t step);
 * Both may meet a machine check at each access. Its handler sees that RIP is
 * between walk_code and walk_code_end and goes on at page_lost: a leaf without
 * a stack frame can be left at any instruction.
 */
	.global walk_code, walk_code_end, page_check, page_fill, page_lost
walk_code:
page_check:
	mov $(GUEST_PAGE / 8), %ecx
1:	cmp %rsi, (%rdi)
	jne 2f
	add %rdx, %rsi
	add $8, %rdi
	dec %ecx
	jnz 1b
	xor %eax, %eax
	ret
2:	mov $1, %eax
	ret
page_fill:
	mov $(GUEST_PAGE / 8), %ecx
1:	mov %rsi, (%rdi)
	add %rdx, %rsi
	add $8, %rdi
	dec %ecx
	jnz 1b
	xor %eax, %eax
	ret
walk_code_end:
page_lost:
	mov $2, %eax
	ret

/* Exceptions: all registers on the stack (struct trap), then trap() in C. */
	.altmacro
	.macro exception_entry number
exception_\number:
	.if \number != 8 && (\number < 10 || \number > 14) && \number != 17 && \number != 21
	pushq $0 /* in the place of the error code */
	.endif
	pushq $\number
	jmp exception_common
	.endm
	.macro exception_address number
	.quad exception_\number
	.endm

	.set i, 0
	.rept 32
	exception_entry %i
	.set i, i + 1
	.endr

exception_common:
	push %rax
	push %rcx
	push %rdx
	push %rbx
	push %rbp
	push %rsi
	push %rdi
	push %r8
	push %r9
	push %r10
	push %r11
	push %r12
	push %r13
	push %r14
	push %r15
	cld
	mov %rsp, %rdi
	mov %rsp, %rbp
	and $-16, %rsp
	call trap
	mov %rbp, %rsp
	pop %r15
	pop %r14
	pop %r13
	pop %r12
	pop %r11
	pop %r10
	pop %r9
	pop %r8
	pop %rdi
	pop %rsi
	pop %rbp
	pop %rbx
	pop %rdx
	pop %rcx
	pop %rax
	add $16, %rsp
	iretq

	.section .rodata
	.global exception_table
	.balign 8
exception_table:
	.set i, 0
	.rept 32
	exception_address %i
	.set i, i + 1
	.endr

/* All of GUEST_MEMORY_MAX one to one, in pages of 2 MiB. */
	.section .tables, "aw"
	.balign 4096
page_tables:
	.quad page_directories + 0x3
	.fill 511, 8, 0
page_directories:
	.quad page_directory + 0x3
	.fill 511, 8, 0
page_directory:
	.set i, 0
	.rept GUEST_MEMORY_MAX >> 21
	.quad (i << 21) + 0x83
	.set i, i + 1
	.endr

	.data
	.balign 8
gdt:
	.quad 0
	.quad 0x00af9b000000ffff /* 64-bit code */
	.quad 0x00cf93000000ffff /* data */
gdt_pointer:
	.word gdt_pointer - gdt - 1
	.quad gdt

	.bss
	.balign 4096
stacks:
	.skip STACK_SIZE * GUEST_VCPUS_MAX

	.section .note.GNU-stack, "", @progbits
