/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The memory of one export: its regions, where their bytes are, and how wire
 * pages are numbered over them (in the order of the table, 4 KiB each).
 * Read-only once it is made, so any thread may use it.
 */
#ifndef SOURCE_REGION_TABLE_H
#define SOURCE_REGION_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/cleanup.h"
#include "core/error.h"
#include "core/units.h"
#include "source/memory.h"
#include "wire/attach_message.h"

struct source_region {
	char name[REGION_NAME_MAX];
	gpa_t gpa;
	uint64_t length_bytes;
	uint64_t page_size_bytes;
	enum backing backing;
	uint64_t first_page;
	uint64_t n_pages;
	struct memory memory;
	backing_off_t offset;
};

struct region_table {
	struct source_region *regions;
	size_t n_regions;
	uint64_t n_pages;
	int fds[ATTACH_FDS_MAX]; /* -1: given back */
	size_t n_fds;
};

/*
 * Check what a client wants to export and take the descriptors: fds[] are -1
 * afterwards (on success only). max_bytes limits the regions together.
 * -EINVAL, -ERANGE, -EACCES, -ESRCH, -EFAULT, -E2BIG with a text that names the region.
 */
int region_table_new(const struct export_region *regions, size_t n_regions, int *fds, size_t n_fds,
                     uint64_t max_bytes, struct region_table **ret, struct error *err);

/*
 * The same for what an earlier agent had checked, and which is served whatever has become
 * of it since. Without descriptors (n_fds 0) it is the table of an export without memory.
 * -ESRCH when a process that had memory has gone; else as above.
 */
int region_table_restore(const struct export_region *regions, size_t n_regions, int *fds,
                         size_t n_fds, struct region_table **ret, struct error *err);

struct region_table *region_table_free(struct region_table *t); /* always NULL */
DEFINE_CLEANUP(struct region_table, region_table_free)

/* Close the descriptors and keep the rest. No thread may be reading. */
void region_table_drop_memory(struct region_table *t);

/* The region of a wire page, NULL when it is outside of all. */
const struct source_region *region_table_find_page(const struct region_table *t, uint64_t page);
const struct source_region *region_table_find_gpa(const struct region_table *t, gpa_t gpa);

/* Is first .. first + count - 1 within one region? -ERANGE with a text. */
int region_table_check_run(const struct region_table *t, uint64_t first, uint64_t count,
                           struct error *err);

/*
 * Call fn for each piece of the guest-physical range, which is widened to whole
 * wire pages and may span neighbouring regions. -EINVAL, -ERANGE with a text,
 * and then fn may have been called already; fn may be NULL to check only.
 * fn returns 0 or -errno, which ends the walk.
 */
int region_table_walk_gpa(const struct region_table *t, const struct poison_range *range,
                          int (*fn)(uint64_t first, uint64_t count, void *user), void *user,
                          struct error *err);

/* Is any region backed by a process's memory that has gone? */
bool region_table_gone(const struct region_table *t);

static inline backing_off_t source_region_offset(const struct source_region *r, uint64_t page)
{
	return (backing_off_t){r->offset.off + ((page - r->first_page) << WIRE_PAGE_SHIFT)};
}

#endif
