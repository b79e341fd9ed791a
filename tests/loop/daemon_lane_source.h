/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A source that behaves, on a thread of its own, and the proof that after
 * whatever happened before the guest has every byte right.
 */
#ifndef LOOP_DAEMON_LANE_SOURCE_H
#define LOOP_DAEMON_LANE_SOURCE_H

#include <sys/eventfd.h>

#include "loop/daemon_lane_fixture.h"

struct source {
	struct bed *bed;
	uint32_t lane;
	pthread_t thread;
	int stop_fd;
	struct links links;
	bool *wanted;
};

static inline bool peer_buffered(struct peer *p)
{
	struct error err;
	struct frame frame;

	return frame_parse(p->buf + p->used, p->len - p->used, &frame, &err) != 0 ||
	       SSL_has_pending(p->ssl);
}

/* Pages first .. first + count - 1, of which none is unwanted, as runs of one kind each. */
static inline void source_send(struct source *s, struct peer *p, uint64_t id, uint64_t first,
                               uint64_t count)
{
	for (uint64_t at = first; at < first + count;) {
		uint32_t n = 1;

		while (at + n < first + count && n < PAGE_PAYLOAD_PAGES_MAX &&
		       s->bed->kinds[at + n] == s->bed->kinds[at])
			n++;
		peer_pages(p, id, at, n, s->bed->kinds[at]);
		at += n;
	}
}

static inline void source_stream(struct source *s)
{
	const struct region_table *t = s->bed->table;

	for (size_t i = 0; i < t->n_regions; i++) {
		const struct region *r = &t->regions[i];

		for (uint64_t p = 0; p < region_n_pages(r); p++)
			if (s->wanted[r->first_page + p])
				source_send(s, s->links.bulk, 0, r->first_page + p, 1);
	}
	peer_progress_end(s->links.bulk);
}

static inline void source_note_resume(struct source *s)
{
	const struct page_message *m = &s->links.bulk->m;

	for (uint64_t i = 0; i < m->resume.count; i++) {
		uint64_t unit = i / m->resume.unit_pages;

		if (!m->resume.bitmap || (m->resume.bitmap[unit / 8] >> (unit % 8) & 1))
			s->wanted[m->resume.first + i] = true;
	}
	if (!m->resume.last)
		return;
	source_stream(s);
	memset(s->wanted, 0, s->bed->n_pages * sizeof(s->wanted[0]));
}

/* False at the end of the connection. */
static inline bool source_serve(struct source *s, struct peer *p)
{
	do {
		switch (peer_receive(p)) { /* not peer_next(): the other connection must not wait */
		case PAGE_MESSAGE_NONE:
			return false;
		case PAGE_MESSAGE_PING:
			peer_send_type(p, PAGE_MESSAGE_PONG);
			break;
		case PAGE_MESSAGE_PAGE_REQUEST:
			must(p == s->links.urgent && p->m.page_request.runs.n_runs == 1);
			source_send(s, p, p->m.page_request.id,
			            p->m.page_request.runs.runs[0].first,
			            p->m.page_request.runs.runs[0].count);
			break;
		case PAGE_MESSAGE_RESUME:
			must(p == s->links.bulk);
			source_note_resume(s);
			break;
		case PAGE_MESSAGE_STREAM_CONTROL:
			must(p == s->links.bulk);
			break;
		case PAGE_MESSAGE_COMPLETE:
			must(p == s->links.urgent);
			peer_send_type(p, PAGE_MESSAGE_COMPLETE_ACK);
			break;
		default:
			must(!"a message that a destination may send");
		}
	} while (peer_buffered(p));
	return true;
}

static inline void *source_main(void *arg)
{
	struct source *s = arg;

	s->links.urgent = peer_accept_hello(s->bed, s->lane, LINK_ROLE_URGENT);
	peer_welcome(s->links.urgent, true);
	s->links.bulk = peer_accept_hello(s->bed, s->lane, LINK_ROLE_BULK);
	peer_welcome(s->links.bulk, true);
	s->links.urgent->evil = s->links.bulk->evil = false;
	for (;;) {
		struct pollfd fds[] = {{.fd = s->stop_fd, .events = POLLIN},
		                       {.fd = s->links.urgent->fd, .events = POLLIN},
		                       {.fd = s->links.bulk->fd, .events = POLLIN}};

		must(poll(fds, ARRAY_SIZE(fds), -1) > 0);
		if (fds[0].revents || (fds[1].revents && !source_serve(s, s->links.urgent)) ||
		    (fds[2].revents && !source_serve(s, s->links.bulk)))
			return NULL;
	}
}

