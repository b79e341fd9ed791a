/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Role: collect the 4 KiB pieces of one huge page. Called by the fault path
 * (one a request) and by the stream (one at a time).
 */
#include "daemon/assembly.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

int assembly_new(uint64_t unit_bytes, struct assembly **ret)
{
	_cleanup_(cleanup_assembly_free) struct assembly *a = calloc(1, sizeof(*a));
	int rc;

	if (!a)
		return -ENOMEM;
	rc = bitmap_new(unit_bytes >> WIRE_PAGE_SHIFT, &a->got);
	if (rc < 0)
		return rc;
	a->buffer = mmap(NULL, unit_bytes, PROT_READ | PROT_WRITE,
	                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (a->buffer == MAP_FAILED) {
		a->buffer = NULL;
		return -ENOMEM;
	}
	a->buffer_bytes = unit_bytes;
	(void)madvise(a->buffer, unit_bytes,
	              MADV_HUGEPAGE); /* a page fault is no small part of it */
	a->unit = ASSEMBLY_NO_UNIT;
	*ret = TAKE_PTR(a);
	return 0;
}

struct assembly *assembly_free(struct assembly *a)
{
	if (!a)
		return NULL;
	if (a->buffer)
		munmap(a->buffer, a->buffer_bytes);
	bitmap_free(a->got);
	free(a);
	return NULL;
}

void assembly_start(struct assembly *a, uint64_t unit, uint32_t n_pages)
{
	assembly_clear(a);
	a->unit = unit;
	a->n_pages = n_pages;
}

void assembly_clear(struct assembly *a)
{
	if (a->n_got > 0)
		bitmap_clear_range(a->got, 0, a->got->n_bits);
	a->unit = ASSEMBLY_NO_UNIT;
	a->n_pages = 0;
	a->n_got = 0;
	a->all_zero = true;
}

int assembly_add(struct assembly *a, uint32_t first, uint32_t count, const uint8_t *bytes)
{
	uint8_t *to = a->buffer + ((uint64_t)first << WIRE_PAGE_SHIFT);
	uint64_t len_bytes = (uint64_t)count << WIRE_PAGE_SHIFT;
	uint64_t taken;

	if (count == 0 || first >= a->n_pages || count > a->n_pages - first)
		return -ERANGE;
	taken = bitmap_next_set(a->got, first);
	if (taken < (uint64_t)first + count)
		return -EEXIST;
	if (bytes)
		memcpy(to, bytes, len_bytes);
	else
		memset(to, 0, len_bytes);
	a->all_zero = a->all_zero && !bytes;
	bitmap_set_range(a->got, first, count);
	a->n_got += count;
	return 0;
}
