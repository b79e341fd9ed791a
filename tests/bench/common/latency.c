/* SPDX-License-Identifier: Apache-2.0 */
/* Called by the benchmark programs; each thread has a struct latency of its own. */
#include "common/latency.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

uint64_t bench_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000U + (uint64_t)ts.tv_nsec;
}

int latency_init(struct latency *l, size_t max)
{
	l->ns = malloc((max ? max : 1) * sizeof(*l->ns));
	if (!l->ns)
		return -ENOMEM;
	/* The page faults of this array are not to be measured. */
	memset(l->ns, 0, (max ? max : 1) * sizeof(*l->ns));
	l->n = 0;
	l->max = max;
	return 0;
}

void latency_fini(struct latency *l)
{
	free(l->ns);
	l->ns = NULL;
}

void latency_append(struct latency *l, const struct latency *other)
{
	for (size_t i = 0; i < other->n; i++)
		latency_add(l, other->ns[i]);
}

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

static double quantile_us(const struct latency *l, double fraction)
{
	if (l->n == 0)
		return 0;
	return (double)l->ns[(size_t)((double)(l->n - 1) * fraction)] / 1000;
}

int latency_format(struct latency *l, char *buf, size_t size)
{
	qsort(l->ns, l->n, sizeof(*l->ns), compare);
	return snprintf(buf, size,
	                "\"n\": %zu, \"p50_us\": %.3f, \"p99_us\": %.3f, \"p999_us\": %.3f, "
	                "\"max_us\": %.3f",
	                l->n, quantile_us(l, 0.5), quantile_us(l, 0.99), quantile_us(l, 0.999),
	                quantile_us(l, 1));
}
