/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A VMM hands its memory over: check everything, register it, start the lanes.
 * Called by the attach protocols.
 *
 * Always holds: a refused attach changes nothing. Regions that were registered
 * for it are unregistered again; the VMM keeps its userfaultfds.
 */
#include "daemon/migration_parts.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "core/fdpass.h"
#include "core/token.h"
#include "daemon/fault_path.h"
#include "daemon/uffd.h"

/* What one attach gathers before the migration takes it over. */
struct attach {
	struct migration *m;
	const struct attach_memory *memory;
	struct uffd_info uffds[ATTACH_UFFDS_MAX];
	struct region regions[REGION_TABLE_MAX];
	struct region_table *table;
	struct state_memfd *state;
	struct lane *lanes[ATTACH_UFFDS_MAX];
	size_t n_registered; /* regions, in table order */
};

int migration_find_for_attach(const struct migration_table *table, const struct uuid *id,
                              const uint8_t *token, size_t token_len, struct migration **ret,
                              struct error *err)
{
	struct migration *m = migration_table_find(table, id);
	char text[UUID_TEXT_LEN];

	if (!m)
		return error_set(err, -ENOKEY,
		                 "unknown migration %s: start it first with postcopyctl start",
		                 uuid_format(id, text));
	if (migration_state_final(m->state))
		return error_set(
		        err, -ENOKEY,
		        "migration %s has ended (%s): start it again with postcopyctl start",
		        m->id_text, migration_state_name(m->state));
	if (!token_equal(token, token_len, m->token, m->token_len))
		return error_set(err, -EKEYREJECTED, "wrong token for migration %s", m->id_text);
	if (m->state != MIGRATION_SETUP)
		return error_set(
		        err, -EBUSY,
		        "two attaches for one migration: %s was attached by pid %d already",
		        m->id_text, (int)m->vmm_pid);
	*ret = m;
	return 0;
}

/* Memory files that the regions speak of: one more than the highest index. */
static size_t count_memory_files(const struct attach_memory *memory)
{
	size_t n = 0;

	for (size_t i = 0; i < memory->n_regions; i++)
		if (memory->regions[i].has_fd && (size_t)memory->regions[i].fd + 1 > n)
			n = (size_t)memory->regions[i].fd + 1;
	return n;
}

static int check_counts(const struct attach_memory *memory, struct error *err)
{
	size_t n_files = count_memory_files(memory);

	if (memory->n_uffds < 1 || memory->n_uffds > ATTACH_UFFDS_MAX)
		return error_set(err, -EINVAL, "%zu userfaultfds: expected 1 to %d",
		                 memory->n_uffds, ATTACH_UFFDS_MAX);
	if (memory->n_regions < 1 || memory->n_regions > REGION_TABLE_MAX)
		return error_set(err, -EINVAL, "%zu regions: expected 1 to %d", memory->n_regions,
		                 REGION_TABLE_MAX);
	if (memory->n_fds == 0)
		return error_set(
		        err, -EINVAL,
		        "no descriptor came with the message: send the userfaultfds with it "
		        "(SCM_RIGHTS)");
	if (memory->n_fds != memory->n_uffds + n_files)
		return error_set(err, -EINVAL,
		                 "%zu descriptors came with the message, but it speaks of %zu: %zu "
		                 "userfaultfds and %zu memory files",
		                 memory->n_fds, memory->n_uffds + n_files, memory->n_uffds,
		                 n_files);
	return 0;
}

static int check_kinds(const struct attach_memory *memory, struct error *err)
{
	for (size_t i = 0; i < memory->n_fds; i++) {
		bool uffd = i < memory->n_uffds;

		if (uffd && !fd_is_userfaultfd(memory->fds[i]))
			return error_set(
			        err, -EINVAL,
			        "descriptor %zu is not a userfaultfd: the %zu userfaultfds "
			        "come first, then the memory files",
			        i, memory->n_uffds);
		if (!uffd && !fd_is_memory_file(memory->fds[i]))
			return error_set(
			        err, -EINVAL,
			        "descriptor %zu is not a memory file: expected a memfd, or a "
			        "file on tmpfs or hugetlbfs",
			        i);
	}
	return 0;
}

static int check_memory_file(const struct attach_region *r, int fd, struct error *err)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return error_set_errno(err, -errno, "region %s: fstat of its memory file", r->name);
	if (!is_aligned(r->fd_offset.off, r->page_size_bytes))
		return error_set(err, -EINVAL,
		                 "region %s: offset 0x%llx in its memory file is not a multiple of "
		                 "its page size %llu",
		                 r->name, (unsigned long long)r->fd_offset.off,
		                 (unsigned long long)r->page_size_bytes);
	if (r->fd_offset.off > (uint64_t)st.st_size ||
	    r->length_bytes > (uint64_t)st.st_size - r->fd_offset.off)
		return error_set(err, -EINVAL,
		                 "region %s: its memory file has %llu bytes, but the region needs "
		                 "%llu at offset 0x%llx",
		                 r->name, (unsigned long long)st.st_size,
		                 (unsigned long long)r->length_bytes,
		                 (unsigned long long)r->fd_offset.off);
	return 0;
}

