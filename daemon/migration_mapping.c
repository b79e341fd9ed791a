/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The processes that map a guest's memory beside its VMM: in, watched, out, and over a
 * restart. Called by libpostcopy's attach protocol, and by the restore.
 *
 * Always holds: a mapping is in the store and in the record before its process gets its
 * answer, and in neither when that process has ended.
 */
#include "daemon/migration_mapping.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/log.h"
#include "core/token.h"
#include "daemon/mapping_incoming.h"
#include "daemon/migration_parts.h"

int migration_find_for_mapping(const struct migration_table *table, const struct uuid *id,
                               const uint8_t *token, size_t token_len, struct migration **ret,
                               struct error *err)
{
	struct migration *m = migration_table_find(table, id);
	char text[UUID_TEXT_LEN];

	if (!m || (migration_state_final(m->state) && m->state != MIGRATION_COMPLETED) ||
	    m->keep.stranded)
		return error_set(err, -ENOKEY,
		                 "unknown migration %s, or one that failed: there is no memory of "
		                 "it to be mapped",
		                 uuid_format(id, text));
	if (!token_equal(token, token_len, m->token, m->token_len))
		return error_set(err, -EKEYREJECTED, "wrong token for migration %s", m->id_text);
	if (!m->regions)
		return error_set(
		        err, -EAGAIN,
		        "the VMM of migration %s has not attached yet: a further mapping of "
		        "its memory comes after it",
		        m->id_text);
	*ret = m;
	return 0;
}

static void lane_parts_free(struct mapping **parts)
{
	for (size_t i = 0; i < ATTACH_UFFDS_MAX; i++)
		parts[i] = mapping_free(parts[i]);
}

/* ---- the process ---- */

static struct migration_mapping *process_free(struct migration_mapping *p)
{
	if (!p)
		return NULL;
	if (p->exit_event)
		event_free(p->exit_event);
	attach_request_free(&p->attach);
	for (size_t i = 0; i < ATTACH_UFFDS_MAX; i++)
		close_fd(&p->uffds[i]);
	close_fd(&p->pidfd);
	close_fd(&p->connection_fd);
	free(p);
	return NULL;
}
DEFINE_CLEANUP(struct migration_mapping, process_free)

static void on_process_exit(evutil_socket_t fd, short what, void *arg)
{
	struct migration_mapping *p = arg;
	struct migration *m = p->m;

	(void)fd;
	(void)what;
	log_migration(
	        LOG_NOTICE, m->id_text,
	        "migration %s: a process that mapped its memory (pid %d) has ended; the guest "
	        "goes on",
	        m->id_text, (int)p->pid);
	for (uint32_t i = 0; i < m->n_lanes; i++)
		if (m->lanes[i].lane)
			lane_unmap(m->lanes[i].lane, p->id);
	m->mappings[p->id] = NULL;
	migration_keep_unmap(m, p->id);
	process_free(p);
}

static int process_watch(struct migration_mapping *p, struct error *err)
{
	struct loop *loop = migration_table_loop(p->m->table);

	if (p->pidfd < 0)
		return error_set(err, -ESRCH,
		                 "the process (pid %d) has ended, or its end cannot be watched",
		                 (int)p->pid);
	p->exit_event = event_new(loop_base(loop), p->pidfd, EV_READ, on_process_exit, p);
	if (!p->exit_event || event_add(p->exit_event, NULL) < 0)
		return error_set(err, -ENOMEM, "not enough memory to watch the process");
	return 0;
}

static int process_new(struct migration *m, uint32_t id, pid_t pid, int pidfd,
                       struct migration_mapping **ret, struct error *err)
{
	struct migration_mapping *p = calloc(1, sizeof(*p));

	if (!p) {
		close_fd(&pidfd);
		return error_set(err, -ENOMEM, "not enough memory");
	}
	p->m = m;
	p->id = id;
	p->pid = pid;
	p->pidfd = pidfd;
	p->connection_fd = -1;
	memset(p->uffds, 0xff, sizeof(p->uffds));
	*ret = p;
	return 0;
}

static int free_id(const struct migration *m, uint32_t *ret, struct error *err)
{
	for (uint32_t i = 0; i < MAPPINGS_MAX; i++)
		if (!m->mappings[i]) {
			*ret = i;
			return 0;
		}
	return error_set(err, -ENOSPC,
	                 "%d processes map the memory of migration %s already, besides its VMM",
	                 MAPPINGS_MAX, m->id_text);
}

/* ---- in ---- */

/* All that can fail is done: the lanes take their parts, the migration the process. */
static void commit(struct mapping_incoming *in, struct migration_mapping *p, struct mapping **parts)
{
	struct migration *m = in->m;

	for (size_t i = 0; i < in->from->n_uffds; i++) {
		p->uffds[i] = TAKE_FD(in->from->fds[i]);
		lane_map(m->lanes[in->lanes[i]].lane, TAKE_PTR(parts[i]));
	}
	m->mappings[p->id] = p;
}

static int take(struct mapping_incoming *in, pid_t pid, int pidfd, uint32_t *ret_id,
                struct error *err)
{
	_cleanup_(cleanup_process_free) struct migration_mapping *p = NULL;
	struct mapping *parts[ATTACH_UFFDS_MAX] = {NULL};
	uint32_t id = 0;
	int r = process_new(in->m, 0, pid, pidfd, &p, err);

