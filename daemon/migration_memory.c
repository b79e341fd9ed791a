/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Checks what a VMM handed over, and starts lanes on it. Called by the attach,
 * and by the restore.
 *
 * Always holds: until the commit the migration has nothing of it but the retry
 * timers of its lanes, and undo gives everything back.
 */
#include "daemon/migration_memory.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "core/fdpass.h"
#include "daemon/fault_path.h"

size_t migration_memory_count_files(const struct attach_region *regions, size_t n_regions)
{
	size_t n = 0;

	for (size_t i = 0; i < n_regions; i++)
		if (regions[i].has_fd && (size_t)regions[i].fd + 1 > n)
			n = (size_t)regions[i].fd + 1;
	return n;
}

/* The same file, open for the same: it is only ever used at offsets, or mapped. */
static bool file_same(int a, int b)
{
	struct stat sa, sb;

	return fstat(a, &sa) == 0 && fstat(b, &sb) == 0 && sa.st_dev == sb.st_dev &&
	       sa.st_ino == sb.st_ino &&
	       (fcntl(a, F_GETFL) & O_ACCMODE) == (fcntl(b, F_GETFL) & O_ACCMODE);
}

static void file_renumber(struct attach_region *regions, size_t n_regions, uint32_t from,
                          uint32_t to)
{
	for (size_t i = 0; i < n_regions; i++)
		if (regions[i].has_fd && regions[i].fd == from)
			regions[i].fd = to;
}

void migration_memory_unite_files(struct attach_memory *memory, struct attach_region *regions)
{
	size_t n_files = memory->n_fds - MIN(memory->n_fds, memory->n_uffds), n = 0;
	int *files = memory->fds + memory->n_fds - n_files;

	for (size_t i = 0; i < n_files; i++) {
		size_t same = 0;

		while (same < n && !file_same(files[same], files[i]))
			same++;
		file_renumber(regions, memory->n_regions, (uint32_t)i, (uint32_t)same);
		if (same < n)
			close_fd(&files[i]);
		else if (same < i)
			files[n] = TAKE_FD(files[i]);
		n = MAX(n, same + 1);
	}
	memory->n_fds -= n_files - n;
}

int migration_memory_check_counts(const struct attach_memory *memory, struct error *err)
{
	size_t n_files = migration_memory_count_files(memory->regions, memory->n_regions);

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

/* Two lanes would take each other's faults. */
static int check_uffds_differ(const struct attach_memory *memory, struct error *err)
{
	pid_t self = getpid();

	for (size_t i = 1; i < memory->n_uffds; i++)
		for (size_t j = 0; j < i; j++)
			if (syscall(SYS_kcmp, self, self, KCMP_FILE, memory->fds[j],
			            memory->fds[i]) == 0)
				return error_set(err, -EINVAL,
				                 "userfaultfds %zu and %zu are the same: each "
				                 "must be one of its own",
				                 j, i);
	return 0;
}

int migration_memory_check_kinds(const struct attach_memory *memory, struct error *err)
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
	return check_uffds_differ(memory, err);
}

static int check_memory_file(const struct attach_region *r, const struct stat *st,
                             struct error *err)
{
	uint64_t size = (uint64_t)st->st_size;

