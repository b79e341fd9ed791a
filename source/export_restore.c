/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Takes up what another agent has left. Called once, when the agent starts.
 *
 * Always holds: an export is in the table only when everything of it has been read and
 * checked; what fails the checks stays in the store as it was.
 */
#include "source/export_restore.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/clock.h"
#include "core/log.h"
#include "core/message_ids.h"
#include "source/export_found.h"
#include "wire/export_record.h"

static int record_open(struct export_found *f, struct record_memfd **ret,
                       struct export_record *ret_record, struct error *err)
{
	_cleanup_(cleanup_record_memfd_free) struct record_memfd *file = NULL;
	_cleanup_free_ uint8_t *bytes = NULL;
	size_t len = 0;
	int r = record_memfd_open(f->record, &f->id, &file, err);

	if (r < 0)
		return r;
	f->record = -1;
	r = record_memfd_read(file, &bytes, &len, err);
	if (r == 0)
		r = export_record_decode(bytes, len, ret_record, err);
	if (bytes)
		explicit_bzero(bytes, len);
	if (r < 0)
		return r;
	if (!uuid_equal(&ret_record->export.migration_id, &f->id)) {
		export_record_free(ret_record);
		return error_set(err, -EBADMSG, "its record speaks of another export");
	}
	*ret = TAKE_PTR(file);
	return 0;
}

/* On the monotonic clock, in ns; now if the clock of the day has been set back. */
static uint64_t monotonic_ns_of(uint64_t realtime_us)
{
	uint64_t now_us = clock_realtime_us(), now_ns = clock_monotonic_ns();
	uint64_t ago_us = now_us > realtime_us ? now_us - realtime_us : 0;

	return now_ns - MIN(now_ns - 1, ago_us * 1000);
}

static int object_new(struct export_table *t, struct export_record *r, struct export **ret,
                      struct error *err)
{
	const struct export_params params = {
	        .id = &r->export.migration_id,
	        .token = r->export.token,
	        .token_len = r->export.token_len,
	        .peer_identity = r->export.export.peer_identity,
	        .exporter = r->exporter,
	};
	struct export *e;

	if (export_new(t, &params, &e) < 0)
		return error_set(err, -ENOMEM, "not enough memory for an export");
	e->started_us = r->started_us;
	e->started_ns = monotonic_ns_of(r->started_us);
	if (r->ended_us)
		e->ended_ns = monotonic_ns_of(r->ended_us);
	atomic_store(&e->state, (int)r->state);
	e->announced = (enum export_state)r->state;
	(void)snprintf(e->state_text, sizeof(e->state_text), "%.*s", (int)sizeof(e->state_text) - 1,
	               r->state_text);
	*ret = e;
	return 0;
}

/* -ESRCH: a process whose memory it was has gone. */
static int memory_restore(struct export *e, struct export_found *f, const struct export_record *r,
                          struct error *err)
{
	int rc;

	for (uint32_t i = 0; i < r->n_memory; i++)
		if (f->memory[i] < 0)
			return error_set(err, -ENOENT, "%s%" PRIu32 " is not in the FD store",
			                 KEPT_MEMORY, i);
	rc = region_table_restore(r->export.export.regions, r->export.export.n_regions, f->memory,
	                          r->n_memory, &e->regions, err);
	if (rc < 0 && rc != -ESRCH && rc != -ENOMEM)
		error_prefix(err, "its memory cannot be used");
	return rc;
}

static int no_memory(struct export *e, const struct export_record *r, struct error *err)
{
	return region_table_restore(r->export.export.regions, r->export.export.n_regions, NULL, 0,
	                            &e->regions, err);
}

static int poison_restore(struct export *e, struct export_found *f, struct error *err)
{
	_cleanup_(cleanup_poison_log_free) struct poison_log *log = NULL;
	int r = poison_set_new(e->regions, &e->poison);

	if (r < 0)
		return error_set(err, -ENOMEM, "not enough memory for the bitmap of %llu pages",
		                 (unsigned long long)e->regions->n_pages);
	if (f->poison < 0)
		return error_set(err, -ENOENT, "the log of its lost pages is not in the FD store");
	r = poison_log_open(f->poison, &e->id, e->regions->n_pages, &log, err);
	if (r < 0)
		return r;
	f->poison = -1;
	r = poison_set_keep(e->poison, log, err);
	if (r == 0)
		e->audit_cursor = TAKE_PTR(log)->counts.n_audited;
	return r;
}

/* From here on it is as if this agent had kept it. */
static void keep_restore(struct export *e, struct export_found *f, struct record_memfd *file,
                         struct export_record *r)
{
	e->keep.record = file;
	e->keep.request = r->export;
	r->export = (struct attach_request){.type = ATTACH_REQUEST_NONE};
	e->keep.n_memory = r->n_memory;
	e->keep.memory = true;
	e->keep.connection = f->connection >= 0;
	e->keep.connection_fd = TAKE_FD(f->connection);
}

static int live_restore(struct export *e, struct export_found *f, const struct export_record *r,
                        bool *ret_gone, struct error *err)
{
	int rc = memory_restore(e, f, r, err);

	*ret_gone = rc == -ESRCH;
	if (*ret_gone)
		rc = no_memory(e, r, err);
	/* What was known is asked again. */
	if (rc == 0 && r->export.export.inbound &&
	    inbound_new(e->regions, EXPORT_LANES_MAX, &e->inbound) < 0)
		rc = error_set(err, -ENOMEM, "not enough memory for what is known of its pages");
	return rc == 0 ? poison_restore(e, f, err) : rc;
}

