/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Checks what a further process hands over against the VMM's memory, registers it, and gives
 * it to the lanes. Called by libpostcopy's attach protocol, and by the restore.
 *
 * Always holds: an address range is registered before its process gets its answer, and only
 * if it maps the very file that the VMM maps: so a hole in it is never filled with zeros
 * but where the guest's memory has a hole.
 */
#include "daemon/migration_mapping.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "core/log.h"
#include "core/token.h"
#include "daemon/migration_memory.h"
#include "daemon/resolve.h"

/* A mapping on its way in. */
struct incoming {
	struct migration *m;
	struct attach_memory *from;
	const struct region *regions[REGION_TABLE_MAX]; /* the VMM's, for each of from's */
	uint32_t lanes[ATTACH_UFFDS_MAX];
	struct uffd_info uffds[ATTACH_UFFDS_MAX];
	size_t n_registered;
};

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

/* Every page is here, or lost. */
static bool all_here(const struct migration *m)
{
	return m->state == MIGRATION_COMPLETED || m->unregistering;
}

/* ---- the regions ---- */

static const struct region *region_named(const struct region_table *t,
                                         const struct attach_region *r)
{
	for (size_t i = 0; i < t->n_regions; i++)
		if (strcmp(t->regions[i].name, r->name) == 0 &&
		    t->regions[i].gpa.addr == r->gpa.addr)
			return &t->regions[i];
	return NULL;
}

static int check_same(const struct attach_region *r, const struct region *of, struct error *err)
{
	bool minor = r->mode == UFFD_MODE_MINOR;

	if (of->backing == REGION_ANONYMOUS || r->backing == BACKING_ANONYMOUS)
		return error_set(err, -EINVAL,
		                 "region %s: anonymous memory has no further mappings", r->name);
	if (r->length_bytes != of->length_bytes || r->page_size_bytes != region_unit_bytes(of))
		return error_set(
		        err, -EINVAL,
		        "region %s: %llu bytes in pages of %llu, but the VMM attached %llu "
		        "in pages of %llu",
		        r->name, (unsigned long long)r->length_bytes,
		        (unsigned long long)r->page_size_bytes,
		        (unsigned long long)of->length_bytes,
		        (unsigned long long)region_unit_bytes(of));
	if (minor != (of->mode == REGION_MINOR))
		return error_set(
		        err, -EINVAL,
		        "region %s: mode %s, but the VMM attached it in mode %s: they must "
		        "be the same",
		        r->name, uffd_mode_name(r->mode), region_mode_name(of->mode));
	if (!is_aligned(r->hva.addr, r->page_size_bytes) ||
	    r->hva.addr > UINT64_MAX - r->length_bytes)
		return error_set(err, -EINVAL,
		                 "region %s: address 0x%llx is not a multiple of its page size, or "
		                 "the region wraps around",
		                 r->name, (unsigned long long)r->hva.addr);
	return 0;
}

static int check_file(const struct incoming *in, const struct attach_region *r,
                      const struct region *of, struct error *err)
{
	struct stat here, there;

	if (!r->has_fd)
		return error_set(err, -EINVAL,
		                 "region %s: a further mapping needs its memory file: send it with "
		                 "the message",
		                 r->name);
	if (of->memory_fd < 0)
		return error_set(err, -EINVAL,
		                 "region %s: the VMM did not send its memory file, so nobody can "
		                 "tell whether this is the same: have it set memory_fd when it "
		                 "attaches",
		                 r->name);
	if (fstat(in->from->fds[in->from->n_uffds + r->fd], &here) < 0 ||
	    fstat(of->memory_fd, &there) < 0)
		return error_set_errno(err, -errno, "region %s: fstat of its memory file", r->name);
	if (here.st_dev != there.st_dev || here.st_ino != there.st_ino ||
	    r->fd_offset.off != of->fd_offset.off)
		return error_set(
		        err, -EINVAL,
		        "region %s: this is not the file, or not the place in it, that the "
		        "VMM maps",
		        r->name);
	return 0;
}

/* A lane reads the userfaultfd, so all its regions must be that lane's. */
static int check_lane(struct incoming *in, const struct attach_region *r, const struct region *of,
                      bool *known, struct error *err)
{
	if (known[r->uffd] && in->lanes[r->uffd] != of->lane)
		return error_set(err, -EINVAL,
		                 "region %s: userfaultfd %u has regions that the VMM attached with "
		                 "another userfaultfd than this one: divide them in the same way",
		                 r->name, r->uffd);
	known[r->uffd] = true;
	in->lanes[r->uffd] = of->lane;
	return 0;
}

