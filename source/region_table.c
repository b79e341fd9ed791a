/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The regions of an export: made and checked on the main loop when a client
 * exports memory, or an earlier agent left it, then read by every link. Nothing in it can
 * be reached by a page number that has not passed region_table_find_page() or _check_run().
 */
#include "source/region_table.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#define PAGE_SIZE_BYTES_MAX (UINT64_C(1) << 34) /* arm64's largest hugetlb page */

static int check_sizes(const struct export_region *r, struct error *err)
{
	if (!is_power_of_two(r->page_size_bytes) || r->page_size_bytes < WIRE_PAGE_SIZE ||
	    r->page_size_bytes > PAGE_SIZE_BYTES_MAX)
		return error_set(err, -EINVAL,
		                 "page size %" PRIu64 " is not a power of two of at least 4096",
		                 r->page_size_bytes);
	if (r->length_bytes == 0 || !is_aligned(r->length_bytes, r->page_size_bytes))
		return error_set(err, -EINVAL,
		                 "length %" PRIu64
		                 " is not a positive multiple of its page size %" PRIu64,
		                 r->length_bytes, r->page_size_bytes);
	if (!is_aligned(r->gpa.addr, r->page_size_bytes))
		return error_set(err, -EINVAL,
		                 "guest-physical address 0x%" PRIx64
		                 " is not a multiple of its page size %" PRIu64,
		                 r->gpa.addr, r->page_size_bytes);
	if (r->length_bytes - 1 > UINT64_MAX - r->gpa.addr)
		return error_set(err, -EINVAL,
		                 "guest-physical address 0x%" PRIx64 " + length %" PRIu64
		                 " wraps around",
		                 r->gpa.addr, r->length_bytes);
	return 0;
}

static uint64_t last_byte(gpa_t gpa, uint64_t length_bytes)
{
	return gpa.addr + (length_bytes - 1);
}

/* Against the regions that are in the table already. */
static int check_neighbours(const struct region_table *t, const struct export_region *r,
                            struct error *err)
{
	for (size_t i = 0; i < t->n_regions; i++) {
		const struct source_region *o = &t->regions[i];

		if (strcmp(o->name, r->name) == 0)
			return error_set(err, -EINVAL, "its name is not unique in the export");
		if (r->gpa.addr <= last_byte(o->gpa, o->length_bytes) &&
		    o->gpa.addr <= last_byte(r->gpa, r->length_bytes))
			return error_set(err, -EINVAL,
			                 "guest-physical 0x%" PRIx64 " + %" PRIu64
			                 " overlaps region %s at 0x%" PRIx64 " + %" PRIu64,
			                 r->gpa.addr, r->length_bytes, o->name, o->gpa.addr,
			                 o->length_bytes);
	}
	return 0;
}

static int check_backing(const struct export_region *r, const struct memory *m, struct error *err)
{
	if (r->backing == BACKING_ANONYMOUS && m->kind != MEMORY_PROCESS)
		return error_set(
		        err, -EINVAL,
		        "anonymous memory is exported with a descriptor of /proc/self/mem, "
		        "not of a file");
	if (!is_aligned(r->fd_offset.off, WIRE_PAGE_SIZE))
		return error_set(err, -EINVAL,
		                 "offset %" PRIu64 " in its memory is not a multiple of 4096",
		                 r->fd_offset.off);
	return memory_check_range(m, r->fd_offset, r->length_bytes, err);
}

/* What the regions are made of. */
struct source {
	int *fds;
	size_t n_fds;
	bool restored; /* its content was checked when it was exported */
};

static int memory_find(const struct export_region *r, const struct source *from, struct memory *ret,
                       struct error *err)
{
	int e;

