/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Regions: the guest's memory as the VMM handed it over, and the three ways to
 * name a place in it: host-virtual address (faults), guest-physical address
 * (operators), wire page (the source).
 *
 * A unit is what is placed as a whole: one page of the region's mapping (4 KiB,
 * 2 MiB). Units of all regions of a migration are numbered in table order; the
 * page map has one entry a unit. Wire pages are always 4 KiB.
 *
 * A region of the source may be handed over in pieces, each with a lane of its
 * own: entries of one name that follow each other by guest-physical address. To
 * the data path a piece is a region like any other; to the source, and to people,
 * they are one.
 */
#ifndef DAEMON_REGION_H
#define DAEMON_REGION_H

#include <stdbool.h>
#include <stdint.h>

#include "core/cleanup.h"
#include "core/error.h"
#include "core/units.h"

#define REGION_NAME_BYTES 64
#define REGION_TABLE_MAX 512
#define REGION_NO_PAGE UINT64_MAX

enum region_backing {
	REGION_ANONYMOUS,
	REGION_MEMFD,
	REGION_HUGETLB
};
enum region_mode {
	REGION_MISSING,
	REGION_MINOR
};

struct region {
	char name[REGION_NAME_BYTES];
	gpa_t gpa;
	hva_t hva;
	uint64_t length_bytes;
	unsigned unit_shift; /* log2 of the mapping's page size */
	enum region_backing backing;
	enum region_mode mode;
	uint32_t lane; /* which uffd serves it */
	int memory_fd; /* borrowed; -1 without. MINOR mode needs it */
	backing_off_t fd_offset;
	uint64_t file_device, file_inode; /* of memory_fd; 0: unknown */
	bool zeropage;                    /* UFFDIO_ZEROPAGE works on it (from UFFDIO_REGISTER) */
	uint64_t piece_offset_bytes; /* of a piece in its region, else 0; by region_table_new() */
	uint64_t first_unit;         /* set by region_table_new() */
	uint64_t first_page;         /* wire number; REGION_NO_PAGE until matched */
};

struct region_table {
	size_t n_regions;
	uint64_t n_units;
	uint64_t total_bytes;
	struct region regions[]; /* in the VMM's order */
};

/* What the source calls a region. */
struct region_source {
	const char *name;
	gpa_t gpa;
	uint64_t length_bytes;
};

/*
 * Check what a VMM handed over and number its units: names not empty, and unique
 * but for pieces, which follow each other in the table and in guest-physical
 * addresses, with one page size, backing and mode; lengths > 0, page size a power of two from 4 KiB to 1 GiB, everything
 * aligned to it, no wrap-around, no overlap of host-virtual or guest-physical
 * ranges, lanes < n_lanes and each with a region, MINOR only with a memory
 * file. -EINVAL with a text that names the region. Copies the array.
 */
int region_table_new(const struct region *regions, size_t n_regions, uint32_t n_lanes,
                     struct region_table **ret, struct error *err);
int region_table_copy(const struct region_table *from, struct region_table **ret);
struct region_table *region_table_free(struct region_table *t); /* always NULL */
DEFINE_CLEANUP(struct region_table, region_table_free)

/*
 * Give each region its first wire page by the source's table (matched by name;
 * guest-physical address and length, of all pieces together, must be equal, both
 * tables complete).
 * -EINVAL with a text that names the difference; the table is then unchanged.
 */
int region_table_match(struct region_table *t, const struct region_source *source, size_t n_source,
                       struct error *err);

/* The region at this place, or NULL. Any thread. */
const struct region *region_find_hva(const struct region_table *t, hva_t hva);
const struct region *region_find_gpa(const struct region_table *t, gpa_t gpa);
const struct region *region_find_page(const struct region_table *t, uint64_t page);
const struct region *region_find_unit(const struct region_table *t, uint64_t unit);

/* How many entries from the i-th on, which is a region's first piece, are that region. */
size_t region_n_pieces(const struct region_table *t, size_t i);

/*
 * Wire pages as the source names them: whether they lie in one of its regions, and how
 * many of them, from the first on, lie in the same piece as that (*ret). 0: in none.
 */
bool region_run_valid(const struct region_table *t, uint64_t page, uint64_t n_pages);
uint64_t region_run_part(const struct region_table *t, uint64_t page, uint64_t n_pages,
                         const struct region **ret);

static inline uint64_t region_unit_bytes(const struct region *r)
{
	return UINT64_C(1) << r->unit_shift;
}

static inline uint64_t region_n_units(const struct region *r)
{
	return r->length_bytes >> r->unit_shift;
}

static inline uint64_t region_n_pages(const struct region *r)
{
	return r->length_bytes >> WIRE_PAGE_SHIFT;
}

/* Wire pages in a unit. */
static inline uint32_t region_unit_pages(const struct region *r)
{
	return 1U << (r->unit_shift - WIRE_PAGE_SHIFT);
}

static inline uint64_t region_unit_of_hva(const struct region *r, hva_t hva)
{
	return r->first_unit + ((hva.addr - r->hva.addr) >> r->unit_shift);
}

static inline uint64_t region_unit_of_page(const struct region *r, uint64_t page)
{
	return r->first_unit + (((page - r->first_page) << WIRE_PAGE_SHIFT) >> r->unit_shift);
}

/* Byte offset of a unit in its entry of the table. */
static inline uint64_t region_unit_offset(const struct region *r, uint64_t unit)
{
	return (unit - r->first_unit) << r->unit_shift;
}

/* The same in the region that people know by this name, of which this may be a piece. */
static inline uint64_t region_unit_named_offset(const struct region *r, uint64_t unit)
{
	return r->piece_offset_bytes + region_unit_offset(r, unit);
}

static inline hva_t region_unit_hva(const struct region *r, uint64_t unit)
{
	return (hva_t){r->hva.addr + region_unit_offset(r, unit)};
}

static inline gpa_t region_unit_gpa(const struct region *r, uint64_t unit)
{
	return (gpa_t){r->gpa.addr + region_unit_offset(r, unit)};
}

/* First wire page of a unit. Only in a matched table. */
static inline uint64_t region_unit_page(const struct region *r, uint64_t unit)
{
	return r->first_page + (region_unit_offset(r, unit) >> WIRE_PAGE_SHIFT);
}

const char *region_backing_name(enum region_backing b);
const char *region_mode_name(enum region_mode m);

#endif