	if (r == 0)
		r = free_id(in->m, &id, err);
	if (r < 0)
		return r;
	p->id = id;
	r = migration_keep_request(in->m, ATTACH_REQUEST_ATTACH_MAPPING, in->parts, in->n_parts,
	                           in->from->n_uffds, &p->attach, err);
	if (r == 0)
		r = process_watch(p, err);
	if (r == 0)
		r = mapping_incoming_register(in, err);
	if (r == 0)
		r = mapping_incoming_parts(in, id, parts, err);
	if (r == 0)
		r = migration_keep_map(in->m, p, in->from, err);
	if (r == 0) {
		commit(in, TAKE_PTR(p), parts);
		*ret_id = id;
	} else {
		mapping_incoming_unregister(in, false);
	}
	lane_parts_free(parts);
	return r;
}

int migration_map(struct migration *m, struct attach_memory *memory, pid_t pid, int pidfd,
                  uint32_t *ret_id, struct error *err)
{
	_cleanup_free_ struct mapping_incoming *in = calloc(1, sizeof(*in));
	int r = in ? 0 : error_set(err, -ENOMEM, "not enough memory");

	if (r == 0) {
		in->m = m;
		in->from = memory;
		r = mapping_incoming_check(in, err);
	}
	if (r < 0 || mapping_incoming_all_here(m))
		close_fd(&pidfd);
	if (r < 0)
		return r;
	if (mapping_incoming_all_here(m))
		return mapping_incoming_mark_lost(in, err);
	r = take(in, pid, pidfd, ret_id, err);
	if (r == 0)
		log_migration(
		        LOG_NOTICE, m->id_text,
		        "migration %s: pid %d maps its memory, too, and is served (mapping %u)",
		        m->id_text, (int)pid, *ret_id);
	return r;
}

void migration_mapping_hung_up(struct migration *m, uint32_t id)
{
	migration_keep_drop_mapping_connection(m, id);
}

/* ---- over a restart ---- */

static int gather(struct migration_found_mapping *f, const struct attach_request *attach, int *fds,
                  struct attach_memory *ret, struct error *err)
{
	for (size_t i = 0; i < attach->attach.n_uffds; i++) {
		if (f->uffds[i] < 0)
			return error_set(err, -ENOENT, "its userfaultfd %zu is not in the FD store",
			                 i);
		fds[i] = f->uffds[i];
	}
	*ret = (struct attach_memory){
	        .regions = attach->attach.regions,
	        .n_regions = attach->attach.n_regions,
	        .n_uffds = attach->attach.n_uffds,
	        .fds = fds,
	        .n_fds = attach->attach.n_uffds,
	        .connection_fd = -1,
	};
	return 0;
}

static int restore(struct migration *m, struct migration_found_mapping *f,
                   struct state_mapping *record, struct error *err)
{
	_cleanup_free_ struct mapping_incoming *in = calloc(1, sizeof(*in));
	_cleanup_(cleanup_process_free) struct migration_mapping *p = NULL;
	struct mapping *parts[ATTACH_UFFDS_MAX] = {NULL};
	struct attach_memory from;
	int fds[ATTACH_UFFDS_MAX];
	int r = in ? gather(f, &record->attach, fds, &from, err)
	           : error_set(err, -ENOMEM, "not enough memory");

	if (r < 0)
		return r;
	in->m = m;
	in->from = &from;
	r = process_new(m, record->id, record->pid, TAKE_FD(f->process), &p, err);
	if (r == 0)
		r = mapping_incoming_match(in, err);
	if (r == 0)
		r = process_watch(p, err);
	if (r == 0)
		r = mapping_incoming_parts(in, p->id, parts, err);
	if (r == 0) {
		p->attach = record->attach;
		record->attach = (struct attach_request){.type = ATTACH_REQUEST_NONE};
		p->connection_fd = TAKE_FD(f->connection);
		memset(f->uffds, 0xff, sizeof(f->uffds));
		commit(in, TAKE_PTR(p), parts);
	}
	lane_parts_free(parts);
	return r;
}

void migration_mappings_restore(struct migration *m, struct migration_found *f,
                                struct state_message *record)
{
	for (size_t i = 0; i < record->n_mappings; i++) {
		struct state_mapping *mapping = &record->mappings[i];
		struct error err = {0};

		if (restore(m, &f->mappings[mapping->id], mapping, &err) == 0)
			continue;
		log_migration(
		        LOG_WARNING, m->id_text,
		        "migration %s: the process that maps its memory, too (pid %d), is not "
		        "served any more after the restart: %s; whatever page it misses it waits "
		        "for; the guest goes on",
		        m->id_text, (int)mapping->pid, err.text);
		migration_keep_unmap(m, mapping->id);
	}
}

void migration_mappings_restore_ended(struct migration *m, struct migration_found *f)
{
	struct error ignored = {0};

	for (uint32_t i = 0; i < MAPPINGS_MAX; i++) {
		struct migration_mapping *p = NULL;

		if (f->mappings[i].connection < 0 || process_new(m, i, 0, -1, &p, &ignored) < 0)
			continue;
		p->connection_fd = TAKE_FD(f->mappings[i].connection);
		m->mappings[i] = p;
	}
}

void migration_mappings_release(struct migration *m)
{
	for (size_t i = 0; i < MAPPINGS_MAX; i++)
		m->mappings[i] = process_free(m->mappings[i]);
}
