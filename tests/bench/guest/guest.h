/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bench-guest: a VMM's side of a measured migration, by libpostcopy. It obeys
 * lines on stdin and prints "name value" lines. (testguest checks every byte
 * from many threads; here nothing may cost more than the thing that is measured.)
 */
#ifndef BENCH_GUEST_GUEST_H
#define BENCH_GUEST_GUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/content.h"
#include "common/latency.h"
#include "postcopy.h"
#include "support/driven.h"

#define GUEST_REGIONS_MAX 64

enum guest_memory {
	GUEST_ANON,
	GUEST_MEMFD,
	GUEST_MEMFD_MINOR,
	GUEST_HUGETLB_2M,
	GUEST_HUGETLB_2M_MINOR,
	GUEST_HUGETLB_1G,
};

struct guest {
	bool destination;
	enum guest_memory memory;
	uint64_t size;         /* of all regions together */
	unsigned n_regions;    /* of the same size */
	unsigned n_uffds;      /* destination: lanes */
	unsigned zero_percent; /* source */
	unsigned hot_percent;  /* destination: of the guest, at its start, that is touched */
	bool huge;  /* transparent huge pages, where libpostcopy or the source makes them */
	bool alias; /* source: all regions are the same memory */
	struct driven driven;

	uint8_t *address[GUEST_REGIONS_MAX];
	int fd[GUEST_REGIONS_MAX];
	int uffds[POSTCOPY_UFFDS_MAX];
	struct postcopy *handle;
};

/* memory.c */
int guest_memory_parse(const char *name, enum guest_memory *ret);
uint64_t guest_page_size(const struct guest *g);
uint64_t guest_region_bytes(const struct guest *g);
uint64_t guest_n_pages(const struct guest *g); /* 4 KiB, of all regions */
uint8_t *guest_page(const struct guest *g, uint64_t page);
bool guest_page_is_right(const struct guest *g, uint64_t page);
int guest_memory_map(struct guest *g); /* 0 or -errno */
void guest_memory_fill(const struct guest *g);
void guest_memory_describe(const struct guest *g, struct postcopy_region *ret);

/* touch.c: the destination's vCPUs. */
struct touch;
struct touch_plan {
	unsigned threads;
	size_t samples;   /* a thread */
	unsigned pace_us; /* between the starts of two faults of a thread; 0: back to back */
	bool spin;        /* do not sleep between faults */
};

int touch_new(const struct guest *g, struct touch **ret);
int touch_start(struct touch *t, const struct touch_plan *plan); /* -EBUSY: still running */
/* Polls readable when the threads have ended. */
int touch_fd(const struct touch *t);
void touch_stop(struct touch *t); /* soon: they end after their fault */
/* After the end: print what was measured, and make room for the next start. */
void touch_report(struct touch *t);

/* huge.c: huge pages and what they are worth. */
void huge_random(const struct guest *g, uint64_t n_reads); /* prints "random {...}" */
void huge_make(const struct guest *g);                     /* source */
int huge_collapse(
        const struct guest *g); /* destination, when completed; prints "collapsed {...}" */

/* Exit status. */
int guest_source_run(struct guest *g);
int guest_destination_run(struct guest *g);

#endif
