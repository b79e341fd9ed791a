/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Checks what a further process hands over against the VMM's memory, and registers it.
 * Called by migration_mapping.c.
 *
 * Always holds: only the very file that the VMM maps is registered: so a hole in a mapping is
 * filled with zeros only where the guest's memory has a hole.
 */
#include "daemon/mapping_incoming.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>

#include "daemon/migration_memory.h"
#include "daemon/poison_list.h"
#include "daemon/resolve.h"

bool mapping_incoming_all_here(const struct migration *m)
{
	return m->state == MIGRATION_COMPLETED || m->unregistering;
}

/* ---- which of the VMM's memory it is ---- */

static int part_add(struct mapping_incoming *in, const struct attach_region *given,
                    const struct region *of, uint64_t from, uint64_t end, struct error *err)
{
	struct attach_region *part = &in->parts[in->n_parts];

	if (in->n_parts == ARRAY_SIZE(in->parts))
		return error_set(err, -E2BIG, "more than %zu stretches of memory in one mapping",
		                 ARRAY_SIZE(in->parts));
	*part = *given;
	strcpy(part->name, of->name);
	part->gpa.addr = of->gpa.addr + (from - of->fd_offset.off);
	part->hva.addr = given->hva.addr + (from - given->fd_offset.off);
	part->length_bytes = end - from;
	part->fd_offset.off = from;
	part->has_fd = false; /* it has told what it had to */
	in->regions[in->n_parts++] = of;
	return 0;
}

static bool is_file(const struct region *of, const struct stat *st)
{
	return of->file_inode == st->st_ino && of->file_device == st->st_dev;
}

/* What of the VMM's memory is in this stretch of this file. */
static int parts_of_file(struct mapping_incoming *in, const struct attach_region *r,
                         const struct stat *st, struct error *err)
{
	const struct region_table *t = in->m->regions;
	uint64_t covered = 0, r_end = r->fd_offset.off + r->length_bytes;

	for (size_t i = 0; i < t->n_regions; i++) {
		const struct region *of = &t->regions[i];
		uint64_t from = MAX(r->fd_offset.off, of->fd_offset.off);
		uint64_t end = MIN(r_end, of->fd_offset.off + of->length_bytes);
		int rc;

		if (!is_file(of, st) || from >= end)
			continue;
		rc = part_add(in, r, of, from, end, err);
		if (rc < 0)
			return rc;
		covered += end - from;
	}
	if (covered == r->length_bytes)
		return 0;
	return error_set(err, -EINVAL,
	                 "region %s: of %" PRIu64 " bytes at 0x%" PRIx64
	                 " in its memory file the VMM has attached %" PRIu64
	                 ": is it the same file, and did the VMM set memory_fd when it attached?",
	                 r->name, r->length_bytes, r->fd_offset.off, covered);
}

/* By name and place, where the file is not known any more. */
static int part_of_name(struct mapping_incoming *in, const struct attach_region *r,
                        struct error *err)
{
	const struct region_table *t = in->m->regions;

	for (size_t i = 0; i < t->n_regions; i++) {
		const struct region *of = &t->regions[i];
		uint64_t offset = r->gpa.addr - of->gpa.addr;

		if (strcmp(of->name, r->name) == 0 && offset < of->length_bytes &&
		    r->length_bytes <= of->length_bytes - offset) {
			uint64_t from = of->fd_offset.off + offset;
			struct attach_region given = *r;

			given.fd_offset.off = from;
			return part_add(in, &given, of, from, from + r->length_bytes, err);
		}
	}
	return error_set(err, -EINVAL,
	                 "region %s at 0x%" PRIx64 "+%" PRIu64
	                 ": the VMM has not attached such a region",
	                 r->name, r->gpa.addr, r->length_bytes);
}

static int find_parts(struct mapping_incoming *in, const struct attach_region *r, struct error *err)
{
	const struct region_table *t = in->m->regions;
	bool known = false;
	struct stat st;

	if (!r->has_fd)
		return error_set(err, -EINVAL,
		                 "region %s: a further mapping needs its memory file: send it with "
		                 "the message",
		                 r->name);
	if (fstat(in->from->fds[in->from->n_uffds + r->fd], &st) < 0)
		return error_set_errno(err, -errno, "region %s: fstat of its memory file", r->name);
	if (r->fd_offset.off > UINT64_MAX - r->length_bytes)
		return error_set(err, -EINVAL, "region %s: it wraps around in its file", r->name);
	for (size_t i = 0; i < t->n_regions; i++)
		known = known || t->regions[i].file_inode;
	/* After a restart of the daemon nothing is kept of an ended one's files. */
	if (!known && mapping_incoming_all_here(in->m))
		return part_of_name(in, r, err);
	return parts_of_file(in, r, &st, err);
}

/* ---- checks ---- */

