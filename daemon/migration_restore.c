/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Takes up what another daemon has left. Called once, when the daemon starts,
 * before it listens.
 *
 * Always holds: nothing is registered, unregistered or placed before everything has
 * been read and checked; what fails the checks stays in the store as it was.
 */
#include "daemon/migration_restore.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/clock.h"
#include "core/log.h"
#include "core/message_ids.h"
#include "daemon/migration_found.h"
#include "daemon/migration_mapping.h"
#include "daemon/migration_memory.h"
#include "daemon/migration_stranded.h"
#include "wire/state_message.h"

static int record_open(struct migration_found *f, struct record_memfd **ret,
                       struct state_message *ret_record, struct error *err)
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
		r = state_message_decode(bytes, len, ret_record, err);
	if (bytes)
		explicit_bzero(bytes, len);
	if (r < 0)
		return r;
	if (!uuid_equal(&ret_record->start.migration_id, &f->id)) {
		state_message_free(ret_record);
		return error_set(err, -EBADMSG, "its record speaks of another migration");
	}
	*ret = TAKE_PTR(file);
	return 0;
}

static int object_new(struct migration_table *table, const struct state_message *r,
                      struct migration **ret, struct error *err)
{
	const struct migration_params params = {
	        .id = r->start.migration_id,
	        .source = r->start.start.source,
	        .peer_identity = r->start.start.peer_identity,
	        .token = r->start.start.token,
	        .token_len = r->start.start.token_len,
	        .firecracker_socket = r->start.start.firecracker_socket,
	        .lost_policy = r->start.start.lost_policy,
	        .lost_deadline_us = r->start.start.lost_deadline_us,
	        .bandwidth = r->start.start.bandwidth,
	        .stop_on_poison = r->start.start.stop_on_poison,
	};

	return migration_new(table, &params, ret, err);
}

/* How long ago, by the clock of the day; 0 if that has been set back. */
static uint64_t ago_us(uint64_t realtime_us)
{
	uint64_t now_us = clock_realtime_us();

	return now_us > realtime_us ? now_us - realtime_us : 0;
}

static void numbers_restore(struct migration *m, const struct state_message *r)
{
	uint64_t now_us = clock_monotonic_us();

	m->started_us = r->started_us;
	m->started_mono_us = now_us - MIN(now_us, ago_us(r->started_us));
	m->paused_us = r->paused_us;
	m->reconnects = r->reconnects;
	m->served = r->served;
	m->abandoned = r->abandoned;
}

/* The descriptors in the order of an attach: userfaultfds, then memory files. */
static int memory_gather(struct migration_found *f, const struct attach_request *attach, int *fds,
                         struct attach_memory *ret, struct error *err)
{
	size_t n_uffds = attach->attach.n_uffds;
	size_t n_files =
	        migration_memory_count_files(attach->attach.regions, attach->attach.n_regions);

	if (n_uffds > ATTACH_UFFDS_MAX || n_uffds + n_files > ATTACH_FDS_MAX)
		return error_set(err, -EBADMSG,
		                 "its record speaks of %zu userfaultfds and %zu memory files",
		                 n_uffds, n_files);
	for (size_t i = 0; i < n_uffds + n_files; i++) {
		bool uffd = i < n_uffds;
		int *from = uffd ? &f->uffds[i] : &f->memory[i - n_uffds];

		if (*from < 0)
			return error_set(err, -ENOENT, "%s%zu is not in the FD store",
			                 uffd ? KEPT_UFFD : KEPT_MEMORY, uffd ? i : i - n_uffds);
		fds[i] = *from;
	}
	*ret = (struct attach_memory){
	        .regions = attach->attach.regions,
	        .n_regions = attach->attach.n_regions,
	        .n_uffds = n_uffds,
	        .fds = fds,
	        .n_fds = n_uffds + n_files,
	        .connection_fd = -1,
	};
	return 0;
}

static int check_entry(const struct region_table *regions, const struct ledger_entry *e, uint64_t i,
                       struct error *err)
{
	const struct region *r = region_find_unit(regions, e->unit);