	if (from->restored && from->n_fds == 0) {
		*ret = (struct memory){-1, r->backing == BACKING_ANONYMOUS ? MEMORY_PROCESS
		                                                           : MEMORY_FILE};
		return 0;
	}
	if (r->fd >= from->n_fds || from->fds[r->fd] < 0)
		return error_set(err, -EINVAL,
		                 "it names descriptor %" PRIu32 ", but %zu came with the message",
		                 r->fd, from->n_fds);
	e = memory_identify(from->fds[r->fd], ret, err);
	if (e < 0 || !from->restored)
		return e < 0 ? e : check_backing(r, ret, err);
	if (!memory_alive(ret, r->fd_offset))
		return error_set(err, -ESRCH, "the process whose memory this is has gone");
	return 0;
}

static int region_add(struct region_table *t, const struct export_region *r,
                      const struct source *from, uint64_t max_bytes, struct error *err)
{
	struct source_region *to = &t->regions[t->n_regions];
	int e = check_sizes(r, err);

	if (e == 0)
		e = check_neighbours(t, r, err);
	if (e < 0)
		return e;
	if (r->length_bytes > max_bytes - (t->n_pages << WIRE_PAGE_SHIFT))
		return error_set(err, -E2BIG,
		                 "the regions together exceed %" PRIu64
		                 " bytes (setting [exports] bytes)",
		                 max_bytes);
	e = memory_find(r, from, &to->memory, err);
	if (e < 0)
		return e;
	memcpy(to->name, r->name, sizeof(to->name));
	to->gpa = r->gpa;
	to->length_bytes = r->length_bytes;
	to->page_size_bytes = r->page_size_bytes;
	to->backing = r->backing;
	to->first_page = t->n_pages;
	to->n_pages = r->length_bytes >> WIRE_PAGE_SHIFT;
	to->offset = r->fd_offset;
	t->n_pages += to->n_pages;
	t->n_regions++;
	return 0;
}

static int table_make(const struct export_region *regions, size_t n_regions,
                      const struct source *from, uint64_t max_bytes, struct region_table **ret,
                      struct error *err)
{
	if (n_regions == 0 || n_regions > REGIONS_MAX || from->n_fds > ATTACH_FDS_MAX)
		return error_set(err, -EINVAL,
		                 "%zu regions and %zu descriptors: 1 to %d regions and at most %d "
		                 "descriptors can be exported",
		                 n_regions, from->n_fds, REGIONS_MAX, ATTACH_FDS_MAX);

	_cleanup_(cleanup_region_table_free) struct region_table *t = calloc(1, sizeof(*t));

	if (t)
		t->regions = calloc(n_regions, sizeof(*t->regions));
	if (!t || !t->regions)
		return error_set(err, -ENOMEM, "not enough memory for %zu regions", n_regions);
	for (size_t i = 0; i < n_regions; i++) {
		int r = region_add(t, &regions[i], from, max_bytes, err);

		if (r < 0) {
			error_prefix(err, "region %s", regions[i].name);
			return r;
		}
	}
	for (t->n_fds = 0; t->n_fds < from->n_fds; t->n_fds++)
		t->fds[t->n_fds] = TAKE_FD(from->fds[t->n_fds]);
	*ret = TAKE_PTR(t);
	return 0;
}

int region_table_new(const struct export_region *regions, size_t n_regions, int *fds, size_t n_fds,
                     uint64_t max_bytes, struct region_table **ret, struct error *err)
{
	const struct source from = {.fds = fds, .n_fds = n_fds};

	return table_make(regions, n_regions, &from, max_bytes, ret, err);
}

int region_table_restore(const struct export_region *regions, size_t n_regions, int *fds,
                         size_t n_fds, struct region_table **ret, struct error *err)
{
	const struct source from = {.fds = fds, .n_fds = n_fds, .restored = true};

	return table_make(regions, n_regions, &from, UINT64_MAX, ret, err);
}

void region_table_drop_memory(struct region_table *t)
{
	for (size_t i = 0; i < t->n_fds; i++)
		close_fd(&t->fds[i]);
	for (size_t i = 0; i < t->n_regions; i++)
		t->regions[i].memory.fd = -1;
}