/* What it has lost can be done without: it has ended. */
static int ended_restore(struct export *e, struct export_found *f, const struct export_record *r,
                         struct error *err)
{
	struct error why = {0};
	int rc = no_memory(e, r, err);

	if (rc < 0 || poison_restore(e, f, &why) == 0)
		return rc;
	log_migration(LOG_WARNING, e->id_text,
	              "it had ended before the agent was restarted, but what it has lost cannot be "
	              "shown any more: %s",
	              why.text);
	e->poison = poison_set_free(e->poison);
	return poison_set_new(e->regions, &e->poison) < 0
	               ? error_set(err, -ENOMEM, "not enough memory")
	               : 0;
}

static void log_restored(const struct export *e)
{
	const char *state = export_state_name(export_state(e));

	log_event(LOG_NOTICE, MESSAGE_EXPORT_RESTORED,
	          LOG_FIELDS({"MIGRATION_ID", e->id_text}, {"EXPORT_STATE", state},
	                     {"PEER", e->peer_identity}, {"EXPORTER", e->exporter}),
	          "taken up after a restart of the agent, %s, with %" PRIu64 " lost pages", state,
	          poison_set_count(e->poison));
}

/* For the next try, by an agent that can. */
static void memory_give_back(struct export *e, struct export_found *f)
{
	for (size_t i = 0; e->regions && i < e->regions->n_fds; i++)
		f->memory[i] = TAKE_FD(e->regions->fds[i]);
}

/* *ret: an export with everything. On failure f has what is in the store but the record. */
static int restore_found(struct export_table *t, struct export_found *f, struct export **ret,
                         struct error *why)
{
	_cleanup_(cleanup_record_memfd_free) struct record_memfd *file = NULL;
	struct export_record r = {.state = EXPORT_RECORD_EXPORTED};
	struct export *e = NULL;
	bool gone = false;
	int rc = record_open(f, &file, &r, why);

	if (rc == 0)
		rc = object_new(t, &r, &e, why);
	if (rc == 0)
		rc = export_state_final(e->announced) ? ended_restore(e, f, &r, why)
		                                      : live_restore(e, f, &r, &gone, why);
	if (rc == 0) {
		keep_restore(e, f, TAKE_PTR(file), &r);
		if (gone)
			export_fail(e, "the process that exported its own memory has gone");
		*ret = e;
	} else if (e) {
		memory_give_back(e, f);
		export_unref(e);
	}
	export_record_free(&r);
	return rc;
}

/*
 * Nothing is known of it but its id, and which open files it keeps in the store; no
 * destination gets a page or a final answer.
 */
static int strand(struct export_table *t, struct export_found *f, const char *why,
                  struct export **ret, struct error *err)
{
	const struct export_params params = {
	        .id = &f->id,
	        .token = (const uint8_t *)"",
	        .peer_identity = "",
	        .exporter = "unknown",
	};
	struct export *e;

	if (export_new(t, &params, &e) < 0)
		return error_set(err, -ENOMEM, "not enough memory for an export");
	e->regions = calloc(1, sizeof(*e->regions));
	if (!e->regions || poison_set_new(e->regions, &e->poison) < 0) {
		export_unref(e);
		return error_set(err, -ENOMEM, "not enough memory for an export");
	}
	for (e->regions->n_fds = 0; e->regions->n_fds < ARRAY_SIZE(f->memory); e->regions->n_fds++)
		e->regions->fds[e->regions->n_fds] = TAKE_FD(f->memory[e->regions->n_fds]);
	e->keep.stranded = true;
	e->ended_ns = e->started_ns;
	atomic_store(&e->state, EXPORT_FAILED);
	e->announced = EXPORT_FAILED;
	(void)snprintf(e->state_text, sizeof(e->state_text),
	               "not taken up after a restart of the agent: %.250s; what is kept stays in "
	               "the FD store until postcopyctl cancel --force",
	               why);
	log_event(LOG_ERR, MESSAGE_EXPORT_STRANDED,
	          LOG_FIELDS({"MIGRATION_ID", e->id_text}, {"REASON", why}), "export %s: %s",
	          e->id_text, e->state_text);
	*ret = e;
	return 0;
}

static int restore_one(struct export_table *t, struct export_found *f, struct error *err)
{
	struct export *e = NULL;
	struct error why = {0};
	int r = restore_found(t, f, &e, &why);

	if (r < 0) {
		r = strand(t, f, why.text, &e, err);
		if (r < 0)
			return r;
	}
	export_table_add_restored(t, e);
	if (e->keep.stranded)
		return 0;
	if (export_state_final(e->announced))
		export_keep_end(e); /* the agent before may not have come to it */
	else if (!export_state_final(export_state(e)))
		log_restored(e);
	export_audit(e);
	return 0;
}

int export_restore_all(struct export_table *t, struct error *err)
{
	struct export_found *all = NULL, *f, *next;
	int r = export_found_all(t->fd_store, &all);

	if (r < 0)
		return error_set_errno(err, r, "take what is in the FD store");
	HASH_ITER (hh, all, f, next) {
		if (r == 0)
			r = restore_one(t, f, err);
	}
	export_found_free(all);
	return r;
}
