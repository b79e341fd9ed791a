/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Keeps a migration's record and descriptors in the FD store. Called by the
 * migration_*.c files wherever something changes that a restarted daemon must know.
 *
 * Always holds: a record that cannot be written again is still the one before, and
 * one that is in the store is never without the descriptors that it speaks of.
 */
#include "daemon/migration_keep.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/clock.h"
#include "core/log.h"
#include "daemon/migration_mapping.h"
#include "daemon/migration_memory.h"
#include "net/kept_name.h"
#include "wire/state_message.h"

/* What the smallest guest takes: record, state, a userfaultfd, a memory file, pidfd, connection. */
#define SMALLEST_GUEST 6

#define KEPT_CONNECTION_KIND_MAX (sizeof(KEPT_CONNECTION) + KEPT_PROTOCOL_MAX)

_Static_assert(UUID_TEXT_LEN + KEPT_CONNECTION_KIND_MAX <= FD_STORE_NAME_MAX,
               "the longest name must fit");

static struct fd_store *store_of(const struct migration *m)
{
	return migration_table_fd_store(m->table);
}

static int keep_fd(const struct migration *m, const char *kind, int fd, struct error *err)
{
	return kept_add(store_of(m), m->id_text, kind, fd, err);
}

static int keep_fds(const struct migration *m, const char *kind, const int *fds, size_t n,
                    struct error *err)
{
	int r = 0;

	for (size_t i = 0; i < n && r == 0; i++)
		r = kept_add_indexed(store_of(m), m->id_text, kind, i, fds[i], err);
	return r;
}

/* What the connection is called after the protocol that it speaks. */
static const char *connection_kind(const char *protocol, char *buf, size_t len)
{
	snprintf(buf, len, "%s%s", KEPT_CONNECTION, protocol);
	return buf;
}

static void drop_connection(struct fd_store *store, const char *id_text, const char *protocol)
{
	char kind[KEPT_CONNECTION_KIND_MAX];

	if (protocol[0])
		kept_remove(store, id_text, connection_kind(protocol, kind, sizeof(kind)));
}

const char *migration_mapping_kind(char buf[KEPT_MAPPING_KIND_MAX], uint32_t id, const char *kind)
{
	snprintf(buf, KEPT_MAPPING_KIND_MAX, "%s%u-%s", KEPT_MAPPING, id, kind);
	return buf;
}

static void drop_mapping(struct fd_store *store, const char *id_text, uint32_t id)
{
	char kind[KEPT_MAPPING_KIND_MAX];

	kept_remove_indexed(store, id_text, migration_mapping_kind(kind, id, KEPT_UFFD),
	                    ATTACH_UFFDS_MAX);
	kept_remove(store, id_text, migration_mapping_kind(kind, id, KEPT_PROCESS));
	kept_remove(store, id_text, migration_mapping_kind(kind, id, KEPT_MAPPING_CONNECTION));
}

/* What is not there is no matter. */
static void drop_memory(struct fd_store *store, const char *id_text, const char *protocol)
{
	kept_remove_indexed(store, id_text, KEPT_UFFD, ATTACH_UFFDS_MAX);
	kept_remove_indexed(store, id_text, KEPT_MEMORY, ATTACH_FDS_MAX);
	kept_remove(store, id_text, KEPT_VMM);
	drop_connection(store, id_text, protocol);
	for (uint32_t id = 0; id < MAPPINGS_MAX; id++)
		drop_mapping(store, id_text, id);
}

void migration_kept_drop_attach(struct fd_store *store, const char *id_text, const char *protocol)
{
	kept_remove(store, id_text, KEPT_STATE);
	drop_memory(store, id_text, protocol);
}

void migration_kept_drop(struct fd_store *store, const char *id_text, const char *protocol)
{
	kept_remove(store, id_text, KEPT_RECORD);
	migration_kept_drop_attach(store, id_text, protocol);
}

/* From the monotonic clock to that of the day, which another process knows, too. */
static uint64_t realtime_of(uint64_t mono_us)
{
	return clock_realtime_us() - (clock_monotonic_us() - mono_us);
}

static enum state_ended how_ended(const struct migration *m)
{
	switch (m->state) {
	case MIGRATION_COMPLETED:
		return STATE_ENDED_COMPLETED;
	case MIGRATION_FAILED:
		return STATE_ENDED_FAILED;
	case MIGRATION_CANCELLED:
		return STATE_ENDED_CANCELLED;
	default:
		return STATE_ENDED_NOT;
	}
}

