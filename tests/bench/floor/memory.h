/* SPDX-License-Identifier: Apache-2.0 */
/* Memory whose missing pages raise userfaultfd events, and how to place pages in it. */
#ifndef BENCH_FLOOR_MEMORY_H
#define BENCH_FLOOR_MEMORY_H

#include "floor/floor.h"

struct memory {
	uint8_t *address;
	uint64_t n_pages;
	int uffd;
};

/* Ends the program on failure. */
struct memory memory_new(const struct floor_options *o, uint64_t bytes);

/* Place pages there, from any process that holds the uffd. 0 or -errno. */
int memory_copy(const struct memory *m, uint64_t page, const void *data, size_t n_pages);

/* Pages that threads wait for, up to max of them, without waiting itself: how many. */
size_t memory_read_faults(const struct memory *m, uint64_t *ret_pages, size_t max);

#endif
