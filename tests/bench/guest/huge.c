/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What huge pages are worth: random reads, and how much of the guest is mapped
 * by huge pages. Called by both roles when stdin says so.
 */
#include <inttypes.h>
#include <stdio.h>
#include <sys/mman.h>

#include "guest/guest.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 /* Linux 6.1 */
#endif

/* Of the region's mappings, in bytes. */
static uint64_t region_huge_bytes(const uint8_t *region, uint64_t bytes)
{
	uint64_t start, end, kib, sum = 0;
	FILE *f = fopen("/proc/self/smaps", "re");
	bool ours = false;
	char line[512];

	if (!f)
		return 0;
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %*c", &start, &end) == 2)
			ours = start < (uintptr_t)region + bytes && end > (uintptr_t)region;
		else if (ours && (sscanf(line, "AnonHugePages: %" SCNu64, &kib) == 1 ||
		                  sscanf(line, "ShmemPmdMapped: %" SCNu64, &kib) == 1))
			sum += kib << 10;
	}
	(void)fclose(f);
	return sum;
}

/* Each read's address comes from what the one before it read: nothing overlaps. */
static uint64_t chase(const uint64_t *words, uint64_t n_words, uint64_t n)
{
	uint64_t x = 1;

	for (uint64_t i = 0; i < n; i++) {
		uint64_t at = (uint64_t)((unsigned __int128)x * n_words >> 64);

		x = (x + __atomic_load_n(&words[at], __ATOMIC_RELAXED)) *
		            UINT64_C(6364136223846793005) +
		    UINT64_C(1442695040888963407);
	}
	return x;
}

/* The first region, all of it. */
void huge_random(const struct guest *g, uint64_t n_reads)
{
	const uint64_t *words = (const uint64_t *)(const void *)g->address[0];
	uint64_t bytes = guest_region_bytes(g), n_words = bytes / sizeof(*words), start, ns;

	chase(words, n_words, n_reads / 10);
	start = bench_now_ns();
	chase(words, n_words, n_reads);
	ns = bench_now_ns() - start;
	driven_event("random", "{\"ns\": %.3f, \"huge_bytes\": %" PRIu64 "}",
	             (double)ns / (double)n_reads, region_huge_bytes(g->address[0], bytes));
}

/* The source's guest before it moves: what is not huge yet. Best effort: the figures tell. */
void huge_make(const struct guest *g)
{
	for (unsigned i = 0; i < g->n_regions; i++)
		(void)madvise(g->address[i], guest_region_bytes(g), MADV_COLLAPSE);
}

int huge_collapse(const struct guest *g)
{
	struct postcopy_collapse_progress p;
	uint64_t start = bench_now_ns();
	int ret = driven_collapse(g->handle, &p);

	if (ret < 0)
		return ret;
	driven_event("collapsed",
	             "{\"seconds\": %.3f, \"total\": %" PRIu64 ", \"huge\": %" PRIu64
	             ", \"failed\": %" PRIu64 "}",
	             (double)(bench_now_ns() - start) / 1e9, p.bytes_total, p.bytes_collapsed,
	             p.bytes_failed + p.bytes_unsuitable);
	return 0;
}
