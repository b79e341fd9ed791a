/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Role: check and number the guest's regions, and find places in them. Called
 * by the attach code (build, match) and by every fault (find). A table never
 * changes after it is built but for first_page, which the owner sets once.
 */
#include "daemon/region.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

/* 1 GiB: the largest page of x86-64. */
#define UNIT_SHIFT_MAX 30

const char *region_backing_name(enum region_backing b)
{
	static const char *const names[] = {"anonymous", "memfd", "hugetlb"};

	return b < ARRAY_SIZE(names) ? names[b] : "unknown";
}

const char *region_mode_name(enum region_mode m)
{
	static const char *const names[] = {"missing", "minor"};

	return m < ARRAY_SIZE(names) ? names[m] : "unknown";
}

static bool range_wraps(uint64_t start, uint64_t length)
{
	return length > UINT64_MAX - start;
}

static bool ranges_overlap(uint64_t a, uint64_t a_len, uint64_t b, uint64_t b_len)
{
	return a < b + b_len && b < a + a_len;
}

static int check_alignment(const struct region *r, struct error *err)
{
	uint64_t unit = region_unit_bytes(r);

	if (r->length_bytes == 0 || !is_aligned(r->length_bytes, unit))
		return error_set(err, -EINVAL,
		                 "region %s: length %" PRIu64
		                 " is not a positive multiple of its page size %" PRIu64,
		                 r->name, r->length_bytes, unit);
	if (!is_aligned(r->hva.addr, unit))
		return error_set(err, -EINVAL,
		                 "region %s: host address 0x%" PRIx64
		                 " is not aligned to its page size %" PRIu64,
		                 r->name, r->hva.addr, unit);
	if (!is_aligned(r->gpa.addr, unit))
		return error_set(err, -EINVAL,
		                 "region %s: guest-physical address 0x%" PRIx64
		                 " is not aligned to its page size %" PRIu64,
		                 r->name, r->gpa.addr, unit);
	if (r->memory_fd >= 0 && !is_aligned(r->fd_offset.off, unit))
		return error_set(err, -EINVAL,
		                 "region %s: offset %" PRIu64
		                 " in its memory file is not aligned to its page size %" PRIu64,
		                 r->name, r->fd_offset.off, unit);
	return 0;
}

static int check_region(const struct region *r, uint32_t n_lanes, struct error *err)
{
	int rc;

	if (r->name[0] == '\0')
		return error_set(err, -EINVAL, "a region has an empty name");
	if (r->unit_shift < WIRE_PAGE_SHIFT || r->unit_shift > UNIT_SHIFT_MAX)
		return error_set(
		        err, -EINVAL,
		        "region %s: its page size is 2^%u bytes, supported are powers of two "
		        "from 4 KiB to 1 GiB",
		        r->name, r->unit_shift);
	rc = check_alignment(r, err);
	if (rc < 0)
		return rc;
	if (range_wraps(r->hva.addr, r->length_bytes))
		return error_set(err, -EINVAL,
		                 "region %s: host range 0x%" PRIx64 "+%" PRIu64 " wraps around",
		                 r->name, r->hva.addr, r->length_bytes);
	if (range_wraps(r->gpa.addr, r->length_bytes))
		return error_set(err, -EINVAL,
		                 "region %s: guest-physical range 0x%" PRIx64 "+%" PRIu64
		                 " wraps around",
		                 r->name, r->gpa.addr, r->length_bytes);
	if (r->lane >= n_lanes)
		return error_set(err, -EINVAL, "region %s: uffd %" PRIu32 " of %" PRIu32, r->name,
		                 r->lane, n_lanes);
	if (r->mode == REGION_MINOR && (r->memory_fd < 0 || r->backing == REGION_ANONYMOUS))
		return error_set(err, -EINVAL,
		                 "region %s: minor mode needs a memory file to write the pages to; "
		                 "pass its descriptor, or use missing mode",
		                 r->name);
	return 0;
}

static int check_pair(const struct region *a, const struct region *b, struct error *err)
{
	if (strcmp(a->name, b->name) == 0)
		return error_set(err, -EINVAL, "two regions have the name %s", a->name);
	if (ranges_overlap(a->hva.addr, a->length_bytes, b->hva.addr, b->length_bytes))
		return error_set(err, -EINVAL,
		                 "regions %s and %s overlap in host addresses: 0x%" PRIx64
		                 "+%" PRIu64 " and 0x%" PRIx64 "+%" PRIu64,
		                 a->name, b->name, a->hva.addr, a->length_bytes, b->hva.addr,
		                 b->length_bytes);
	if (ranges_overlap(a->gpa.addr, a->length_bytes, b->gpa.addr, b->length_bytes))
		return error_set(err, -EINVAL,
		                 "regions %s and %s overlap in guest-physical addresses: 0x%" PRIx64
		                 "+%" PRIu64 " and 0x%" PRIx64 "+%" PRIu64,
		                 a->name, b->name, a->gpa.addr, a->length_bytes, b->gpa.addr,
		                 b->length_bytes);
	return 0;
}