static void start_fill(const struct migration *m, struct control_request *start)
{
	start->type = CONTROL_REQUEST_START;
	start->has_migration_id = true;
	start->migration_id = m->id;
	memcpy(start->start.source, m->source, sizeof(m->source));
	memcpy(start->start.peer_identity, m->peer_identity, sizeof(m->peer_identity));
	memcpy(start->start.token, m->token, m->token_len);
	start->start.token_len = m->token_len;
	start->start.lost_policy = m->lost_policy;
	start->start.lost_deadline_us = m->lost_deadline_us;
	start->start.bandwidth = m->bandwidth;
	start->start.stop_on_poison = m->stop_on_poison;
	memcpy(start->start.firecracker_socket, m->firecracker_socket,
	       sizeof(m->firecracker_socket));
}

/* The arrays stay the migration's. */
static void record_fill(const struct migration *m, struct state_message *r)
{
	bool attached = m->keep.attach.type == ATTACH_REQUEST_ATTACH;

	snprintf(r->program_version, sizeof(r->program_version), "%s", PROJECT_VERSION);
	start_fill(m, &r->start);
	r->attach = m->keep.attach;
	r->vmm_pid = attached ? m->vmm_pid : 0;
	r->served = m->served;
	r->abandoned = m->abandoned;
	r->completing = m->completing;
	r->unregistered = m->unregistering;
	r->ended = how_ended(m);
	if (r->ended) {
		memcpy(r->ended_text, m->state_text, sizeof(r->ended_text));
		r->ended_us = realtime_of(m->ended_mono_us);
		r->ended_remaining = m->final_remaining;
	}
	r->started_us = m->started_us;
	r->paused_us = m->paused_us;
	r->paused_since_us = m->paused_since_us ? realtime_of(m->paused_since_us) : 0;
	r->reconnects = m->reconnects;
	for (size_t i = 0; i < MAPPINGS_MAX; i++) {
		const struct migration_mapping *p = m->mappings[i];

		if (p && p->attach.type == ATTACH_REQUEST_ATTACH_MAPPING)
			r->mappings[r->n_mappings++] = (struct state_mapping){
			        .id = p->id, .attach = p->attach, .pid = p->pid};
	}
}

int migration_keep_write(struct migration *m, struct error *err)
{
	_cleanup_free_ struct state_message *r = calloc(1, sizeof(*r));
	_cleanup_free_ uint8_t *bytes = NULL;
	size_t len = 0;
	int rc;

	if (!r)
		return error_set(err, -ENOMEM, "not enough memory for the migration's record");
	record_fill(m, r);
	rc = state_message_encode(r, &bytes, &len);
	if (rc < 0)
		error_set_errno(err, rc, "encode the migration's record");
	else
		rc = record_memfd_write(m->keep.record, bytes, len, err);
	if (bytes) /* it has the token */
		explicit_bzero(bytes, len);
	explicit_bzero(&r->start, sizeof(r->start));
	return rc;
}

int migration_keep_start(struct migration *m, struct error *err)
{
	struct fd_store *store = store_of(m);
	int r;

	if (!fd_store_present(store))
		return 0;
	r = migration_table_make_room(m->table, SMALLEST_GUEST, err);
	if (r == 0)
		r = record_memfd_new(&m->id, &m->keep.record, err);
	if (r == 0)
		r = migration_keep_write(m, err);
	if (r == 0)
		r = keep_fd(m, KEPT_RECORD, m->keep.record->fd, err);
	if (r == 0)
		r = fd_store_barrier(store, err);
	if (r < 0)
		migration_keep_forget(m);
	return r;
}

int migration_keep_request(const struct migration *m, enum attach_request_type type,
                           const struct attach_region *regions, size_t n_regions, size_t n_uffds,
                           struct attach_request *to, struct error *err)
{
	to->attach.regions = calloc(n_regions, sizeof(*regions));
	if (!to->attach.regions)
		return error_set(err, -ENOMEM, "not enough memory for %zu regions", n_regions);
	memcpy(to->attach.regions, regions, n_regions * sizeof(*regions));
	to->attach.n_regions = n_regions;
	to->attach.n_uffds = (uint32_t)n_uffds;
	to->type = type;
	to->version = ATTACH_PROTOCOL_VERSION;
	to->migration_id = m->id;
	memcpy(to->token, m->token, m->token_len);
	to->token_len = m->token_len;
	return 0;
}

static int keep_memory(struct migration *m, const struct migration_memory *memory,
                       struct error *err)
{
	const struct attach_memory *from = memory->from;
	char kind[KEPT_CONNECTION_KIND_MAX];
	int r = keep_fd(m, KEPT_STATE, memory->state->fd, err);

