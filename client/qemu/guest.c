/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the guest's memory goes through: a QEMU may take a guest in, and later give
 * it away. Called by the library's thread, through command.c and server.c.
 *
 * What the guest lost on its way here is kept by region and offset, for it stays
 * lost when it moves on: poison is a mark in this process's page tables, and whoever
 * reads the memory file finds zeros there.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "client/qemu/qemu.h"
#include "core/cleanup.h"
#include "core/units.h"

struct side {
	struct postcopy *handle; /* NULL: not begun, or ended */
	bool begun;              /* id and status are those of the last one */
	bool gone;               /* its daemon, for good */
	uint8_t id[16];
	struct postcopy_status status;
};

/* Memory that did not come. */
struct lost {
	char name[POSTCOPY_NAME_MAX]; /* of the mapping */
	uint64_t offset_bytes;
	uint64_t length_bytes;
};

static struct side sides[GUEST_SIDES];
static struct mapping arrived[BACKENDS_MAX]; /* as it was attached */
static size_t n_arrived;
static struct lost *losses;
static size_t n_losses;
/* What QEMU was attached with, for others that map its memory; until the memory has come. */
static struct guest_request inbound;
static char inbound_socket[sizeof(((struct sockaddr_un *)NULL)->sun_path)];

static void regions_fill(struct postcopy_region *to, const struct mapping *m, size_t n)
{
	memset(to, 0, n * sizeof(*to));
	for (size_t i = 0; i < n; i++) {
		to[i].name = m[i].name;
		to[i].guest_physical_address = m[i].gpa;
		to[i].address = m[i].address;
		to[i].length = m[i].length_bytes;
		to[i].page_size = m[i].page_size_bytes;
		to[i].backing = m[i].is_hugetlb ? POSTCOPY_BACKING_HUGETLB : POSTCOPY_BACKING_MEMFD;
		to[i].mode = POSTCOPY_MODE_MISSING;
		to[i].memory_fd = m[i].fd;
		to[i].memory_offset = m[i].offset_bytes;
		to[i].flags = POSTCOPY_REGION_REGISTERED;
	}
}

static void side_begin(int side, struct postcopy *handle, const uint8_t id[16])
{
	sides[side] = (struct side){.handle = handle, .begun = true};
	memcpy(sides[side].id, id, sizeof(sides[side].id));
	(void)postcopy_get_status(handle, &sides[side].status);
}

static bool side_is_final(int side)
{
	return !sides[side].handle || sides[side].status.final;
}

/* The last status stays to be asked for. */
static void side_end(int side, uint32_t close_flags)
{
	struct side *s = &sides[side];

	if (postcopy_close(s->handle, close_flags) == 0)
		s->handle = NULL;
}

/*
 * After an attempt that failed, QEMU may be attached again: nothing has come, and the
 * userfaultfd is still open here, so that no touch reads zeros.
 */
static int attach_permitted(struct error *err)
{
	if (!command_line.incoming)
		return error_set(err, -EINVAL,
		                 "this QEMU was not started with -incoming defer: its memory is "
		                 "its own, and cannot come from another host");
	if (sides[GUEST_IN].status.state == POSTCOPY_STATE_COMPLETED)
		return error_set(err, -EALREADY, "the memory of this QEMU has come already");
	if (!side_is_final(GUEST_IN))
		return error_set(err, -EBUSY, "this QEMU is attached already: migration %s",
		                 sides[GUEST_IN].status.name);
	return 0;
}

static void inbound_keep(const struct guest_request *request)
{
	inbound = *request;
	inbound.socket_path = NULL;
	if (request->socket_path) {
		(void)snprintf(inbound_socket, sizeof(inbound_socket), "%s", request->socket_path);
		inbound.socket_path = inbound_socket;
	}
}

int guest_attach(const struct guest_request *request, struct error *err)
{
	struct postcopy_region regions[BACKENDS_MAX];
	struct postcopy_attach_params params = {.socket_path = request->socket_path,
	                                        .token = request->token,
	                                        .token_len = request->token_len,
	                                        .n_uffds = 1,
	                                        .regions = regions};
	struct postcopy *handle;
	int uffd = memory_uffd(), r = attach_permitted(err);

	if (r == 0)
		r = memory_copy(arrived, &n_arrived, err);
	if (r == 0)
		r = memory_check_empty(arrived, n_arrived, err);
	if (r < 0)
		return r;
	regions_fill(regions, arrived, n_arrived);
	params.n_regions = n_arrived;
	params.uffds = &uffd;
	memcpy(params.migration_id, request->migration_id, sizeof(params.migration_id));
	r = postcopy_attach(&params, &handle, err->text, sizeof(err->text));
	if (r < 0)
		return err->code = r;
	side_end(GUEST_IN, POSTCOPY_CLOSE_FORCE);
	side_begin(GUEST_IN, handle, request->migration_id);
	inbound_keep(request);
	atomic_store(&command_line.waits, false);
	return 0;
}

