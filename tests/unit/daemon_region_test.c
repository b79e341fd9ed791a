/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Promises of daemon/region.h: what a VMM hands over is refused with a text
 * that names the region and the value unless it can be served as it is; units
 * and wire pages are numbered without holes; a place is found from its first
 * byte to its last and not beyond; the pieces of a region are, to the source, one.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "daemon/region.h"

#define GIB (UINT64_C(1) << 30)
#define MIB (UINT64_C(1) << 20)
#define LOW_HVA UINT64_C(0x7f0000000000)
#define HIGH_HVA UINT64_C(0x7e0000000000)
#define DEVICE_HVA UINT64_C(0x7d0000000000)

/* Two lanes, three page sizes, host addresses in another order than the guest's. */
static const struct region good[] = {
        {.name = "low",
         .gpa = {0},
         .hva = {LOW_HVA},
         .length_bytes = MIB,
         .unit_shift = 12,
         .backing = REGION_ANONYMOUS,
         .memory_fd = -1},
        {.name = "high",
         .gpa = {4 * GIB},
         .hva = {HIGH_HVA},
         .length_bytes = 8 * MIB,
         .unit_shift = 21,
         .backing = REGION_HUGETLB,
         .lane = 1,
         .memory_fd = 9,
         .fd_offset = {2 * MIB}},
        {.name = "device",
         .gpa = {2 * GIB},
         .hva = {DEVICE_HVA},
         .length_bytes = 3 * 4096,
         .unit_shift = 12,
         .backing = REGION_MEMFD,
         .mode = REGION_MINOR,
         .memory_fd = 10,
         .fd_offset = {4096}},
};
#define N_GOOD ARRAY_SIZE(good)

static struct region_table *good_table(void)
{
	struct region_table *t = NULL;
	struct error err = {0};

	assert_int_equal(region_table_new(good, N_GOOD, 2, &t, &err), 0);
	assert_non_null(t);
	return t;
}

static void numbers_units_in_table_order(void **state)
{
	_cleanup_(cleanup_region_table_free) struct region_table *t = good_table();

	(void)state;
	assert_int_equal(t->n_regions, 3);
	assert_int_equal(t->n_units, 256 + 4 + 3);
	assert_int_equal(t->total_bytes, 9 * MIB + 3 * 4096);
	assert_int_equal(t->regions[0].first_unit, 0);
	assert_int_equal(t->regions[1].first_unit, 256);
	assert_int_equal(t->regions[2].first_unit, 260);
	for (size_t i = 0; i < 3; i++) {
		assert_string_equal(t->regions[i].name, good[i].name);
		assert_true(t->regions[i].first_page == REGION_NO_PAGE);
	}
	assert_int_equal(region_n_units(&t->regions[1]), 4);
	assert_int_equal(region_n_pages(&t->regions[1]), 2048);
	assert_int_equal(region_unit_pages(&t->regions[1]), 512);
	assert_int_equal(region_unit_pages(&t->regions[0]), 1);
	assert_int_equal(region_unit_bytes(&t->regions[1]), 2 * MIB);
}

/* ---- bad tables: one change of a good one each ---- */

struct bad_table {
	const char *text; /* must be in the error */
	void (*spoil)(struct region *r);
	size_t n_regions; /* 0: all */
	uint32_t n_lanes; /* 0: 2 */
};

