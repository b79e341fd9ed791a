/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The source: hands memory to postcopy-sourced and tells it about freezing and
 * poison. Called by the VMM.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "client/inbound.h"
#include "client/internal.h"
#include "core/cleanup.h"

/* This process's memory, to be read by the agent: opened by us, it needs no ptrace right. */
static int own_memory_open(int *fd, struct error *err)
{
	if (*fd >= 0)
		return 0;
	*fd = open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
	if (*fd < 0)
		return error_set_errno(err, -errno, "cannot open /proc/self/mem");
	return 0;
}

static int region_fill(struct export_region *to, const struct postcopy_region *from,
                       struct fd_table *fds, int *own_memory_fd, struct error *err)
{
	int fd = from->memory_fd;

	strcpy(to->name, from->name); /* regions_check() has measured it */
	to->gpa.addr = from->guest_physical_address;
	to->length_bytes = from->length;
	to->page_size_bytes = from->page_size;
	to->backing = (enum backing)from->backing;
	to->fd_offset.off = from->memory_offset;
	if (fd < 0) {
		int r = own_memory_open(own_memory_fd, err);

		if (r < 0)
			return r;
		fd = *own_memory_fd;
		to->fd_offset.off = (uintptr_t)from->address;
	}
	return fd_table_index(fds, 0, fd, &to->fd, err);
}

static int inbound_check(const struct postcopy_export_params *p, struct error *err)
{
	bool flagged = p->flags & POSTCOPY_EXPORT_INBOUND;

	if (flagged && !p->inbound)
		return error_set(err, -EINVAL,
		                 "POSTCOPY_EXPORT_INBOUND without the handle of the migration by "
		                 "which the memory comes here");
	if (!flagged && p->inbound)
		return error_set(err, -EINVAL,
		                 "inbound is not NULL, but POSTCOPY_EXPORT_INBOUND is not set");
	if (flagged && p->inbound->is_source)
		return error_set(err, -EINVAL,
		                 "inbound is the handle of an export, not of a destination");
	return 0;
}

static int params_check(const struct postcopy_export_params *p, struct error *err)
{
	size_t len = p->peer_identity ? strlen(p->peer_identity) : 0;
	int r = reserved_check(p->flags & ~POSTCOPY_EXPORT_INBOUND, p->reserved,
	                       ARRAY_SIZE(p->reserved), err);

	if (r == 0)
		r = inbound_check(p, err);
	if (r == 0)
		r = token_check(p->token, p->token_len, err);
	if (r < 0)
		return r;
	if (len == 0 || len >= PEER_IDENTITY_MAX)
		return error_set(err, -EINVAL, "the peer identity has %zu bytes instead of 1 to %d",
		                 len, PEER_IDENTITY_MAX - 1);
	return regions_check(p->regions, p->n_regions, true, err);
}

static int request_fill(const struct postcopy_export_params *p, struct attach_request *request,
                        struct fd_table *fds, int *own_memory_fd, struct error *err)
{
	int r = 0;

	request->type = ATTACH_REQUEST_EXPORT;
	request->version = ATTACH_PROTOCOL_VERSION;
	memcpy(request->migration_id.bytes, p->migration_id, sizeof(p->migration_id));
	memcpy(request->token, p->token, p->token_len);
	request->token_len = p->token_len;
	strcpy(request->export.peer_identity, p->peer_identity); /* measured in params_check() */
	request->export.regions = calloc(p->n_regions, sizeof(*request->export.regions));
	if (!request->export.regions)
		return error_set_errno(err, -ENOMEM, "cannot copy %zu regions", p->n_regions);
	request->export.n_regions = p->n_regions;
	request->export.inbound = p->flags & POSTCOPY_EXPORT_INBOUND;
	for (size_t i = 0; i < p->n_regions && r == 0; i++)
		r = region_fill(&request->export.regions[i], &p->regions[i], fds, own_memory_fd,
		                err);
	return r;
}

static int export_memory(const struct postcopy_export_params *p, struct postcopy **ret,
                         struct error *err)
{
	_cleanup_close_ int own_memory_fd = -1;
	struct attach_request request = {0};
	struct fd_table fds = {.n_fds = 0};
	struct postcopy *h = NULL;
	int r = params_check(p, err);

