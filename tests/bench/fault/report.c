/* SPDX-License-Identifier: Apache-2.0 */
/* What the benchmark says: p50 and p99 of each case and the ratio. Called once by main.c. */
#include <stdio.h>
#include <stdlib.h>

#include "bench.h"

static int compare_u64(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

static int compare_double(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double median(double *values, size_t n)
{
	qsort(values, n, sizeof(*values), compare_double);
	return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

/* The value at a fraction of one round's sorted samples, in us. */
static double quantile_us(const uint64_t *sorted, size_t n, double fraction)
{
	return (double)sorted[(size_t)((double)(n - 1) * fraction)] / 1000;
}

static double median_quantile(const struct bench *b, const uint64_t *samples, double fraction)
{
	double *values = calloc(b->rounds, sizeof(*values)), result;

	if (!values)
		abort();
	for (size_t r = 0; r < b->rounds; r++)
		values[r] = quantile_us(samples + r * b->samples, b->samples, fraction);
	result = median(values, b->rounds);
	free(values);
	return result;
}

/* Round by round, so that a slow moment of the machine weighs on both sides of the fraction. */
static double median_ratio(const struct bench *b, uint64_t *samples[BENCH_CASES], double fraction)
{
	double *values = calloc(b->rounds, sizeof(*values)), result;

	if (!values)
		abort();
	for (size_t r = 0; r < b->rounds; r++) {
		double us[BENCH_CASES];

		for (size_t c = 0; c < BENCH_CASES; c++)
			us[c] = quantile_us(samples[c] + r * b->samples, b->samples, fraction);
		values[r] = us[2] / (us[0] + us[1]);
	}
	result = median(values, b->rounds);
	free(values);
	return result;
}

static void print_text(const struct bench *b, const struct bench_case *const cases[BENCH_CASES],
                       const struct bench_result results[BENCH_CASES], double ratio, double ratio99)
{
	printf("%zu rounds of %zu random 4 KiB pages each, %s memory, %s\n\n", b->rounds,
	       b->samples, b->memfd ? "memfd" : "anonymous",
	       b->cpu < 0 ? "any CPU" : "all on one CPU");
	printf("%-12s %10s %10s\n", "", "p50 us", "p99 us");
	for (size_t c = 0; c < BENCH_CASES; c++)
		printf("%-12s %10.1f %10.1f   %s\n", cases[c]->name, results[c].p50_us,
		       results[c].p99_us, cases[c]->what);
	printf("%-12s %10.2f %10.2f   end to end / (fault + ping)\n", "ratio", ratio, ratio99);
	if (b->dropped)
		printf("%zu samples left out: the stream had brought the page\n", b->dropped);
}

static void print_json(const struct bench *b, const struct bench_case *const cases[BENCH_CASES],
                       const struct bench_result results[BENCH_CASES], double ratio, double ratio99)
{
	printf("{\"rounds\": %zu, \"samples\": %zu, \"memory\": \"%s\", \"cpu\": %d", b->rounds,
	       b->samples, b->memfd ? "memfd" : "anonymous", b->cpu);
	for (size_t c = 0; c < BENCH_CASES; c++)
		printf(", \"%s\": {\"p50_us\": %.2f, \"p99_us\": %.2f}", cases[c]->name,
		       results[c].p50_us, results[c].p99_us);
	printf(", \"ratio_p50\": %.3f, \"ratio_p99\": %.3f, \"dropped\": %zu}\n", ratio, ratio99,
	       b->dropped);
}

double bench_report(const struct bench *b, const struct bench_case *const cases[BENCH_CASES],
                    uint64_t *samples[BENCH_CASES])
{
	struct bench_result results[BENCH_CASES];
	double ratio, ratio99;

	for (size_t c = 0; c < BENCH_CASES; c++) {
		for (size_t r = 0; r < b->rounds; r++)
			qsort(samples[c] + r * b->samples, b->samples, sizeof(uint64_t),
			      compare_u64);
		results[c].p50_us = median_quantile(b, samples[c], 0.5);
		results[c].p99_us = median_quantile(b, samples[c], 0.99);
	}
	ratio = median_ratio(b, samples, 0.5);
	ratio99 = median_ratio(b, samples, 0.99);
	(b->json ? print_json : print_text)(b, cases, results, ratio, ratio99);
	return ratio;
}
