/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A busy loop that everything else preempts: its CPU never halts, so no
 * wake-up waits for the hypervisor. One a CPU runs during every measurement.
 *
 * SCHED_IDLE alone is not enough: it weighs 3 where nice 19 weighs 15, and a
 * loop that never yields took 17 % of a CPU from a busy nice 19 thread (6.18),
 * which is what the daemon's stream is. With the yield it took 0.15 %.
 */
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>

#include "floor/floor.h"

/* Some 10 us. */
#define SPINS 20000

int floor_spin(const struct floor_options *o)
{
	struct sched_param param = {0};
	cpu_set_t set;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	CPU_ZERO(&set);
	CPU_SET((size_t)o->cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set) < 0)
		floor_die("sched_setaffinity");
	if (sched_setscheduler(0, SCHED_IDLE, &param) < 0)
		floor_die("SCHED_IDLE");
	for (;;) {
		for (int i = 0; i < SPINS; i++)
			__asm__ volatile("" ::: "memory");
		sched_yield();
	}
}
