/* SPDX-License-Identifier: Apache-2.0 */
/* The two clocks, for every layer. clock_gettime() cannot fail for them on Linux. */
#include "core/clock.h"

#include <time.h>

static uint64_t clock_read_ns(clockid_t id)
{
	struct timespec now = {0};

	(void)clock_gettime(id, &now);
	return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

uint64_t clock_monotonic_ns(void)
{
	return clock_read_ns(CLOCK_MONOTONIC);
}

uint64_t clock_monotonic_us(void)
{
	return clock_monotonic_ns() / 1000;
}

uint64_t clock_realtime_us(void)
{
	return clock_read_ns(CLOCK_REALTIME) / 1000;
}
