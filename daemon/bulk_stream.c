/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Role: take in the stream. Runs on a lane's bulk thread. A round begins with
 * Resume messages that name what is missing and ends with the source's
 * Progress{end}; rounds follow until nothing is missing, so that a page that
 * was dropped (an incomplete huge page, a lost link) comes again.
 */
#include "daemon/bulk_stream.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <string.h>

#include "daemon/assembly.h"
#include "daemon/fault_path.h"

#define WINDOW_GROWTH_MAX 64 /* times the configured window */
#define NEXT_ROUND_MS 100    /* after a round that brought nothing */
#define RESUME_UNITS_MAX ((uint64_t)FRAME_PAYLOAD_MAX * 8)
/* An urgent answer must not wait behind megabytes in this socket's path. */
#define STREAM_SOCKET_BUFFER_BYTES (512 * 1024)
#define OUT_BUFFER_MIN_BYTES (1024 * 1024)

struct bulk_stream {
	struct bulk_stream_params params;
	struct placer placer;
	struct source_link *link;
	struct event *round_timer;
	struct assembly *assembly; /* NULL without huge pages */
	uint8_t *bitmap;           /* of one Resume message */
	uint64_t bandwidth;
	uint64_t left_before_round;
	uint32_t window_pages; /* the window now; 0: none was sent yet */
	uint64_t window_end_page;
	bool frozen; /* the source has said so on this connection */
	bool streaming;
};

static uint64_t pages_left(const struct bulk_stream *s)
{
	return atomic_load(s->placer.pages_left);
}

/* ---- what is missing ---- */

/* Bits of the units that are MISSING; returns their number. REQUESTED ones come by themselves. */
static uint64_t missing_bits(struct bulk_stream *s, uint64_t first_unit, uint64_t n_units)
{
	uint64_t n_missing = 0;

	memset(s->bitmap, 0, bitmap_bytes(n_units));
	for (uint64_t i = 0; i < n_units; i++) {
		if (page_map_get(s->placer.map, first_unit + i) != PAGE_MISSING)
			continue;
		s->bitmap[i / 8] |= (uint8_t)(1U << (i % 8));
		n_missing++;
	}
	return n_missing;
}

static int send_resume(struct bulk_stream *s, const struct region *r, uint64_t unit,
                       uint64_t n_units)
{
	uint64_t n_missing = missing_bits(s, unit, n_units);
	bool all = n_missing == n_units;
	struct page_message m = {
	        .type = PAGE_MESSAGE_RESUME,
	        .resume = {.first = region_unit_page(r, unit),
	                   .count = n_units * region_unit_pages(r),
	                   .unit_pages = region_unit_pages(r),
	                   .bitmap = all ? NULL : s->bitmap,
	                   .bitmap_len = all ? 0 : bitmap_bytes(n_units)},
	};

	if (n_missing == 0)
		return 0;
	return source_link_send_payload(s->link, &m, m.resume.bitmap, m.resume.bitmap_len);
}

static int send_region_resumes(struct bulk_stream *s, const struct region *r)
{
	uint64_t end = r->first_unit + region_n_units(r);
	int rc = 0;

	for (uint64_t unit = r->first_unit; rc == 0 && unit < end;) {
		uint64_t n = MIN(end - unit, RESUME_UNITS_MAX);

		rc = send_resume(s, r, unit, n);
		unit += n;
	}
	return rc;
}

/* An empty Resume with 'last' lets the stream start. */
static int send_resume_last(struct bulk_stream *s)
{
	struct page_message m = {.type = PAGE_MESSAGE_RESUME,
	                         .resume = {.unit_pages = 1, .last = true}};

	return source_link_send(s->link, &m);
}

static int send_bandwidth(struct bulk_stream *s)
{
	struct page_message m = {
	        .type = PAGE_MESSAGE_STREAM_CONTROL,
	        .stream_control = {.has_bandwidth = true, .bandwidth = s->bandwidth},
	};

	return source_link_send(s->link, &m);
}

static int start_round(struct bulk_stream *s, struct error *err)
{
	const struct region_table *t = s->params.regions;
	int rc = send_bandwidth(s);

	if (s->assembly)
		assembly_clear(s->assembly);
	for (size_t i = 0; rc == 0 && i < t->n_regions; i++)
		if (t->regions[i].lane == s->params.lane)
			rc = send_region_resumes(s, &t->regions[i]);
	if (rc == 0)
		rc = send_resume_last(s);
	if (rc < 0)
		return error_set_errno(err, rc, "cannot ask for the stream");
	s->streaming = true;
	s->left_before_round = pages_left(s);
	return 0;
}

