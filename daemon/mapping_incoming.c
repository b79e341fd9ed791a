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

static int check_file(const struct mapping_incoming *in, const struct attach_region *r,
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

static int check_region(struct mapping_incoming *in, size_t i, bool *known, struct error *err)
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
	if (rc == 0 &&
	    !mapping_incoming_all_here(in->m)) /* afterwards nothing is placed by it any more */
		rc = check_file(in, r, of, err);
	return rc < 0 ? rc : check_lane(in, r, of, known, err);
}

int mapping_incoming_check(struct mapping_incoming *in, struct error *err)
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

int mapping_incoming_register(struct mapping_incoming *in, struct error *err)
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

void mapping_incoming_unregister(const struct mapping_incoming *in, bool all)
{
	for (size_t i = 0; i < in->n_registered; i++) {
		const struct attach_region *r = &in->from->regions[i];

		if (all || !r->registered)
			(void)uffd_unregister(in->from->fds[r->uffd], r->hva, r->length_bytes);
	}
}

static size_t count_parts(const struct mapping_incoming *in, uint32_t uffd)
{
	size_t n = 0;

	for (size_t i = 0; i < in->from->n_regions; i++)
		n += in->from->regions[i].uffd == uffd;
	return n;
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
	for (size_t i = 0; r == 0 && i < in->from->n_regions; i++) {
		const struct attach_region *region = &in->from->regions[i];

		for (size_t k = 0; r == 0 && k < lost->n_ranges; k++)
			r = mark_range(region, in->from->fds[region->uffd], &lost->ranges[k], err);
	}
	mapping_incoming_unregister(in, true);
	return r;
}

/* The record's regions have passed the checks of another daemon; the files are not kept. */
int mapping_incoming_match(struct mapping_incoming *in, struct error *err)
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
