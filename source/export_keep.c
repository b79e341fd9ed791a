/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Keeps an export's record and descriptors in the FD store. Called by the table when an
 * export comes and goes, and by export.c at each change of state.
 *
 * Always holds: a record that cannot be written again is still the one before, and one
 * that is in the store is never without the descriptors that it speaks of.
 */
#include "source/export_keep.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <linux/kcmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "core/clock.h"
#include "core/log.h"
#include "net/kept_name.h"
#include "source/export_table.h"
#include "wire/export_record.h"

static_assert((int)EXPORT_EXPORTED == EXPORT_RECORD_EXPORTED, "as in the record");
static_assert((int)EXPORT_FROZEN == EXPORT_RECORD_FROZEN, "as in the record");
static_assert((int)EXPORT_SERVING == EXPORT_RECORD_SERVING, "as in the record");
static_assert((int)EXPORT_RELEASED == EXPORT_RECORD_RELEASED, "as in the record");
static_assert((int)EXPORT_FAILED == EXPORT_RECORD_FAILED, "as in the record");
static_assert((int)EXPORT_WITHDRAWN == EXPORT_RECORD_WITHDRAWN, "as in the record");

static struct fd_store *store_of(const struct export *e)
{
	return e->table->fd_store;
}

/* As systemd asks it. Where that may not be asked (it then looks otherwise) they differ. */
static bool same_open_file(int a, int b)
{
	pid_t self = getpid();

	return a == b || syscall(SYS_kcmp, self, self, KCMP_FILE, a, b) == 0;
}

/* The place of fd among those that are kept, entered when it is not there yet. */
static uint32_t memory_place(struct export_keep *keep, int *kept, int fd)
{
	for (uint32_t i = 0; i < keep->n_memory; i++)
		if (same_open_file(kept[i], fd))
			return i;
	kept[keep->n_memory] = fd;
	return keep->n_memory++;
}

/* The request as the record has it: with descriptors as they are kept, each open file once. */
static int request_copy(struct export *e, const struct export_params *params, int *kept,
                        struct error *err)
{
	struct attach_request *to = &e->keep.request;
	struct export_region *regions = calloc(params->n_regions, sizeof(*regions));

	if (!regions)
		return error_set(err, -ENOMEM, "not enough memory for %zu regions",
		                 params->n_regions);
	to->type = ATTACH_REQUEST_EXPORT;
	to->version = ATTACH_PROTOCOL_VERSION;
	to->migration_id = e->id;
	memcpy(to->token, e->token, e->token_len);
	to->token_len = e->token_len;
	memcpy(to->export.peer_identity, e->peer_identity, sizeof(to->export.peer_identity));
	to->export.regions = regions;
	to->export.n_regions = params->n_regions;
	to->export.inbound = params->inbound;
	for (size_t i = 0; i < params->n_regions; i++) {
		regions[i] = params->regions[i];
		regions[i].fd = memory_place(&e->keep, kept, e->regions->regions[i].memory.fd);
	}
	return 0;
}

/* Which of these an export has in the store; stranded ones have all they had. -1: none. */
static int64_t find_shared(const struct export *o, const int *kept, uint32_t n_kept)
{
	if (!o->keep.memory && !o->keep.stranded)
		return -1;
	for (size_t i = 0; i < o->regions->n_fds; i++)
		for (uint32_t n = 0; o->regions->fds[i] >= 0 && n < n_kept; n++)
			if (same_open_file(o->regions->fds[i], kept[n]))
				return n;
	return -1;
}

/* The store takes an open file once, whoever keeps it. */
static int check_shared(const struct export *e, const int *kept, struct error *err)
{
	struct export *o, *next;

	HASH_ITER (hh, e->table->by_id, o, next) {
		int64_t n = o != e ? find_shared(o, kept, e->keep.n_memory) : -1;

		if (n >= 0)
			return error_set(err, -EEXIST,
			                 "the memory's descriptor %" PRId64
			                 " is the open file that is exported as migration %s "
			                 "already, and the service manager's FD store takes it "
			                 "once: open it again, or withdraw that export",
			                 n, o->id_text);
	}
	return 0;
}

static void record_fill(const struct export *e, int state, const char *text,
                        struct export_record *r)
{
	snprintf(r->program_version, sizeof(r->program_version), "%s", PROJECT_VERSION);
	r->export = e->keep.request; /* the array stays the export's */
	r->n_memory = e->keep.n_memory;
	snprintf(r->exporter, sizeof(r->exporter), "%s", e->exporter);
	r->state = (enum export_record_state)state;
	snprintf(r->state_text, sizeof(r->state_text), "%s", text);
	r->started_us = e->started_us;
	if (export_state_final((enum export_state)state))
		r->ended_us = clock_realtime_us();
}