static void on_round_timer(evutil_socket_t fd, short what, void *arg)
{
	struct bulk_stream *s = arg;
	struct error err = {0};

	(void)fd;
	(void)what;
	if (s->link && !s->streaming && pages_left(s) > 0 && start_round(s, &err) < 0)
		s->params.callbacks->on_warning(&err, s->params.user);
}

static int end_round(struct bulk_stream *s, struct error *err)
{
	struct timeval later = {.tv_usec = NEXT_ROUND_MS * 1000};

	s->streaming = false;
	if (pages_left(s) == 0)
		return 0;
	/* What is left is on its way to faults, or was dropped: see after a while. */
	if (pages_left(s) == s->left_before_round)
		return event_add(s->round_timer, &later) < 0 ? -ENOMEM : 0;
	return start_round(s, err);
}

/* ---- following the faults ---- */

static uint32_t next_window(struct bulk_stream *s, uint64_t page)
{
	bool inside = s->window_pages > 0 && page <= s->window_end_page &&
	              page + s->window_pages >= s->window_end_page;

	if (!inside)
		return s->params.window_pages;
	return MIN(s->window_pages * 2, s->params.window_pages * WINDOW_GROWTH_MAX);
}

/* Have the source go on behind the last faulted page. */
static int follow_faults(struct bulk_stream *s)
{
	uint64_t page = atomic_exchange_explicit(s->params.last_fault_page, FAULT_NO_PAGE,
	                                         memory_order_relaxed);
	struct page_message m = {.type = PAGE_MESSAGE_STREAM_CONTROL,
	                         .stream_control = {.has_position = true}};
	int rc;

	if (page == FAULT_NO_PAGE || s->params.window_pages == 0 || !s->streaming ||
	    !region_find_page(s->params.regions, page + 1))
		return 0;
	s->window_pages = next_window(s, page);
	s->window_end_page = page + s->window_pages;
	m.stream_control.position = page + 1;
	m.stream_control.window = s->window_pages;
	rc = source_link_send(s->link, &m);
	return rc == -ENOBUFS ? 0 : rc; /* only a hint */
}

/* ---- pages ---- */

static int place_units(struct bulk_stream *s, const struct region *r, uint64_t unit, uint64_t n,
                       enum page_kind kind, const uint8_t *bytes)
{
	switch (kind) {
	case PAGE_KIND_DATA:
		return placement_data(&s->placer, r, unit, n, bytes);
	case PAGE_KIND_ZERO:
		return placement_zero(&s->placer, r, unit, n);
	default:
		return placement_poison(&s->placer, r, unit, n, LEDGER_READ_ERROR);
	}
}

/* count pages of one huge page from in_unit on. */
static int take_piece(struct bulk_stream *s, const struct region *r, uint64_t unit,
                      uint32_t in_unit, uint32_t count, enum page_kind kind, const uint8_t *bytes,
                      struct error *err)
{
	struct assembly *a = s->assembly;
	int rc;

	if (a->unit != unit)
		assembly_start(a, unit, region_unit_pages(r));
	rc = assembly_add(a, in_unit, count, kind == PAGE_KIND_DATA ? bytes : NULL);
	if (rc < 0)
		return error_set(err, -EPROTO,
		                 "the source streamed page %" PRIu64 " twice in one round",
		                 region_unit_page(r, unit) + in_unit);
	if (kind == PAGE_KIND_POISONED)
		return place_units(s, r, unit, 1, PAGE_KIND_POISONED, NULL);
	if (!assembly_complete(a))
		return 0;
	rc = place_units(s, r, unit, 1, a->all_zero ? PAGE_KIND_ZERO : PAGE_KIND_DATA, a->buffer);
	assembly_clear(a);
	return rc;
}

