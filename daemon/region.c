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
#include <sys/types.h>

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

static bool same_name(const struct region *a, const struct region *b)
{
	return strcmp(a->name, b->name) == 0;
}

/* Entries of one name: the second must be the next piece of what the first is one of. */
static int check_piece(const struct region *last, const struct region *r, struct error *err)
{
	uint64_t end = last->gpa.addr + last->length_bytes;

	if (r->gpa.addr != end)
		return error_set(err, -EINVAL,
		                 "two regions have the name %s, and the second is not the next "
		                 "piece of the first: it begins at guest-physical 0x%" PRIx64
		                 ", not at 0x%" PRIx64 " where the one before it ends",
		                 r->name, r->gpa.addr, end);
	if (r->unit_shift != last->unit_shift || r->backing != last->backing ||
	    r->mode != last->mode)
		return error_set(err, -EINVAL,
		                 "the pieces of region %s differ: at guest-physical 0x%" PRIx64
		                 " %s memory with pages of %" PRIu64
		                 " bytes in mode %s, before that %s with %" PRIu64 " in mode %s",
		                 r->name, r->gpa.addr, region_backing_name(r->backing),
		                 region_unit_bytes(r), region_mode_name(r->mode),
		                 region_backing_name(last->backing), region_unit_bytes(last),
		                 region_mode_name(last->mode));
	return 0;
}

/* regions[i] against those before it. */
static int check_name(const struct region *regions, size_t i, struct error *err)
{
	if (i > 0 && same_name(&regions[i - 1], &regions[i]))
		return check_piece(&regions[i - 1], &regions[i], err);
	for (size_t j = 0; j < i; j++)
		if (same_name(&regions[j], &regions[i]))
			return error_set(err, -EINVAL,
			                 "two regions have the name %s, with others between them: "
			                 "the pieces of a region follow each other",
			                 regions[i].name);
	return 0;
}

static int check_pair(const struct region *a, const struct region *b, struct error *err)
{
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

		if (rc == 0)
			rc = check_name(regions, i, err);
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
		r->piece_offset_bytes = i > 0 && same_name(r - 1, r)
		                                ? r[-1].piece_offset_bytes + r[-1].length_bytes
		                                : 0;
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

size_t region_n_pieces(const struct region_table *t, size_t i)
{
	size_t n = 1;

	while (i + n < t->n_regions && t->regions[i + n].piece_offset_bytes > 0)
		n++;
	return n;
}

/* All of its pieces together. */
static uint64_t whole_bytes(const struct region_table *t, size_t i)
{
	const struct region *last = &t->regions[i + region_n_pieces(t, i) - 1];

	return last->piece_offset_bytes + last->length_bytes;
}

static size_t count_whole(const struct region_table *t)
{
	size_t n = 0;

	for (size_t i = 0; i < t->n_regions; i += region_n_pieces(t, i))
		n++;
	return n;
}

/* What the source's table calls s, checked: the index of its first piece, or -EINVAL with a text. */
static ssize_t match_one(const struct region_table *t, const struct region_source *s,
                         struct error *err)
{
	size_t i = 0;

	while (i < t->n_regions && strcmp(t->regions[i].name, s->name) != 0)
		i++;
	if (i == t->n_regions)
		return error_set(err, -EINVAL,
		                 "the source has a region %s that the VMM here did not attach",
		                 s->name);
	if (whole_bytes(t, i) != s->length_bytes)
		return error_set(err, -EINVAL,
		                 "region %s is %" PRIu64 " bytes here and %" PRIu64
		                 " on the source",
		                 s->name, whole_bytes(t, i), s->length_bytes);
	if (t->regions[i].gpa.addr != s->gpa.addr)
		return error_set(err, -EINVAL,
		                 "region %s is at guest-physical 0x%" PRIx64 " here and 0x%" PRIx64
		                 " on the source",
		                 s->name, t->regions[i].gpa.addr, s->gpa.addr);
	return (ssize_t)i;
}

int region_table_match(struct region_table *t, const struct region_source *source, size_t n_source,
                       struct error *err)
{
	uint64_t first_pages[REGION_TABLE_MAX];
	uint64_t page = 0;

	if (n_source != count_whole(t))
		return error_set(err, -EINVAL,
		                 "the source has %zu regions, the VMM here attached %zu", n_source,
		                 count_whole(t));
	for (size_t i = 0; i < t->n_regions; i++)
		first_pages[i] = REGION_NO_PAGE;
	for (size_t i = 0; i < n_source; i++) {
		ssize_t first = match_one(t, &source[i], err);

		if (first < 0)
			return -EINVAL;
		if (first_pages[first] != REGION_NO_PAGE)
			return error_set(err, -EINVAL, "the source names region %s twice",
			                 source[i].name);
		for (size_t k = 0; k < region_n_pieces(t, (size_t)first); k++) {
			const struct region *r = &t->regions[(size_t)first + k];

			first_pages[(size_t)first + k] =
			        page + (r->piece_offset_bytes >> WIRE_PAGE_SHIFT);
		}
		page += source[i].length_bytes >> WIRE_PAGE_SHIFT;
	}
	for (size_t i = 0; i < t->n_regions; i++)
		t->regions[i].first_page = first_pages[i];
	return 0;
}

uint64_t region_run_part(const struct region_table *t, uint64_t page, uint64_t n_pages,
                         const struct region **ret)
{
	const struct region *r = region_find_page(t, page);

	if (!r)
		return 0;
	*ret = r;
	return MIN(n_pages, region_n_pages(r) - (page - r->first_page));
}

bool region_run_valid(const struct region_table *t, uint64_t page, uint64_t n_pages)
{
	const struct region *r = NULL;
	uint64_t n = region_run_part(t, page, n_pages, &r);

	while (n > 0 && n < n_pages) {
		page += n;
		n_pages -= n;
		n = region_run_part(t, page, n_pages, &r);
		if (n > 0 && r->piece_offset_bytes == 0)
			return false; /* another region's first piece */
	}
	return n > 0;
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