static int check_region(struct incoming *in, size_t i, bool *known, struct error *err)
{
	const struct attach_region *r = &in->from->regions[i];
	const struct region *of = region_named(in->m->regions, r);
	int rc;

	if (!of)
		return error_set(err, -EINVAL,
		                 "region %s at 0x%llx: the VMM has not attached such a region",
		                 r->name, (unsigned long long)r->gpa.addr);
	for (size_t k = 0; k < i; k++)
		if (in->regions[k] == of)
			return error_set(err, -EINVAL, "region %s is there twice", r->name);
	in->regions[i] = of;
	rc = check_same(r, of, err);
	if (rc == 0 && !all_here(in->m)) /* afterwards nothing is placed by it any more */
		rc = check_file(in, r, of, err);
	return rc < 0 ? rc : check_lane(in, r, of, known, err);
}

static int check(struct incoming *in, struct error *err)
{
	bool known[ATTACH_UFFDS_MAX] = {false};
	int r = migration_memory_check_counts(in->from, err);

	if (r == 0)
		r = migration_memory_check_kinds(in->from, err);
	for (size_t i = 0; r == 0 && i < in->from->n_regions; i++)
		r = check_region(in, i, known, err);
	for (size_t i = 0; r == 0 && i < in->from->n_uffds; i++) {
		if (!known[i])
			return error_set(err, -EINVAL, "userfaultfd %zu has no region", i);
		r = uffd_adopt_mapping(in->from->fds[i], &in->uffds[i], err);
		if (r < 0)
			error_prefix(err, "userfaultfd %zu", i);
	}
	return r;
}

/* ---- registering ---- */

static int regions_register(struct incoming *in, struct error *err)
{
	for (size_t i = 0; i < in->from->n_regions; i++) {
		const struct attach_region *r = &in->from->regions[i];
		uint64_t ioctls;
		int rc = uffd_register(in->from->fds[r->uffd], r->hva, r->length_bytes,
		                       in->regions[i]->mode == REGION_MINOR, &ioctls, err);

		if (rc < 0) {
			error_prefix(err, "region %s", r->name);
			return rc;
		}
		in->n_registered++;
	}
	return 0;
}

static void regions_unregister(const struct incoming *in, bool all)
{
	for (size_t i = 0; i < in->n_registered; i++) {
		const struct attach_region *r = &in->from->regions[i];

		if (all || !r->registered)
			(void)uffd_unregister(in->from->fds[r->uffd], r->hva, r->length_bytes);
	}
}

static size_t count_parts(const struct incoming *in, uint32_t uffd)
{
	size_t n = 0;

	for (size_t i = 0; i < in->from->n_regions; i++)
		n += in->from->regions[i].uffd == uffd;
	return n;
}

/* What a lane gets of it. */
static int lane_part(const struct incoming *in, uint32_t id, uint32_t uffd, struct mapping **ret)
{
	size_t n = 0;
	int r = mapping_new(id, in->from->fds[uffd], count_parts(in, uffd), ret);

	if (r < 0)
		return r;
	(*ret)->poison_supported = in->uffds[uffd].poison_supported;
	for (size_t i = 0; i < in->from->n_regions; i++)
		if (in->from->regions[i].uffd == uffd)
			(*ret)->parts[n++] = (struct mapping_part){
			        .first_unit = in->regions[i]->first_unit,
			        .n_units = region_n_units(in->regions[i]),
			        .unit_shift = in->regions[i]->unit_shift,
			        .hva = in->from->regions[i].hva,
			};
	return 0;
}

static int lane_parts(const struct incoming *in, uint32_t id, struct mapping **parts,
                      struct error *err)
{
	int r = 0;

	for (uint32_t i = 0; i < in->from->n_uffds && r == 0; i++)
		r = lane_part(in, id, i, &parts[i]);
	return r < 0 ? error_set_errno(err, r, "take a further mapping") : 0;
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

static int attach_copy(struct migration_mapping *p, const struct attach_memory *from,
                       struct error *err)
{
	struct attach_request *to = &p->attach;
	size_t bytes = from->n_regions * sizeof(*to->attach.regions);

	to->attach.regions = malloc(bytes);
	if (!to->attach.regions)
		return error_set(err, -ENOMEM, "not enough memory for %zu regions",
		                 from->n_regions);
	memcpy(to->attach.regions, from->regions, bytes);
	to->type = ATTACH_REQUEST_ATTACH_MAPPING;
	to->attach.n_regions = from->n_regions;
	to->attach.n_uffds = (uint32_t)from->n_uffds;
	to->version = ATTACH_PROTOCOL_VERSION;
	to->migration_id = p->m->id;
	memcpy(to->token, p->m->token, p->m->token_len);
	to->token_len = p->m->token_len;
	return 0;
}

/* All that can fail is done: the lanes take their parts, the migration the process. */
static void commit(struct incoming *in, struct migration_mapping *p, struct mapping **parts)
{
	struct migration *m = in->m;

	for (size_t i = 0; i < in->from->n_uffds; i++) {
		p->uffds[i] = TAKE_FD(in->from->fds[i]);
		lane_map(m->lanes[in->lanes[i]].lane, TAKE_PTR(parts[i]));
	}
	m->mappings[p->id] = p;
}

static int take(struct incoming *in, pid_t pid, int pidfd, uint32_t *ret_id, struct error *err)
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
	r = attach_copy(p, in->from, err);
	if (r == 0)
		r = process_watch(p, err);
	if (r == 0)
		r = regions_register(in, err);
	if (r == 0)
		r = lane_parts(in, id, parts, err);
	if (r == 0)
		r = migration_keep_map(in->m, p, in->from, err);
	if (r == 0) {
		commit(in, TAKE_PTR(p), parts);
		*ret_id = id;
	} else {
		regions_unregister(in, false);
	}
	lane_parts_free(parts);
	return r;
}