static void no_name(struct region *r)
{
	r[1].name[0] = '\0';
}
static void same_name(struct region *r)
{
	strcpy(r[2].name, "low");
}
static void no_length(struct region *r)
{
	r[0].length_bytes = 0;
}
static void odd_length(struct region *r)
{
	r[1].length_bytes -= 4096;
}
static void odd_hva(struct region *r)
{
	r[1].hva.addr += 4096;
}
static void odd_gpa(struct region *r)
{
	r[0].gpa.addr = 100;
}
static void odd_offset(struct region *r)
{
	r[2].fd_offset.off = 512;
}
static void small_unit(struct region *r)
{
	r[0].unit_shift = 11;
}
static void large_unit(struct region *r)
{
	r[0].unit_shift = 31;
}
static void hva_wraps(struct region *r)
{
	r[0].hva.addr = UINT64_MAX - 4095;
	r[0].length_bytes = 8192;
}
static void gpa_wraps(struct region *r)
{
	r[0].gpa.addr = -MIB; /* its end is 2^64: one past what can be named */
}
static void wrong_lane(struct region *r)
{
	r[2].lane = 2;
}
static void unused_lane(struct region *r)
{
	r[1].lane = 0;
}
static void minor_without_file(struct region *r)
{
	r[2].memory_fd = -1;
}
static void minor_anonymous(struct region *r)
{
	r[2].backing = REGION_ANONYMOUS;
}
static void hva_inside_another(struct region *r)
{
	r[2].hva.addr = LOW_HVA + MIB - 4096;
}
static void hva_around_another(struct region *r)
{
	r[0].hva.addr = DEVICE_HVA - 4096;
}
static void gpa_same_start(struct region *r)
{
	r[2].gpa.addr = 0;
}
static void gpa_last_page(struct region *r)
{
	r[2].gpa.addr = 4 * GIB + 8 * MIB - 4096;
}
static void nothing(struct region *r)
{
	(void)r;
}

static const struct bad_table bad_tables[] = {
        {"a region has an empty name", no_name, 0, 0},
        {"two regions have the name low", same_name, 0, 0},
        {"region low: length 0 is not a positive multiple of its page size 4096", no_length, 0, 0},
        {"region high: length 8384512 is not a positive multiple of its page size 2097152",
         odd_length, 0, 0},
        {"region high: host address 0x7e0000001000 is not aligned to its page size 2097152",
         odd_hva, 0, 0},
        {"region low: guest-physical address 0x64 is not aligned to its page size 4096", odd_gpa, 0,
         0},
        {"region device: offset 512 in its memory file is not aligned", odd_offset, 0, 0},
        {"region low: its page size is 2^11 bytes, supported are powers of two from 4 KiB to 1 "
         "GiB",
         small_unit, 0, 0},
        {"region low: its page size is 2^31 bytes, supported are powers of two from 4 KiB to 1 "
         "GiB",
         large_unit, 0, 0},
        {"region low: host range 0xfffffffffffff000+8192 wraps around", hva_wraps, 0, 0},
        {"region low: guest-physical range 0xfffffffffff00000+1048576 wraps around", gpa_wraps, 0,
         0},
        {"region device: uffd 2 of 2", wrong_lane, 0, 0},
        {"no region uses uffd 1", unused_lane, 0, 0},
        {"region device: minor mode needs a memory file", minor_without_file, 0, 0},
        {"region device: minor mode needs a memory file", minor_anonymous, 0, 0},
        {"regions low and device overlap in host addresses: 0x7f0000000000+1048576 and "
         "0x7f00000ff000+12288",
         hva_inside_another, 0, 0},
        {"regions low and device overlap in host addresses", hva_around_another, 0, 0},
        {"regions low and device overlap in guest-physical addresses: 0x0+1048576 and 0x0+12288",
         gpa_same_start, 0, 0},
        {"regions high and device overlap in guest-physical addresses", gpa_last_page, 0, 0},
        {"no region uses uffd 2", nothing, 0, 3},
        {"region high: uffd 1 of 1", nothing, 0, 1},
};

static void refuses_bad_tables(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad_tables); i++) {
		const struct bad_table *bad = &bad_tables[i];
		struct region regions[N_GOOD];
		struct region_table *t = NULL;
		struct error err = {0};

		memcpy(regions, good, sizeof(good));
		bad->spoil(regions);
		assert_int_equal(region_table_new(regions, N_GOOD, bad->n_lanes ? bad->n_lanes : 2,
		                                  &t, &err),
		                 -EINVAL);
		assert_null(t);
		assert_int_equal(err.code, -EINVAL);
		if (!strstr(err.text, bad->text))
			fail_msg("case %zu: \"%s\" instead of \"%s\"", i, err.text, bad->text);
	}
}

