/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Histograms of touch times: eight buckets an octave of nanoseconds, so that a
 * quantile is right to about 6 %. memory.c adds, main.c reads and clears; a
 * touch that is added meanwhile may be counted on either side.
 */
#include "stall.h"
#include "guest.h"
#include <string.h>
#include <time.h>

#define SUB_BITS 3
#define SUB (1 << SUB_BITS)
#define BUCKETS (48 * SUB)

struct window {
	uint64_t buckets[BUCKETS];
	uint64_t max_ticks;
	uint64_t stalled_ticks;
};

static struct window windows[STALL_WINDOWS];
static double ns_per_tick;

static unsigned bucket_of(uint64_t ticks)
{
	unsigned octave;

	if (ticks < SUB)
		return (unsigned)ticks;
	octave = 63 - (unsigned)__builtin_clzll(ticks);
	if (octave - SUB_BITS >= BUCKETS / SUB - 1)
		return BUCKETS - 1;
	return (octave - SUB_BITS + 1) * SUB +
	       (unsigned)((ticks >> (octave - SUB_BITS)) & (SUB - 1));
}

/* The middle of a bucket, in ticks. */
static double bucket_middle(unsigned bucket)
{
	unsigned octave = bucket / SUB, sub = bucket % SUB;

	if (!octave)
		return bucket;
	return ((double)(SUB + sub) + 0.5) * (double)(UINT64_C(1) << (octave - 1));
}

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

void stall_calibrate(void)
{
	uint64_t ns = now_ns(), ticks = stall_clock();
	struct timespec pause = {.tv_nsec = 200000000};

	nanosleep(&pause, NULL);
	ticks = stall_clock() - ticks;
	ns_per_tick = (double)(now_ns() - ns) / (double)ticks;
}

static void window_add(struct window *w, uint64_t ticks)
{
	uint64_t max = counted(&w->max_ticks);

	count(&w->buckets[bucket_of(ticks)], 1);
	while (ticks > max && !__atomic_compare_exchange_n(&w->max_ticks, &max, ticks, true,
	                                                   __ATOMIC_RELAXED, __ATOMIC_RELAXED))
		;
	if ((double)ticks * ns_per_tick >= STALL_MIN_US * 1e3)
		count(&w->stalled_ticks, ticks);
}

void stall_add(uint64_t ticks)
{
	for (int i = 0; i < STALL_WINDOWS; i++)
		window_add(&windows[i], ticks);
}

/* In us, of the buckets from `first` on. */
static double quantile(const uint64_t *buckets, unsigned first, uint64_t n, double fraction)
{
	uint64_t rank = (uint64_t)((double)n * fraction), seen = 0;

	for (unsigned b = first; b < BUCKETS; b++) {
		seen += buckets[b];
		if (seen > rank)
			return bucket_middle(b) * ns_per_tick / 1e3;
	}
	return 0;
}

void stall_read(enum stall_window window, struct stall_summary *ret_summary)
{
	unsigned first = bucket_of((uint64_t)(STALL_MIN_US * 1e3 / ns_per_tick));
	struct stall_summary s = {0};
	uint64_t buckets[BUCKETS];

	for (unsigned b = 0; b < BUCKETS; b++) {
		buckets[b] = counted(&windows[window].buckets[b]);
		s.n_touches += buckets[b];
		s.n_stalls += b >= first ? buckets[b] : 0;
	}
	s.p99_us = quantile(buckets, 0, s.n_touches, 0.99);
	s.stall_p50_us = quantile(buckets, first, s.n_stalls, 0.5);
	s.stall_p99_us = quantile(buckets, first, s.n_stalls, 0.99);
	s.max_us = (double)counted(&windows[window].max_ticks) * ns_per_tick / 1e3;
	s.stalled_ms = (double)counted(&windows[window].stalled_ticks) * ns_per_tick / 1e6;
	*ret_summary = s;
}

void stall_clear(enum stall_window window)
{
	struct window *w = &windows[window];

	for (unsigned b = 0; b < BUCKETS; b++)
		__atomic_store_n(&w->buckets[b], 0, __ATOMIC_RELAXED);
	__atomic_store_n(&w->max_ticks, 0, __ATOMIC_RELAXED);
	__atomic_store_n(&w->stalled_ticks, 0, __ATOMIC_RELAXED);
}