static int take_huge_run(struct bulk_stream *s, const struct region *r, const struct page_run *run,
                         const uint8_t *bytes, struct error *err)
{
	uint32_t unit_pages = region_unit_pages(r), done = 0;
	int rc = 0;

	while (rc == 0 && done < run->count) {
		uint64_t page = run->first + done;
		uint64_t unit = region_unit_of_page(r, page);
		uint32_t in_unit = (uint32_t)(page - region_unit_page(r, unit));
		uint32_t count = MIN(run->count - done, unit_pages - in_unit);

		rc = take_piece(s, r, unit, in_unit, count, run->kind,
		                bytes + ((size_t)done << WIRE_PAGE_SHIFT), err);
		done += count;
	}
	return rc;
}

static int check_run(const struct bulk_stream *s, const struct page_run *run, struct error *err)
{
	uint64_t page = run->first, left = run->count;

	if (!region_run_valid(s->params.regions, page, left))
		return error_set(err, -EPROTO,
		                 "the source streamed pages %" PRIu64 "+%" PRIu32
		                 ", outside every region",
		                 run->first, run->count);
	while (left > 0) {
		const struct region *r = NULL;
		uint64_t n = region_run_part(s->params.regions, page, left, &r);

		if (r->lane != s->params.lane)
			return error_set(err, -EPROTO,
			                 "the source streamed page %" PRIu64
			                 " of region %s, which belongs to lane %" PRIu32
			                 ", not %" PRIu32,
			                 page, r->name, r->lane, s->params.lane);
		page += n;
		left -= n;
	}
	return 0;
}

/* All of a message is judged before any of it is taken. */
static int check_pages(const struct bulk_stream *s, const struct page_message *m, struct error *err)
{
	int rc = 0;

	if (m->pages.id != 0)
		return error_set(err, -EPROTO,
		                 "the source answered request %" PRIu64 " on the bulk connection",
		                 m->pages.id);
	if (!s->streaming)
		return error_set(err, -EPROTO, "the source streams pages that were not asked for");
	for (size_t i = 0; rc == 0 && i < m->pages.runs.n_runs; i++)
		rc = check_run(s, &m->pages.runs.runs[i], err);
	return rc;
}

static int take_part(struct bulk_stream *s, const struct region *r, const struct page_run *part,
                     const uint8_t *bytes, struct error *err)
{
	if (region_unit_pages(r) > 1)
		return take_huge_run(s, r, part, bytes, err);
	return place_units(s, r, region_unit_of_page(r, part->first), part->count, part->kind,
	                   bytes);
}

/* It was checked. Two pieces of a region may follow each other in one lane. */
static int take_run(struct bulk_stream *s, const struct page_run *run, const uint8_t *bytes,
                    struct error *err)
{
	struct page_run part = *run;
	uint32_t done = 0;
	int rc = 0;

	while (rc == 0 && done < run->count) {
		const struct region *r = NULL;

		part.first = run->first + done;
		part.count = (uint32_t)region_run_part(s->params.regions, part.first,
		                                       run->count - done, &r);
		rc = take_part(s, r, &part, bytes, err);
		done += part.count;
		if (run->kind == PAGE_KIND_DATA)
			bytes += (size_t)part.count << WIRE_PAGE_SHIFT;
	}
	return rc;
}

static int take_pages(struct bulk_stream *s, const struct page_message *m, struct error *err)
{
	const uint8_t *bytes = m->pages.bytes;
	int rc = check_pages(s, m, err);

	if (rc < 0)
		return rc;
	stats_add(s->placer.stats, bytes_received, m->pages.bytes_len);
	for (size_t i = 0; i < m->pages.runs.n_runs; i++) {
		const struct page_run *run = &m->pages.runs.runs[i];

		rc = take_run(s, run, bytes, err);
		/* The stop of a lane and the end of a VMM are no fault of the source's. */
		if (rc == -ESRCH || rc == -ECANCELED)
			return 0;
		if (rc < 0)
			return rc;
		if (run->kind == PAGE_KIND_DATA)
			bytes += (size_t)run->count << WIRE_PAGE_SHIFT;
	}
	return follow_faults(s);
}

static int on_message(const struct page_message *m, struct error *err, void *user)
{
	struct bulk_stream *s = user;

	switch (m->type) {
	case PAGE_MESSAGE_PAGES:
		return take_pages(s, m, err);
	case PAGE_MESSAGE_FROZEN:
		if (s->frozen)
			return error_set(err, -EPROTO, "the source says twice that it is frozen");
		s->frozen = true;
		return start_round(s, err);
	case PAGE_MESSAGE_PROGRESS:
		return m->progress.end && s->streaming ? end_round(s, err) : 0;
	default:
		return error_set(err, -EPROTO, "the source sent %s on the bulk connection",
		                 page_message_type_name(m->type));
	}
}

