/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Answers to PageRequests. Called by an urgent link for each request and when
 * its out buffer has drained. Every page of a request is answered exactly once.
 * While the out buffer is full nothing more is read from the destination, so
 * what waits here is one request.
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

void serve_urgent_request(struct link *link, const struct page_message *m)
{
	struct serve_urgent *u = &link->urgent;
	const struct page_runs *runs = &m->page_request.runs;

	if (!check_request(link, m, &u->pages_left) || !link_may_serve(link, "PageRequest"))
		return;
	for (size_t i = 0; i < runs->n_runs; i++)
		export_drop_wanted(link->export, runs->runs[i].first, runs->runs[i].count);
	memcpy(u->runs, runs->runs, runs->n_runs * sizeof(*runs->runs));
	u->n_runs = runs->n_runs;
	u->id = m->page_request.id;
	u->run = 0;
	u->done = 0;
	u->busy = true;
	atomic_fetch_add_explicit(&link->export->stats.requests, 1, memory_order_relaxed);
	serve_urgent_continue(link);
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

	while (u->busy && !link->closing && !link_given_up(link)) {
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
	channel_resume_reading(link->channel);
}
