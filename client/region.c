/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Checks what a VMM passes in, before anything is sent: the texts name the
 * region and the value. Called by attach.c and export.c.
 *
 * The daemons check again, for they trust no client; here it is a service to
 * the VMM's author.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "client/internal.h"
#include "core/fdpass.h"

_Static_assert(POSTCOPY_UFFDS_MAX == ATTACH_UFFDS_MAX, "limits differ");
_Static_assert(POSTCOPY_REGIONS_MAX == REGIONS_MAX, "limits differ");
_Static_assert(POSTCOPY_FDS_MAX == ATTACH_FDS_MAX && ATTACH_FDS_MAX <= FDPASS_FDS_MAX,
               "limits differ");
_Static_assert(POSTCOPY_NAME_MAX == REGION_NAME_MAX, "limits differ");
_Static_assert(POSTCOPY_TOKEN_MIN == TOKEN_BYTES_MIN && POSTCOPY_TOKEN_MAX == TOKEN_BYTES_MAX,
               "limits differ");
_Static_assert(POSTCOPY_IDENTITY_MAX == PEER_IDENTITY_MAX, "limits differ");
_Static_assert(POSTCOPY_RANGES_MAX == POISON_RANGES_MAX, "limits differ");
_Static_assert((int)POSTCOPY_BACKING_HUGETLB == (int)BACKING_HUGETLB &&
                       (int)POSTCOPY_MODE_MINOR == (int)UFFD_MODE_MINOR,
               "values differ from the protocol's");

#define REGION_FLAGS_KNOWN (POSTCOPY_REGION_REGISTERED | POSTCOPY_REGION_FULLY_ALLOCATED)

int error_give(int code, const struct error *err, char *error_text, size_t error_size)
{
	if (code < 0 && error_text && error_size > 0)
		snprintf(error_text, error_size, "%s", err->text);
	return code;
}

int token_check(const void *token, size_t token_len, struct error *err)
{
	if (!token || token_len < TOKEN_BYTES_MIN || token_len > TOKEN_BYTES_MAX)
		return error_set(err, -EINVAL, "the token has %zu bytes instead of %d to %d",
		                 token ? token_len : 0, TOKEN_BYTES_MIN, TOKEN_BYTES_MAX);
	return 0;
}

int reserved_check(uint32_t flags, const uint64_t *reserved, size_t n_reserved, struct error *err)
{
	if (flags != 0)
		return error_set(err, -EINVAL, "unknown flags %#" PRIx32, flags);
	for (size_t i = 0; i < n_reserved; i++)
		if (reserved[i] != 0)
			return error_set(
			        err, -EINVAL,
			        "reserved[%zu] is not 0: zero the struct before filling it", i);
	return 0;
}

static int name_check(const struct postcopy_region *r, size_t i, struct error *err)
{
	size_t len = r->name ? strlen(r->name) : 0;

	if (len == 0 || len >= REGION_NAME_MAX)
		return error_set(err, -EINVAL,
		                 "region %zu: the name has %zu bytes instead of 1 to %d", i, len,
		                 REGION_NAME_MAX - 1);
	for (size_t k = 0; k < len; k++)
		if (r->name[k] <= ' ' || r->name[k] > '~')
			return error_set(
			        err, -EINVAL,
			        "region %zu: the name has byte %#x, which is not printable "
			        "ASCII or is a space",
			        i, (unsigned char)r->name[k]);
	return 0;
}

static int kind_check(const struct postcopy_region *r, struct error *err)
{
	if (r->backing < POSTCOPY_BACKING_ANONYMOUS || r->backing > POSTCOPY_BACKING_HUGETLB)
		return error_set(err, -EINVAL, "region %s: unknown backing %d", r->name,
		                 (int)r->backing);
	if (r->flags & ~REGION_FLAGS_KNOWN || r->reserved32 != 0)
		return error_set(err, -EINVAL, "region %s: unknown flags %#" PRIx32, r->name,
		                 r->flags & ~REGION_FLAGS_KNOWN);
	if (reserved_check(0, r->reserved, sizeof(r->reserved) / sizeof(r->reserved[0]), err) < 0)
		return error_prefix(err, "region %s", r->name);
	return 0;
}

static int aligned_check(const struct postcopy_region *r, const char *what, uint64_t value,
                         struct error *err)
{
	if (is_aligned(value, r->page_size))
		return 0;
	return error_set(err, -EINVAL,
	                 "region %s: the %s %#" PRIx64
	                 " is not a multiple of the page size %" PRIu64,
	                 r->name, what, value, r->page_size);
}

static int span_check(const struct postcopy_region *r, const char *what, uint64_t start,
                      struct error *err)
{
	int code = aligned_check(r, what, start, err);

	if (code < 0)
		return code;
	if (start > UINT64_MAX - r->length)
		return error_set(err, -EINVAL,
		                 "region %s: %s %#" PRIx64 " + length %#" PRIx64 " wraps around",
		                 r->name, what, start, r->length);
	return 0;
}