/* ---- the connection ---- */

static int on_welcome(const struct page_message *m, struct error *err, void *user)
{
	struct bulk_stream *s = user;
	int rc = source_link_match(m, s->params.regions, err);

	if (rc < 0)
		return rc;
	s->frozen = m->hello_ack.frozen;
	s->params.callbacks->on_connected(s->params.user);
	return s->frozen ? start_round(s, err) : 0;
}

static void on_lost(const struct error *err, bool retriable, void *user)
{
	struct bulk_stream *s = user;
	struct error e = *err;

	bulk_stream_disconnect(s);
	s->params.callbacks->on_lost(&e, retriable, s->params.user);
}

void bulk_stream_connect(struct bulk_stream *s, const struct source_link_params *link,
                         const struct addrinfo *address)
{
	static const struct source_link_callbacks callbacks = {
	        .on_welcome = on_welcome, .on_message = on_message, .on_lost = on_lost};
	struct source_link_params params = *link;
	struct error err = {0};

	bulk_stream_disconnect(s);
	params.callbacks = &callbacks;
	params.user = s;
	params.socket_buffer_bytes = STREAM_SOCKET_BUFFER_BYTES;
	/* A round's Resume messages go out in one go: a bit a unit. */
	params.out_buffer_bytes =
	        OUT_BUFFER_MIN_BYTES + 2 * bitmap_bytes(s->params.regions->n_units);
	if (source_link_new(&params, address, &s->link, &err) < 0)
		s->params.callbacks->on_lost(&err, true, s->params.user);
}

void bulk_stream_disconnect(struct bulk_stream *s)
{
	s->link = source_link_free(s->link);
	s->streaming = false;
	s->window_pages = 0;
	event_del(s->round_timer);
	if (s->assembly)
		assembly_clear(s->assembly);
}

void bulk_stream_set_bandwidth(struct bulk_stream *s, uint64_t bytes_per_second)
{
	s->bandwidth = bytes_per_second;
	if (s->link && s->streaming)
		(void)send_bandwidth(s); /* a dead link gets it at the next round */
}

bool bulk_stream_wait_retry(struct bulk_stream *s, bool changing)
{
	struct pollfd stop = {.fd = s->params.stop_fd, .events = POLLIN};
	/* The urgent thread reads the event; the kernel tells nobody else when. */
	int n = poll(&stop, 1, changing ? 1 : 10);

	return n == 0 || (n < 0 && errno == EINTR);
}

/* ---- life ---- */

static int make_buffers(struct bulk_stream *s)
{
	const struct region_table *t = s->params.regions;
	uint64_t units = 0, unit_bytes = 0;

	for (size_t i = 0; i < t->n_regions; i++) {
		units = MAX(units, region_n_units(&t->regions[i]));
		if (t->regions[i].lane == s->params.lane)
			unit_bytes = MAX(unit_bytes, region_unit_bytes(&t->regions[i]));
	}
	s->bitmap = malloc(bitmap_bytes(MIN(units, RESUME_UNITS_MAX)));
	s->round_timer = event_new(loop_base(s->params.loop), -1, 0, on_round_timer, s);
	if (!s->bitmap || !s->round_timer)
		return -ENOMEM;
	return unit_bytes > WIRE_PAGE_SIZE ? assembly_new(unit_bytes, &s->assembly) : 0;
}

int bulk_stream_new(const struct bulk_stream_params *params, struct bulk_stream **ret)
{
	_cleanup_(cleanup_bulk_stream_free) struct bulk_stream *s = calloc(1, sizeof(*s));
	int rc;

	if (!s)
		return -ENOMEM;
	s->params = *params;
	s->placer = params->placer;
	rc = make_buffers(s);
	if (rc < 0)
		return rc;
	*ret = TAKE_PTR(s);
	return 0;
}

struct bulk_stream *bulk_stream_free(struct bulk_stream *s)
{
	if (!s)
		return NULL;
	if (s->round_timer) {
		bulk_stream_disconnect(s);
		event_free(s->round_timer);
	}
	assembly_free(s->assembly);
	free(s->bitmap);
	free(s);
	return NULL;
}