	if (r && e->region < regions->n_regions && r == &regions->regions[e->region])
		return 0;
	return error_set(err, -EBADMSG,
	                 "entry %llu of its ledger is of unit %llu in region %u, which do not "
	                 "belong together",
	                 (unsigned long long)i, (unsigned long long)e->unit, e->region);
}

/* The state is of this memory. */
static int state_open(struct migration_found *f, struct migration_memory *a, struct error *err)
{
	int r = f->state < 0 ? error_set(err, -ENOENT, "its state is not in the FD store")
	                     : state_memfd_open(f->state, &f->id, &a->state, err);

	if (r < 0)
		return r;
	f->state = -1;
	if (a->state->map.n_units != a->table->n_units || a->state->n_lanes != a->from->n_uffds)
		return error_set(err, -EBADMSG,
		                 "its state is of %llu units and %u lanes, its record of %llu and "
		                 "%zu",
		                 (unsigned long long)a->state->map.n_units, a->state->n_lanes,
		                 (unsigned long long)a->table->n_units, a->from->n_uffds);
	for (uint64_t i = 0; r == 0 && i < ledger_count(&a->state->ledger); i++)
		r = check_entry(a->table, ledger_get(&a->state->ledger, i), i, err);
	return r;
}

/* Not asked of the kernel again: that would register what the VMM has mapped since. */
static void zeropage_restore(struct region_table *table)
{
	for (size_t i = 0; i < table->n_regions; i++)
		table->regions[i].zeropage = table->regions[i].backing != REGION_HUGETLB;
}

/* A guest has read pages, even if the record was not written any more. */
static bool was_served(const struct state_memfd *state)
{
	static const enum page_state placed[] = {PAGE_PRESENT, PAGE_PLACING, PAGE_WRITTEN};

	for (size_t i = 0; i < ARRAY_SIZE(placed); i++)
		if (page_map_count(&state->map, 0, state->map.n_units, placed[i]) > 0)
			return true;
	return false;
}

/* The daemon before was about to: what it had not unregistered yet. */
static void unregister_rest(struct migration *m)
{
	m->unregistering = true;
	for (uint32_t i = 0; i < m->n_lanes; i++) {
		struct error ignored = {0};

		m->lanes[i].unregistered = true;
		(void)lane_unregister(m->lanes[i].lane, &ignored);
	}
}

static int memory_restore(struct migration *m, struct migration_memory *a,
                          struct migration_found *f, const struct state_message *r,
                          struct error *err)
{
	int rc = migration_vmm_watch(m, r->vmm_pid, TAKE_FD(f->vmm), err);

	if (rc == 0)
		rc = migration_memory_check(a, err);
	if (rc == 0)
		rc = state_open(f, a, err);
	if (rc < 0)
		return rc;
	zeropage_restore(a->table);
	m->served = m->served || was_served(a->state);
	return migration_memory_start_lanes(a, true, err);
}

/* They are the migration's now. */
static void fds_taken(struct migration_found *f, const struct attach_memory *from)
{
	for (size_t i = 0; i < from->n_fds; i++)
		if (i < from->n_uffds)
			f->uffds[i] = -1;
		else
			f->memory[i - from->n_uffds] = -1;
}

/* The deadline goes on from where it was, but the source gets the time to be connected again. */
static void pause_restore(struct migration *m, const struct state_message *r)
{
	uint64_t grace_us = migration_table_settings(m->table)->reconnect_max_us;
	uint64_t gone_us = r->paused_since_us ? ago_us(r->paused_since_us) : 0;
	uint64_t left_us = m->lost_deadline_us - MIN(m->lost_deadline_us, gone_us);
	uint64_t now_us = clock_monotonic_us();

	m->paused_since_us = now_us - MIN(now_us - 1, gone_us);
	if (m->lost_policy != LOST_POLICY_HOLD)
		timer_start(m->lost_timer, MAX(left_us, MIN(grace_us, m->lost_deadline_us)));
}