struct region_table *region_table_free(struct region_table *t)
{
	if (!t)
		return NULL;
	region_table_drop_memory(t);
	free(t->regions);
	free(t);
	return NULL;
}

const struct source_region *region_table_find_page(const struct region_table *t, uint64_t page)
{
	size_t low = 0, high = t->n_regions;

	if (page >= t->n_pages)
		return NULL;
	while (high - low > 1) {
		size_t middle = low + (high - low) / 2;

		if (t->regions[middle].first_page <= page)
			low = middle;
		else
			high = middle;
	}
	return &t->regions[low];
}

const struct source_region *region_table_find_gpa(const struct region_table *t, gpa_t gpa)
{
	for (size_t i = 0; i < t->n_regions; i++) {
		const struct source_region *r = &t->regions[i];

		if (gpa.addr >= r->gpa.addr && gpa.addr - r->gpa.addr < r->length_bytes)
			return r;
	}
	return NULL;
}

int region_table_check_run(const struct region_table *t, uint64_t first, uint64_t count,
                           struct error *err)
{
	const struct source_region *r = region_table_find_page(t, first);

	if (!r)
		return error_set(err, -ERANGE,
		                 "page %" PRIu64 " is outside every region: the export has %" PRIu64
		                 " pages",
		                 first, t->n_pages);
	if (count > r->n_pages - (first - r->first_page))
		return error_set(err, -ERANGE,
		                 "pages %" PRIu64 " + %" PRIu64
		                 " cross the end of region %s at page "
		                 "%" PRIu64,
		                 first, count, r->name, r->first_page + r->n_pages);
	return 0;
}

static int range_ends(const struct poison_range *range, uint64_t *ret_start, uint64_t *ret_last,
                      struct error *err)
{
	uint64_t mask = WIRE_PAGE_SIZE - 1;

	if (range->length_bytes == 0)
		return error_set(err, -EINVAL, "range at guest-physical 0x%" PRIx64 " is empty",
		                 range->gpa.addr);
	if (range->length_bytes - 1 > UINT64_MAX - range->gpa.addr)
		return error_set(err, -EINVAL,
		                 "range at guest-physical 0x%" PRIx64 " + %" PRIu64 " wraps around",
		                 range->gpa.addr, range->length_bytes);
	*ret_start = range->gpa.addr & ~mask;
	*ret_last = last_byte(range->gpa, range->length_bytes) | mask;
	return 0;
}

int region_table_walk_gpa(const struct region_table *t, const struct poison_range *range,
                          int (*fn)(uint64_t first, uint64_t count, void *user), void *user,
                          struct error *err)
{
	uint64_t at = 0, last = 0;
	int e = range_ends(range, &at, &last, err);

	if (e < 0)
		return e;
	for (;;) {
		const struct source_region *r = region_table_find_gpa(t, (gpa_t){at});

		if (!r)
			return error_set(err, -ERANGE,
			                 "guest-physical 0x%" PRIx64 " of range 0x%" PRIx64
			                 " + %" PRIu64 " is outside every region",
			                 at, range->gpa.addr, range->length_bytes);
		uint64_t piece_last = MIN(last, last_byte(r->gpa, r->length_bytes));
		uint64_t first = r->first_page + ((at - r->gpa.addr) >> WIRE_PAGE_SHIFT);

		if (fn) {
			e = fn(first, ((piece_last - at) >> WIRE_PAGE_SHIFT) + 1, user);
			if (e < 0)
				return error_set_errno(err, e, "cannot note lost pages");
		}
		if (piece_last == last)
			return 0;
		at = piece_last + 1;
	}
}

bool region_table_gone(const struct region_table *t)
{
	for (size_t i = 0; i < t->n_regions; i++)
		if (!memory_alive(&t->regions[i].memory, t->regions[i].offset))
			return true;
	return false;
}
