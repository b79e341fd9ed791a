/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How long the guest's first touch of a page took, by the guest's own clock,
 * which stands still while the machine is stopped: downtime is for the peer.
 */
#ifndef TESTS_VMM_LINUX_GUEST_STALL_H
#define TESTS_VMM_LINUX_GUEST_STALL_H
#include <stdint.h>

/* Emulated or not, no touch of a page that is here takes so long by itself. */
#define STALL_MIN_US 50

struct stall_summary {
	uint64_t n_touches;
	uint64_t n_stalls; /* touches of STALL_MIN_US and more */
	double p99_us;     /* of all touches */
	double stall_p50_us, stall_p99_us;
	double max_us;
	double stalled_ms; /* the sum of all stalls */
};

/* Ticks of the clock below. */
static inline uint64_t stall_clock(void)
{
	return __builtin_ia32_rdtsc();
}

void stall_calibrate(void);
void stall_add(uint64_t ticks);
enum stall_window {
	STALL_INTERVAL,   /* since the last line on the console */
	STALL_SINCE_MARK, /* since the host said "mark" */
	STALL_WINDOWS,
};

void stall_read(enum stall_window window, struct stall_summary *ret_summary);
void stall_clear(enum stall_window window);

#endif
