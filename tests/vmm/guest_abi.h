/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the VMM and its guest agree upon: where things are in guest-physical
 * memory, and the two devices. Included by C and by assembly.
 */
#ifndef VMM_GUEST_ABI_H
#define VMM_GUEST_ABI_H

/*
 * Guest-physical memory. The guest's program, its page tables, stacks and
 * counters are below WALK_START and migrate like everything else. The walk is
 * over all that is above: it starts at the second huge page, so that the loss
 * of a page there never takes the program with it.
 */
#define GUEST_LOAD 0x10000
#define GUEST_WALK_START 0x200000
#define GUEST_MEMORY_MAX 0x40000000 /* what the page tables of start.S map */
#define GUEST_PAGE 0x1000
#define GUEST_VCPUS_MAX 4

/* OUT a byte: a character of the console. */
#define PORT_SERIAL 0x3f8
/* OUT a double word: this vCPU has made so many walks. IN: 1, walk again; 0, come to the end. */
#define PORT_PASS 0x510

/* At GUEST_LOAD, the first thing of the program. The VMM fills in the second half. */
#define GUEST_MAGIC 0x6b6c6177656d6376

#ifndef __ASSEMBLER__
#include <stdint.h>

struct guest_head {
	uint64_t magic;
	uint64_t entry;       /* where each vCPU starts, its number in RDI */
	uint64_t page_tables; /* for CR3 */
	uint64_t n_pages;     /* from GUEST_WALK_START on */
	uint64_t n_vcpus;
	uint64_t seed; /* of what the pages hold */
};
#endif

/* The lines of the console that the VMM reads. */
#define LINE_LOST_PAGE "page 0x%llx: machine check x%u"
#define LINE_SUMMARY \
	"%u pages right, %u lost, healthy pages wrong: %u, lost pages that came back: %u"
#define LINE_END "the walk is over"

#endif
