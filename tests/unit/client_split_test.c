/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Promises of client/split.h: the pieces are the regions, no byte twice and none
 * missing; no huge page is divided; each uffd has as much as the others, in stripes
 * that alternate; what cannot be divided so is refused with the numbers.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "client/split.h"
#include "core/cleanup.h"

#define KIB UINT64_C(1024)
#define MIB (UINT64_C(1) << 20)
#define GIB (UINT64_C(1) << 30)
#define BASE UINT64_C(0x7f0000000000)

static struct postcopy_region pieces[POSTCOPY_REGIONS_MAX + 1];
static size_t n_pieces;
static struct error err;

static struct postcopy_region region(const char *name, uint64_t gpa, uint64_t address,
                                     uint64_t length)
{
	return (struct postcopy_region){
	        .name = name,
	        .guest_physical_address = gpa,
	        .address = (void *)(uintptr_t)address,
	        .length = length,
	        .page_size = 4096,
	        .backing = POSTCOPY_BACKING_MEMFD,
	        .mode = POSTCOPY_MODE_MINOR,
	        .uffd = 99,
	        .memory_fd = 5,
	        .memory_offset = 3 * MIB,
	        .flags = POSTCOPY_REGION_FULLY_ALLOCATED,
	};
}

/* Piece after piece, what the regions are byte after byte. */
static void check_covered(const struct postcopy_region *regions, size_t n_regions)
{
	size_t k = 0;

	for (size_t i = 0; i < n_regions; i++) {
		const struct postcopy_region *r = &regions[i];
		uint64_t at = 0;

		for (; at < r->length; k++) {
			const struct postcopy_region *p = &pieces[k];

			assert_true(k < n_pieces);
			assert_string_equal(p->name, r->name);
			assert_true(p->length > 0 && p->length % r->page_size == 0);
			assert_true(p->guest_physical_address == r->guest_physical_address + at);
			assert_true((char *)p->address == (char *)r->address + at);
			assert_true(p->memory_fd < 0 || p->memory_offset == r->memory_offset + at);
			assert_true(p->page_size == r->page_size && p->mode == r->mode &&
			            p->backing == r->backing && p->memory_fd == r->memory_fd &&
			            p->flags == r->flags);
			if (at > 0) /* an inner border */
				assert_int_equal((uintptr_t)p->address % SPLIT_GRAIN, 0);
			at += p->length;
		}
		assert_true(at == r->length);
	}
	assert_int_equal(k, n_pieces);
}

/* The largest share of a uffd less the smallest; each has something. */
static uint64_t check_shares(size_t n_uffds)
{
	uint64_t shares[POSTCOPY_UFFDS_MAX] = {0}, least = UINT64_MAX, most = 0;

	for (size_t k = 0; k < n_pieces; k++) {
		assert_true(pieces[k].uffd < n_uffds);
		shares[pieces[k].uffd] += pieces[k].length;
	}
	for (size_t i = 0; i < n_uffds; i++) {
		least = MIN(least, shares[i]);
		most = MAX(most, shares[i]);
	}
	assert_true(least > 0);
	return most - least;
}

static void split(const struct postcopy_region *regions, size_t n_regions, size_t n_uffds)
{
	int rc;

	n_pieces = 0;
	err = (struct error){0};
	rc = split_regions(regions, n_regions, n_uffds, pieces, &n_pieces, &err);
	if (rc < 0)
		fail_msg("%s", err.text);
	check_covered(regions, n_regions);
}

static void small_guest_in_equal_parts(void **state)
{
	struct postcopy_region r = region("ram0", GIB, BASE, 64 * MIB);

	(void)state;
	split(&r, 1, 4);
	assert_int_equal(n_pieces, 4);
	for (uint32_t i = 0; i < 4; i++) {
		assert_int_equal(pieces[i].length, 16 * MIB);
		assert_int_equal(pieces[i].uffd, i);
	}
	split(&r, 1, 3);
	assert_int_equal(n_pieces, 3);
	assert_true(check_shares(3) <= 2 * SPLIT_GRAIN);
}

static void large_guest_in_stripes_that_alternate(void **state)
{
	struct postcopy_region r = region("ram0", 0, BASE, 64 * GIB);

	(void)state;
	for (size_t n_uffds = 2; n_uffds <= POSTCOPY_UFFDS_MAX; n_uffds++) {
		split(&r, 1, n_uffds);
		assert_int_equal(n_pieces, SPLIT_PIECES / n_uffds * n_uffds);
		assert_true(check_shares(n_uffds) <= SPLIT_PIECES * SPLIT_GRAIN);
		for (size_t k = 1; k < n_pieces; k++)
			assert_int_not_equal(pieces[k].uffd, pieces[k - 1].uffd);
	}
	r.length = GIB;
	split(&r, 1, 2);
	assert_int_equal(n_pieces, 16);
	assert_int_equal(pieces[0].length, SPLIT_STRIPE_MIN);
	assert_int_equal(check_shares(2), 0);
}

