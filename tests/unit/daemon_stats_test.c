/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Promises of daemon/stats.h: a sum has every counter and the latencies of
 * every thread, and may be taken while a thread counts: what it shows never
 * goes back.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <string.h>

#include "daemon/stats.h"

#define COUNTS 300000

static void a_sum_has_every_counter(void **state)
{
	static struct stats a, b;
	static struct stats_sum sum;
	uint64_t n = 0;

	(void)state;
	/* A value of its own for each: a swapped or forgotten counter shows. */
#define X(name)                 \
	n++;                    \
	stats_add(&a, name, n); \
	stats_add(&a, name, 1); \
	stats_add(&b, name, 1000 * n);
	STATS_COUNTERS(X)
#undef X
	stats_sum(&a, &sum);
	stats_sum(&b, &sum);
	n = 0;
#define X(name) \
	n++;    \
	assert_int_equal(sum.name, 1001 * n + 1);
	STATS_COUNTERS(X)
#undef X
	assert_int_equal(n, 15);
}

static void a_sum_has_all_latencies(void **state)
{
	static struct stats a, b;
	static struct stats_sum sum;

	(void)state;
	for (uint64_t i = 1; i <= 1000; i++)
		histogram_record(i % 2 ? &a.fault_ns : &b.fault_ns, i * 1000);
	stats_sum(&a, &sum);
	assert_int_equal(sum.fault_ns.count, 500);
	stats_sum(&b, &sum);
	assert_int_equal(sum.fault_ns.count, 1000);
	assert_in_range(histogram_quantile(&sum.fault_ns, 0.5), 500000, 540000);
}

static void *count_main(void *arg)
{
	struct stats *s = arg;

	for (int i = 0; i < COUNTS; i++) {
		stats_add(s, faults, 1);
		stats_add(s, bytes_received, 4096);
	}
	return NULL;
}

static void may_be_read_while_a_thread_counts(void **state)
{
	static struct stats s;
	static struct stats_sum sum;
	uint64_t before = 0;
	pthread_t thread;

	(void)state;
	assert_int_equal(pthread_create(&thread, NULL, count_main, &s), 0);
	while (before < COUNTS) {
		memset(&sum, 0, sizeof(sum));
		stats_sum(&s, &sum);
		assert_true(sum.faults >= before);
		assert_int_equal(sum.bytes_received % 4096, 0);
		before = sum.faults;
	}
	pthread_join(thread, NULL);
	assert_int_equal(before, COUNTS);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(a_sum_has_every_counter),
	        cmocka_unit_test(a_sum_has_all_latencies),
	        cmocka_unit_test(may_be_read_while_a_thread_counts),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