static int check_minor(const struct attach_region *r, struct error *err)
{
	if (r->mode != UFFD_MODE_MINOR)
		return 0;
	if (r->backing == BACKING_ANONYMOUS)
		return error_set(
		        err, -EINVAL,
		        "region %s: mode minor needs a shared mapping of a memory file, not %s "
		        "memory: use mode missing",
		        r->name, backing_name(r->backing));
	if (!r->has_fd)
		return error_set(err, -EINVAL,
		                 "region %s: mode minor needs the memory file: send it with the "
		                 "message, or use mode missing",
		                 r->name);
	return 0;
}

static const enum region_backing region_backings[] = {
        [BACKING_ANONYMOUS] = REGION_ANONYMOUS,
        [BACKING_MEMFD] = REGION_MEMFD,
        [BACKING_HUGETLB] = REGION_HUGETLB,
};

static int region_fill(struct attach *a, const struct attach_region *from, struct region *to,
                       struct error *err)
{
	const struct attach_memory *memory = a->memory;
	int fd = from->has_fd ? memory->fds[memory->n_uffds + from->fd] : -1;
	int r;

	if (!is_power_of_two(from->page_size_bytes))
		return error_set(err, -EINVAL, "region %s: page size %llu is not a power of two",
		                 from->name, (unsigned long long)from->page_size_bytes);
	r = check_minor(from, err);
	if (r == 0 && fd >= 0)
		r = check_memory_file(from, fd, err);
	if (r < 0)
		return r;
	*to = (struct region){
	        .gpa = from->gpa,
	        .hva = from->hva,
	        .length_bytes = from->length_bytes,
	        .unit_shift = (unsigned)__builtin_ctzll(from->page_size_bytes),
	        .backing = region_backings[from->backing],
	        .mode = from->mode == UFFD_MODE_MINOR ? REGION_MINOR : REGION_MISSING,
	        .lane = from->uffd,
	        .memory_fd = fd,
	        .fd_offset = from->fd_offset,
	        .first_page = REGION_NO_PAGE,
	};
	_Static_assert(sizeof(to->name) >= sizeof(from->name), "a region's name must fit");
	memcpy(to->name, from->name, sizeof(from->name));
	return 0;
}

static int regions_build(struct attach *a, struct error *err)
{
	for (size_t i = 0; i < a->memory->n_regions; i++) {
		int r = region_fill(a, &a->memory->regions[i], &a->regions[i], err);

		if (r < 0)
			return r;
	}
	return region_table_new(a->regions, a->memory->n_regions, (uint32_t)a->memory->n_uffds,
	                        &a->table, err);
}

static int uffds_adopt(struct attach *a, struct error *err)
{
	for (size_t i = 0; i < a->memory->n_uffds; i++) {
		int r = uffd_adopt(a->memory->fds[i], &a->uffds[i], err);

		if (r < 0) {
			error_prefix(err, "userfaultfd %zu", i);
			return r;
		}
	}
	return 0;
}

/* Before the VMM gets its answer: no guest access may find unregistered memory and read zeros. */
static int regions_register(struct attach *a, struct error *err)
{
	for (size_t i = 0; i < a->table->n_regions; i++) {
		struct region *region = &a->table->regions[i];
		uint64_t ioctls;
		int r = uffd_register(a->memory->fds[region->lane], region->hva,
		                      region->length_bytes, region->mode == REGION_MINOR, &ioctls,
		                      err);

		if (r < 0) {
			error_prefix(err, "region %s", region->name);
			return r;
		}
		region->zeropage = ioctls >> _UFFDIO_ZEROPAGE & 1;
		a->n_registered++;
	}
	return 0;
}

_Static_assert(STATE_EVENTS_MAX >= FAULT_BATCH, "a lane reads its events into the state memfd");
_Static_assert(STATE_LANES_MAX >= ATTACH_UFFDS_MAX, "a lane a userfaultfd");