static void attached_enter(struct migration *m, const struct state_message *r)
{
	m->state = m->served ? MIGRATION_POSTCOPY_PAUSED : MIGRATION_ACTIVE;
	snprintf(m->state_text, sizeof(m->state_text), "the daemon was restarted; connecting to %s",
	         m->source);
	for (uint32_t i = 0; i < m->n_lanes; i++)
		m->lanes[i].frozen = m->served;
	if (m->served)
		pause_restore(m, r);
	if (r->unregistered)
		unregister_rest(m);
	if (m->abandoned) /* not all of it may have been carried out */
		migration_poison_all(m, LEDGER_SOURCE_LOST);
}

static int attached_restore(struct migration *m, struct migration_found *f, struct state_message *r,
                            struct error *err)
{
	_cleanup_free_ struct migration_memory *a = calloc(1, sizeof(*a));
	int fds[ATTACH_FDS_MAX];
	struct attach_memory from;
	int rc = a ? memory_gather(f, &r->attach, fds, &from, err)
	           : error_set(err, -ENOMEM, "not enough memory");

	if (rc < 0)
		return rc;
	a->m = m;
	a->from = &from;
	rc = memory_restore(m, a, f, r, err);
	if (rc < 0) {
		migration_memory_undo(a);
		return rc;
	}
	migration_memory_commit(a);
	fds_taken(f, &from);
	m->keep.attach = r->attach;
	r->attach = (struct attach_request){.type = ATTACH_REQUEST_NONE};
	m->keep.connection_fd = TAKE_FD(f->connection);
	memcpy(m->keep.protocol, f->protocol, sizeof(m->keep.protocol));
	migration_mappings_restore(m, f, r);
	attached_enter(m, r);
	return 0;
}

/* Regions without their memory: of an ended migration nothing else is left. */
static int ended_regions(struct migration *m, const struct attach_request *attach,
                         struct region_table **ret, struct error *err)
{
	_cleanup_free_ struct migration_memory *a = calloc(1, sizeof(*a));
	_cleanup_free_ struct attach_region *regions =
	        calloc(attach->attach.n_regions, sizeof(*regions));
	struct attach_memory from = {
	        .regions = regions,
	        .n_regions = attach->attach.n_regions,
	        .n_uffds = attach->attach.n_uffds,
	};
	int r;

	if (!a || !regions)
		return error_set(err, -ENOMEM, "not enough memory");
	for (size_t i = 0; i < from.n_regions; i++) {
		regions[i] = attach->attach.regions[i];
		regions[i].has_fd = false;
		regions[i].mode = UFFD_MODE_MISSING; /* the other one needs a file */
	}
	a->m = m;
	a->from = &from;
	r = migration_memory_build_regions(a, err);
	for (size_t i = 0; r == 0 && i < from.n_regions; i++)
		if (attach->attach.regions[i].mode == UFFD_MODE_MINOR)
			a->table->regions[i].mode = REGION_MINOR;
	*ret = a->table;
	return r;
}

/* What it has lost: to be shown, and for the records that the journal lacks. */
static int ended_memory(struct migration *m, struct migration_found *f,
                        const struct attach_request *attach, struct error *err)
{
	_cleanup_free_ struct migration_memory *a = calloc(1, sizeof(*a));
	struct attach_memory from = {.n_uffds = attach->attach.n_uffds};
	int r = a ? ended_regions(m, attach, &m->regions, err)
	          : error_set(err, -ENOMEM, "not enough memory");

	if (r < 0)
		return r;
	a->from = &from;
	a->table = m->regions;
	r = state_open(f, a, err);
	if (r < 0) {
		state_memfd_free(a->state);
		return r;
	}
	m->memory = a->state;
	m->final_lost_bytes = ledger_lost_bytes(&m->memory->ledger);
	migration_keep_poisoned(m);
	return 0;
}

