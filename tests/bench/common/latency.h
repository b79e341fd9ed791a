/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Latencies of a benchmark, each kept as it was measured: quantiles are exact,
 * and nothing but a store happens beside the measured thing.
 */
#ifndef BENCH_COMMON_LATENCY_H
#define BENCH_COMMON_LATENCY_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

struct latency {
	uint64_t *ns;
	size_t n;
	size_t max; /* further ones are not kept */
};

uint64_t bench_now_ns(void); /* CLOCK_MONOTONIC, which all processes share */

int latency_init(struct latency *l, size_t max); /* 0 or -ENOMEM */
void latency_fini(struct latency *l);

static inline void latency_add(struct latency *l, uint64_t ns)
{
	if (l->n < l->max)
		l->ns[l->n++] = ns;
}

/* Append all of another one; what does not fit is left out. */
void latency_append(struct latency *l, const struct latency *other);

/* "n": 1, "p50_us": 1.0, ... without braces. Sorts l. */
int latency_format(struct latency *l, char *buf, size_t size);

#endif