static void bounds_the_number_of_regions(void **state)
{
	static struct region regions[REGION_TABLE_MAX + 1];
	struct region_table *t = NULL;
	struct error err = {0};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(regions); i++) {
		regions[i] = good[0];
		snprintf(regions[i].name, sizeof(regions[i].name), "r%zu", i);
		regions[i].gpa.addr = i * MIB;
		regions[i].hva.addr = LOW_HVA + i * MIB;
	}
	assert_int_equal(region_table_new(regions, 0, 1, &t, &err), -EINVAL);
	assert_string_equal(err.text, "0 regions: from 1 to 512 are possible");
	assert_int_equal(region_table_new(regions, REGION_TABLE_MAX + 1, 1, &t, &err), -EINVAL);
	assert_string_equal(err.text, "513 regions: from 1 to 512 are possible");
	assert_null(t);
	assert_int_equal(region_table_new(regions, REGION_TABLE_MAX, 1, &t, &err), 0);
	assert_int_equal(t->n_units, UINT64_C(512) * 256);
	region_table_free(t);
}

/* Neighbours touch without overlapping; nothing is lost at the seams. */
static void accepts_neighbours(void **state)
{
	struct region regions[N_GOOD];
	struct region_table *t = NULL;

	(void)state;
	memcpy(regions, good, sizeof(good));
	regions[2].hva.addr = LOW_HVA + MIB;
	regions[2].gpa.addr = MIB;
	assert_int_equal(region_table_new(regions, N_GOOD, 2, &t, NULL), 0);
	assert_ptr_equal(region_find_hva(t, (hva_t){LOW_HVA + MIB - 1}), &t->regions[0]);
	assert_ptr_equal(region_find_hva(t, (hva_t){LOW_HVA + MIB}), &t->regions[2]);
	assert_ptr_equal(region_find_gpa(t, (gpa_t){MIB - 1}), &t->regions[0]);
	assert_ptr_equal(region_find_gpa(t, (gpa_t){MIB}), &t->regions[2]);
	region_table_free(t);
}

/* ---- matching the source's table ---- */

static const struct region_source source_good[] = {
        {"device", {2 * GIB}, 3 * 4096}, {"low", {0}, MIB}, {"high", {4 * GIB}, 8 * MIB}};

static void numbers_pages_in_the_sources_order(void **state)
{
	_cleanup_(cleanup_region_table_free) struct region_table *t = good_table();

	(void)state;
	assert_int_equal(region_table_match(t, source_good, 3, NULL), 0);
	assert_int_equal(t->regions[2].first_page, 0);
	assert_int_equal(t->regions[0].first_page, 3);
	assert_int_equal(t->regions[1].first_page, 3 + 256);
	/* Again after a reconnect: the same numbers. */
	assert_int_equal(region_table_match(t, source_good, 3, NULL), 0);
	assert_int_equal(t->regions[1].first_page, 3 + 256);
}

static void expect_mismatch(const struct region_source *source, size_t n, const char *text)
{
	_cleanup_(cleanup_region_table_free) struct region_table *t = good_table();
	struct error err = {0};

	assert_int_equal(region_table_match(t, source, n, &err), -EINVAL);
	assert_string_equal(err.text, text);
	for (size_t i = 0; i < t->n_regions; i++)
		assert_true(t->regions[i].first_page == REGION_NO_PAGE);
}

static void refuses_tables_that_do_not_match(void **state)
{
	struct region_source s[4];

	(void)state;
	memcpy(s, source_good, sizeof(source_good));
	s[3] = s[0];
	expect_mismatch(s, 2, "the source has 2 regions, the VMM here attached 3");
	expect_mismatch(s, 4, "the source has 4 regions, the VMM here attached 3");
	expect_mismatch(s, 0, "the source has 0 regions, the VMM here attached 3");
	s[2] = s[0];
	expect_mismatch(s, 3, "the source names region device twice");
	s[2] = source_good[2];
	s[2].name = "higher";
	expect_mismatch(s, 3, "the source has a region higher that the VMM here did not attach");
	s[2] = source_good[2];
	s[2].length_bytes = 4 * MIB;
	expect_mismatch(s, 3, "region high is 8388608 bytes here and 4194304 on the source");
	s[2] = source_good[2];
	s[2].gpa.addr = 8 * GIB;
	expect_mismatch(
	        s, 3,
	        "region high is at guest-physical 0x100000000 here and 0x200000000 on the source");
}

/* ---- pieces of one region ---- */

#define PIECE_HVA(i) (DEVICE_HVA + (i)*16 * MIB)