static int check_all(const struct region *regions, size_t n, uint32_t n_lanes, struct error *err)
{
	if (n == 0 || n > REGION_TABLE_MAX)
		return error_set(err, -EINVAL, "%zu regions: from 1 to %d are possible", n,
		                 REGION_TABLE_MAX);
	for (size_t i = 0; i < n; i++) {
		int rc = check_region(&regions[i], n_lanes, err);

		for (size_t j = 0; rc == 0 && j < i; j++)
			rc = check_pair(&regions[j], &regions[i], err);
		if (rc < 0)
			return rc;
	}
	for (uint32_t lane = 0; lane < n_lanes; lane++) {
		bool used = false;

		for (size_t i = 0; i < n; i++)
			used = used || regions[i].lane == lane;
		if (!used)
			return error_set(err, -EINVAL, "no region uses uffd %" PRIu32, lane);
	}
	return 0;
}

int region_table_new(const struct region *regions, size_t n_regions, uint32_t n_lanes,
                     struct region_table **ret, struct error *err)
{
	struct region_table *t;
	int rc = check_all(regions, n_regions, n_lanes, err);

	if (rc < 0)
		return rc;
	t = calloc(1, sizeof(*t) + n_regions * sizeof(t->regions[0]));
	if (!t)
		return error_set_errno(err, -ENOMEM, "region table");
	t->n_regions = n_regions;
	for (size_t i = 0; i < n_regions; i++) {
		struct region *r = &t->regions[i];

		*r = regions[i];
		r->first_unit = t->n_units;
		r->first_page = REGION_NO_PAGE;
		t->n_units += region_n_units(r);
		t->total_bytes += r->length_bytes;
	}
	*ret = t;
	return 0;
}

int region_table_copy(const struct region_table *from, struct region_table **ret)
{
	size_t bytes = sizeof(*from) + from->n_regions * sizeof(from->regions[0]);
	struct region_table *t = malloc(bytes);

	if (!t)
		return -ENOMEM;
	memcpy(t, from, bytes);
	*ret = t;
	return 0;
}

struct region_table *region_table_free(struct region_table *t)
{
	free(t);
	return NULL;
}

/* The region that the source's table calls s, checked; NULL with a text. */
static struct region *match_one(struct region_table *t, const struct region_source *s,
                                struct error *err)
{
	struct region *found = NULL;

	for (size_t i = 0; i < t->n_regions && !found; i++)
		if (strcmp(t->regions[i].name, s->name) == 0)
			found = &t->regions[i];
	if (!found) {
		error_set(err, -EINVAL,
		          "the source has a region %s that the VMM here did not attach", s->name);
		return NULL;
	}
	if (found->length_bytes != s->length_bytes) {
		error_set(err, -EINVAL,
		          "region %s is %" PRIu64 " bytes here and %" PRIu64 " on the source",
		          s->name, found->length_bytes, s->length_bytes);
		return NULL;
	}
	if (found->gpa.addr != s->gpa.addr) {
		error_set(err, -EINVAL,
		          "region %s is at guest-physical 0x%" PRIx64 " here and 0x%" PRIx64
		          " on the source",
		          s->name, found->gpa.addr, s->gpa.addr);
		return NULL;
	}
	return found;
}

int region_table_match(struct region_table *t, const struct region_source *source, size_t n_source,
                       struct error *err)
{
	uint64_t first_pages[REGION_TABLE_MAX];
	uint64_t page = 0;

	if (n_source != t->n_regions)
		return error_set(err, -EINVAL,
		                 "the source has %zu regions, the VMM here attached %zu", n_source,
		                 t->n_regions);
	for (size_t i = 0; i < t->n_regions; i++)
		first_pages[i] = REGION_NO_PAGE;
	for (size_t i = 0; i < n_source; i++) {
		struct region *r = match_one(t, &source[i], err);

		if (!r)
			return -EINVAL;
		if (first_pages[r - t->regions] != REGION_NO_PAGE)
			return error_set(err, -EINVAL, "the source names region %s twice", r->name);
		first_pages[r - t->regions] = page;
		page += region_n_pages(r);
	}
	for (size_t i = 0; i < t->n_regions; i++)
		t->regions[i].first_page = first_pages[i];
	return 0;
}

const struct region *region_find_hva(const struct region_table *t, hva_t hva)
{
	for (size_t i = 0; i < t->n_regions; i++) {
		const struct region *r = &t->regions[i];

		if (hva.addr - r->hva.addr < r->length_bytes)
			return r;
	}
	return NULL;
}

const struct region *region_find_gpa(const struct region_table *t, gpa_t gpa)
{
	for (size_t i = 0; i < t->n_regions; i++) {
		const struct region *r = &t->regions[i];

		if (gpa.addr - r->gpa.addr < r->length_bytes)
			return r;
	}
	return NULL;
}

const struct region *region_find_page(const struct region_table *t, uint64_t page)
{
	for (size_t i = 0; i < t->n_regions; i++) {
		const struct region *r = &t->regions[i];

		if (r->first_page != REGION_NO_PAGE && page - r->first_page < region_n_pages(r))
			return r;
	}
	return NULL;
}

const struct region *region_find_unit(const struct region_table *t, uint64_t unit)
{
	for (size_t i = 0; i < t->n_regions; i++) {
		const struct region *r = &t->regions[i];

		if (unit - r->first_unit < region_n_units(r))
			return r;
	}
	return NULL;
}
