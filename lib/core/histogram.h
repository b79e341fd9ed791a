/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Latency histogram: log-linear, 16 steps to each power of two (values are at
 * most 6.25 % off), over the whole uint64_t range, 8 KiB a histogram.
 *
 * One thread records; any thread may read at the same time and sees a recent
 * state (relaxed atomics, no lock). Units are the caller's; by convention ns.
 */
#ifndef CORE_HISTOGRAM_H
#define CORE_HISTOGRAM_H

#include <stdint.h>

#define HISTOGRAM_BUCKETS 976
#define HISTOGRAM_LOG2_BUCKETS 64

struct histogram {
	uint64_t count;
	uint64_t sum;
	uint64_t max;
	uint64_t buckets[HISTOGRAM_BUCKETS];
};

void histogram_reset(struct histogram *h);
void histogram_record(struct histogram *h, uint64_t value);

/* Add from into into (only into's recording thread may call it). */
void histogram_merge(struct histogram *into, const struct histogram *from);

/*
 * The value below or at which the given fraction (0..1) of the records lie:
 * the upper bound of its bucket, never above max. 0 when empty.
 */
uint64_t histogram_quantile(const struct histogram *h, double fraction);

/* Mean, 0 when empty. */
double histogram_mean(const struct histogram *h);

/*
 * Counts by powers of two, as QEMU's and libvirt's latency distributions:
 * ret[i] counts records with 2^i <= value / unit < 2^(i+1); ret[0] also has
 * those below one unit. unit > 0, for instance 1000 for ns shown in us.
 */
void histogram_log2(const struct histogram *h, uint64_t unit, uint64_t ret[HISTOGRAM_LOG2_BUCKETS]);

#endif