/* Without a file it is this process's mapping that counts. */
static bool uses_address(const struct postcopy_region *r, bool is_source)
{
	return !is_source || r->memory_fd < 0;
}

static int place_check(const struct postcopy_region *r, bool is_source, struct error *err)
{
	int code;

	if (!is_power_of_two(r->page_size) || r->page_size < WIRE_PAGE_SIZE)
		return error_set(err, -EINVAL,
		                 "region %s: page size %" PRIu64
		                 " is not a power of two from 4096 up",
		                 r->name, r->page_size);
	if (r->length == 0)
		return error_set(err, -EINVAL, "region %s: the length is 0", r->name);
	code = aligned_check(r, "length", r->length, err);
	if (code == 0)
		code = span_check(r, "guest-physical address", r->guest_physical_address, err);
	if (code == 0 && uses_address(r, is_source)) {
		if (!r->address)
			return error_set(err, -EINVAL, "region %s: the address is NULL", r->name);
		code = span_check(r, "address", (uintptr_t)r->address, err);
	}
	if (code == 0 && r->memory_fd >= 0)
		code = span_check(r, "memory offset", r->memory_offset, err);
	return code;
}

static int file_check(const struct postcopy_region *r, bool is_source, struct error *err)
{
	if (r->memory_fd < 0 && !is_source && r->mode == POSTCOPY_MODE_MINOR)
		return error_set(err, -EINVAL, "region %s: mode minor needs memory_fd", r->name);
	if (r->memory_fd < 0 || (!is_source && r->backing == POSTCOPY_BACKING_ANONYMOUS))
		return 0;
	if (fcntl(r->memory_fd, F_GETFD) < 0)
		return error_set(err, -EBADF, "region %s: memory_fd %d is not open", r->name,
		                 r->memory_fd);
	if (!fd_is_memory_file(r->memory_fd))
		return error_set(
		        err, -EINVAL,
		        "region %s: memory_fd %d is neither a memfd nor a file on tmpfs or "
		        "hugetlbfs",
		        r->name, r->memory_fd);
	return 0;
}

static bool spans_overlap(uint64_t a, uint64_t a_len, uint64_t b, uint64_t b_len)
{
	return a < b + b_len && b < a + a_len;
}

static int pair_check(const struct postcopy_region *a, const struct postcopy_region *b,
                      bool is_source, struct error *err)
{
	if (strcmp(a->name, b->name) == 0)
		return error_set(err, -EINVAL, "two regions are called %s", a->name);
	if (spans_overlap(a->guest_physical_address, a->length, b->guest_physical_address,
	                  b->length))
		return error_set(err, -EINVAL,
		                 "regions %s and %s overlap in guest-physical addresses: %#" PRIx64
		                 " + %#" PRIx64 ", %#" PRIx64 " + %#" PRIx64,
		                 a->name, b->name, a->guest_physical_address, a->length,
		                 b->guest_physical_address, b->length);
	if (uses_address(a, is_source) && uses_address(b, is_source) &&
	    spans_overlap((uintptr_t)a->address, a->length, (uintptr_t)b->address, b->length))
		return error_set(err, -EINVAL,
		                 "regions %s and %s overlap at address %p + %#" PRIx64
		                 ", %p + %#" PRIx64,
		                 a->name, b->name, a->address, a->length, b->address, b->length);
	return 0;
}

int regions_check(const struct postcopy_region *regions, size_t n_regions, bool is_source,
                  struct error *err)
{
	int code = 0;

	if (!regions || n_regions == 0 || n_regions > REGIONS_MAX)
		return error_set(err, -EINVAL, "%zu regions instead of 1 to %d",
		                 regions ? n_regions : 0, REGIONS_MAX);
	for (size_t i = 0; i < n_regions && code == 0; i++) {
		const struct postcopy_region *r = &regions[i];

		code = name_check(r, i, err);
		if (code == 0)
			code = kind_check(r, err);
		if (code == 0)
			code = place_check(r, is_source, err);
		if (code == 0)
			code = file_check(r, is_source, err);
		for (size_t k = 0; k < i && code == 0; k++)
			code = pair_check(&regions[k], r, is_source, err);
	}
	return code;
}

int fd_table_index(struct fd_table *t, size_t first, int fd, uint32_t *ret, struct error *err)
{
	for (size_t i = first; i < t->n_fds; i++)
		if (t->fds[i] == fd) {
			*ret = (uint32_t)(i - first);
			return 0;
		}
	if (t->n_fds == ATTACH_FDS_MAX)
		return error_set(err, -E2BIG, "more than %d uffds and memory files together",
		                 ATTACH_FDS_MAX);
	t->fds[t->n_fds] = fd;
	*ret = (uint32_t)(t->n_fds++ - first);
	return 0;
}
