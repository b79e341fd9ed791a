/* SPDX-License-Identifier: Apache-2.0 */
/* Role: sum up the lanes' counters for whoever shows them. */
#include "daemon/stats.h"

void stats_sum(const struct stats *s, struct stats_sum *sum)
{
#define X(name) sum->name += atomic_load_explicit(&s->name, memory_order_relaxed);
	STATS_COUNTERS(X)
#undef X
	histogram_merge(&sum->fault_ns, &s->fault_ns);
}