static int lane_start(struct attach *a, uint32_t index, struct error *err)
{
	struct migration *m = a->m;
	const struct settings *s = migration_table_settings(m->table);
	const struct lane_tuning tuning = {
	        .urgent_rt_priority = s->urgent_rt_priority,
	        .bulk_nice = (int)s->bulk_nice,
	        .urgent_cpus = s->urgent_cpus,
	        .bulk_cpus = s->bulk_cpus,
	        .stream_window_pages = (unsigned)(s->stream_window_bytes >> WIRE_PAGE_SHIFT),
	};
	const struct lane_params params = {
	        .main_loop = migration_table_loop(m->table),
	        .on_event = migration_on_lane_event,
	        .user = &m->lanes[index],
	        .migration_id = m->id,
	        .token = m->token,
	        .token_len = m->token_len,
	        .peer_identity = m->peer_identity,
	        .tls = migration_table_tls(m->table),
	        .index = index,
	        .uffd = a->memory->fds[index],
	        .poison_supported = a->uffds[index].poison_supported,
	        .remove_events = a->uffds[index].remove_events,
	        .regions = a->table,
	        .map = &a->state->map,
	        .ledger = &a->state->ledger,
	        .events = state_memfd_events(a->state, index),
	        .tuning = &tuning,
	        .bandwidth = migration_lane_bandwidth(m->bandwidth, (uint32_t)a->memory->n_uffds),
	};
	int r = lane_new(&params, &a->lanes[index], err);

	if (r < 0)
		error_prefix(err, "lane %u", index);
	return r;
}

static int attach_prepare(struct attach *a, struct error *err)
{
	int r;

	if ((r = check_counts(a->memory, err)) < 0 || (r = check_kinds(a->memory, err)) < 0 ||
	    (r = regions_build(a, err)) < 0 || (r = uffds_adopt(a, err)) < 0 ||
	    (r = state_memfd_new(&a->m->id, a->table->n_units, (uint32_t)a->memory->n_uffds,
	                         &a->state, err)) < 0 ||
	    (r = regions_register(a, err)) < 0)
		return r;
	for (uint32_t i = 0; i < a->memory->n_uffds; i++) {
		r = migration_timer_new(a->m, lane_slot_on_retry, &a->m->lanes[i],
		                        &a->m->lanes[i].retry_timer);
		if (r < 0)
			return error_set(err, r, "not enough memory");
		r = lane_start(a, i, err);
		if (r < 0)
			return r;
	}
	return 0;
}

/* Give everything back: the VMM's memory is as it was. */
static void attach_undo(struct attach *a)
{
	for (size_t i = 0; i < ATTACH_UFFDS_MAX; i++) {
		if (a->lanes[i])
			a->lanes[i] = lane_free(a->lanes[i]);
		if (a->m->lanes[i].retry_timer)
			event_free(a->m->lanes[i].retry_timer);
		a->m->lanes[i].retry_timer = NULL;
	}
	for (size_t i = 0; i < a->n_registered; i++) {
		const struct region *r = &a->table->regions[i];

		if (!a->memory->regions[i].registered)
			(void)uffd_unregister(a->memory->fds[r->lane], r->hva, r->length_bytes);
	}
	a->state = state_memfd_free(a->state);
	a->table = region_table_free(a->table);
}

/* Nothing fails any more: hand over to the migration. */
static void attach_commit(struct attach *a)
{
	struct migration *m = a->m;
	const struct attach_memory *memory = a->memory;

	m->n_lanes = (uint32_t)memory->n_uffds;
	m->poison_supported = true;
	for (uint32_t i = 0; i < m->n_lanes; i++) {
		m->lanes[i].lane = TAKE_PTR(a->lanes[i]);
		m->lanes[i].uffd = TAKE_FD(memory->fds[i]);
		m->poison_supported &= a->uffds[i].poison_supported;
	}
	for (size_t i = memory->n_uffds; i < memory->n_fds; i++)
		m->memory_fds[m->n_memory_fds++] = TAKE_FD(memory->fds[i]);
	m->regions = TAKE_PTR(a->table);
	m->memory = TAKE_PTR(a->state);
}

static void vmm_unwatch(struct migration *m)
{
	if (m->vmm_exit_event)
		event_free(m->vmm_exit_event);
	m->vmm_exit_event = NULL;
	close_fd(&m->vmm_pidfd);
	m->vmm_pid = 0;
}

int migration_attach(struct migration *m, const struct attach_memory *memory, pid_t vmm_pid,
                     int vmm_pidfd, struct error *err)
{
	_cleanup_free_ struct attach *a = calloc(1, sizeof(*a));
	int r;

	if (!a) {
		close_fd(&vmm_pidfd);
		return error_set(err, -ENOMEM, "not enough memory");
	}
	a->m = m;
	a->memory = memory;
	r = migration_vmm_watch(m, vmm_pid, vmm_pidfd, err);
	if (r == 0)
		r = attach_prepare(a, err);
	if (r < 0) {
		attach_undo(a);
		vmm_unwatch(m);
		return r;
	}
	attach_commit(a);
	migration_set_state(m, MIGRATION_ACTIVE, "attached by pid %d; connecting to %s",
	                    (int)vmm_pid, m->source);
	return 0;
}
