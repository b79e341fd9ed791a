/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where the pages of an inbound export are. Called by inbound.c and inbound_jobs.c.
 *
 * /proc/self/pagemap tells without touching anything what is mapped: a missing page of
 * a range with a userfaultfd is in no page table. What is in one is either memory or a
 * marker (poison; 6.18 shows it as swapped for small pages, and as nothing for hugetlb).
 */
#include <errno.h>
#include <inttypes.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "client/inbound.h"
#include "core/cleanup.h"

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22 /* Linux 5.14 */
#endif

#define PAGEMAP_PRESENT (UINT64_C(1) << 63)
#define PAGEMAP_SWAPPED (UINT64_C(1) << 62)

/* Repeats of a fetch for which the kernel lacks memory: a second. */
#define NO_MEMORY_RETRIES 100
#define NO_MEMORY_PAUSE_NS 10000000

int page_places(const struct inbound *in, uint64_t hva, size_t n, enum page_place *ret)
{
	uint64_t entries[PLACES_MAX];
	size_t len = n * sizeof(entries[0]), at = 0;

	while (at < len) {
		ssize_t r = pread(in->pagemap_fd, (uint8_t *)entries + at, len - at,
		                  (off_t)(hva / WIRE_PAGE_SIZE * sizeof(entries[0]) + at));

		if (r < 0 && errno == EINTR)
			continue;
		if (r <= 0)
			return r < 0 ? -errno : -EIO;
		at += (size_t)r;
	}
	for (size_t i = 0; i < n; i++) {
		if (entries[i] & PAGEMAP_PRESENT)
			ret[i] = PAGE_IS_HERE;
		else
			ret[i] = entries[i] & PAGEMAP_SWAPPED ? PAGE_IS_MARKED : PAGE_IS_NOWHERE;
	}
	return 0;
}

bool inbound_covers(const struct inbound *in, uint64_t hva, uint64_t *length_bytes)
{
	const struct postcopy *from = in->from;

	for (size_t i = 0; i < from->n_regions; i++) {
		const struct region_kept *r = &from->regions[i];

		if (hva - r->hva < r->length_bytes) {
			*length_bytes = MIN(*length_bytes, r->hva + r->length_bytes - hva);
			return true;
		}
		if (r->hva - hva < *length_bytes)
			*length_bytes = r->hva - hva;
	}
	return false;
}

const struct inbound_region *inbound_region_find(const struct inbound *in, uint64_t gpa)
{
	for (size_t i = 0; i < in->n_regions; i++)
		if (gpa - in->regions[i].gpa < in->regions[i].length_bytes)
			return &in->regions[i];
	return NULL;
}

bool page_fetch_supported(void)
{
	return madvise(NULL, 0, MADV_POPULATE_READ) == 0; /* of nothing: is it known? */
}

/*
 * As the guest would: a missing page raises a fault at the inbound migration's
 * userfaultfd, and the call returns when it has been placed. EHWPOISON says lost
 * (measured on 6.18 for poison markers of all three kinds of memory).
 */
enum page_fate page_fetch(uint64_t hva, uint64_t length_bytes)
{
	const struct timespec pause = {.tv_nsec = NO_MEMORY_PAUSE_NS};
	unsigned retries = 0;

	for (;;) {
		if (madvise((void *)(uintptr_t)hva, (size_t)length_bytes, MADV_POPULATE_READ) == 0)
			return PAGE_FATE_HERE;
		if (errno == EHWPOISON)
			return PAGE_FATE_POISONED;
		if (errno == EINTR || errno == EAGAIN)
			continue;
		if (errno != ENOMEM || retries++ == NO_MEMORY_RETRIES)
			return PAGE_FATE_LOST;
		(void)nanosleep(&pause, NULL);
	}
}

static bool overlaps(uint64_t a, uint64_t a_len, uint64_t b, uint64_t b_len)
{
	return a < b + b_len && b < a + a_len;
}

/* Memory that arrives is exported where it arrives, and nothing else in its place. */
static int region_check(const struct postcopy *from, const struct postcopy_region *r,
                        struct error *err)
{
	uint64_t hva = (uintptr_t)r->address, gpa = r->guest_physical_address;

	if (!r->address)
		return error_set(err, -EINVAL,
		                 "region %s: the address is NULL: of memory that is still on its "
		                 "way here an export needs the address that was attached, for "
		                 "pages are fetched there",
		                 r->name);
	for (size_t i = 0; i < from->n_regions; i++) {
		const struct region_kept *k = &from->regions[i];

		if ((overlaps(gpa, r->length, k->gpa, k->length_bytes) ||
		     overlaps(hva, r->length, k->hva, k->length_bytes)) &&
		    hva - gpa != k->hva - k->gpa)
			return error_set(err, -EINVAL,
			                 "region %s: guest-physical %#" PRIx64
			                 " at address %p, but "
			                 "the inbound migration has %#" PRIx64 " at %#" PRIx64
			                 ": export memory at the address that was attached",
			                 r->name, gpa, r->address, k->gpa, k->hva);
	}
	return 0;
}

int inbound_regions_check(const struct postcopy *from, const struct postcopy_region *regions,
                          size_t n_regions, struct error *err)
{
	int r = 0;

	for (size_t i = 0; i < n_regions && r == 0; i++)
		r = region_check(from, &regions[i], err);
	return r;
}
