/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Role: the second half of a fault's journey, and all of the stream's. Called
 * by fault_*.c (urgent thread) and bulk_stream.c (bulk thread). Always
 * holds: a unit that this thread claimed is PRESENT, POISONED, REMOVED or
 * MISSING again before it returns.
 */
#include <errno.h>

#include "daemon/placement_parts.h"

/* One claim, and so one ioctl, is at most this long: a bound on what others wait for. */
#define CLAIM_BYTES_MAX (64 * 1024)

enum kind {
	KIND_DATA,
	KIND_ZERO
};

/* A page that is here already may be a dead daemon's work: so many times. */
static bool is_doubtful(struct placer *p)
{
	uint64_t n = p->doubtful ? atomic_load(p->doubtful) : 0;

	while (n > 0)
		if (atomic_compare_exchange_weak(p->doubtful, &n, n - 1))
			return true;
	return false;
}

/*
 * Also where COPY would do: another mapping may have made the page, and then it
 * must have its content before it is mapped here.
 */
static struct resolve_result resolve_minor(struct placer *p, const struct region *r, uint64_t unit,
                                           hva_t hva, uint64_t len_bytes, const uint8_t *bytes)
{
	backing_off_t at = {r->fd_offset.off + region_unit_offset(r, unit)};
	struct resolve_result w =
	        r->backing == REGION_HUGETLB
	                ? resolve_write_hugetlb(r->memory_fd, at, len_bytes, bytes)
	                : resolve_write(r->memory_fd, at, len_bytes, bytes);

	if (w.outcome != RESOLVE_DONE) {
		w.done_bytes = 0; /* written, but not mapped */
		return w;
	}
	for (uint64_t i = 0; i < len_bytes >> r->unit_shift; i++)
		page_map_written(p->map, unit + i);
	return resolve_continue(p->uffd, hva, len_bytes);
}

static struct resolve_result resolve_units(struct placer *p, const struct region *r, uint64_t unit,
                                           hva_t hva, uint64_t n, enum kind kind,
                                           const uint8_t *bytes)
{
	uint64_t len_bytes = n << r->unit_shift;

	if (r->mode == REGION_MINOR)
		return resolve_minor(p, r, unit, hva, len_bytes, bytes);
	if (kind == KIND_ZERO && r->zeropage)
		return resolve_zeropage(p->uffd, hva, len_bytes);
	return resolve_copy(p->uffd, hva, len_bytes, bytes ? bytes : p->zeros);
}

static void mark_placed(struct placer *p, const struct region *r, uint64_t unit, uint64_t n,
                        enum kind kind)
{
	for (uint64_t i = 0; i < n; i++)
		page_map_placed(p->map, unit + i);
	if (kind == KIND_DATA)
		stats_add(p->stats, pages_data, n * region_unit_pages(r));
	else
		stats_add(p->stats, pages_zero, n * region_unit_pages(r));
	if (n > 0)
		placement_wake_mappings(p, unit, n);
	placement_count_final(p, r, n);
}

/*
 * Is EEXIST to be believed? For a huge page that it cannot allocate UFFDIO_COPY
 * says EEXIST as well (hugetlb_mfill_atomic_pte(), measured on 6.18).
 * UFFDIO_CONTINUE tells: EFAULT when the file has no page. In a private mapping
 * it cannot tell; better wait there than let the guest read zeros.
 */
static bool page_exists(struct placer *p, const struct region *r, hva_t hva)
{
	struct resolve_result res;

	if (r->backing != REGION_HUGETLB)
		return true;
	res = resolve_continue(p->uffd, hva, region_unit_bytes(r));
	return res.outcome != RESOLVE_FATAL || res.error != EFAULT;
}

/* Nothing can be placed in this claimed unit: it keeps what it has, or has no memory. */
static void settle(struct placer *p, const struct region *r, uint64_t unit, bool mapped)
{
	if (mapped && is_doubtful(p)) {
		page_map_placed(p->map, unit);
	} else if (mapped) {
		placement_warn_unexpected(p, r, unit,
		                          r->mode == REGION_MINOR
		                                  ? "it now has what the source sent"
		                                  : "it keeps what it has");
		page_map_placed(p->map, unit);
	} else {
		placement_warn_unmapped(p, r, unit);
		page_map_unmapped(p->map, unit);
		stats_add(p->stats, pages_removed, region_unit_pages(r));
	}
	placement_wake(p, r, unit, 1);
	placement_count_final(p, r, 1);
}

/*
 * Place claimed units; *ret_done of them are final when it returns. An outcome
 * other than DONE stopped it at unit + *ret_done, which is still claimed.
 */
