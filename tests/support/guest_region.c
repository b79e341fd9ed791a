/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The test guest's memory: "NAME:KIND:SIZE" from the command line to mappings.
 * Both roles call it; guest-physical addresses follow from the order alone, so
 * the two sides agree.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/memfd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "support/guest.h"

#define HUGE_PAGE (UINT64_C(2) << 20)
#define GPA_GAP (UINT64_C(1) << 30)
#define REWRITTEN UINT64_C(0x5eed000000000000) /* into the seed of pages written anew */

static const char *const kind_names[] = {"memfd", "memfd-minor", "anon", "hugetlb",
                                         "hugetlb-minor"};

static int parse_kind(const char *text, enum guest_kind *ret)
{
	for (size_t i = 0; i < sizeof(kind_names) / sizeof(kind_names[0]); i++) {
		if (!strcmp(text, kind_names[i])) {
			*ret = (enum guest_kind)i;
			return 0;
		}
	}
	return -EINVAL;
}

static int parse_size(const char *text, uint64_t *ret)
{
	char *end;
	uint64_t value;

	errno = 0;
	value = strtoull(text, &end, 10);
	if (errno || end == text)
		return -EINVAL;
	if (*end == 'G' || *end == 'M' || *end == 'K')
		value <<= *end == 'G' ? 30 : *end == 'M' ? 20 : 10, end++;
	if (*end || value == 0)
		return -EINVAL;
	*ret = value;
	return 0;
}

int guest_region_parse(struct guest *g, const char *spec)
{
	struct guest_region *r = &g->regions[g->n_regions];
	char kind[32], size[32];

	if (g->n_regions == GUEST_REGIONS_MAX)
		return -E2BIG;
	if (sscanf(spec, "%63[^:]:%31[^:]:%31s", r->name, kind, size) != 3 ||
	    parse_kind(kind, &r->kind) < 0 || parse_size(size, &r->length) < 0 ||
	    r->length % guest_region_page_size(r))
		return -EINVAL;
	r->fd = -1;
	r->first_page = g->n_pages;
	r->gpa = 0;
	if (g->n_regions) {
		const struct guest_region *last = r - 1;

		r->gpa = (last->gpa + last->length + GPA_GAP + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1);
	}
	g->n_pages += r->length / PATTERN_PAGE;
	g->n_regions++;
	return 0;
}

static bool is_hugetlb(const struct guest_region *r)
{
	return r->kind == GUEST_HUGETLB || r->kind == GUEST_HUGETLB_MINOR;
}

uint64_t guest_region_page_size(const struct guest_region *r)
{
	return is_hugetlb(r) ? HUGE_PAGE : PATTERN_PAGE;
}

struct poison_region guest_region_poison(const struct guest_region *r)
{
	return (struct poison_region){r->length / PATTERN_PAGE,
	                              guest_region_page_size(r) / PATTERN_PAGE};
}