static void one_uffd_cuts_nothing(void **state)
{
	struct postcopy_region r[] = {region("ram0", 0, BASE, 64 * GIB),
	                              region("rom", 128 * GIB, BASE + 64 * GIB, 64 * KIB)};

	(void)state;
	split(r, 2, 1);
	assert_int_equal(n_pieces, 2);
	assert_int_equal(pieces[0].uffd, 0);
	assert_int_equal(pieces[1].uffd, 0);
}

/* Borders follow the huge pages in memory, wherever the guest sees them. */
static void crooked_regions(void **state)
{
	struct postcopy_region r[] = {
	        region("low", 0, BASE + 4096, 640 * KIB),
	        region("ram0", MIB, BASE + 8 * MIB + 12 * KIB, 300 * MIB + 4096),
	        region("vram", 4 * GIB, BASE + 2 * GIB - 4096, 16 * MIB),
	        region("ram1", 8 * GIB, BASE + 4 * GIB + MIB, GIB + 8192),
	};

	(void)state;
	r[0].memory_fd = -1;
	for (size_t n_uffds = 1; n_uffds <= POSTCOPY_UFFDS_MAX; n_uffds++) {
		split(r, ARRAY_SIZE(r), n_uffds);
		/* 1.3 GiB; a stripe is a quarter of a share, or 64 MiB, and some rounding. */
		assert_true(n_uffds == 1 || check_shares(n_uffds) <= 1372 * MIB / n_uffds / 2);
	}
}

static void huge_pages_stay_whole(void **state)
{
	struct postcopy_region r = region("ram0", 4 * GIB, BASE, 5 * GIB);

	(void)state;
	r.page_size = GIB;
	r.memory_offset = 0;
	split(&r, 1, 2);
	assert_int_equal(n_pieces, 5); /* check_covered() has looked at the borders */
	assert_true(check_shares(2) == GIB);
	split(&r, 1, 5);
	assert_int_equal(check_shares(5), 0);
}

/* The limit of an attach holds, and small regions are dealt out as well. */
static void many_regions(void **state)
{
	static struct postcopy_region r[POSTCOPY_REGIONS_MAX];
	static char names[POSTCOPY_REGIONS_MAX][8];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(r); i++) {
		snprintf(names[i], sizeof(names[i]), "r%zu", i);
		r[i] = region(names[i], i * GIB, BASE + i * GIB, 128 * MIB);
	}
	split(r, POSTCOPY_REGIONS_MAX, 4);
	assert_int_equal(n_pieces, POSTCOPY_REGIONS_MAX);
	assert_int_equal(check_shares(4), 0);
	r[0].length = 512 * MIB;
	split(r, POSTCOPY_REGIONS_MAX - 1, 16);
	assert_true(n_pieces <= POSTCOPY_REGIONS_MAX);
	check_shares(16);
}

static void refuse(const struct postcopy_region *r, size_t n, size_t n_uffds, const char *text)
{
	size_t untouched = 77;

	err = (struct error){0};
	assert_int_equal(split_regions(r, n, n_uffds, pieces, &untouched, &err), -EINVAL);
	assert_int_equal(untouched, 77);
	assert_string_equal(err.text, text);
}

static void more_uffds_than_pieces(void **state)
{
	struct postcopy_region r[] = {region("ram0", 0, BASE, 6 * MIB),
	                              region("rom", GIB, BASE + GIB, 4096)};

	(void)state;
	split(r, 2, 4); /* three of ram0, and the other */
	check_shares(4);
	refuse(r, 2, 5,
	       "5 uffds, but the memory can be split into 4 pieces only: of 2 MiB, or a page of "
	       "the region: pass fewer uffds");
	r[0].page_size = GIB;
	r[0].length = 2 * GIB;
	refuse(r, 1, 3,
	       "3 uffds, but the memory can be split into 2 pieces only: of 2 MiB, or a page of "
	       "the region: pass fewer uffds");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(small_guest_in_equal_parts),
	        cmocka_unit_test(large_guest_in_stripes_that_alternate),
	        cmocka_unit_test(one_uffd_cuts_nothing),
	        cmocka_unit_test(crooked_regions),
	        cmocka_unit_test(huge_pages_stay_whole),
	        cmocka_unit_test(many_regions),
	        cmocka_unit_test(more_uffds_than_pieces),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