/* "high" in three pieces, one of each lane and one more, between whole regions. */
static const struct region in_pieces[] = {
        {.name = "low",
         .gpa = {0},
         .hva = {LOW_HVA},
         .length_bytes = MIB,
         .unit_shift = 12,
         .memory_fd = -1},
        {.name = "high",
         .gpa = {4 * GIB},
         .hva = {PIECE_HVA(0)},
         .length_bytes = 4 * MIB,
         .unit_shift = 21,
         .backing = REGION_HUGETLB,
         .lane = 1,
         .memory_fd = -1},
        {.name = "high",
         .gpa = {4 * GIB + 4 * MIB},
         .hva = {PIECE_HVA(2)}, /* wherever the VMM has it */
         .length_bytes = 2 * MIB,
         .unit_shift = 21,
         .backing = REGION_HUGETLB,
         .memory_fd = -1},
        {.name = "high",
         .gpa = {4 * GIB + 6 * MIB},
         .hva = {PIECE_HVA(1)},
         .length_bytes = 2 * MIB,
         .unit_shift = 21,
         .backing = REGION_HUGETLB,
         .lane = 2,
         .memory_fd = -1},
        {.name = "device",
         .gpa = {2 * GIB},
         .hva = {HIGH_HVA},
         .length_bytes = 3 * 4096,
         .unit_shift = 12,
         .memory_fd = -1},
};
#define N_PIECES ARRAY_SIZE(in_pieces)

static struct region_table *pieces_table(void)
{
	struct region_table *t = NULL;
	struct error err = {0};

	assert_int_equal(region_table_new(in_pieces, N_PIECES, 3, &t, &err), 0);
	assert_non_null(t);
	return t;
}

static void pieces_are_one_region_to_the_source(void **state)
{
	_cleanup_(cleanup_region_table_free) struct region_table *t = pieces_table();
	static const uint64_t first_pages[] = {3, 259, 259 + 1024, 259 + 1536, 0};
	static const uint64_t offsets[] = {0, 0, 4 * MIB, 6 * MIB, 0};

	(void)state;
	assert_int_equal(region_table_match(t, source_good, 3, NULL), 0);
	for (size_t i = 0; i < N_PIECES; i++) {
		const struct region *r = &t->regions[i];
		uint64_t last = r->first_unit + region_n_units(r) - 1;

		assert_int_equal(r->first_page, first_pages[i]);
		assert_int_equal(r->piece_offset_bytes, offsets[i]);
		assert_int_equal(region_unit_named_offset(r, last),
		                 offsets[i] + r->length_bytes - region_unit_bytes(r));
		assert_ptr_equal(region_find_page(t, region_unit_page(r, last)), r);
	}
	assert_int_equal(t->total_bytes, 9 * MIB + 3 * 4096);
	assert_int_equal(region_n_pieces(t, 0), 1);
	assert_int_equal(region_n_pieces(t, 1), 3);
	assert_int_equal(region_n_pieces(t, 4), 1);
}

static void spoil_piece(void (*spoil)(struct region *r), const char *text)
{
	struct region regions[N_PIECES];
	struct region_table *t = NULL;
	struct error err = {0};

	memcpy(regions, in_pieces, sizeof(in_pieces));
	spoil(regions);
	assert_int_equal(region_table_new(regions, N_PIECES, 3, &t, &err), -EINVAL);
	assert_null(t);
	if (!strstr(err.text, text))
		fail_msg("\"%s\" instead of \"%s\"", err.text, text);
}

static void piece_gap(struct region *r)
{
	r[3].gpa.addr += 2 * MIB;
}
static void piece_overlap(struct region *r)
{
	r[2].gpa.addr -= 2 * MIB;
}
static void piece_order(struct region *r)
{
	struct region first = r[1];

	r[1] = r[2];
	r[2] = first;
}
static void piece_apart(struct region *r)
{
	struct region device = r[4];

	r[4] = r[3];
	r[3] = device;
}
static void piece_page_size(struct region *r)
{
	r[2].unit_shift = 12;
}
static void piece_backing(struct region *r)
{
	r[3].backing = REGION_MEMFD;
}
static void piece_mode(struct region *r)
{
	r[2].mode = REGION_MINOR;
	r[2].memory_fd = 7;
}

