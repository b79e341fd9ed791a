/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Promises of core/histogram.h: quantiles within 6.25 % of a sorted sample and
 * never below the true value, over the whole range; reading while recording.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/cleanup.h"
#include "core/histogram.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define SAMPLES 20000

static struct histogram histogram;

static int reset(void **state)
{
	(void)state;
	histogram_reset(&histogram);
	return 0;
}

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

/* Spread over all magnitudes: random bits behind a random number of zeros. */
static uint64_t random_value(unsigned min_shift)
{
	uint64_t bits =
	        ((uint64_t)random() << 42) ^ ((uint64_t)random() << 21) ^ (uint64_t)random();

	return bits >> (min_shift + (unsigned)random() % (64 - min_shift));
}

static void quantiles_are_close_to_the_sorted_sample(void **state)
{
	static const double fractions[] = {0.001, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 0.999, 1};
	static uint64_t samples[SAMPLES];

	(void)state;
	srandom(4);
	for (size_t i = 0; i < SAMPLES; i++) {
		samples[i] = random_value(0);
		histogram_record(&histogram, samples[i]);
	}
	qsort(samples, SAMPLES, sizeof(samples[0]), compare);
	for (size_t i = 0; i < ARRAY_SIZE(fractions); i++) {
		uint64_t exact = samples[(size_t)(fractions[i] * SAMPLES + 0.5) - 1];
		uint64_t got = histogram_quantile(&histogram, fractions[i]);

		assert_true(got >= exact);
		assert_true(got - exact <= exact / 16);
	}
	assert_int_equal(histogram_quantile(&histogram, 1), samples[SAMPLES - 1]);
	assert_int_equal(histogram.max, samples[SAMPLES - 1]);
}

/* Borders of buckets: a lone value is its own quantile (cut at max), at any size. */
static void every_magnitude_has_a_bucket(void **state)
{
	static const uint64_t small_steps[] = {0, 1, 2, 3};

	(void)state;
	for (unsigned bit = 0; bit < 64; bit++) {
		for (size_t i = 0; i < ARRAY_SIZE(small_steps); i++) {
			uint64_t value = (UINT64_C(1) << bit) - 2 + small_steps[i];

			histogram_reset(&histogram);
			histogram_record(&histogram, value);
			assert_int_equal(histogram_quantile(&histogram, 0.5), value);
			histogram_record(&histogram, UINT64_MAX);
			uint64_t got = histogram_quantile(&histogram, 0.5);

			assert_true(got >= value && got - value <= value / 16);
		}
	}
}

static void an_empty_one_reads_zero(void **state)
{
	(void)state;
	assert_int_equal(histogram_quantile(&histogram, 0.5), 0);
	assert_true(histogram_mean(&histogram) == 0);
}

static void odd_fractions_are_bounded(void **state)
{
	(void)state;
	histogram_record(&histogram, 1);
	histogram_record(&histogram, 9);
	assert_int_equal(histogram_quantile(&histogram, 0), 1);
	assert_int_equal(histogram_quantile(&histogram, -5), 1);
	assert_int_equal(histogram_quantile(&histogram, __builtin_nan("")), 1);
	assert_int_equal(histogram_quantile(&histogram, 0.5), 1);
	assert_int_equal(histogram_quantile(&histogram, 0.51), 9);
	assert_int_equal(histogram_quantile(&histogram, 7), 9);
}

static void merge_is_the_same_as_recording_all(void **state)
{
	static struct histogram a, b;

	(void)state;
	srandom(5);
	histogram_reset(&a);
	histogram_reset(&b);
	for (int i = 0; i < 1000; i++) {
		uint64_t value = random_value(20);

		histogram_record(i % 3 ? &a : &b, value);
		histogram_record(&histogram, value);
	}
	histogram_merge(&a, &b);
	assert_memory_equal(&a, &histogram, sizeof(a));
	assert_true(histogram_mean(&a) == (double)a.sum / 1000);
}

static void log2_counts_by_powers_of_two(void **state)
{
	uint64_t counts[HISTOGRAM_LOG2_BUCKETS];
	uint64_t expected[HISTOGRAM_LOG2_BUCKETS] = {0};

	(void)state;
	for (uint64_t value = 0; value < 5000; value++) {
		histogram_record(&histogram, value);
		expected[value < 2 ? 0 : 63 - __builtin_clzll(value)]++;
	}
	histogram_record(&histogram, UINT64_MAX);
	expected[63]++;
	histogram_log2(&histogram, 1, counts);
	assert_memory_equal(counts, expected, sizeof(counts));
}

static void log2_takes_a_unit(void **state)
{
	uint64_t counts[HISTOGRAM_LOG2_BUCKETS];

	(void)state;
	histogram_record(&histogram, 10);     /* below one us */
	histogram_record(&histogram, 1500);   /* 1.5 us: [1, 2) */
	histogram_record(&histogram, 3000);   /* [2, 4) */
	histogram_record(&histogram, 100000); /* [64, 128) */
	histogram_log2(&histogram, 1000, counts);
	assert_int_equal(counts[0], 2);
	assert_int_equal(counts[1], 1);
	assert_int_equal(counts[6], 1);
	uint64_t sum = 0;

	for (int i = 0; i < HISTOGRAM_LOG2_BUCKETS; i++)
		sum += counts[i];
	assert_int_equal(sum, 4);
}

static bool recording_done;

static void *record_many(void *arg)
{
	for (uint64_t i = 1; i <= 200000; i++)
		histogram_record(arg, 100 + i % 100);
	__atomic_store_n(&recording_done, true, __ATOMIC_RELEASE);
	return NULL;
}

/* A reader sees sane values at any moment; run under TSan this shows that there is no race. */
static void one_may_read_while_another_records(void **state)
{
	pthread_t thread;

	(void)state;
	assert_int_equal(pthread_create(&thread, NULL, record_many, &histogram), 0);
	while (!__atomic_load_n(&recording_done, __ATOMIC_ACQUIRE)) {
		uint64_t median = histogram_quantile(&histogram, 0.5);

		assert_true(median == 0 || (median >= 100 && median <= 199));
	}
	pthread_join(thread, NULL);
	assert_int_equal(histogram.count, 200000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test_setup(quantiles_are_close_to_the_sorted_sample, reset),
	        cmocka_unit_test_setup(every_magnitude_has_a_bucket, reset),
	        cmocka_unit_test_setup(an_empty_one_reads_zero, reset),
	        cmocka_unit_test_setup(odd_fractions_are_bounded, reset),
	        cmocka_unit_test_setup(merge_is_the_same_as_recording_all, reset),
	        cmocka_unit_test_setup(log2_counts_by_powers_of_two, reset),
	        cmocka_unit_test_setup(log2_takes_a_unit, reset),
	        cmocka_unit_test_setup(one_may_read_while_another_records, reset),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
