/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The bench guest's memory: regions of one kind and size. Guest-physical
 * addresses follow from the order, so both sides agree.
 */
#include <errno.h>
#include <linux/memfd.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "guest/guest.h"

static const char *const kind_names[] = {
        "anon", "memfd", "memfd-minor", "hugetlb-2m", "hugetlb-2m-minor", "hugetlb-1g"};

int guest_memory_parse(const char *name, enum guest_memory *ret)
{
	for (size_t i = 0; i < sizeof(kind_names) / sizeof(*kind_names); i++)
		if (!strcmp(name, kind_names[i]))
			return *ret = (enum guest_memory)i, 0;
	return -EINVAL;
}

static bool is_hugetlb(const struct guest *g)
{
	return g->memory == GUEST_HUGETLB_2M || g->memory == GUEST_HUGETLB_2M_MINOR ||
	       g->memory == GUEST_HUGETLB_1G;
}

static bool is_minor(const struct guest *g)
{
	return g->memory == GUEST_MEMFD_MINOR || g->memory == GUEST_HUGETLB_2M_MINOR;
}

uint64_t guest_page_size(const struct guest *g)
{
	if (!is_hugetlb(g))
		return BENCH_PAGE;
	return g->memory == GUEST_HUGETLB_1G ? UINT64_C(1) << 30 : UINT64_C(2) << 20;
}

uint64_t guest_region_bytes(const struct guest *g)
{
	return g->size / g->n_regions / guest_page_size(g) * guest_page_size(g);
}

uint64_t guest_n_pages(const struct guest *g)
{
	return guest_region_bytes(g) * g->n_regions / BENCH_PAGE;
}

uint8_t *guest_page(const struct guest *g, uint64_t page)
{
	uint64_t in_region = guest_region_bytes(g) / BENCH_PAGE;

	return g->address[page / in_region] + page % in_region * BENCH_PAGE;
}

bool guest_page_is_right(const struct guest *g, uint64_t page)
{
	return content_is_right(guest_page(g, page), page % (guest_region_bytes(g) / BENCH_PAGE),
	                        g->zero_percent);
}

/* Wherever, or where huge pages can be. */
static int map_at(struct guest *g, unsigned i, int flags)
{
	uint64_t bytes = guest_region_bytes(g), huge = UINT64_C(2) << 20;
	uint8_t *place = NULL;

	if (g->huge) {
		place = mmap(NULL, bytes + huge, PROT_NONE,
		             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		if (place == MAP_FAILED)
			return -errno;
		place = (uint8_t *)(((uintptr_t)place + huge - 1) & ~(uintptr_t)(huge - 1));
		flags |= MAP_FIXED;
	}
	g->address[i] = mmap(place, bytes, PROT_READ | PROT_WRITE, flags, g->fd[i], 0);
	return g->address[i] == MAP_FAILED ? -errno : 0;
}

/* A guest of the other cases has small pages; the source of this one has huge ones. */
static int advise(const struct guest *g, unsigned i)
{
	if (g->huge && g->destination)
		return 0;
	return madvise(g->address[i], guest_region_bytes(g),
	               g->huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE) < 0
	               ? -errno
	               : 0;
}

static int map_region(struct guest *g, unsigned i)
{
	uint64_t bytes = guest_region_bytes(g);
	unsigned flags = MFD_CLOEXEC;

	g->fd[i] = -1;
	if (g->memory == GUEST_ANON && !g->alias) {
		int ret = map_at(g, i, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE);

		return ret < 0 ? ret : advise(g, i);
	}
	if (is_hugetlb(g))
		flags |=
		        MFD_HUGETLB | (g->memory == GUEST_HUGETLB_1G ? MFD_HUGE_1GB : MFD_HUGE_2MB);
	g->fd[i] = g->alias && i > 0 ? g->fd[0] : memfd_create("ram", flags);
	if (g->fd[i] < 0 || ftruncate(g->fd[i], (off_t)bytes) < 0)
		return -errno;
	return map_at(g, i, MAP_SHARED);
}

int guest_memory_map(struct guest *g)
{
	for (unsigned i = 0; i < g->n_regions; i++) {
		int ret = map_region(g, i);

		if (ret < 0)
			return fprintf(stderr, "bench-guest: memory: %s\n", strerror(-ret)), ret;
	}
	return 0;
}

void guest_memory_fill(const struct guest *g)
{
	uint64_t in_region = guest_region_bytes(g) / BENCH_PAGE;
	uint64_t n = g->alias ? in_region : guest_n_pages(g);

	for (uint64_t page = 0; page < n; page++)
		if (!content_is_zero(page % in_region, g->zero_percent))
			content_fill(guest_page(g, page), page % in_region);
}

static enum postcopy_backing backing(const struct guest *g)
{
	if (is_hugetlb(g))
		return POSTCOPY_BACKING_HUGETLB;
	return g->memory == GUEST_ANON && !g->alias ? POSTCOPY_BACKING_ANONYMOUS
	                                            : POSTCOPY_BACKING_MEMFD;
}

void guest_memory_describe(const struct guest *g, struct postcopy_region *ret)
{
	static char names[GUEST_REGIONS_MAX][16];

	for (unsigned i = 0; i < g->n_regions; i++) {
		snprintf(names[i], sizeof(names[i]), "ram%u", i);
		ret[i] = (struct postcopy_region){
		        .name = names[i],
		        .guest_physical_address = i * guest_region_bytes(g),
		        .address = g->address[i],
		        .length = guest_region_bytes(g),
		        .page_size = guest_page_size(g),
		        .backing = backing(g),
		        .mode = is_minor(g) ? POSTCOPY_MODE_MINOR : POSTCOPY_MODE_MISSING,
		        .uffd = i % g->n_uffds,
		        .memory_fd = g->fd[i],
		};
	}
}