static void ended_restore(struct migration *m, struct migration_found *f,
                          const struct state_message *r)
{
	static const enum migration_state states[] = {
	        [STATE_ENDED_COMPLETED] = MIGRATION_COMPLETED,
	        [STATE_ENDED_FAILED] = MIGRATION_FAILED,
	        [STATE_ENDED_CANCELLED] = MIGRATION_CANCELLED,
	};
	struct error error = {0};

	if (r->attach.type == ATTACH_REQUEST_ATTACH && ended_memory(m, f, &r->attach, &error) < 0)
		log_migration(LOG_WARNING, m->id_text,
		              "migration %s had ended before the daemon was restarted, but what it "
		              "has lost cannot be shown any more: %s",
		              m->id_text, error.text);
	m->n_lanes = 0; /* they are gone */
	m->ended_mono_us = clock_monotonic_us() - MIN(clock_monotonic_us(), ago_us(r->ended_us));
	m->final_remaining = r->ended_remaining;
	m->released = true;
	m->vmm_pid = r->vmm_pid;
	m->state = states[r->ended];
	snprintf(m->state_text, sizeof(m->state_text), "%s", r->ended_text);
	m->keep.connection_fd = TAKE_FD(f->connection); /* it may not have been told */
	memcpy(m->keep.protocol, f->protocol, sizeof(m->keep.protocol));
	migration_mappings_restore_ended(m, f);
	if (m->memory)
		migration_audit(m);
	else
		migration_keep_end(m);
}

static void log_restored(const struct migration *m)
{
	log_event(LOG_NOTICE, MESSAGE_MIGRATION_RESTORED,
	          LOG_FIELDS({"MIGRATION_ID", m->id_text},
	                     {"MIGRATION_STATE", migration_state_name(m->state)},
	                     {"PEER", m->peer_identity}, {"PEER_ADDRESS", m->source},
	                     {"VMM_PID", m->vmm_pid ? LOG_U64((uint64_t)m->vmm_pid) : NULL},
	                     {"REMAINING_BYTES", LOG_U64(migration_remaining_bytes(m))}),
	          "migration %s: taken up after a restart of the daemon, in state %s", m->id_text,
	          migration_state_name(m->state));
}

/* *ret: made, and what is in it; NULL if the record cannot even name its source. */
static int restore_found(struct migration_table *table, struct migration_found *f,
                         struct state_message *r, struct migration **ret, struct error *why)
{
	struct record_memfd *file = NULL;
	int rc = record_open(f, &file, r, why);

	if (rc == 0)
		rc = object_new(table, r, ret, why);
	if (rc < 0) {
		record_memfd_free(file);
		return rc;
	}
	(*ret)->keep.record = file;
	numbers_restore(*ret, r);
	if (r->ended)
		ended_restore(*ret, f, r);
	else if (r->attach.type == ATTACH_REQUEST_ATTACH)
		rc = attached_restore(*ret, f, r, why);
	else /* an attach may not have come to its end: that VMM hears so now */
		migration_kept_drop_attach(migration_table_fd_store(table), (*ret)->id_text,
		                           f->protocol);
	return rc;
}

static int restore_one(struct migration_table *table, struct migration_found *f, struct error *err)
{
	_cleanup_free_ struct state_message *r = calloc(1, sizeof(*r));
	struct migration *m = NULL;
	struct error why = {0};
	int rc;

	if (!r)
		return error_set(err, -ENOMEM, "not enough memory to restore a migration");
	rc = restore_found(table, f, r, &m, &why);
	if (rc < 0)
		rc = migration_strand(table, f, r->vmm_pid, why.text, &m, err);
	else if (!r->ended)
		log_restored(m);
	if (rc == 0)
		migration_table_add_restored(table, m);
	explicit_bzero(&r->start, sizeof(r->start));
	state_message_free(r);
	return rc;
}

int migration_restore_all(struct migration_table *table, struct error *err)
{
	struct migration_found *all = NULL, *f, *next;
	int r = migration_found_all(migration_table_fd_store(table), &all);

	if (r < 0)
		return error_set_errno(err, r, "take what is in the FD store");
	HASH_ITER (hh, all, f, next) {
		if (r == 0)
			r = restore_one(table, f, err);
	}
	migration_found_free(all);
	migration_table_sort_restored(table);
	return r;
}
