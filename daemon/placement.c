/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Role: the second half of a fault's journey, and all of the stream's. Called
 * by fault_path.c (urgent thread) and bulk_stream.c (bulk thread). Always
 * holds: a unit that this thread claimed is PRESENT, POISONED, REMOVED or
 * MISSING again before it returns.
 */
#include "daemon/placement.h"

#include <errno.h>
#include <inttypes.h>

#include "core/cleanup.h"
#include "core/clock.h"

/* One claim, and so one ioctl, is at most this long: a bound on what others wait for. */
#define CLAIM_BYTES_MAX (64 * 1024)

enum kind {
	KIND_DATA,
	KIND_ZERO
};

static void lock_removal(struct placer *p)
{
	if (p->remove_lock)
		pthread_mutex_lock(p->remove_lock);
}

static void unlock_removal(struct placer *p)
{
	if (p->remove_lock)
		pthread_mutex_unlock(p->remove_lock);
}

/* n units of region r are final now. */
static void count_final(struct placer *p, const struct region *r, uint64_t n_units)
{
	uint64_t n = n_units * region_unit_pages(r);

	if (n > 0 && atomic_fetch_sub(p->pages_left, n) == n)
		p->callbacks->report(PLACEMENT_FINISHED, 0, NULL, p->user);
}

static void warn_unexpected(struct placer *p, const struct region *r, uint64_t unit,
                            const char *consequence)
{
	struct error e;

	stats_add(p->stats, pages_unexpected, region_unit_pages(r));
	if (p->warned_unexpected)
		return;
	p->warned_unexpected = true;
	error_set(&e, -EEXIST,
	          "region %s offset %" PRIu64
	          ": memory is mapped where the guest's page should still be missing; the VMM "
	          "touched it before it attached, or placed it itself; %s",
	          r->name, region_unit_offset(r, unit), consequence);
	p->callbacks->report(PLACEMENT_WARNING, unit, &e, p->user);
}

static void warn_unmapped(struct placer *p, const struct region *r, uint64_t unit)
{
	struct error e;

	if (p->warned_unmapped)
		return;
	p->warned_unmapped = true;
	error_set(&e, -ENOENT,
	          "region %s offset %" PRIu64
	          ": the VMM unmapped or replaced this memory; ignoring its pages",
	          r->name, region_unit_offset(r, unit));
	p->callbacks->report(PLACEMENT_WARNING, unit, &e, p->user);
}

static int fail(struct placer *p, const struct region *r, uint64_t unit, int error_number,
                const char *what)
{
	struct error e;

	error_set_errno(&e, -error_number, "region %s offset %" PRIu64 ": cannot %s a page",
	                r->name, region_unit_offset(r, unit), what);
	p->callbacks->report(PLACEMENT_FAILED, unit, &e, p->user);
	return e.code;
}

/* Returns false to give up. Neither wait holds a claim or the lock. */
static bool wait_again(struct placer *p, const struct region *r, enum resolve_outcome outcome)
{
	struct error e;

	stats_add(p->stats, retries, 1);
	if (outcome == RESOLVE_NO_MEMORY) {
		stats_add(p->stats, no_memory, 1);
		if (!p->warned_memory) {
			p->warned_memory = true;
			error_set(&e, -ENOMEM,
			          "region %s: no memory for the guest's pages%s; retrying", r->name,
			          r->backing == REGION_HUGETLB ? " (no free huge page: raise "
			                                         "vm.nr_hugepages)"
			                                       : "");
			p->callbacks->report(PLACEMENT_WARNING, 0, &e, p->user);
		}
	}
	return p->callbacks->wait_retry(outcome == RESOLVE_RETRY, p->user);
}

static struct resolve_result resolve_minor(struct placer *p, const struct region *r, uint64_t unit,
                                           uint64_t len_bytes, const uint8_t *bytes)
{
	backing_off_t at = {r->fd_offset.off + region_unit_offset(r, unit)};
	struct resolve_result w = resolve_write(r->memory_fd, at, len_bytes, bytes);

	if (w.outcome != RESOLVE_DONE) {
		w.done_bytes = 0; /* written, but not mapped */
		return w;
	}
	return resolve_continue(p->uffd, region_unit_hva(r, unit), len_bytes);
}

/*
 * Mostly the file has no page there, and one ioctl gives it one with its content,
 * as in MISSING mode. Another mapping of the file may have touched it before:
 * then the content goes into that page. Ends after the first such page.
 */