/* A range of guest-physical addresses of the attach, by mapping. */
static void losses_add(struct lost *to, size_t *n, const struct postcopy_range *range)
{
	uint64_t from = range->guest_physical_address, until = from + range->length;

	for (size_t i = 0; i < n_arrived; i++) {
		const struct mapping *m = &arrived[i];
		uint64_t first = MAX(from, m->gpa), end = MIN(until, m->gpa + m->length_bytes);

		if (first >= end)
			continue;
		strcpy(to[*n].name, m->name);
		to[*n].offset_bytes = first - m->gpa;
		to[(*n)++].length_bytes = end - first;
	}
}

/* All that is lost, asked before the handle is closed. */
static int losses_ask(struct error *err)
{
	_cleanup_free_ struct postcopy_range *ranges = NULL;
	size_t n = 0, max = 0;
	int r;

	for (;;) {
		r = postcopy_list_poison(sides[GUEST_IN].handle, ranges, max, &n, err->text,
		                         sizeof(err->text));
		if (r < 0)
			return err->code = r;
		if (n <= max)
			break;
		free(ranges);
		max = n;
		ranges = calloc(max, sizeof(*ranges));
		if (!ranges)
			return error_set_errno(err, -ENOMEM, "cannot keep %zu lost ranges", n);
	}
	free(losses);
	/* One range may reach into a second mapping, and no range shares both. */
	n_losses = 0;
	losses = calloc(n + n_arrived, sizeof(*losses));
	if (!losses)
		return error_set_errno(err, -ENOMEM, "cannot keep %zu lost ranges", n);
	for (size_t i = 0; i < n; i++)
		losses_add(losses, &n_losses, &ranges[i]);
	return 0;
}

/* All pages are here: what the daemon knows of them is noted, then it is let go. */
static void arrival_finish(void)
{
	struct error err = {0};
	bool some_lost = true;

	if (losses_ask(&err) < 0)
		refuse("the memory has come, but which of it is lost cannot be told (%s): the "
		       "guest runs on, and cannot be migrated again",
		       err.text);
	else
		some_lost = n_losses > 0;
	side_end(GUEST_IN, 0);
	explicit_bzero(inbound.token, sizeof(inbound.token));
	memory_arrived(some_lost);
}

void guest_process(int side)
{
	struct side *s = &sides[side];
	int r = s->handle ? postcopy_process(s->handle) : 0;

	if (!s->handle)
		return;
	s->gone = r < 0;
	(void)postcopy_get_status(s->handle, &s->status);
	if (r < 0)
		say("migration %s: postcopyd's or the agent's connection has ended: %s",
		    s->status.name, strerror(-r));
	if (side == GUEST_IN && s->status.state == POSTCOPY_STATE_COMPLETED)
		arrival_finish();
	else if (side == GUEST_OUT && s->status.final)
		side_end(GUEST_OUT, 0);
}

/* A guest whose memory is not all here can only be given away when it is. */
static int export_permitted(struct error *err)
{
	struct side *in = &sides[GUEST_IN];

	if (command_line.incoming && !in->begun)
		return error_set(err, -EBUSY,
		                 "this QEMU waits for a guest (-incoming): there is "
		                 "nothing to export");
	if (command_line.incoming && in->status.state != POSTCOPY_STATE_COMPLETED)
		return error_set(err, -EBUSY,
		                 "the guest's memory is still coming here (%s): export it when "
		                 "that migration has completed",
		                 in->status.name);
	if (sides[GUEST_OUT].handle)
		return error_set(err, -EBUSY, "this QEMU is exported already: %s; withdraw first",
		                 sides[GUEST_OUT].status.name);
	return 0;
}

/* Where the lost range lies in what is exported now; false: it was unplugged since. */
static bool lost_find(const struct lost *lost, const struct mapping *m, size_t n,
                      struct postcopy_range *ret)
{
	for (size_t i = 0; i < n; i++)
		if (strcmp(m[i].name, lost->name) == 0) {
			ret->guest_physical_address = m[i].gpa + lost->offset_bytes;
			ret->length = lost->length_bytes;
			return true;
		}
	return false;
}

static int losses_report(struct postcopy *handle, const struct mapping *m, size_t n,
                         struct error *err)
{
	_cleanup_free_ struct postcopy_range *ranges = calloc(POSTCOPY_RANGES_MAX, sizeof(*ranges));
	int r = 0;

	if (!ranges)
		return error_set_errno(err, -ENOMEM, "cannot report what is lost");
	for (size_t i = 0; i < n_losses && r == 0;) {
		size_t n_ranges = 0;

		for (; i < n_losses && n_ranges < POSTCOPY_RANGES_MAX; i++)
			n_ranges += lost_find(&losses[i], m, n, &ranges[n_ranges]);
		if (n_ranges > 0)
			r = postcopy_report_poison(handle, ranges, n_ranges, err->text,
			                           sizeof(err->text));
	}
	return r < 0 ? (err->code = r) : 0;
}

