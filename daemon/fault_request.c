/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Role: the second step of a fault: its unit goes into the in-flight table, and as a
 * PageRequest to the source. Called by fault_event.c and fault_mapping.c, and by
 * fault_answer.c for what is left to be asked for.
 *
 * Always holds: an entry is sent, or counted in n_unsent until there is a connection and,
 * for a huge page, a buffer.
 */
#include "daemon/fault_path_parts.h"

#define PIECES_AHEAD 2 /* on their way at a time, so that the source always has one to send */
/* A page of 1 GiB is asked for in such pieces, so that the faults beside it need not wait for it. */
#define PIECE_PAGES 1024U /* the most that a source takes in one PageRequest */

void fault_request_flush(struct fault_path *fp)
{
	if (fp->batch_len == 0)
		return;
	/*
	 * Cannot fail for want of room: all of the table's requests fit the out
	 * buffer. A link that is down reports itself, and all is asked again.
	 */
	if (fp->link)
		(void)source_link_send_raw(fp->link, fp->batch, fp->batch_len);
	fp->batch_len = 0;
}

/* A buffer for the pieces of a huge page; -EBUSY when all are in use. */
static int assembly_take(struct fault_path *fp, const struct region *r, struct in_flight_entry *e)
{
	struct assembly *a;

	if (fp->n_free_assemblies == 0)
		return -EBUSY;
	a = fp->assemblies[--fp->n_free_assemblies];
	fp->assemblies[fp->n_free_assemblies] = NULL;
	assembly_start(a, e->unit, region_unit_pages(r));
	e->assembly = a;
	return 0;
}

void fault_request_release(struct fault_path *fp, struct in_flight_entry *e)
{
	if (!e->assembly)
		return;
	assembly_clear(e->assembly);
	fp->assemblies[fp->n_free_assemblies++] = e->assembly;
	e->assembly = NULL;
}

static void request_encode(struct fault_path *fp, uint64_t id, const struct page_run *run)
{
	struct page_message m = {.type = PAGE_MESSAGE_PAGE_REQUEST,
	                         .page_request = {.id = id, .runs = {run, 1}}};
	ssize_t n;

	if (sizeof(fp->batch) - fp->batch_len < REQUEST_BYTES_MAX)
		fault_request_flush(fp);
	n = page_message_encode(&m, fp->batch + fp->batch_len, sizeof(fp->batch) - fp->batch_len);
	if (n < 0) {
		fault_complain(fp, "cannot encode a request", run->first);
		return;
	}
	fp->batch_len += (size_t)n;
	stats_add(fp->placer.stats, requests, 1);
}

static uint32_t pages_got(const struct in_flight_entry *e)
{
	const struct assembly *a = e->assembly;

	return a ? a->n_got : 0;
}

/* What was asked for: the whole unit, unless it was poisoned or placed before the last piece. */
bool fault_request_is_answered(const struct in_flight_entry *e)
{
	return !e->assembly || pages_got(e) == e->n_asked;
}

void fault_request_pieces(struct fault_path *fp, const struct region *r, struct in_flight_entry *e)
{
	enum page_state state = page_map_get(fp->placer.map, e->unit);
	uint32_t n_pages = region_unit_pages(r), n_got = pages_got(e);

	/* Final meanwhile: not to its end. But each entry is asked for, or nothing would end it. */
	if (e->n_asked > 0 &&
	    (state == PAGE_PRESENT || state == PAGE_POISONED || state == PAGE_REMOVED))
		return;
	while (e->n_asked < n_pages && e->n_asked - n_got < PIECES_AHEAD * PIECE_PAGES) {
		struct page_run run = {.first = region_unit_page(r, e->unit) + e->n_asked,
		                       .count = MIN(n_pages - e->n_asked, PIECE_PAGES)};

		request_encode(fp, e->id, &run);
		e->n_asked += run.count;
	}
}

static void request_send(struct fault_path *fp, struct in_flight_entry *e)
{
	const struct region *r = region_find_unit(fp->params.regions, e->unit);

	if (region_unit_pages(r) > 1 && assembly_take(fp, r, e) < 0)
		return;
	e->n_asked = 0;
	fault_request_pieces(fp, r, e);
	e->sent = true;
	fp->n_unsent--;
	atomic_store_explicit(fp->params.last_fault_page,
	                      region_unit_page(r, e->unit) + region_unit_pages(r) - 1,
	                      memory_order_relaxed);
}

void fault_request_unsent(struct fault_path *fp)
{
	struct in_flight_entry *e;
	uint32_t cursor = 0;

	if (!fp->serving || fp->n_unsent == 0)
		return;
	while ((e = in_flight_next(fp->in_flight, &cursor)))
		if (!e->sent)
			request_send(fp, e);
	fault_request_flush(fp);
}

/*
 * More units are asked for than the table has room: give this one back. Its
 * threads fault again, and find room when others were answered.
 */
static void request_refuse(struct fault_path *fp, const struct region *r, uint64_t unit)
{
	if (page_map_claim(fp->placer.map, unit))
		page_map_release(fp->placer.map, unit);
	placement_wake(&fp->placer, r, unit, 1);
}

static void request_add(struct fault_path *fp, const struct region *r, uint64_t unit,
                        uint64_t now_ns)
{
	struct in_flight_entry *e = in_flight_add(fp->in_flight, unit, now_ns);

	if (!e) {
		request_refuse(fp, r, unit);
		return;
	}
	fp->n_unsent++;
	if (fp->serving)
		request_send(fp, e);
}

enum page_state fault_request_unit(struct fault_path *fp, const struct region *r, uint64_t unit,
                                   uint64_t now_ns)
{
	enum page_state s = page_map_request(fp->placer.map, unit);

	if (s == PAGE_MISSING)
		request_add(fp, r, unit, now_ns);
	else if (page_state_is_final(s))
		stats_add(fp->placer.stats, faults_local, 1);
	else
		stats_add(fp->placer.stats, faults_coalesced, 1);
	return s;
}