static struct resolve_result resolve_minor_hugetlb(struct placer *p, const struct region *r,
                                                   uint64_t unit, uint64_t len_bytes,
                                                   const uint8_t *bytes)
{
	const uint8_t *from = bytes ? bytes : p->zeros;
	struct resolve_result copied =
	        resolve_copy(p->uffd, region_unit_hva(r, unit), len_bytes, from);
	struct resolve_result res;
	uint64_t at = unit + (copied.done_bytes >> r->unit_shift);
	backing_off_t offset = {r->fd_offset.off + region_unit_offset(r, at)};

	if (copied.outcome != RESOLVE_ALREADY)
		return copied;
	res = resolve_write_hugetlb(r->memory_fd, offset, region_unit_bytes(r),
	                            bytes ? bytes + copied.done_bytes : NULL);
	if (res.outcome == RESOLVE_DONE)
		res = resolve_continue(p->uffd, region_unit_hva(r, at), region_unit_bytes(r));
	res.done_bytes = copied.done_bytes + (res.outcome == RESOLVE_DONE ? res.done_bytes : 0);
	return res;
}

static struct resolve_result resolve_units(struct placer *p, const struct region *r, uint64_t unit,
                                           uint64_t n, enum kind kind, const uint8_t *bytes)
{
	uint64_t len_bytes = n << r->unit_shift;

	if (r->mode == REGION_MINOR && r->backing == REGION_HUGETLB)
		return resolve_minor_hugetlb(p, r, unit, len_bytes, bytes);
	if (r->mode == REGION_MINOR)
		return resolve_minor(p, r, unit, len_bytes, bytes);
	if (kind == KIND_ZERO && r->zeropage)
		return resolve_zeropage(p->uffd, region_unit_hva(r, unit), len_bytes);
	return resolve_copy(p->uffd, region_unit_hva(r, unit), len_bytes, bytes ? bytes : p->zeros);
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
	count_final(p, r, n);
}

/*
 * Is EEXIST to be believed? For a huge page that it cannot allocate UFFDIO_COPY
 * says EEXIST as well (hugetlb_mfill_atomic_pte(), measured on 6.18).
 * UFFDIO_CONTINUE tells: EFAULT when the file has no page. In a private mapping
 * it cannot tell; better wait there than let the guest read zeros.
 */
static bool page_exists(struct placer *p, const struct region *r, uint64_t unit)
{
	struct resolve_result res;

	if (r->backing != REGION_HUGETLB)
		return true;
	res = resolve_continue(p->uffd, region_unit_hva(r, unit), region_unit_bytes(r));
	return res.outcome != RESOLVE_FATAL || res.error != EFAULT;
}

