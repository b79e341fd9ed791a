/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Role: the way back: what the source says is matched with what was asked for, and placed.
 * Called by fault_path.c for each message.
 *
 * Always holds: a message is judged as a whole before any of it is taken.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "core/clock.h"
#include "daemon/fault_path_parts.h"

static void request_end(struct fault_path *fp, struct in_flight_entry *e)
{
	histogram_record(&fp->placer.stats->fault_ns, clock_monotonic_ns() - e->started_ns);
	fault_request_release(fp, e);
	in_flight_remove(fp->in_flight, e);
	if (fp->n_unsent > 0)
		fault_request_unsent(fp);
}

static int place_run(struct fault_path *fp, const struct region *r, uint64_t unit,
                     enum page_kind kind, const uint8_t *bytes)
{
	switch (kind) {
	case PAGE_KIND_DATA:
		return placement_data(&fp->placer, r, unit, 1, bytes);
	case PAGE_KIND_ZERO:
		return placement_zero(&fp->placer, r, unit, 1);
	default:
		return placement_poison(&fp->placer, r, unit, 1, LEDGER_READ_ERROR);
	}
}

/* A piece of a huge page. One poisoned piece poisons the whole; the rest is awaited and dropped. */
static int take_piece(struct fault_path *fp, const struct region *r, struct in_flight_entry *e,
                      const struct page_run *run, const uint8_t *bytes, struct error *err)
{
	struct assembly *a = e->assembly;
	uint64_t in_unit = run->first - region_unit_page(r, e->unit);
	int rc;

	rc = assembly_add(a, (uint32_t)in_unit, run->count,
	                  run->kind == PAGE_KIND_DATA ? bytes : NULL);
	if (rc < 0)
		return error_set(err, -EPROTO,
		                 "the source answered page %" PRIu64 " of request %" PRIu64
		                 " twice",
		                 run->first, e->id);
	if (run->kind == PAGE_KIND_POISONED)
		rc = place_run(fp, r, e->unit, PAGE_KIND_POISONED, NULL);
	else if (assembly_complete(a))
		rc = place_run(fp, r, e->unit, a->all_zero ? PAGE_KIND_ZERO : PAGE_KIND_DATA,
		               a->buffer);
	return rc;
}

static int check_answer(struct fault_path *fp, const struct in_flight_entry *e,
                        const struct page_runs *runs, struct error *err)
{
	const struct region *r = region_find_unit(fp->params.regions, e->unit);
	uint64_t first = region_unit_page(r, e->unit);
	uint32_t n_pages = e->n_asked;

	for (size_t i = 0; i < runs->n_runs; i++) {
		const struct page_run *run = &runs->runs[i];

		if (run->first < first || run->first - first >= n_pages ||
		    run->count > n_pages - (run->first - first))
			return error_set(err, -EPROTO,
			                 "the source answered request %" PRIu64
			                 " for pages %" PRIu64 "+%" PRIu32 " with pages %" PRIu64
			                 "+%" PRIu32,
			                 e->id, first, n_pages, run->first, run->count);
	}
	return 0;
}

static int take_answer_run(struct fault_path *fp, struct in_flight_entry *e,
                           const struct page_run *run, const uint8_t *bytes, struct error *err)
{
	const struct region *r = region_find_unit(fp->params.regions, e->unit);

	if (region_unit_pages(r) > 1)
		return take_piece(fp, r, e, run, bytes, err);
	return place_run(fp, r, e->unit, run->kind, bytes);
}

/* The stop of a lane and the end of a VMM are no fault of the source's. */
static int placement_result(int rc)
{
	return rc == -ESRCH || rc == -ECANCELED ? 0 : rc;
}

int fault_answer_pages(struct fault_path *fp, const struct page_message *m, struct error *err)
{
	struct in_flight_entry *e = in_flight_find(fp->in_flight, m->pages.id);
	const uint8_t *bytes = m->pages.bytes;
	uint64_t n_pages = 0;
	int rc;

	if (!e || !e->sent)
		return error_set(err, -EPROTO,
		                 "the source answered request %" PRIu64
		                 ", which was never sent or is answered already",
		                 m->pages.id);
	rc = check_answer(fp, e, &m->pages.runs, err);
	if (rc < 0)
		return rc;
	stats_add(fp->placer.stats, bytes_received, m->pages.bytes_len);
	for (size_t i = 0; i < m->pages.runs.n_runs; i++) {
		const struct page_run *run = &m->pages.runs.runs[i];

		rc = take_answer_run(fp, e, run, bytes, err);
		if (placement_result(rc) < 0)
			return rc;
		n_pages += run->count;
		if (run->kind == PAGE_KIND_DATA)
			bytes += (size_t)run->count << WIRE_PAGE_SHIFT;
	}
	if (e->assembly) {
		fault_request_pieces(fp, region_find_unit(fp->params.regions, e->unit), e);
		fault_request_flush(fp);
	}
	if (n_pages > 0 && fault_request_is_answered(e))
		request_end(fp, e);
	return 0;
}

static enum ledger_reason reason_of(enum poison_reason reason)
{
	switch (reason) {
	case POISON_REASON_READ_ERROR:
		return LEDGER_READ_ERROR;
	case POISON_REASON_INHERITED:
		return LEDGER_INHERITED;
	default:
		return LEDGER_REPORTED;
	}
}

static int check_poison(const struct fault_path *fp, const struct page_runs *runs,
                        struct error *err)
{
	for (size_t i = 0; i < runs->n_runs; i++) {
		const struct page_run *run = &runs->runs[i];

		if (!region_run_valid(fp->params.regions, run->first, run->count))
			return error_set(err, -EPROTO,
			                 "the source reports poison for pages %" PRIu64 "+%" PRIu32
			                 ", outside every region",
			                 run->first, run->count);
	}
	return 0;
}

/* What of it is in this lane's pieces; the other lanes are told as well. */
static int take_poison_run(struct fault_path *fp, const struct page_run *run,
                           enum ledger_reason reason)
{
	uint64_t page = run->first, left = run->count;
	int rc = 0;

	while (rc == 0 && left > 0) {
		const struct region *r = NULL;
		uint64_t n = region_run_part(fp->params.regions, page, left, &r);

		if (r->lane == fp->params.lane) {
			uint64_t first = region_unit_of_page(r, page);
			uint64_t last = region_unit_of_page(r, page + n - 1);

			rc = placement_result(
			        placement_poison(&fp->placer, r, first, last - first + 1, reason));
		}
		page += n;
		left -= n;
	}
	return rc;
}

int fault_answer_poison(struct fault_path *fp, const struct page_message *m, struct error *err)
{
	const struct page_runs *runs = &m->poison_notice.runs;
	enum ledger_reason reason = reason_of(m->poison_notice.reason);
	int rc = check_poison(fp, runs, err);

	for (size_t i = 0; rc == 0 && i < runs->n_runs; i++)
		rc = take_poison_run(fp, &runs->runs[i], reason);
	return rc;
}