static struct resolve_result place_claimed(struct placer *p, const struct region *r, uint64_t unit,
                                           uint64_t n, enum kind kind, const uint8_t *bytes,
                                           uint64_t *ret_done)
{
	uint64_t done = 0, at_once = n;
	struct resolve_result res = {.outcome = RESOLVE_DONE};

	while (done < n) {
		const uint8_t *from = bytes ? bytes + (done << r->unit_shift) : NULL;
		uint64_t tried = MIN(at_once, n - done), placed;
		hva_t hva;

		if (!placement_where(p, r, unit + done, tried, &hva, &tried)) {
			settle(p, r, unit + done, false);
			done++;
			continue;
		}
		res = resolve_units(p, r, unit + done, hva, tried, kind, from);
		placed = res.done_bytes >> r->unit_shift;
		mark_placed(p, r, unit + done, placed, kind);
		done += placed;
		if (res.outcome == RESOLVE_UNMAPPED && tried > 1) {
			/* A range that is not one mapping as a whole: which of it? */
			at_once = 1;
		} else if (res.outcome == RESOLVE_ALREADY &&
		           !page_exists(p, r, (hva_t){hva.addr + (placed << r->unit_shift)})) {
			res.outcome = RESOLVE_NO_MEMORY;
			break;
		} else if (res.outcome == RESOLVE_ALREADY || res.outcome == RESOLVE_UNMAPPED) {
			settle(p, r, unit + done, res.outcome == RESOLVE_ALREADY);
			done++;
		} else if (res.outcome != RESOLVE_DONE) {
			break;
		}
	}
	*ret_done = done;
	return res;
}

static uint64_t claim_run(struct placer *p, const struct region *r, uint64_t unit, uint64_t n)
{
	uint64_t most = MAX(UINT64_C(1), (uint64_t)CLAIM_BYTES_MAX >> r->unit_shift);
	uint64_t claimed = 0;

	while (claimed < MIN(n, most) && page_map_claim(p->map, unit + claimed))
		claimed++;
	return claimed;
}

static void release_run(struct placer *p, uint64_t unit, uint64_t n)
{
	for (uint64_t i = 0; i < n; i++)
		page_map_release(p->map, unit + i);
}

static int place(struct placer *p, const struct region *r, uint64_t first, uint64_t n_units,
                 enum kind kind, const uint8_t *bytes)
{
	uint64_t unit = first, end = first + n_units;

	while (unit < end) {
		const uint8_t *from = bytes ? bytes + ((unit - first) << r->unit_shift) : NULL;
		struct resolve_result res;
		uint64_t claimed, done = 0;
		int rc;

		placement_lock(p);
		claimed = claim_run(p, r, unit, end - unit);
		res = place_claimed(p, r, unit, claimed, kind, from, &done);
		if (done < claimed)
			release_run(p, unit + done, claimed - done);
		placement_unlock(p);
		if (claimed == 0) {
			stats_add(p->stats, pages_duplicate, region_unit_pages(r));
			unit++;
			continue;
		}
		unit += done;
		if (done == claimed)
			continue;
		rc = placement_stopped_by(p, r, unit, res, "place");
		if (rc < 0)
			return rc;
	}
	return 0;
}

int placement_data(struct placer *p, const struct region *r, uint64_t first, uint64_t n_units,
                   const uint8_t *bytes)
{
	return place(p, r, first, n_units, KIND_DATA, bytes);
}

int placement_zero(struct placer *p, const struct region *r, uint64_t first, uint64_t n_units)
{
	return place(p, r, first, n_units, KIND_ZERO, NULL);
}

int placement_map_written(struct placer *p, const struct region *r, uint64_t unit)
{
	for (;;) {
		struct resolve_result res;
		uint64_t n;
		hva_t hva;
		int rc;

		if (!placement_where(p, r, unit, 1, &hva, &n)) {
			page_map_unmapped(p->map, unit);
			return 0;
		}
		res = resolve_continue(p->uffd, hva, region_unit_bytes(r));
		switch (res.outcome) {
		case RESOLVE_DONE:
		case RESOLVE_ALREADY:
			page_map_placed(p->map, unit);
			return 0;
		case RESOLVE_UNMAPPED:
			page_map_unmapped(p->map, unit);
			return 0;
		default:
			/* The file has a hole there since: the VMM gave the page back. */
			if (res.error == EFAULT) {
				page_map_unmapped(p->map, unit);
				return 0;
			}
			rc = placement_stopped_by(p, r, unit, res, "map");
			if (rc < 0)
				return rc;
		}
	}
}