	if (r == 0)
		r = keep_fds(m, KEPT_UFFD, from->fds, from->n_uffds, err);
	if (r == 0)
		r = keep_fds(m, KEPT_MEMORY, from->fds + from->n_uffds, from->n_fds - from->n_uffds,
		             err);
	if (r == 0 && m->vmm_pidfd >= 0)
		r = keep_fd(m, KEPT_VMM, m->vmm_pidfd, err);
	if (r == 0 && from->connection_fd >= 0) {
		snprintf(m->keep.protocol, sizeof(m->keep.protocol), "%s", from->protocol);
		r = keep_fd(m, connection_kind(m->keep.protocol, kind, sizeof(kind)),
		            from->connection_fd, err);
	}
	return r;
}

int migration_keep_attach(struct migration *m, const struct migration_memory *memory,
                          struct error *err)
{
	int r;

	if (!m->keep.record)
		return 0;
	/* State, pidfd and connection come to the VMM's own descriptors. */
	r = migration_table_make_room(m->table, memory->from->n_fds + 3, err);
	if (r < 0)
		return r;
	r = keep_memory(m, memory, err);
	if (r == 0)
		r = fd_store_barrier(store_of(m), err);
	if (r == 0)
		r = migration_keep_request(m, ATTACH_REQUEST_ATTACH, memory->from->regions,
		                           memory->from->n_regions, memory->from->n_uffds,
		                           &m->keep.attach, err);
	if (r == 0)
		r = migration_keep_write(m, err);
	if (r < 0) {
		attach_request_free(&m->keep.attach);
		migration_kept_drop_attach(store_of(m), m->id_text, m->keep.protocol);
		m->keep.protocol[0] = '\0';
	}
	return r;
}

static int keep_mapping(struct migration *m, const struct migration_mapping *p,
                        const struct attach_memory *from, struct error *err)
{
	char kind[KEPT_MAPPING_KIND_MAX];
	int r = keep_fds(m, migration_mapping_kind(kind, p->id, KEPT_UFFD), from->fds,
	                 from->n_uffds, err);

	if (r == 0)
		r = keep_fd(m, migration_mapping_kind(kind, p->id, KEPT_PROCESS), p->pidfd, err);
	if (r == 0)
		r = keep_fd(m, migration_mapping_kind(kind, p->id, KEPT_MAPPING_CONNECTION),
		            from->connection_fd, err);
	return r < 0 ? r : fd_store_barrier(store_of(m), err);
}

int migration_keep_map(struct migration *m, struct migration_mapping *p,
                       const struct attach_memory *from, struct error *err)
{
	int r;

	if (!m->keep.record)
		return 0;
	/* Pidfd and connection come to the userfaultfds. */
	r = migration_table_make_room(m->table, from->n_uffds + 2, err);
	if (r < 0)
		return r;
	r = keep_mapping(m, p, from, err);
	m->mappings[p->id] = p;
	if (r == 0)
		r = migration_keep_write(m, err);
	m->mappings[p->id] = NULL; /* until all is done */
	if (r < 0)
		drop_mapping(store_of(m), m->id_text, p->id);
	return r;
}

void migration_keep_unmap(struct migration *m, uint32_t id)
{
	migration_keep_change(m); /* it must not speak of what is not there */
	drop_mapping(store_of(m), m->id_text, id);
}

void migration_keep_drop_mapping_connection(struct migration *m, uint32_t id)
{
	char kind[KEPT_MAPPING_KIND_MAX];

	kept_remove(store_of(m), m->id_text,
	            migration_mapping_kind(kind, id, KEPT_MAPPING_CONNECTION));
}

void migration_keep_change(struct migration *m)
{
	struct error error = {0};

	if (m->keep.record && migration_keep_write(m, &error) < 0)
		log_migration(LOG_ERR, m->id_text,
		              "migration %s: %s; after a restart it would go on as it was before "
		              "this change",
		              m->id_text, error.text);
}

void migration_keep_drop_connection(struct migration *m)
{
	drop_connection(store_of(m), m->id_text, m->keep.protocol);
	m->keep.protocol[0] = '\0';
}

void migration_keep_end(struct migration *m)
{
	drop_memory(store_of(m), m->id_text, m->keep.protocol);
	m->keep.protocol[0] = '\0';
}

void migration_keep_forget(struct migration *m)
{
	m->keep.stranded = false;
	migration_kept_drop(store_of(m), m->id_text, m->keep.protocol);
	m->keep.protocol[0] = '\0';
	m->keep.record = record_memfd_free(m->keep.record);
}

void migration_keep_fini(struct migration_keep *keep)
{
	keep->record = record_memfd_free(keep->record);
	explicit_bzero(keep->attach.token, sizeof(keep->attach.token));
	attach_request_free(&keep->attach);
	close_fd(&keep->connection_fd);
}
