/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Answers to PageRequests. Called by an urgent link for each request and when
 * its out buffer has drained. Every page of a request is answered exactly once.
 * While the out buffer is full nothing more is read from the destination, so
 * what waits here is one request; and, of an inbound export, those that are parked.
 */
#include "source/serve_urgent.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "source/link.h"
#include "source/page_frame.h"

/* Every run inside one region, and not too many pages together. */
static bool check_request(struct link *link, const struct page_message *m, uint32_t *ret_pages)
{
	const struct page_runs *runs = &m->page_request.runs;
	uint64_t pages = 0;
	struct error err;

	for (size_t i = 0; i < runs->n_runs; i++) {
		const struct page_run *run = &runs->runs[i];

		if (region_table_check_run(link->export->regions, run->first, run->count, &err) <
		    0) {
			link_fail(link, WIRE_ERROR_BAD_PAGE, "PageRequest %" PRIu64 ": %s",
			          m->page_request.id, err.text);
			return false;
		}
		pages += run->count;
	}
	if (pages == 0 || pages > URGENT_REQUEST_PAGES_MAX) {
		link_fail(link, WIRE_ERROR_PROTOCOL,
		          "PageRequest %" PRIu64 " is for %" PRIu64
		          " pages, expected 1 to %d: split it",
		          m->page_request.id, pages, URGENT_REQUEST_PAGES_MAX);
		return false;
	}
	*ret_pages = (uint32_t)pages;
	return true;
}

static void begin_answer(struct serve_urgent *u, uint64_t id, const struct page_run *runs,
                         size_t n_runs, uint32_t pages)
{
	memcpy(u->runs, runs, n_runs * sizeof(*runs));
	u->n_runs = n_runs;
	u->pages_left = pages;
	u->id = id;
	u->run = 0;
	u->done = 0;
	u->busy = true;
}

/* Not all of it has come to this host yet: have it fetched, and answer later. */
static void park_request(struct link *link, uint64_t id, const struct page_runs *runs,
                         uint32_t pages)
{
	struct export *e = link->export;
	bool news = false;

	if (urgent_park(&link->urgent.parked, id, runs->runs, runs->n_runs, pages) < 0) {
		link_serve_failed(link, -ENOMEM);
		return;
	}
	for (size_t i = 0; i < runs->n_runs; i++)
		news |= inbound_ask(e->inbound, runs->runs[i].first, runs->runs[i].count);
	if (news)
		export_ask(e);
}

void serve_urgent_request(struct link *link, const struct page_message *m)
{
	struct serve_urgent *u = &link->urgent;
	const struct page_runs *runs = &m->page_request.runs;
	uint32_t pages = 0;

	if (!check_request(link, m, &pages) || !link_may_serve(link, "PageRequest"))
		return;
	for (size_t i = 0; i < runs->n_runs; i++)
		export_drop_wanted(link->export, runs->runs[i].first, runs->runs[i].count);
	atomic_fetch_add_explicit(&link->export->stats.requests, 1, memory_order_relaxed);
	if (urgent_runs_known(link->export->inbound, runs->runs, runs->n_runs))
		begin_answer(u, m->page_request.id, runs->runs, runs->n_runs, pages);
	else
		park_request(link, m->page_request.id, runs, pages);
	serve_urgent_continue(link);
}

void serve_urgent_news(struct link *link)
{
	link->urgent.parked.news = true;
	if (!link->urgent.busy)
		serve_urgent_continue(link);
}

void serve_urgent_fini(struct link *link)
{
	urgent_parked_free(&link->urgent.parked);
}

/* Go on with a parked request whose pages have come. */
static bool unpark(struct link *link)
{
	struct serve_urgent *u = &link->urgent;
	struct parked_request *q = urgent_unpark(&u->parked, link->export->inbound);

	if (!q)
		return false;
	begin_answer(u, q->id, q->runs, q->n_runs, q->pages);
	free(q);
	return true;
}

/* Put the next pages of the request into the frame. 0, or -errno of the read. */
static int fill_frame(struct link *link, struct page_frame *f)
{
	struct serve_urgent *u = &link->urgent;

	while (u->run < u->n_runs && page_frame_room(f) > 0) {
		const struct page_run *run = &u->runs[u->run];
		ssize_t n = page_frame_add(f, run->first + u->done, run->count - u->done);

		if (n < 0)
			return (int)n;
		u->done += (uint32_t)n;
		u->pages_left -= (uint32_t)n;
		if (u->done == run->count) {
			u->run++;
			u->done = 0;
		}
	}
	return 0;
}

/* One frame. 0, -ENOBUFS, or the error that ends the link. */
static int answer_frame(struct link *link)
{
	struct serve_urgent *u = &link->urgent;
	const struct page_run *run = &u->runs[u->run];
	unsigned data_max = MIN(u->pages_left, (uint32_t)PAGE_PAYLOAD_PAGES_MAX);
	struct page_frame f;
	int r = page_frame_begin(&f, link->channel, link->export, u->id, data_max,
	                         run->first + u->done, run->count - u->done);

	if (r < 0)
		return r;
	r = fill_frame(link, &f);
	if (r < 0) {
		page_frame_abort(&f);
		return r;
	}
	atomic_fetch_add_explicit(&link->export->stats.pages_urgent, f.n_pages,
	                          memory_order_relaxed);
	return page_frame_end(&f);
}

void serve_urgent_continue(struct link *link)
{
	struct serve_urgent *u = &link->urgent;

	while ((u->busy || unpark(link)) && !link->closing && !link_given_up(link)) {
		int r = answer_frame(link);

		if (r == -ENOBUFS) {
			channel_pause_reading(link->channel);
			return;
		}
		if (r < 0) {
			link_serve_failed(link, r);
			return;
		}
		u->busy = u->run < u->n_runs;
	}
	if (urgent_parked_full(&u->parked))
		channel_pause_reading(link->channel);
	else
		channel_resume_reading(link->channel);
}
