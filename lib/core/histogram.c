/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Latency histograms of the lanes. The lane's thread records with plain relaxed
 * loads and stores (it is the only writer); the main thread reads for status
 * and metrics at any time and copes with counts a moment old.
 *
 * Values below 16 have a bucket each; from there on bucket 16 + 16 * (k - 4) + s
 * holds the values with highest bit k whose next four bits are s.
 */
#include "core/histogram.h"

#include "core/cleanup.h"

#define STEP_SHIFT 4
#define STEPS (1U << STEP_SHIFT)

_Static_assert(HISTOGRAM_BUCKETS == STEPS + (64 - STEP_SHIFT) * STEPS, "the whole uint64_t range");

static unsigned log2_floor(uint64_t value)
{
	return 63U - (unsigned)__builtin_clzll(value);
}

static unsigned bucket_of(uint64_t value)
{
	if (value < STEPS)
		return (unsigned)value;
	unsigned shift = log2_floor(value) - STEP_SHIFT;

	return STEPS + shift * STEPS + (unsigned)(value >> shift) % STEPS;
}

/* The smallest value of a bucket and how many values it holds. */
static uint64_t bucket_first(unsigned i)
{
	if (i < STEPS)
		return i;
	return (uint64_t)(STEPS + i % STEPS) << (i / STEPS - 1);
}

static uint64_t bucket_width(unsigned i)
{
	return i < STEPS ? 1 : UINT64_C(1) << (i / STEPS - 1);
}

static uint64_t load(const uint64_t *p)
{
	return __atomic_load_n(p, __ATOMIC_RELAXED);
}

static void store(uint64_t *p, uint64_t value)
{
	__atomic_store_n(p, value, __ATOMIC_RELAXED);
}

void histogram_reset(struct histogram *h)
{
	store(&h->count, 0);
	store(&h->sum, 0);
	store(&h->max, 0);
	for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++)
		store(&h->buckets[i], 0);
}

void histogram_record(struct histogram *h, uint64_t value)
{
	uint64_t *bucket = &h->buckets[bucket_of(value)];

	/* max before the bucket: a reader's quantile is cut at max. */
	if (value > load(&h->max))
		store(&h->max, value);
	store(bucket, load(bucket) + 1);
	store(&h->sum, load(&h->sum) + value);
	store(&h->count, load(&h->count) + 1);
}

void histogram_merge(struct histogram *into, const struct histogram *from)
{
	uint64_t from_max = load(&from->max);

	if (from_max > load(&into->max))
		store(&into->max, from_max);
	for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++)
		store(&into->buckets[i], load(&into->buckets[i]) + load(&from->buckets[i]));
	store(&into->sum, load(&into->sum) + load(&from->sum));
	store(&into->count, load(&into->count) + load(&from->count));
}

/* The rank, from 1, of the record that a fraction of total ends with. */
static uint64_t rank_of(double fraction, uint64_t total)
{
	double exact = fraction * (double)total;

	if (!(exact > 1)) /* also not a number */
		return 1;
	if (exact >= (double)total)
		return total;
	uint64_t rank = (uint64_t)exact;

	return (double)rank < exact ? rank + 1 : rank;
}

uint64_t histogram_quantile(const struct histogram *h, double fraction)
{
	uint64_t total = 0, seen = 0, max = load(&h->max);

	/* Not h->count: it may be ahead of the buckets by what is being recorded. */
	for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++)
		total += load(&h->buckets[i]);
	if (total == 0)
		return 0;
	uint64_t rank = rank_of(fraction, total);

	for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++) {
		seen += load(&h->buckets[i]);
		if (seen >= rank)
			return MIN(bucket_first(i) + (bucket_width(i) - 1), max);
	}
	return max;
}

double histogram_mean(const struct histogram *h)
{
	uint64_t count = load(&h->count);

	return count ? (double)load(&h->sum) / (double)count : 0;
}

/*
 * Where a power of two times the unit falls into a bucket, the bucket's middle
 * decides: the border is as exact as everything here.
 */
void histogram_log2(const struct histogram *h, uint64_t unit, uint64_t ret[HISTOGRAM_LOG2_BUCKETS])
{
	for (unsigned i = 0; i < HISTOGRAM_LOG2_BUCKETS; i++)
		ret[i] = 0;
	for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++) {
		uint64_t units = (bucket_first(i) + bucket_width(i) / 2) / unit;

		ret[units ? log2_floor(units) : 0] += load(&h->buckets[i]);
	}
}
