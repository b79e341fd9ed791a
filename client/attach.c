/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The destination: hands uffds and regions to postcopyd. Called by the VMM.
 *
 * The handle keeps duplicates of the uffds, for when the last reference to one
 * closes, missing pages silently read as zeros.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "client/internal.h"
#include "client/split.h"
#include "core/cleanup.h"
#include "core/fdpass.h"

#define ATTACH_FLAGS_KNOWN (POSTCOPY_ATTACH_MAPPING | POSTCOPY_ATTACH_SPLIT)

static int params_check(const struct postcopy_attach_params *p, struct error *err)
{
	int r = reserved_check(p->flags & ~ATTACH_FLAGS_KNOWN, p->reserved, ARRAY_SIZE(p->reserved),
	                       err);

	if (r == 0)
		r = token_check(p->token, p->token_len, err);
	if (r < 0)
		return r;
	if (!p->uffds || p->n_uffds == 0 || p->n_uffds > ATTACH_UFFDS_MAX)
		return error_set(err, -EINVAL, "%zu uffds instead of 1 to %d",
		                 p->uffds ? p->n_uffds : 0, ATTACH_UFFDS_MAX);
	for (size_t i = 0; i < p->n_uffds; i++) {
		if (fcntl(p->uffds[i], F_GETFD) < 0)
			return error_set(err, -EBADF, "uffd %zu: descriptor %d is not open", i,
			                 p->uffds[i]);
		if (!fd_is_userfaultfd(p->uffds[i]))
			return error_set(err, -EINVAL,
			                 "uffd %zu: descriptor %d is not a userfaultfd", i,
			                 p->uffds[i]);
	}
	return regions_check(p->regions, p->n_regions, false, err);
}

/* A region's mode and uffd; registered_by[u] is 0 not known, 1 daemon, 2 VMM. */
static int region_uffd_check(const struct postcopy_attach_params *p,
                             const struct postcopy_region *r,
                             uint8_t registered_by[ATTACH_UFFDS_MAX], struct error *err)
{
	uint8_t by = r->flags & POSTCOPY_REGION_REGISTERED ? 2 : 1;

	if (r->mode != POSTCOPY_MODE_MISSING && r->mode != POSTCOPY_MODE_MINOR)
		return error_set(err, -EINVAL, "region %s: unknown mode %d", r->name, (int)r->mode);
	if (p->flags & POSTCOPY_ATTACH_MAPPING && r->memory_fd < 0)
		return error_set(err, -EINVAL,
		                 "region %s: a further mapping needs memory_fd: only shared memory "
		                 "can be mapped twice",
		                 r->name);
	if (r->mode == POSTCOPY_MODE_MINOR && r->backing == POSTCOPY_BACKING_ANONYMOUS)
		return error_set(err, -EINVAL,
		                 "region %s: mode minor needs a shared mapping of a file", r->name);
	if (r->uffd >= p->n_uffds)
		return error_set(err, -EINVAL, "region %s: uffd index %u, but there are %zu uffds",
		                 r->name, r->uffd, p->n_uffds);
	if (registered_by[r->uffd] != 0 && registered_by[r->uffd] != by)
		return error_set(err, -EINVAL,
		                 "region %s: other regions of uffd %u differ in "
		                 "POSTCOPY_REGION_REGISTERED",
		                 r->name, r->uffd);
	registered_by[r->uffd] = by;
	return 0;
}

static int region_fill(struct attach_region *to, const struct postcopy_region *from,
                       struct fd_table *fds, size_t n_uffds, struct error *err)
{
	strcpy(to->name, from->name); /* regions_check() has measured it */
	to->gpa.addr = from->guest_physical_address;
	to->hva.addr = (uintptr_t)from->address;
	to->length_bytes = from->length;
	to->page_size_bytes = from->page_size;
	to->backing = (enum backing)from->backing;
	to->mode = (enum uffd_mode)from->mode;
	to->uffd = from->uffd;
	to->registered = from->flags & POSTCOPY_REGION_REGISTERED;
	to->fully_allocated = from->flags & POSTCOPY_REGION_FULLY_ALLOCATED;
	if (from->memory_fd < 0 || from->backing == POSTCOPY_BACKING_ANONYMOUS)
		return 0;
	to->has_fd = true;
	to->fd_offset.off = from->memory_offset;
	return fd_table_index(fds, n_uffds, from->memory_fd, &to->fd, err);
}

static int request_fill(const struct postcopy_attach_params *p, struct attach_request *request,
                        struct fd_table *fds, struct error *err)
{
	uint8_t registered_by[ATTACH_UFFDS_MAX] = {0};
	int r = 0;

	request->type = p->flags & POSTCOPY_ATTACH_MAPPING ? ATTACH_REQUEST_ATTACH_MAPPING
	                                                   : ATTACH_REQUEST_ATTACH;
	request->version = ATTACH_PROTOCOL_VERSION;
	memcpy(request->migration_id.bytes, p->migration_id, sizeof(p->migration_id));
	memcpy(request->token, p->token, p->token_len);
	request->token_len = p->token_len;
	request->attach.n_uffds = (uint32_t)p->n_uffds;
	request->attach.regions = calloc(p->n_regions, sizeof(*request->attach.regions));
	if (!request->attach.regions)
		return error_set_errno(err, -ENOMEM, "cannot copy %zu regions", p->n_regions);
	request->attach.n_regions = p->n_regions;
	memcpy(fds->fds, p->uffds, p->n_uffds * sizeof(fds->fds[0]));
	fds->n_fds = p->n_uffds;
	for (size_t i = 0; i < p->n_regions && r == 0; i++) {
		r = region_uffd_check(p, &p->regions[i], registered_by, err);
		if (r == 0)
			r = region_fill(&request->attach.regions[i], &p->regions[i], fds,
			                p->n_uffds, err);
	}
	return r;
}