/* As a VMM whose guest shall have huge pages maps it. */
static int map_at_huge_page(struct guest_region *r, int flags)
{
	uint8_t *place = mmap(NULL, r->length + HUGE_PAGE, PROT_NONE,
	                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (place == MAP_FAILED)
		return -errno;
	place = (uint8_t *)(((uintptr_t)place + HUGE_PAGE - 1) & ~(uintptr_t)(HUGE_PAGE - 1));
	r->address = mmap(place, r->length, PROT_READ | PROT_WRITE, flags | MAP_FIXED, r->fd, 0);
	return r->address == MAP_FAILED ? -errno : 0;
}

/* The VMM's file of this region, which it would hand to a vhost-user back end. */
static int open_of(pid_t pid, const char *name)
{
	char path[64], target[128], wanted[POSTCOPY_NAME_MAX + 32];

	snprintf(wanted, sizeof(wanted), "/memfd:%s (deleted)", name);
	for (int fd = 3; fd < 1024; fd++) {
		ssize_t n;

		snprintf(path, sizeof(path), "/proc/%d/fd/%d", (int)pid, fd);
		n = readlink(path, target, sizeof(target) - 1);
		if (n < 0)
			continue;
		target[n] = '\0';
		if (!strcmp(target, wanted))
			return open(path, O_RDWR | O_CLOEXEC);
	}
	errno = ENOENT;
	return -1;
}

static int map_file_of(struct guest_region *r, pid_t pid)
{
	r->fd = open_of(pid, r->name);
	return r->fd < 0 ? -errno : map_at_huge_page(r, MAP_SHARED);
}

static int map_file(struct guest_region *r)
{
	unsigned flags = MFD_CLOEXEC | (is_hugetlb(r) ? MFD_HUGETLB | MFD_HUGE_2MB : 0);

	r->fd = memfd_create(r->name, flags);
	if (r->fd < 0 || ftruncate(r->fd, (off_t)r->length) < 0)
		return -errno;
	return map_at_huge_page(r, MAP_SHARED);
}

static int map_anonymous(struct guest_region *r, bool may_be_huge)
{
	int ret = map_at_huge_page(r, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE);

	if (ret < 0 || may_be_huge)
		return ret;
	/* A huge page on the source would turn zero pages that were never touched into touched ones. */
	return madvise(r->address, r->length, MADV_NOHUGEPAGE) < 0 && errno != EINVAL ? -errno : 0;
}

static int map_region(const struct guest *g, struct guest_region *r)
{
	if (r->kind == GUEST_ANONYMOUS)
		return map_anonymous(r, g->collapse);
	return g->mapping_of && !g->other_file ? map_file_of(r, g->mapping_of) : map_file(r);
}

int guest_regions_map(struct guest *g)
{
	for (size_t i = 0; i < g->n_regions; i++) {
		struct guest_region *r = &g->regions[i];
		int ret = map_region(g, r);

		if (ret < 0) {
			fprintf(stderr, "testguest: cannot map %s (%s): %s\n", r->name,
			        kind_names[r->kind], strerror(-ret));
			return is_hugetlb(r) && ret == -ENOMEM ? -ENOSPC : ret;
		}
	}
	return 0;
}

static enum postcopy_backing backing_of(const struct guest_region *r)
{
	if (is_hugetlb(r))
		return POSTCOPY_BACKING_HUGETLB;
	return r->kind == GUEST_ANONYMOUS ? POSTCOPY_BACKING_ANONYMOUS : POSTCOPY_BACKING_MEMFD;
}

void guest_regions_describe(const struct guest *g, struct postcopy_region *ret)
{
	for (size_t i = 0; i < g->n_regions; i++) {
		const struct guest_region *r = &g->regions[i];
		bool minor = r->kind == GUEST_MEMFD_MINOR || r->kind == GUEST_HUGETLB_MINOR;

		ret[i] = (struct postcopy_region){
		        .name = r->name,
		        .guest_physical_address = r->gpa,
		        .address = r->address,
		        .length = r->length,
		        .page_size = guest_region_page_size(r),
		        .backing = g->by_process ? POSTCOPY_BACKING_ANONYMOUS : backing_of(r),
		        .mode = minor ? POSTCOPY_MODE_MINOR : POSTCOPY_MODE_MISSING,
		        .uffd = (uint32_t)(i % g->n_uffds),
		        .memory_fd = g->by_process ? -1 : r->fd,
		        .flags = g->registered ? POSTCOPY_REGION_REGISTERED : 0,
		};
	}
}

uint32_t guest_region_of_page(const struct guest *g, uint64_t page)
{
	uint32_t i = (uint32_t)g->n_regions - 1;

	while (g->regions[i].first_page > page)
		i--;
	return i;
}

bool guest_is_rewritten(const struct guest *g, uint64_t page)
{
	/* In every fourth huge page only, so that most of those are still missing then. */
	return g->rewritten && page % 64 == 5 && page / 512 % 4 == 0 &&
	       guest_page_expect(g, page) == POISON_NONE;
}

struct pattern_page guest_pattern_page(const struct guest *g, uint64_t page)
{
	uint32_t i = guest_region_of_page(g, page);
	uint64_t seed = guest_is_rewritten(g, page) ? g->seed ^ REWRITTEN : g->seed;

	return (struct pattern_page){seed, i, page - g->regions[i].first_page};
}

uint8_t *guest_page_address(const struct guest *g, uint64_t page)
{
	const struct guest_region *r = &g->regions[guest_region_of_page(g, page)];

	if (g->page_at)
		return atomic_load(&g->page_at[page]);
	return r->address + (page - r->first_page) * PATTERN_PAGE;
}

enum poison_expectation guest_page_expect(const struct guest *g, uint64_t page)
{
	uint32_t i = guest_region_of_page(g, page);
	struct poison_region pr = guest_region_poison(&g->regions[i]);

	return poison_plan_expect(g->plan, &pr, i, page - g->regions[i].first_page);
}