static int record_write(struct export *e, int state, const char *text, struct error *err)
{
	struct export_record r = {.state = EXPORT_RECORD_EXPORTED};
	_cleanup_free_ uint8_t *bytes = NULL;
	size_t len = 0;
	int rc;

	record_fill(e, state, text, &r);
	rc = export_record_encode(&r, &bytes, &len);
	if (rc < 0)
		error_set_errno(err, rc, "encode the export's record");
	else
		rc = record_memfd_write(e->keep.record, bytes, len, err);
	if (bytes) /* it has the token */
		explicit_bzero(bytes, len);
	explicit_bzero(r.export.token, sizeof(r.export.token));
	return rc;
}

void export_keep_state(struct export *e, int state, const char *text)
{
	struct error error = {0};

	if (e->keep.record && record_write(e, state, text, &error) < 0)
		log_migration(LOG_ERR, e->id_text,
		              "%s; after a restart it would go on as it was before it became %s",
		              error.text, export_state_name((enum export_state)state));
}

/* The log of lost pages, which every entry from now on is in before it counts. */
static int poison_keep(struct export *e, int *ret_fd, struct error *err)
{
	_cleanup_(cleanup_poison_log_free) struct poison_log *log = NULL;
	int r = poison_log_new(&e->id, e->regions->n_pages, &log, err);

	if (r == 0)
		r = poison_set_keep(e->poison, log, err);
	if (r < 0)
		return r;
	*ret_fd = TAKE_PTR(log)->fd;
	return 0;
}

/* In this order: who finds the record finds the rest. */
static int keep_all(struct export *e, const int *kept, int poison_fd, int connection_fd,
                    struct error *err)
{
	struct fd_store *store = store_of(e);
	int r = 0;

	for (uint32_t i = 0; i < e->keep.n_memory && r == 0; i++)
		r = kept_add_indexed(store, e->id_text, KEPT_MEMORY, i, kept[i], err);
	e->keep.memory = true;
	if (r == 0)
		r = kept_add(store, e->id_text, KEPT_POISON, poison_fd, err);
	if (r == 0 && connection_fd >= 0) {
		e->keep.connection = true;
		r = kept_add(store, e->id_text, KEPT_EXPORTER, connection_fd, err);
	}
	if (r == 0)
		r = kept_add(store, e->id_text, KEPT_RECORD, e->keep.record->fd, err);
	return r == 0 ? fd_store_barrier(store, err) : r;
}

int export_keep_start(struct export *e, const struct export_params *params, struct error *err)
{
	int kept[ATTACH_FDS_MAX], poison_fd = -1, r;

	if (!fd_store_present(store_of(e)))
		return 0;
	r = request_copy(e, params, kept, err);
	if (r == 0)
		r = check_shared(e, kept, err);
	if (r == 0) /* record, log and connection come to the memory */
		r = export_table_make_room(e->table, e->keep.n_memory + 3, err);
	if (r == 0)
		r = poison_keep(e, &poison_fd, err);
	if (r == 0)
		r = record_memfd_new(&e->id, &e->keep.record, err);
	if (r == 0)
		r = record_write(e, EXPORT_EXPORTED, "", err);
	if (r < 0)
		return r;
	r = keep_all(e, kept, poison_fd, params->connection_fd, err);
	if (r < 0)
		export_keep_forget(e);
	return r;
}

void export_keep_drop_connection(struct export *e)
{
	if (e->keep.connection)
		kept_remove(store_of(e), e->id_text, KEPT_EXPORTER);
	e->keep.connection = false;
}

void export_keep_end(struct export *e)
{
	if (e->keep.memory)
		kept_remove_indexed(store_of(e), e->id_text, KEPT_MEMORY, e->keep.n_memory);
	e->keep.memory = false;
}

void export_kept_drop(struct fd_store *store, const char *id_text)
{
	kept_remove(store, id_text, KEPT_RECORD);
	kept_remove(store, id_text, KEPT_POISON);
	kept_remove(store, id_text, KEPT_EXPORTER);
	kept_remove_indexed(store, id_text, KEPT_MEMORY, ATTACH_FDS_MAX);
}

void export_keep_forget(struct export *e)
{
	if (e->keep.record || e->keep.stranded)
		export_kept_drop(store_of(e), e->id_text);
	e->keep.memory = e->keep.connection = e->keep.stranded = false;
	e->keep.record = record_memfd_free(e->keep.record);
}

void export_keep_fini(struct export_keep *keep)
{
	keep->record = record_memfd_free(keep->record);
	explicit_bzero(keep->request.token, sizeof(keep->request.token));
	attach_request_free(&keep->request);
	close_fd(&keep->connection_fd);
}
