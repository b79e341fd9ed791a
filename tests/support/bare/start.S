/* SPDX-License-Identifier: Apache-2.0 */
/* Multiboot: QEMU's -kernel leaves the CPU in 32-bit protected mode, flat, without paging. */
	.section .multiboot, "a"
	.align 4
	.long 0x1badb002
	.long 0
	.long -0x1badb002

	.text
	.globl _start
_start:
	cli
	movl $stack_top, %esp
	call guest_main
1:	hlt
	jmp 1b

	.bss
	.align 16
	.skip 16384
stack_top:
