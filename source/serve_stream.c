/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The background stream. Pages are read when there is room to send them and not
 * before: the only queue is the channel's, kept short so that a change of
 * position takes effect soon. A unit (what the destination places at once) that
 * has begun is sent to its end, in order and with nothing else in between.
 */
#include "source/serve_stream.h"

#include <errno.h>
#include <inttypes.h>

#include "core/clock.h"
#include "source/link.h"
#include "source/page_frame.h"

/* Frames for one turn of the loop: 4 MiB, some milliseconds. */
#define FRAMES_PER_TURN 16
/* With a bandwidth limit: the pieces by which it is kept. */
#define SLICES_PER_SECOND 20

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	serve_stream_pump(arg);
}

int serve_stream_init(struct link *link, uint64_t bandwidth_cap)
{
	struct serve_stream *s = &link->stream;
	size_t n_regions = link->export->regions->n_regions;

	s->want = atomic_load(&link->export->want[link->lane]);
	s->probe.timer = evtimer_new(loop_base(link->loop), on_timer, link);
	s->bandwidth_cap = s->bandwidth = bandwidth_cap;
	s->refilled_ns = clock_monotonic_ns();
	/* What the connection before did not deliver, Resume will ask for again. */
	want_drop(s->want, 0, link->export->regions->n_pages);
	s->unit_pages = calloc(n_regions, sizeof(*s->unit_pages));
	s->timer = evtimer_new(loop_base(link->loop), on_timer, link);
	if (!s->unit_pages || !s->timer || !s->probe.timer)
		return -ENOMEM;
	for (size_t i = 0; i < n_regions; i++)
		s->unit_pages[i] = 1;
	return 0;
}

void serve_stream_fini(struct link *link)
{
	struct serve_stream *s = &link->stream;

	if (s->timer)
		event_free(s->timer);
	if (s->probe.timer)
		event_free(s->probe.timer);
	free(s->unit_pages);
	s->timer = s->probe.timer = NULL;
	s->unit_pages = NULL;
}

/* The regions that the range touches have units of this size. */
static void set_units(struct link *link, uint64_t first, uint64_t count, uint32_t unit_pages)
{
	const struct region_table *t = link->export->regions;

	for (size_t i = 0; i < t->n_regions; i++) {
		const struct source_region *r = &t->regions[i];

		if (first < r->first_page + r->n_pages && r->first_page < first + count)
			link->stream.unit_pages[i] = unit_pages;
	}
}

/* With huge units the range must be whole units of one region. */
static bool resume_fits(const struct region_table *t, uint64_t first, uint64_t count,
                        uint32_t unit_pages)
{
	const struct source_region *r;

	if (first > t->n_pages || count > t->n_pages - first)
		return false;
	if (unit_pages == 1 || count == 0)
		return true;
	r = region_table_find_page(t, first);
	return r && is_aligned(first - r->first_page, unit_pages) &&
	       count <= r->n_pages - (first - r->first_page);
}

static bool check_resume(struct link *link, uint64_t first, uint64_t count, uint32_t unit_pages)
{
	const struct region_table *t = link->export->regions;

	if (resume_fits(t, first, count, unit_pages))
		return true;
	link_fail(link, WIRE_ERROR_BAD_PAGE,
	          "Resume: pages %" PRIu64 " + %" PRIu64 " in units of %" PRIu32
	          " are outside every region, or not whole units of one: the export has %" PRIu64
	          " pages",
	          first, count, unit_pages, t->n_pages);
	return false;
}

void serve_stream_resume(struct link *link, const struct page_message *m)
{
	struct serve_stream *s = &link->stream;
	uint64_t first = m->resume.first, count = m->resume.count;

	/* Whoever has not heard that its Complete came connects again, and wants nothing. */
	if (count == 0 && m->resume.last && export_state(link->export) == EXPORT_RELEASED) {
		link->end_due = true;
		link_flush(link);
		return;
	}
	if (!link_may_serve(link, "Resume") ||
	    !check_resume(link, first, count, m->resume.unit_pages))
		return;
	if (!s->collecting) {
		/* A new round replaces the old one; a unit that has begun goes on to its end. */
		want_drop(s->want, 0, link->export->regions->n_pages);
		s->collecting = true;
		s->running = false;
	}
	set_units(link, first, count, m->resume.unit_pages);
	if (m->resume.bitmap)
		want_add_units(s->want, first, count / m->resume.unit_pages, m->resume.unit_pages,
		               m->resume.bitmap);
	else
		want_add(s->want, first, count);
	if (!m->resume.last)
		return;
	s->collecting = false;
	s->running = true;
	serve_stream_pump(link);
}

static void set_position(struct serve_stream *s, uint64_t position, uint32_t window)
{
	if (window > 0 && s->window_left == 0)
		s->return_position = s->position;
	s->position = position;
	s->window_left = window;
	s->probe.at = position;
}

void serve_stream_control(struct link *link, const struct page_message *m)
{
	struct serve_stream *s = &link->stream;
	uint64_t n_pages = link->export->regions->n_pages;

	if (export_state(link->export) == EXPORT_EXPORTED) {
		link_fail(link, WIRE_ERROR_NOT_FROZEN,
		          "StreamControl before the source is frozen: wait for Frozen");
		return;
	}
	if (m->stream_control.has_position && m->stream_control.position >= n_pages) {
		link_fail(link, WIRE_ERROR_BAD_PAGE,
		          "StreamControl.position %" PRIu64
		          " is outside every region: the export has %" PRIu64 " pages",
		          m->stream_control.position, n_pages);
		return;
	}
	if (m->stream_control.has_position)
		set_position(s, m->stream_control.position, m->stream_control.window);
	if (m->stream_control.has_bandwidth) {
		s->bandwidth = m->stream_control.bandwidth;
		if (s->bandwidth == 0 || (s->bandwidth_cap && s->bandwidth > s->bandwidth_cap))
			s->bandwidth = s->bandwidth_cap;
		s->tokens = 0;
		s->refilled_ns = clock_monotonic_ns();
	}
	serve_stream_pump(link);
}

static struct page_run unit_of(const struct link *link, uint64_t page)
{
	const struct region_table *t = link->export->regions;
	const struct source_region *r = region_table_find_page(t, page);
	uint32_t unit_pages = link->stream.unit_pages[r - t->regions];
	/* Units count from the region's start, whatever its first page's number is. */
	uint64_t start = page - ((page - r->first_page) & ((uint64_t)unit_pages - 1));

	return (struct page_run){
	        .first = start,
	        .count = (uint32_t)MIN((uint64_t)unit_pages, r->first_page + r->n_pages - start),
	};
}

/* The first page of a unit that is wanted, and has come to this host as a whole. */
static uint64_t next_sendable(const struct link *link, uint64_t from)
{
	const struct inbound *in = link->export->inbound;
	const struct want *w = link->stream.want;
	uint64_t n_pages = link->export->regions->n_pages, page;

	if (inbound_all_known(in))
		return want_next(w, from);
	while ((page = inbound_next_wanted(in, w, from, true)) < n_pages) {
		struct page_run unit = unit_of(link, page);

		if (inbound_known(in, unit.first, unit.count))
			break;
		from = unit.first + unit.count;
	}
	return page;
}

/* From the position on, in the window first, then where it was, then from the start. */
static uint64_t next_wanted(struct link *link, uint64_t n_pages)
{
	struct serve_stream *s = &link->stream;
	uint64_t page = next_sendable(link, s->position);

	if (page == n_pages && s->window_left > 0) {
		s->window_left = 0;
		s->position = s->return_position;
		page = next_sendable(link, s->position);
	}
	if (page == n_pages)
		page = next_sendable(link, 0);
	return page;
}

static bool take_unit(struct link *link, uint64_t page)
{
	struct serve_stream *s = &link->stream;
	struct page_run unit = unit_of(link, page);

	if (want_drop(s->want, unit.first, unit.count) == 0)
		return false; /* an urgent link was faster */
	s->unit_at = unit.first;
	s->unit_end = unit.first + unit.count;
	return true;
}

/* Single pages: a run of them, none beyond the region or the window. */
static bool take_run(struct link *link, const struct source_region *r, uint64_t page)
{
	struct serve_stream *s = &link->stream;
	uint64_t max = r->first_page + r->n_pages - page;
	uint64_t n, first;

	if (s->window_left > 0)
		max = MIN(max, (uint64_t)s->window_left);
	max = inbound_known_run(link->export->inbound, page, max);
	n = want_take(s->want, page, max, &first);
	if (n == 0)
		return false;
	if (!inbound_known(link->export->inbound, first, n)) {
		want_add(s->want, first, n); /* others than those that were looked at */
		return false;
	}
	/* Somebody cleared up to here: what was found may lie in the next region. */
	if (first >= r->first_page + r->n_pages || n > r->first_page + r->n_pages - first) {
		want_add(s->want, first, n);
		return false;
	}
	s->unit_at = first;
	s->unit_end = first + n;
	return true;
}

/* A unit was taken: go on behind it, or, at the window's end, where it was before. */
static void move_on(struct serve_stream *s)
{
	uint64_t n = s->unit_end - s->unit_at;

	s->position = s->unit_end;
	if (s->window_left == 0)
		return;
	s->window_left -= (uint32_t)MIN(n, (uint64_t)s->window_left);
	if (s->window_left == 0)
		s->position = s->return_position;
}

/* Choose what to send next. False: nothing is wanted any more. */
static bool next_unit(struct link *link)
{
	struct serve_stream *s = &link->stream;
	const struct region_table *t = link->export->regions;

	while (s->unit_at == s->unit_end) {
		uint64_t page = next_wanted(link, t->n_pages);
		const struct source_region *r = region_table_find_page(t, page);

		if (!r)
			return false;
		uint32_t unit_pages = s->unit_pages[r - t->regions];

		if (unit_pages > 1 ? take_unit(link, page) : take_run(link, r, page))
			move_on(s);
	}
	return true;
}

static int fill_frame(struct link *link, struct page_frame *f)
{
	struct serve_stream *s = &link->stream;

	while (page_frame_room(f) > 0 && next_unit(link)) {
		uint64_t left = s->unit_end - s->unit_at;
		ssize_t n =
		        page_frame_add(f, s->unit_at, (uint32_t)MIN(left, (uint64_t)UINT32_MAX));

		if (n < 0)
			return (int)n;
		s->unit_at += (uint64_t)n;
		s->sent += (uint64_t)n;
	}
	return 0;
}

/* A slow stream gets small frames, so that its rate is even. */
static unsigned frame_pages(const struct serve_stream *s)
{
	uint64_t pages = s->bandwidth / SLICES_PER_SECOND / WIRE_PAGE_SIZE;

	if (s->bandwidth == 0 || pages > PAGE_PAYLOAD_PAGES_MAX)
		return PAGE_PAYLOAD_PAGES_MAX;
	return pages > 0 ? (unsigned)pages : 1;
}

/* 1: sent, 0: nothing is left, -ENOBUFS, or the error that ends the link. */
static int send_frame(struct link *link)
{
	struct serve_stream *s = &link->stream;
	struct page_frame f;
	int r;

	if (!next_unit(link))
		return 0;
	r = page_frame_begin(
	        &f, link->channel, link->export, 0, frame_pages(s), s->unit_at,
	        (uint32_t)MIN(s->unit_end - s->unit_at, (uint64_t)PAGE_PAYLOAD_PAGES_MAX));
	if (r < 0)
		return r;
	r = fill_frame(link, &f);
	if (r < 0) {
		page_frame_abort(&f);
		return r;
	}
	atomic_fetch_add_explicit(&link->export->stats.pages_stream, f.n_pages,
	                          memory_order_relaxed);
	s->tokens -= (int64_t)(f.n_data * WIRE_PAGE_SIZE + 64 + 16 * f.n_runs);
	r = page_frame_end(&f);
	return r < 0 ? r : 1;
}

static void refill(struct serve_stream *s)
{
	uint64_t now = clock_monotonic_ns();
	double earned = (double)(now - s->refilled_ns) * (double)s->bandwidth / 1e9;
	double most = (double)s->bandwidth / SLICES_PER_SECOND + WIRE_PAGE_SIZE;
	double tokens = (double)s->tokens + earned;

	s->refilled_ns = now;
	tokens = MIN(tokens, most);
	s->tokens = tokens < 9e18 ? (int64_t)tokens : INT64_MAX;
}

/* May something be sent now? Otherwise the timer is set for when it may. */
static bool within_bandwidth(struct serve_stream *s)
{
	if (s->bandwidth == 0)
		return true;
	refill(s);
	if (s->tokens > 0)
		return true;
	uint64_t wait_us = (uint64_t)((double)(1 - s->tokens) * 1e6 / (double)s->bandwidth) + 1000;
	struct timeval tv = {.tv_sec = (time_t)(wait_us / 1000000),
	                     .tv_usec = (suseconds_t)(wait_us % 1000000)};

	evtimer_add(s->timer, &tv);
	return false;
}

static void on_pump_posted(void *arg)
{
	struct link *link = arg;

	link->stream.pump_posted = false;
	serve_stream_pump(link);
}

/* Let the loop look at other events, then go on. */
static void pump_later(struct link *link)
{
	struct serve_stream *s = &link->stream;

	if (s->pump_posted)
		return;
	s->pump_posted = loop_post(link->loop, on_pump_posted, link) == 0;
	if (!s->pump_posted) {
		struct timeval tv = {.tv_usec = 1000};

		evtimer_add(s->timer, &tv);
	}
}

void serve_stream_pump(struct link *link)
{
	struct serve_stream *s = &link->stream;

	for (int i = 0; i < FRAMES_PER_TURN; i++) {
		if (!s->running || link->closing || link->end_due || link_given_up(link) ||
		    channel_queued(link->channel) > LINK_STREAM_LOW_WATER_BYTES ||
		    !within_bandwidth(s))
			return;
		stream_probe_pump(link);
		int r = send_frame(link);

		if (r == 0 && !inbound_all_known(link->export->inbound) && want_count(s->want) > 0)
			return; /* what is left has not come here yet: link_on_wake() or the probe's timer */
		if (r == -ENOBUFS)
			return; /* on_drained comes */
		if (r < 0) {
			link_serve_failed(link, r);
			return;
		}
		if (r == 0) {
			s->running = false;
			link->end_due = true;
			link_flush(link);
			return;
		}
	}
	pump_later(link);
}
