/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Keep free memory that the machine really has. Some hypervisors take free
 * memory away (free page reporting) and give it back at the first touch, which
 * then costs 7 us more a page: 3.0 instead of 0.4 s a GiB were measured, and
 * after half a minute it was gone again.
 *
 * What is reported are free blocks of 2 MiB. So this touches memory and frees
 * all but every 64th page, until it is killed: no such block has only free
 * pages, and the allocator takes pages from broken blocks first.
 */
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "floor/floor.h"

#define KEPT_EVERY (64 * BENCH_PAGE)

int floor_warm(const struct floor_options *o)
{
	uint8_t *memory = mmap(NULL, o->bytes, PROT_READ | PROT_WRITE,
	                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (memory == MAP_FAILED)
		floor_die("mmap");
	if (madvise(memory, o->bytes, MADV_NOHUGEPAGE) < 0)
		floor_die("MADV_NOHUGEPAGE");
	for (uint64_t at = 0; at < o->bytes; at += BENCH_PAGE)
		*(volatile uint8_t *)(memory + at) = 1;
	for (uint64_t at = 0; at + KEPT_EVERY <= o->bytes; at += KEPT_EVERY)
		if (madvise(memory + at + BENCH_PAGE, KEPT_EVERY - BENCH_PAGE, MADV_DONTNEED) < 0)
			floor_die("MADV_DONTNEED");
	printf("{}\n");
	fflush(stdout);
	for (;;)
		pause();
}