int guest_export(const struct guest_request *request, struct error *err)
{
	struct mapping m[BACKENDS_MAX];
	struct postcopy_region regions[BACKENDS_MAX];
	struct postcopy_export_params params = {.socket_path = request->socket_path,
	                                        .token = request->token,
	                                        .token_len = request->token_len,
	                                        .peer_identity = request->peer,
	                                        .regions = regions};
	struct postcopy *handle;
	int r = export_permitted(err);

	if (r == 0)
		r = memory_copy(m, &params.n_regions, err);
	if (r < 0)
		return r;
	regions_fill(regions, m, params.n_regions);
	for (size_t i = 0; i < params.n_regions; i++)
		regions[i].flags = 0;
	memcpy(params.migration_id, request->migration_id, sizeof(params.migration_id));
	r = postcopy_export(&params, &handle, err->text, sizeof(err->text));
	if (r < 0)
		return err->code = r;
	r = losses_report(handle, m, params.n_regions, err);
	if (r < 0) {
		(void)postcopy_withdraw(handle, 0, NULL, 0);
		(void)postcopy_close(handle, POSTCOPY_CLOSE_FORCE);
		return r;
	}
	side_begin(GUEST_OUT, handle, request->migration_id);
	return 0;
}

static int exported_handle(struct postcopy **ret, struct error *err)
{
	*ret = sides[GUEST_OUT].handle;
	return *ret ? 0 : error_set(err, -ENOENT, "this QEMU is not exported");
}

int guest_freeze(struct error *err)
{
	struct postcopy *handle;
	int r = exported_handle(&handle, err);

	if (r < 0)
		return r;
	r = postcopy_freeze(handle, err->text, sizeof(err->text));
	(void)postcopy_get_status(handle, &sides[GUEST_OUT].status);
	return r < 0 ? (err->code = r) : 0;
}

int guest_withdraw(bool force, struct error *err)
{
	struct postcopy *handle;
	int r = exported_handle(&handle, err);

	if (r < 0)
		return r;
	r = postcopy_withdraw(handle, force, err->text, sizeof(err->text));
	/* An agent that has gone for good serves nobody: what it had has ended with it. */
	if (r < 0 && r != -ENOTCONN && r != -ECONNRESET)
		return err->code = r;
	side_end(GUEST_OUT, POSTCOPY_CLOSE_FORCE);
	sides[GUEST_OUT].status.state = POSTCOPY_STATE_WITHDRAWN;
	sides[GUEST_OUT].status.final = 1;
	strcpy(sides[GUEST_OUT].status.name, postcopy_strstate(POSTCOPY_STATE_WITHDRAWN));
	return 0;
}

int guest_fd(int side)
{
	const struct side *s = &sides[side];

	return s->handle && !s->gone ? postcopy_fd(s->handle) : -1;
}

/* As it was attached; the device is the kernel's way to tell two file systems apart. */
static const struct mapping *arrived_find(uint64_t device, uint64_t inode)
{
	struct stat st;

	for (size_t i = 0; i < n_arrived; i++)
		if (fstat(arrived[i].fd, &st) == 0 && st.st_dev == device && st.st_ino == inode)
			return &arrived[i];
	return NULL;
}

int guest_share(uint64_t device, uint64_t inode, struct guest_share *ret, struct error *err)
{
	const struct side *in = &sides[GUEST_IN];
	bool all_here = in->status.state == POSTCOPY_STATE_COMPLETED;
	int r = refusal_check(err);

	*ret = (struct guest_share){0};
	if (!command_line.incoming || (r == 0 && all_here && n_losses == 0))
		return 0;
	if (r < 0)
		return r;
	if (!in->begun)
		return error_set(err, -EAGAIN,
		                 "this QEMU waits for a guest (-incoming): nobody may have its "
		                 "memory before it is attached");
	ret->mapping = arrived_find(device, inode);
	if (!ret->mapping)
		return 0;
	if (!all_here && side_is_final(GUEST_IN))
		return error_set(err, -ECONNABORTED, "the guest's memory will not come: %s",
		                 in->status.name);
	if (!all_here)
		ret->inbound = &inbound;
	return 0;
}

bool guest_lost_next(const struct mapping *m, size_t *cursor, uint64_t *ret_offset,
                     uint64_t *ret_length)
{
	for (; *cursor < n_losses; (*cursor)++) {
		const struct lost *lost = &losses[*cursor];

		if (strcmp(lost->name, m->name) != 0)
			continue;
		*ret_offset = lost->offset_bytes;
		*ret_length = lost->length_bytes;
		(*cursor)++;
		return true;
	}
	return false;
}

bool guest_status(int side, uint8_t ret_id[16], struct postcopy_status *ret)
{
	if (!sides[side].begun)
		return false;
	memcpy(ret_id, sides[side].id, sizeof(sides[side].id));
	*ret = sides[side].status;
	return true;
}