/* Nothing can be placed in this claimed unit: it keeps what it has, or has no memory. */
static void settle(struct placer *p, const struct region *r, uint64_t unit, bool mapped)
{
	if (mapped) {
		warn_unexpected(p, r, unit,
		                r->mode == REGION_MINOR ? "it now has what the source sent"
		                                        : "it keeps what it has");
		page_map_placed(p->map, unit);
	} else {
		warn_unmapped(p, r, unit);
		page_map_unmapped(p->map, unit);
		stats_add(p->stats, pages_removed, region_unit_pages(r));
	}
	resolve_wake(p->uffd, region_unit_hva(r, unit), region_unit_bytes(r));
	count_final(p, r, 1);
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

		res = resolve_units(p, r, unit + done, tried, kind, from);
		placed = res.done_bytes >> r->unit_shift;
		mark_placed(p, r, unit + done, placed, kind);
		done += placed;
		if (res.outcome == RESOLVE_UNMAPPED && tried > 1) {
			/* A range that is not one mapping as a whole: which of it? */
			at_once = 1;
		} else if (res.outcome == RESOLVE_ALREADY && !page_exists(p, r, unit + done)) {
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

/* What stopped a placement: 0 to try again, or the end of it. */
static int stopped_by(struct placer *p, const struct region *r, uint64_t unit,
                      struct resolve_result res, const char *what)
{
	switch (res.outcome) {
	case RESOLVE_RETRY:
	case RESOLVE_NO_MEMORY:
		return wait_again(p, r, res.outcome) ? 0 : -ECANCELED;
	case RESOLVE_GONE:
		p->callbacks->report(PLACEMENT_VMM_GONE, unit, NULL, p->user);
		return -ESRCH;
	default:
		return fail(p, r, unit, res.error, what);
	}
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

		lock_removal(p);
		claimed = claim_run(p, r, unit, end - unit);
		res = place_claimed(p, r, unit, claimed, kind, from, &done);
		if (done < claimed)
			release_run(p, unit + done, claimed - done);
		unlock_removal(p);
		if (claimed == 0) {
			stats_add(p->stats, pages_duplicate, region_unit_pages(r));
			unit++;
			continue;
		}
		unit += done;
		if (done == claimed)
			continue;
		rc = stopped_by(p, r, unit, res, "place");
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

static int ledger_write(struct placer *p, const struct region *r, uint64_t unit,
                        enum ledger_reason reason)
{
	struct ledger_entry e = {
	        .unit = unit,
	        .offset_bytes = region_unit_offset(r, unit),
	        .gpa = region_unit_gpa(r, unit),
	        .lost_bytes = region_unit_bytes(r),
	        .time_us = clock_realtime_us(),
	        .region = (uint32_t)(r - p->regions->regions),
	        .reason = reason,
	};

	return ledger_append(p->ledger, &e);
}

/*
 * The claim is kept over every retry: between the ledger's entry and the marker
 * nobody else may place the unit. A removal in between changes nothing: poison
 * outlives it.
 */
static int poison_claimed(struct placer *p, const struct region *r, uint64_t unit)
{
	for (;;) {
		struct resolve_result res =
		        resolve_poison(p->uffd, region_unit_hva(r, unit), region_unit_bytes(r));
		int rc;

		switch (res.outcome) {
		case RESOLVE_DONE:
			return 0;
		case RESOLVE_ALREADY:
			warn_unexpected(p, r, unit, "this page is lost, but could not be poisoned");
			resolve_wake(p->uffd, region_unit_hva(r, unit), region_unit_bytes(r));
			return 0;
		case RESOLVE_UNMAPPED:
			warn_unmapped(p, r, unit);
			resolve_wake(p->uffd, region_unit_hva(r, unit), region_unit_bytes(r));
			return 0;
		default:
			rc = stopped_by(p, r, unit, res, "poison");
			if (rc < 0)
				return rc;
		}
	}
}

static int poison_one(struct placer *p, const struct region *r, uint64_t unit,
                      enum ledger_reason reason)
{
	int rc = ledger_write(p, r, unit, reason);

	if (rc < 0) {
		page_map_release(p->map, unit);
		return fail(p, r, unit, -rc, "write to the ledger");
	}
	if (!p->poison_supported)
		stats_add(p->stats, poison_unplaced, region_unit_pages(r));
	else
		rc = poison_claimed(p, r, unit);
	/*
	 * Also when the marker could not be set now: the ledger has the page, so
	 * it is poisoned for ever, and a fault on it tries again.
	 */
	page_map_poisoned(p->map, unit);
	stats_add(p->stats, pages_poisoned, region_unit_pages(r));
	p->callbacks->report(PLACEMENT_POISONED, unit, NULL, p->user);
	count_final(p, r, 1);
	return rc;
}

int placement_poison(struct placer *p, const struct region *r, uint64_t first, uint64_t n_units,
                     enum ledger_reason reason)
{
	for (uint64_t unit = first; unit < first + n_units; unit++) {
		int rc;

		if (!page_map_claim(p->map, unit))
			continue;
		rc = poison_one(p, r, unit, reason);
		if (rc < 0)
			return rc;
	}
	return 0;
}

/* The page reads as zeros: it was given back. EEXIST: the guest has used it since. */
static void answer_removed(struct placer *p, const struct region *r, hva_t hva)
{
	if (r->zeropage)
		resolve_zeropage(p->uffd, hva, region_unit_bytes(r));
	else
		resolve_copy(p->uffd, hva, region_unit_bytes(r), p->zeros);
}

void placement_answer(struct placer *p, const struct region *r, uint64_t unit, enum page_state s,
                      bool minor)
{
	hva_t hva = region_unit_hva(r, unit);

	switch (s) {
	case PAGE_POISONED:
		/* The marker goes with MADV_DONTNEED; the ledger does not forget. */
		if (!p->poison_supported)
			return; /* waits: better than a page that reads as zeros */
		resolve_poison(p->uffd, hva, region_unit_bytes(r));
		break;
	case PAGE_REMOVED:
	case PAGE_PRESENT:
		/*
		 * Mostly a fault that was raised before the page came. A page
		 * that went again went by the VMM's own will, by far not always
		 * with an event (none comes of a hole punched by the file's
		 * descriptor), and the kernel tells which: a ZEROPAGE over
		 * anything that is still there is refused, and so it is while a
		 * removal's event is unread. A minor fault has its content in
		 * the file, whatever was unmapped.
		 */
		if (minor)
			resolve_continue(p->uffd, hva, region_unit_bytes(r));
		else
			answer_removed(p, r, hva);
		break;
	default:
		return; /* whoever has it wakes the threads */
	}
	resolve_wake(p->uffd, hva, region_unit_bytes(r));
}

void placement_remove(struct placer *p, const struct region *r, uint64_t unit)
{
	enum page_state was = page_map_remove(p->map, unit);

	if (was == PAGE_POISONED || was == PAGE_PLACING || was == PAGE_REMOVED)
		return;
	stats_add(p->stats, pages_removed, region_unit_pages(r));
	if (was == PAGE_PRESENT)
		return;
	count_final(p, r, 1);
	/*
	 * Its threads fault again and find it removed; the answer will be dropped.
	 * Also of a MISSING one: it may have been REQUESTED until a placement that
	 * must be tried again gave up its claim.
	 */
	resolve_wake(p->uffd, region_unit_hva(r, unit), region_unit_bytes(r));
}