static int uffds_keep(struct postcopy *h, const struct postcopy_attach_params *p, struct error *err)
{
	for (size_t i = 0; i < p->n_uffds; i++) {
		int fd = fcntl(p->uffds[i], F_DUPFD_CLOEXEC, 0);

		if (fd < 0)
			return error_set_errno(err, -errno, "cannot duplicate uffd %zu", i);
		h->uffds[h->n_uffds++] = fd;
	}
	return 0;
}

static int regions_keep(struct postcopy *h, const struct postcopy_attach_params *p,
                        struct error *err)
{
	h->regions = calloc(p->n_regions, sizeof(*h->regions));
	if (!h->regions)
		return error_set_errno(err, -ENOMEM, "cannot copy %zu regions", p->n_regions);
	h->n_regions = p->n_regions;
	for (size_t i = 0; i < p->n_regions; i++)
		h->regions[i] = (struct region_kept){
		        .gpa = p->regions[i].guest_physical_address,
		        .hva = (uintptr_t)p->regions[i].address,
		        .length_bytes = p->regions[i].length,
		        .page_size_bytes = p->regions[i].page_size,
		        .shared = p->regions[i].backing == POSTCOPY_BACKING_MEMFD,
		};
	return 0;
}

/*
 * Collapsing shared memory into a huge page (khugepaged, MADV_COLLAPSE) drops
 * the poison markers in it, and lost pages would read as data again (measured on
 * 6.12 and 6.18). Fails only where nothing can be collapsed. collapse_plan.c
 * lifts it again where nothing is lost.
 */
static void regions_keep_small(const struct postcopy_attach_params *p)
{
	for (size_t i = 0; i < p->n_regions; i++)
		if (p->regions[i].backing == POSTCOPY_BACKING_MEMFD)
			(void)madvise(p->regions[i].address, (size_t)p->regions[i].length,
			              MADV_NOHUGEPAGE);
}

/*
 * A child would have the memory without the userfaultfd: in private memory it reads zeros,
 * in shared memory it makes zeros of what is missing, for the guest as well.
 */
static int regions_keep_from_children(const struct postcopy_attach_params *p, struct error *err)
{
	for (size_t i = 0; i < p->n_regions; i++)
		if (madvise(p->regions[i].address, (size_t)p->regions[i].length, MADV_DONTFORK) <
		            0 &&
		    errno != ENOMEM) /* not mapped: the daemon says so */
			return error_set_errno(err, -errno,
			                       "region %s cannot be kept from child processes",
			                       p->regions[i].name);
	return 0;
}

/* Regions that the VMM has registered are cut where it has done so. */
static int split_check(const struct postcopy_attach_params *p, struct error *err)
{
	if (p->flags & POSTCOPY_ATTACH_MAPPING)
		return error_set(
		        err, -EINVAL,
		        "POSTCOPY_ATTACH_SPLIT does not go with POSTCOPY_ATTACH_MAPPING: a "
		        "further mapping's faults are served by the lanes of the VMM's "
		        "attach");
	for (size_t i = 0; i < p->n_regions; i++)
		if (p->regions[i].flags & POSTCOPY_REGION_REGISTERED)
			return error_set(err, -EINVAL,
			                 "region %s: POSTCOPY_REGION_REGISTERED does not go with "
			                 "POSTCOPY_ATTACH_SPLIT: pass raw uffds, and let the "
			                 "daemon register what each of them gets",
			                 p->regions[i].name);
	return 0;
}

/* *to: as *p, but with the regions as they are sent. *ret_pieces, which it may name, is the caller's. */
static int regions_split(const struct postcopy_attach_params *p, struct postcopy_attach_params *to,
                         struct postcopy_region **ret_pieces, struct error *err)
{
	int r;

	*to = *p;
	if (!(p->flags & POSTCOPY_ATTACH_SPLIT))
		return 0;
	r = split_check(p, err);
	if (r < 0)
		return r;
	*ret_pieces = calloc(POSTCOPY_REGIONS_MAX, sizeof(**ret_pieces));
	if (!*ret_pieces)
		return error_set_errno(err, -ENOMEM, "cannot split %zu regions", p->n_regions);
	to->regions = *ret_pieces;
	return split_regions(p->regions, p->n_regions, p->n_uffds, *ret_pieces, &to->n_regions,
	                     err);
}

static int attach(const struct postcopy_attach_params *p, struct postcopy **ret, struct error *err)
{
	_cleanup_free_ struct postcopy_region *pieces = NULL;
	struct postcopy_attach_params split;
	struct attach_request request = {0};
	struct fd_table fds = {.n_fds = 0};
	struct postcopy *h = NULL;
	int r = params_check(p, err);

	if (r == 0)
		r = regions_split(p, &split, &pieces, err);
	if (r == 0)
		r = request_fill(&split, &request, &fds, err);
	if (r == 0)
		r = link_new(p->socket_path, false, p->timeout_ms, &h, err);
	if (r == 0)
		r = uffds_keep(h, p, err);
	if (r == 0)
		r = regions_keep(h, p, err);
	if (r == 0)
		r = regions_keep_from_children(p, err);
	if (r == 0)
		regions_keep_small(p);
	if (r == 0)
		r = link_begin(h, &request, &fds, "setup", err);
	attach_request_free(&request);
	if (r == 0)
		*ret = h;
	else
		link_free(h);
	return r;
}

int postcopy_attach(const struct postcopy_attach_params *params, struct postcopy **ret_handle,
                    char *error_text, size_t error_size)
{
	struct error err = {0};

	return error_give(attach(params, ret_handle, &err), &err, error_text, error_size);
}