/* ---- when all is here: only the marks are missing ---- */

/* All that m has lost; -ENOKEY if that is not known any more. */
static int lost_list(struct migration *m, struct error *err)
{
	int r = m->memory ? poison_list_update(&m->final_lost, &m->memory->ledger) : 0;
	uint64_t bytes = 0;

	for (size_t i = 0; i < m->final_lost.n_ranges; i++)
		bytes += m->final_lost.ranges[i].length_bytes;
	if (r < 0)
		return error_set_errno(err, r, "list what migration %s has lost", m->id_text);
	if (bytes != migration_lost_bytes(m))
		return error_set(err, -ENOKEY, "what migration %s has lost is not known any more",
		                 m->id_text);
	return 0;
}

static int mark_range(const struct attach_region *r, int uffd, const struct poison_range *lost,
                      struct error *err)
{
	uint64_t first = MAX(lost->gpa.addr, r->gpa.addr);
	uint64_t end = MIN(lost->gpa.addr + lost->length_bytes, r->gpa.addr + r->length_bytes);
	hva_t hva = {r->hva.addr + (first - r->gpa.addr)};
	struct resolve_result res;

	if (first >= end)
		return 0;
	res = resolve_poison(uffd, hva, end - first);
	if (res.outcome == RESOLVE_DONE)
		return 0;
	return error_set(err, -res.error,
	                 "region %s: a lost page at 0x%llx cannot be marked here (%s): touch "
	                 "nothing before the attach",
	                 r->name, (unsigned long long)(first + res.done_bytes),
	                 resolve_outcome_name(res.outcome));
}

static int mark_lost(struct incoming *in, struct error *err)
{
	const struct poison_list *lost = &in->m->final_lost;
	int r = lost_list(in->m, err);

	if (r == 0)
		r = regions_register(in, err);
	for (size_t i = 0; r == 0 && i < in->from->n_regions; i++) {
		const struct attach_region *region = &in->from->regions[i];

		for (size_t k = 0; r == 0 && k < lost->n_ranges; k++)
			r = mark_range(region, in->from->fds[region->uffd], &lost->ranges[k], err);
	}
	regions_unregister(in, true);
	return r;
}

int migration_map(struct migration *m, struct attach_memory *memory, pid_t pid, int pidfd,
                  uint32_t *ret_id, struct error *err)
{
	_cleanup_free_ struct incoming *in = calloc(1, sizeof(*in));
	int r = in ? 0 : error_set(err, -ENOMEM, "not enough memory");

	if (r == 0) {
		in->m = m;
		in->from = memory;
		r = check(in, err);
	}
	if (r < 0 || all_here(m))
		close_fd(&pidfd);
	if (r < 0)
		return r;
	if (all_here(m))
		return mark_lost(in, err);
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

/* The record's regions have passed the checks of another daemon; the files are not kept. */
static int match_restored(struct incoming *in, struct error *err)
{
	bool known[ATTACH_UFFDS_MAX] = {false};
	int r = migration_memory_check_kinds(in->from, err);

	for (size_t i = 0; r == 0 && i < in->from->n_regions; i++) {
		const struct attach_region *region = &in->from->regions[i];

		in->regions[i] = region_named(in->m->regions, region);
		if (!in->regions[i])
			return error_set(err, -EBADMSG, "region %s is not the VMM's", region->name);
		r = check_same(region, in->regions[i], err);
		if (r == 0)
			r = check_lane(in, region, in->regions[i], known, err);
	}
	for (size_t i = 0; r == 0 && i < in->from->n_uffds; i++)
		r = uffd_adopt_mapping(in->from->fds[i], &in->uffds[i], err);
	return r;
}

static int restore(struct migration *m, struct migration_found_mapping *f,
                   struct state_mapping *record, struct error *err)
{
	_cleanup_free_ struct incoming *in = calloc(1, sizeof(*in));
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
		r = match_restored(in, err);
	if (r == 0)
		r = process_watch(p, err);
	if (r == 0)
		r = lane_parts(in, p->id, parts, err);
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
		struct migration_mapping *p;

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