static void refuses_what_is_no_piece(void **state)
{
	(void)state;
	spoil_piece(piece_gap, "two regions have the name high, and the second is not the next "
	                       "piece of the first: it begins at guest-physical 0x100800000, not "
	                       "at 0x100600000 where the one before it ends");
	spoil_piece(piece_overlap, "begins at guest-physical 0x100200000, not at 0x100400000");
	spoil_piece(piece_order, "begins at guest-physical 0x100000000, not at 0x100600000");
	spoil_piece(piece_apart, "two regions have the name high, with others between them");
	spoil_piece(piece_page_size, "the pieces of region high differ: at guest-physical "
	                             "0x100400000 hugetlb memory with pages of 4096 bytes in mode "
	                             "missing, before that hugetlb with 2097152 in mode missing");
	spoil_piece(piece_backing, "the pieces of region high differ: at guest-physical "
	                           "0x100600000 memfd");
	spoil_piece(piece_mode, "in mode minor, before that hugetlb with 2097152 in mode missing");
}

static void pieces_match_as_a_whole(void **state)
{
	_cleanup_(cleanup_region_table_free) struct region_table *t = pieces_table();
	struct region_source s[3];
	struct error err = {0};

	(void)state;
	memcpy(s, source_good, sizeof(source_good));
	s[2].length_bytes = 4 * MIB; /* the first piece alone */
	assert_int_equal(region_table_match(t, s, 3, &err), -EINVAL);
	assert_string_equal(err.text,
	                    "region high is 8388608 bytes here and 4194304 on the source");
	assert_int_equal(region_table_match(t, source_good, 2, &err), -EINVAL);
	assert_string_equal(err.text, "the source has 2 regions, the VMM here attached 3");
	assert_true(t->regions[2].first_page == REGION_NO_PAGE);
}

/* Of wire pages: device 0..2, low 3..258, high from 259 in pieces of 1024, 512 and 512. */
static void runs_are_divided_at_pieces(void **state)
{
	_cleanup_(cleanup_region_table_free) struct region_table *t = pieces_table();
	const struct region *r = NULL;

	(void)state;
	assert_int_equal(region_table_match(t, source_good, 3, NULL), 0);
	assert_true(region_run_valid(t, 259, 2048));
	assert_true(region_run_valid(t, 259 + 1023, 2));
	assert_true(region_run_valid(t, 259 + 1535, 513));
	assert_true(region_run_valid(t, 3, 256));
	assert_false(region_run_valid(t, 259, 2049));       /* past the end */
	assert_false(region_run_valid(t, 258, 2));          /* into another region */
	assert_false(region_run_valid(t, 2, 2));            /* the same, neither in pieces */
	assert_false(region_run_valid(t, 259 + 2048, 1));   /* nowhere */
	assert_false(region_run_valid(t, 258, UINT32_MAX)); /* all of these */
	assert_int_equal(region_run_part(t, 259 + 1000, 600, &r), 24);
	assert_ptr_equal(r, &t->regions[1]);
	assert_int_equal(region_run_part(t, 259 + 1024, 576, &r), 512);
	assert_ptr_equal(r, &t->regions[2]);
	assert_int_equal(region_run_part(t, 259 + 1536, 64, &r), 64);
	assert_ptr_equal(r, &t->regions[3]);
	assert_int_equal(region_run_part(t, 259 + 2048, 1, &r), 0);
}

/* ---- finding ---- */

static void finds_by_host_address(void **state)
{
	_cleanup_(cleanup_region_table_free) struct region_table *t = good_table();

	(void)state;
	assert_null(region_find_hva(t, (hva_t){0}));
	assert_null(region_find_hva(t, (hva_t){UINT64_MAX}));
	for (size_t i = 0; i < N_GOOD; i++) {
		const struct region *r = &t->regions[i];
		uint64_t start = r->hva.addr, last = start + r->length_bytes - 1;

		assert_null(region_find_hva(t, (hva_t){start - 1}));
		assert_ptr_equal(region_find_hva(t, (hva_t){start}), r);
		assert_ptr_equal(region_find_hva(t, (hva_t){last}), r);
		assert_null(region_find_hva(t, (hva_t){last + 1}));
		assert_int_equal(region_unit_of_hva(r, (hva_t){start}), r->first_unit);
		assert_int_equal(region_unit_of_hva(r, (hva_t){last}),
		                 r->first_unit + region_n_units(r) - 1);
	}
}