static int check_same(const struct attach_region *r, const struct region *of, struct error *err)
{
	bool minor = r->mode == UFFD_MODE_MINOR;

	if (r->page_size_bytes != region_unit_bytes(of))
		return error_set(err, -EINVAL,
		                 "region %s: pages of %" PRIu64
		                 " bytes, but the VMM attached it in pages of %" PRIu64,
		                 r->name, r->page_size_bytes, region_unit_bytes(of));
	if (minor != (of->mode == REGION_MINOR))
		return error_set(
		        err, -EINVAL,
		        "region %s: mode %s, but the VMM attached it in mode %s: they must "
		        "be the same",
		        r->name, uffd_mode_name(r->mode), region_mode_name(of->mode));
	if (!is_aligned(r->hva.addr | r->gpa.addr | r->length_bytes, r->page_size_bytes) ||
	    r->hva.addr > UINT64_MAX - r->length_bytes)
		return error_set(err, -EINVAL,
		                 "region %s: 0x%" PRIx64 " bytes at 0x%" PRIx64
		                 ": its address, its place in the file or its length is not a "
		                 "multiple of its page size, or it wraps around",
		                 r->name, r->length_bytes, r->hva.addr);
	return 0;
}

/* A lane reads the userfaultfd, so all its regions must be that lane's. */
static int check_lane(struct mapping_incoming *in, const struct attach_region *r,
                      const struct region *of, bool *known, struct error *err)
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

static int check_parts(struct mapping_incoming *in, struct error *err)
{
	bool known[ATTACH_UFFDS_MAX] = {false};
	int r = 0;

	for (size_t i = 0; r == 0 && i < in->n_parts; i++) {
		r = check_same(&in->parts[i], in->regions[i], err);
		if (r == 0)
			r = check_lane(in, &in->parts[i], in->regions[i], known, err);
	}
	for (size_t i = 0; r == 0 && i < in->from->n_uffds; i++) {
		if (!known[i])
			return error_set(err, -EINVAL, "userfaultfd %zu has no region", i);
		r = uffd_adopt_mapping(in->from->fds[i], &in->uffds[i], err);
		if (r < 0)
			error_prefix(err, "userfaultfd %zu", i);
	}
	return r;
}

int mapping_incoming_check(struct mapping_incoming *in, struct error *err)
{
	int r = migration_memory_check_counts(in->from, err);

	if (r == 0)
		r = migration_memory_check_kinds(in->from, err);
	for (size_t i = 0; r == 0 && i < in->from->n_regions; i++)
		r = find_parts(in, &in->from->regions[i], err);
	return r < 0 ? r : check_parts(in, err);
}

int mapping_incoming_match(struct mapping_incoming *in, struct error *err)
{
	int r = migration_memory_check_kinds(in->from, err);

	for (size_t i = 0; r == 0 && i < in->from->n_regions; i++)
		r = part_of_name(in, &in->from->regions[i], err);
	return r < 0 ? r : check_parts(in, err);
}

/* ---- registering ---- */

int mapping_incoming_register(struct mapping_incoming *in, struct error *err)
{
	for (size_t i = 0; i < in->n_parts; i++) {
		const struct attach_region *r = &in->parts[i];
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

void mapping_incoming_unregister(const struct mapping_incoming *in, bool all)
{
	for (size_t i = 0; i < in->n_registered; i++) {
		const struct attach_region *r = &in->parts[i];

		if (all || !r->registered)
			(void)uffd_unregister(in->from->fds[r->uffd], r->hva, r->length_bytes);
	}
}

static size_t count_parts(const struct mapping_incoming *in, uint32_t uffd)
{
	size_t n = 0;

	for (size_t i = 0; i < in->n_parts; i++)
		n += in->parts[i].uffd == uffd;
	return n;
}

static struct mapping_part part_of(const struct attach_region *r, const struct region *of)
{
	return (struct mapping_part){
	        .first_unit = of->first_unit + ((r->gpa.addr - of->gpa.addr) >> of->unit_shift),
	        .n_units = r->length_bytes >> of->unit_shift,
	        .unit_shift = of->unit_shift,
	        .hva = r->hva,
	};
}

/* What a lane gets of it. */
static int lane_part(const struct mapping_incoming *in, uint32_t id, uint32_t uffd,
                     struct mapping **ret)
{
	size_t n = 0;
	int r = mapping_new(id, in->from->fds[uffd], count_parts(in, uffd), ret);

	if (r < 0)
		return r;
	(*ret)->poison_supported = in->uffds[uffd].poison_supported;
	for (size_t i = 0; i < in->n_parts; i++)
		if (in->parts[i].uffd == uffd)
			(*ret)->parts[n++] = part_of(&in->parts[i], in->regions[i]);
	return 0;
}

int mapping_incoming_parts(const struct mapping_incoming *in, uint32_t id, struct mapping **parts,
                           struct error *err)
{
	int r = 0;

	for (uint32_t i = 0; i < in->from->n_uffds && r == 0; i++)
		r = lane_part(in, id, i, &parts[i]);
	return r < 0 ? error_set_errno(err, r, "take a further mapping") : 0;
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
	                 "region %s: a lost page at 0x%" PRIx64
	                 " cannot be marked here (%s): touch "
	                 "nothing before the attach",
	                 r->name, first + res.done_bytes, resolve_outcome_name(res.outcome));
}

int mapping_incoming_mark_lost(struct mapping_incoming *in, struct error *err)
{
	const struct poison_list *lost = &in->m->final_lost;
	int r = lost_list(in->m, err);

	if (r == 0)
		r = mapping_incoming_register(in, err);
	for (size_t i = 0; r == 0 && i < in->n_parts; i++) {
		const struct attach_region *region = &in->parts[i];

		for (size_t k = 0; r == 0 && k < lost->n_ranges; k++)
			r = mark_range(region, in->from->fds[region->uffd], &lost->ranges[k], err);
	}
	mapping_incoming_unregister(in, true);
	return r;
}