/* Have the lane connect to it. */
static inline struct source *source_start(struct bed *b, uint32_t lane)
{
	struct source *s = calloc(1, sizeof(*s));

	must(s);
	s->bed = b;
	s->lane = lane;
	s->stop_fd = eventfd(0, EFD_CLOEXEC);
	s->wanted = calloc(b->n_pages, sizeof(s->wanted[0]));
	must(pthread_create(&s->thread, NULL, source_main, s) == 0);
	lane_connect(b->lanes[lane], b->address);
	bed_wait(b, lane, LANE_EVENT_CONNECTED);
	return s;
}

static inline void source_end(struct source *s)
{
	uint64_t one = 1;

	must(write(s->stop_fd, &one, sizeof(one)) == sizeof(one));
	must(pthread_join(s->thread, NULL) == 0);
	links_down(&s->links);
	close(s->stop_fd);
	free(s->wanted);
	free(s);
}

/* ---- the end of every test ---- */

static inline void check_page(const struct bed *b, uint64_t page, const uint8_t *at)
{
	uint8_t expected[WIRE_PAGE_SIZE] = {0}, byte;

	if (b->kinds[page] == PAGE_KIND_DATA)
		page_fill(expected, page, false);
	if (!touch_read(at, &byte))
		fail_msg("page %llu: SIGBUS", (unsigned long long)page);
	if (memcmp(at, expected, PAGE) != 0)
		fail_msg("page %llu has not the source's bytes", (unsigned long long)page);
}

static inline unsigned ledger_entries_of(const struct bed *b, uint64_t unit)
{
	unsigned n = 0;

	for (uint64_t i = 0; i < ledger_count(&b->state->ledger); i++) {
		const struct ledger_entry *e = ledger_get(&b->state->ledger, i);

		if (e->unit != unit)
			continue;
		assert_int_equal(e->lost_bytes,
		                 region_unit_bytes(region_find_unit(b->table, unit)));
		n++;
	}
	return n;
}

static inline void check_unit(const struct bed *b, const struct region *r, uint64_t unit)
{
	uint64_t page = region_unit_page(r, unit);
	bool lost = b->lost[unit];
	uint8_t byte;

	for (uint32_t i = 0; i < region_unit_pages(r); i++)
		lost = lost || b->kinds[page + i] == PAGE_KIND_POISONED;
	assert_int_equal(ledger_entries_of(b, unit), lost);
	assert_string_equal(page_state_name(page_map_get(&b->state->map, unit)),
	                    page_state_name(lost ? PAGE_POISONED : PAGE_PRESENT));
	if (lost) {
		assert_false(touch_read(unit_at(b, unit), &byte));
		assert_true(touch_was_poison());
		return;
	}
	for (uint32_t i = 0; i < region_unit_pages(r); i++)
		check_page(b, page + i, unit_at(b, unit) + i * PAGE);
}

/* Every page is final: the right bytes, or SIGBUS and one entry in the ledger. */
static inline void check_guest(const struct bed *b)
{
	for (size_t i = 0; i < b->table->n_regions; i++) {
		const struct region *r = &b->table->regions[i];

		for (uint64_t u = 0; u < region_n_units(r); u++)
			check_unit(b, r, r->first_unit + u);
	}
}

/* The lane survived: with a good source everything arrives. */
static inline void bed_finish(struct bed *b)
{
	struct source *sources[LANES_MAX];

	for (uint32_t i = 0; i < b->n_lanes; i++)
		sources[i] = source_start(b, i);
	for (uint32_t i = 0; i < b->n_lanes; i++) {
		if (!b->finished[i])
			bed_wait(b, i, LANE_EVENT_FINISHED);
		assert_int_equal(lane_remaining_bytes(b->lanes[i]), 0);
	}
	check_guest(b);
	waiters_end(b);
	for (uint32_t i = 0; i < b->n_lanes; i++)
		source_end(sources[i]);
	bed_end(b);
}

/* ---- programs ---- */

static inline int lane_group_setup(void **state)
{
	(void)state;
	signal(SIGPIPE, SIG_IGN);
	alarm(PROGRAM_DEADLINE_S);
	bed_pki = pki_new();
	return 0;
}

static inline int lane_group_teardown(void **state)
{
	(void)state;
	bed_pki = pki_free(bed_pki);
	huge_give_back();
	return 0;
}

#define LANE_TEST_MAIN(tests)                                                                \
	int main(void)                                                                       \
	{                                                                                    \
		if (!uffd_permitted() || !poison_permitted())                                \
			return TEST_SKIPPED;                                                 \
		return cmocka_run_group_tests(tests, lane_group_setup, lane_group_teardown); \
	}

#endif