static void finds_by_guest_address(void **state)
{
	_cleanup_(cleanup_region_table_free) struct region_table *t = good_table();

	(void)state;
	assert_null(region_find_gpa(t, (gpa_t){UINT64_MAX}));
	for (size_t i = 0; i < N_GOOD; i++) {
		const struct region *r = &t->regions[i];
		uint64_t last = r->gpa.addr + r->length_bytes - 1;

		assert_ptr_equal(region_find_gpa(t, r->gpa), r);
		assert_ptr_equal(region_find_gpa(t, (gpa_t){last}), r);
		assert_null(region_find_gpa(t, (gpa_t){last + 1}));
	}
	assert_null(region_find_gpa(t, (gpa_t){2 * GIB - 1}));
}

static void finds_by_unit_and_page(void **state)
{
	_cleanup_(cleanup_region_table_free) struct region_table *t = good_table();

	(void)state;
	assert_null(region_find_page(t, 0)); /* before the source is known */
	assert_int_equal(region_table_match(t, source_good, 3, NULL), 0);
	for (uint64_t unit = 0; unit < t->n_units; unit++) {
		const struct region *r = region_find_unit(t, unit);
		uint64_t page;

		assert_non_null(r);
		page = region_unit_page(r, unit);
		assert_ptr_equal(region_find_page(t, page), r);
		assert_ptr_equal(region_find_page(t, page + region_unit_pages(r) - 1), r);
		assert_int_equal(region_unit_of_page(r, page), unit);
		assert_int_equal(region_unit_of_page(r, page + region_unit_pages(r) - 1), unit);
		assert_int_equal(region_unit_of_hva(r, region_unit_hva(r, unit)), unit);
		assert_ptr_equal(region_find_gpa(t, region_unit_gpa(r, unit)), r);
	}
	assert_ptr_equal(region_find_unit(t, 255), &t->regions[0]);
	assert_ptr_equal(region_find_unit(t, 256), &t->regions[1]);
	assert_null(region_find_unit(t, t->n_units));
	assert_null(region_find_unit(t, UINT64_MAX));
	assert_ptr_equal(region_find_page(t, 2), &t->regions[2]);
	assert_ptr_equal(region_find_page(t, 3), &t->regions[0]);
	assert_null(region_find_page(t, 3 + 256 + 2048));
	assert_null(region_find_page(t, REGION_NO_PAGE));
}

static void a_copy_is_independent(void **state)
{
	_cleanup_(cleanup_region_table_free) struct region_table *t = good_table();
	struct region_table *copy = NULL;

	(void)state;
	assert_int_equal(region_table_copy(t, &copy), 0);
	assert_int_equal(region_table_match(copy, source_good, 3, NULL), 0);
	assert_true(t->regions[0].first_page == REGION_NO_PAGE);
	assert_int_equal(copy->n_units, t->n_units);
	assert_string_equal(copy->regions[1].name, "high");
	copy = region_table_free(copy);
	assert_null(copy);
	assert_null(region_table_free(NULL));
}

static void names_are_given(void **state)
{
	(void)state;
	assert_string_equal(region_backing_name(REGION_HUGETLB), "hugetlb");
	assert_string_equal(region_mode_name(REGION_MINOR), "minor");
	assert_string_equal(region_backing_name((enum region_backing)7), "unknown");
	assert_string_equal(region_mode_name((enum region_mode)7), "unknown");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(numbers_units_in_table_order),
	        cmocka_unit_test(refuses_bad_tables),
	        cmocka_unit_test(bounds_the_number_of_regions),
	        cmocka_unit_test(accepts_neighbours),
	        cmocka_unit_test(numbers_pages_in_the_sources_order),
	        cmocka_unit_test(refuses_tables_that_do_not_match),
	        cmocka_unit_test(pieces_are_one_region_to_the_source),
	        cmocka_unit_test(refuses_what_is_no_piece),
	        cmocka_unit_test(pieces_match_as_a_whole),
	        cmocka_unit_test(runs_are_divided_at_pieces),
	        cmocka_unit_test(finds_by_host_address),
	        cmocka_unit_test(finds_by_guest_address),
	        cmocka_unit_test(finds_by_unit_and_page),
	        cmocka_unit_test(a_copy_is_independent),
	        cmocka_unit_test(names_are_given),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