	if (r == 0)
		r = request_fill(p, &request, &fds, &own_memory_fd, err);
	if (r == 0)
		r = link_new(p->socket_path, true, p->timeout_ms, &h, err);
	if (r == 0 && p->inbound)
		r = inbound_new(h, p->inbound, p->regions, p->n_regions, err);
	if (r == 0)
		r = link_begin(h, &request, &fds, "exported", err);
	if (r == 0 && p->inbound)
		r = inbound_start(h->inbound, err);
	attach_request_free(&request);
	if (r == 0)
		*ret = h;
	else
		link_free(h);
	return r;
}

int postcopy_export(const struct postcopy_export_params *params, struct postcopy **ret_handle,
                    char *error_text, size_t error_size)
{
	struct error err = {0};

	return error_give(export_memory(params, ret_handle, &err), &err, error_text, error_size);
}

/* A call that only a source's handle permits; entered (if not NULL) is the state that follows. */
static int source_call(struct postcopy *h, const struct attach_request *request,
                       enum postcopy_state from, const char *entered, struct error *err)
{
	int r;

	if (!h->is_source)
		return error_set(err, -EINVAL, "the handle is of a destination, not of an export");
	r = link_call(h, request, NULL, 0, err);
	if (r < 0 || !entered)
		return r;
	pthread_mutex_lock(&h->lock);
	if (h->status.state == from)
		state_enter(h, entered, "", false);
	pthread_mutex_unlock(&h->lock);
	return 0;
}

int postcopy_freeze(struct postcopy *handle, char *error_text, size_t error_size)
{
	struct attach_request request = {.type = ATTACH_REQUEST_FREEZE};
	struct error err = {0};
	int r;

	if (handle->inbound) /* what became lost since the export, ahead of the first fault */
		inbound_list_due(handle->inbound);
	r = source_call(handle, &request, POSTCOPY_STATE_EXPORTED, "frozen", &err);
	return error_give(r, &err, error_text, error_size);
}

static int ranges_copy(struct attach_request *request, const struct postcopy_range *ranges,
                       size_t n_ranges, struct error *err)
{
	struct poison_range *to;

	if (n_ranges > POISON_RANGES_MAX)
		return error_set(err, -E2BIG, "%zu ranges in one report instead of at most %d",
		                 n_ranges, POISON_RANGES_MAX);
	if (!ranges || n_ranges == 0)
		return error_set(err, -EINVAL, "no range to report");
	to = calloc(n_ranges, sizeof(*to));
	if (!to)
		return error_set_errno(err, -ENOMEM, "cannot copy %zu ranges", n_ranges);
	request->report_poison.ranges = to;
	request->report_poison.n_ranges = n_ranges;
	for (size_t i = 0; i < n_ranges; i++) {
		uint64_t gpa = ranges[i].guest_physical_address;
		uint64_t length = ranges[i].length;

		if (length == 0 || !is_aligned(gpa | length, WIRE_PAGE_SIZE) ||
		    gpa > UINT64_MAX - length)
			return error_set(err, -EINVAL,
			                 "range %zu: %#" PRIx64 " + %#" PRIx64
			                 " is empty, wraps, or is not a multiple of 4096",
			                 i, gpa, length);
		to[i].gpa.addr = gpa;
		to[i].length_bytes = length;
	}
	return 0;
}

int postcopy_report_poison(struct postcopy *handle, const struct postcopy_range *ranges,
                           size_t n_ranges, char *error_text, size_t error_size)
{
	struct attach_request request = {.type = ATTACH_REQUEST_REPORT_POISON};
	struct error err = {0};
	int r = ranges_copy(&request, ranges, n_ranges, &err);

	if (r == 0)
		r = source_call(handle, &request, POSTCOPY_STATE_UNKNOWN, NULL, &err);
	attach_request_free(&request);
	return error_give(r, &err, error_text, error_size);
}

int postcopy_withdraw(struct postcopy *handle, int force, char *error_text, size_t error_size)
{
	struct attach_request request = {.type = ATTACH_REQUEST_WITHDRAW};
	struct error err = {0};
	int r;

	request.withdraw.force = force != 0;
	r = source_call(handle, &request, POSTCOPY_STATE_UNKNOWN, NULL, &err);
	if (r == 0) {
		pthread_mutex_lock(&handle->lock);
		if (!handle->status.final)
			state_enter(handle, "withdrawn", "", true);
		pthread_mutex_unlock(&handle->lock);
	}
	return error_give(r, &err, error_text, error_size);
}