	if (!is_aligned(r->fd_offset.off, r->page_size_bytes))
		return error_set(err, -EINVAL,
		                 "region %s: offset 0x%llx in its memory file is not a multiple of "
		                 "its page size %llu",
		                 r->name, (unsigned long long)r->fd_offset.off,
		                 (unsigned long long)r->page_size_bytes);
	if (r->fd_offset.off > size || r->length_bytes > size - r->fd_offset.off)
		return error_set(err, -EINVAL,
		                 "region %s: its memory file has %llu bytes, but the region needs "
		                 "%llu at offset 0x%llx",
		                 r->name, (unsigned long long)size,
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

static int region_fill(struct migration_memory *a, const struct attach_region *from,
                       struct region *to, struct error *err)
{
	const struct attach_memory *memory = a->from;
	int fd = from->has_fd ? memory->fds[memory->n_uffds + from->fd] : -1;
	struct stat st = {};
	int r;

	if (!is_power_of_two(from->page_size_bytes))
		return error_set(err, -EINVAL, "region %s: page size %llu is not a power of two",
		                 from->name, (unsigned long long)from->page_size_bytes);
	r = check_minor(from, err);
	if (r == 0 && fd >= 0 && fstat(fd, &st) < 0)
		r = error_set_errno(err, -errno, "region %s: fstat of its memory file", from->name);
	if (r == 0 && fd >= 0)
		r = check_memory_file(from, &st, err);
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
	        .file_device = st.st_dev,
	        .file_inode = st.st_ino,
	        .first_page = REGION_NO_PAGE,
	};
	_Static_assert(sizeof(to->name) >= sizeof(from->name), "a region's name must fit");
	memcpy(to->name, from->name, sizeof(from->name));
	return 0;
}

int migration_memory_build_regions(struct migration_memory *a, struct error *err)
{
	for (size_t i = 0; i < a->from->n_regions; i++) {
		int r = region_fill(a, &a->from->regions[i], &a->regions[i], err);

		if (r < 0)
			return r;
	}
	return region_table_new(a->regions, a->from->n_regions, (uint32_t)a->from->n_uffds,
	                        &a->table, err);
}

static int uffds_adopt(struct migration_memory *a, struct error *err)
{
	for (size_t i = 0; i < a->from->n_uffds; i++) {
		int r = uffd_adopt(a->from->fds[i], &a->uffds[i], err);

		if (r < 0) {
			error_prefix(err, "userfaultfd %zu", i);
			return r;
		}
	}
	return 0;
}

int migration_memory_check(struct migration_memory *a, struct error *err)
{
	int r = migration_memory_check_counts(a->from, err);

	if (r == 0)
		r = migration_memory_check_kinds(a->from, err);
	if (r == 0)
		r = migration_memory_build_regions(a, err);
	if (r == 0)
		r = uffds_adopt(a, err);
	return r;
}

_Static_assert(STATE_EVENTS_MAX >= FAULT_BATCH, "a lane reads its events into the state memfd");
_Static_assert(STATE_LANES_MAX >= ATTACH_UFFDS_MAX, "a lane a userfaultfd");

static int lane_start(struct migration_memory *a, uint32_t index, bool adopted, struct error *err)
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
	        .uffd = a->from->fds[index],
	        .poison_supported = a->uffds[index].poison_supported,
	        .remove_events = a->uffds[index].remove_events,
	        .addresses = a->uffds[index].remap_events ? state_memfd_addresses(a->state, index)
	                                                  : NULL,
	        .adopted = adopted,
	        .regions = a->table,
	        .map = &a->state->map,
	        .ledger = &a->state->ledger,
	        .events = state_memfd_events(a->state, index),
	        .tuning = &tuning,
	        .bandwidth = migration_lane_bandwidth(m->bandwidth, (uint32_t)a->from->n_uffds),
	};
	int r = lane_new(&params, &a->lanes[index], err);

	if (r < 0)
		error_prefix(err, "lane %u", index);
	return r;
}

int migration_memory_start_lanes(struct migration_memory *a, bool adopted, struct error *err)
{
	for (uint32_t i = 0; i < a->from->n_uffds; i++) {
		struct lane_slot *slot = &a->m->lanes[i];
		int r = migration_timer_new(a->m, lane_slot_on_retry, slot, &slot->retry_timer);

		if (r < 0)
			return error_set(err, r, "not enough memory");
		r = lane_start(a, i, adopted, err);
		if (r < 0)
			return r;
	}
	return 0;
}

void migration_memory_undo(struct migration_memory *a)
{
	for (size_t i = 0; i < ATTACH_UFFDS_MAX; i++) {
		struct lane_slot *slot = &a->m->lanes[i];

		if (a->lanes[i])
			a->lanes[i] = lane_free(a->lanes[i]);
		if (slot->retry_timer)
			event_free(slot->retry_timer);
		slot->retry_timer = NULL;
	}
	for (size_t i = 0; i < a->n_registered; i++) {
		const struct region *r = &a->table->regions[i];

		if (!a->from->regions[i].registered)
			(void)uffd_unregister(a->from->fds[r->lane], r->hva, r->length_bytes);
	}
	a->state = state_memfd_free(a->state);
	a->table = region_table_free(a->table);
}

void migration_memory_commit(struct migration_memory *a)
{
	struct migration *m = a->m;
	const struct attach_memory *from = a->from;

	m->n_lanes = (uint32_t)from->n_uffds;
	m->poison_supported = true;
	for (uint32_t i = 0; i < m->n_lanes; i++) {
		m->lanes[i].lane = TAKE_PTR(a->lanes[i]);
		m->lanes[i].uffd = TAKE_FD(from->fds[i]);
		m->poison_supported &= a->uffds[i].poison_supported;
	}
	for (size_t i = from->n_uffds; i < from->n_fds; i++)
		m->memory_fds[m->n_memory_fds++] = TAKE_FD(from->fds[i]);
	m->regions = TAKE_PTR(a->table);
	m->memory = TAKE_PTR(a->state);
}
