/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Promises of a lane's beginning and end: it can be freed at any moment, with
 * any source, and leaves nothing behind; answers come out of order and late;
 * the source is told the end; poison outlives the registration.
 */

#include "loop/daemon_lane_source.h"
#include "support/proc_self.h"

static void test_late_and_out_of_order(void **state)
{
	static const enum memory_kind kinds[] = {MEMORY_ANON, MEMORY_MEMFD, MEMORY_MEMFD_MINOR};

	(void)state;
	for (size_t k = 0; k < ARRAY_SIZE(kinds); k++) {
		const struct spec spec = {kinds[k], 64, 0};
		struct bed *b = bed_start(&spec, 1);
		struct links l = links_up(b, 0, true);
		struct waiter w[32], again;
		uint64_t ids[32];

		l.urgent->evil = l.bulk->evil = false;
		for (unsigned i = 0; i < 32; i++) {
			waiter_start(b, i, &w[i]);
			ids[i] = peer_request(l.urgent);
			must(l.urgent->m.page_request.runs.runs[0].first == i);
		}
		/* A second thread on one of them: it asks for nothing more. */
		waiter_start(b, 7, &again);
		/* The stream is quicker with some; their late answers are dropped. */
		peer_pages(l.bulk, 0, 0, 3, PAGE_KIND_DATA);
		for (unsigned i = 0; i < 3; i++)
			assert_true(waiter_end(&w[i]));
		peer_expect_silence(l.urgent);
		for (unsigned i = 32; i-- > 0;)
			peer_pages(l.urgent, ids[i], i, 1, b->kinds[i]);
		for (unsigned i = 3; i < 32; i++)
			assert_true(waiter_end(&w[i]));
		assert_true(waiter_end(&again));
		expect_no_event(b);
		links_down(&l);
		bed_wait(b, 0, LANE_EVENT_LINK_LOST);
		bed_finish(b);
	}
}

/* ---- the end of a migration ---- */

/* All pages by the stream, units 1 and 2 poisoned. */
static struct links finish_by_stream(struct bed *b)
{
	struct links l = links_up(b, 0, true);

	l.bulk->evil = false;
	b->kinds[1] = b->kinds[2] = PAGE_KIND_POISONED;
	for (uint64_t p = 0; p < b->n_pages; p++)
		peer_pages(l.bulk, 0, p, 1, b->kinds[p]);
	peer_progress_end(l.bulk);
	bed_wait(b, 0, LANE_EVENT_FINISHED);
	return l;
}

/* Ended by the source; returns when the lane has ended it, too. */
static void peer_end(struct peer *p)
{
	(void)SSL_shutdown(p->ssl);
	while (peer_receive(p) != PAGE_MESSAGE_NONE)
		;
}

static void test_complete(void **state)
{
	struct bed *b = bed_start_small();
	struct links l = finish_by_stream(b);
	struct error err = {0};

	(void)state;
	lane_send_complete(b->lanes[0], 53, 9, 2, 1);
	peer_expect(l.urgent, PAGE_MESSAGE_COMPLETE);
	assert_int_equal(l.urgent->m.complete.present, 53);
	assert_int_equal(l.urgent->m.complete.zero, 9);
	assert_int_equal(l.urgent->m.complete.poisoned, 2);
	assert_int_equal(l.urgent->m.complete.removed, 1);
	expect_no_event(b);
	/* Lost before it was acknowledged: told again on the next connection. */
	links_down(&l);
	bed_wait(b, 0, LANE_EVENT_LINK_LOST);
	lane_send_complete(b->lanes[0], 53, 9, 2, 1);
	l = links_up(b, 0, true);
	lane_send_complete(b->lanes[0], 53, 9, 2, 1);
	peer_expect(l.urgent, PAGE_MESSAGE_COMPLETE);
	peer_expect_silence(l.urgent);
	/* The source ends the other link before it acknowledges: nothing is lost by that. */
	peer_end(l.bulk);
	peer_sync(l.urgent);
	peer_sync(l.urgent);
	expect_no_event(b);
	peer_send_type(l.urgent, PAGE_MESSAGE_COMPLETE_ACK);
	bed_wait(b, 0, LANE_EVENT_COMPLETE_ACKED);
	assert_int_equal(lane_unregister(b->lanes[0], &err), 0);
	check_guest(b);
	lane_free(TAKE_PTR(b->lanes[0]));
	check_guest(b);
	links_down(&l);
	bed_end(b);
}

/* Nothing is missing: no round of the stream begins on the next connection but an empty one. */
static void test_connect_when_finished(void **state)
{
	struct bed *b = bed_start_small();
	struct links l = finish_by_stream(b);
	bool wanted[64];

	(void)state;
	links_down(&l);
	bed_wait(b, 0, LANE_EVENT_LINK_LOST);
	l = links_up(b, 0, true);
	peer_resume(l.bulk, wanted);
	for (uint64_t p = 0; p < b->n_pages; p++)
		assert_false(wanted[p]);
	peer_progress_end(l.bulk);
	peer_expect_silence(l.bulk);
	peer_expect_silence(l.urgent);
	links_down(&l);
	bed_wait(b, 0, LANE_EVENT_LINK_LOST);
	bed_finish(b);
}

/* The source never comes back: what is missing is poisoned, and the guest goes on. */
static void test_poison_while_disconnected(void **state)
{
	struct bed *b = bed_start_small();
	struct links l = links_up(b, 0, true);
	struct waiter w;

	(void)state;
	l.bulk->evil = false;
	peer_pages(l.bulk, 0, 4, 3, PAGE_KIND_DATA);
	peer_sync(l.bulk);
	links_down(&l);
	bed_wait(b, 0, LANE_EVENT_LINK_LOST);
	waiter_start(b, 63, &w);
	unit_wait(b, 63, PAGE_REQUESTED);
	lane_poison_units(b->lanes[0], 0, b->table->n_units, LEDGER_SOURCE_LOST, 0);
	assert_false(waiter_end(&w));
	bed_wait(b, 0, LANE_EVENT_FINISHED);
	assert_true(b->n_poisoned_events > 0);
	for (uint64_t u = 0; u < b->table->n_units; u++)
		b->lost[u] = u < 4 || u > 6;
	assert_int_equal(ledger_count(&b->state->ledger), 61);
	for (uint64_t i = 0; i < 61; i++)
		assert_int_equal(ledger_get(&b->state->ledger, i)->reason, LEDGER_SOURCE_LOST);
	check_guest(b);
	bed_finish(b);
}

static void test_give_up(void **state)
{
	struct bed *b = bed_start_small();
	struct links l = links_up(b, 0, true);

	(void)state;
	lane_give_up(b->lanes[0], "the VMM died");
	lane_free(TAKE_PTR(b->lanes[0]));
	peer_expect(l.urgent, PAGE_MESSAGE_ERROR);
	assert_int_equal(l.urgent->m.error.code, WIRE_ERROR_CANCELLED);
	assert_string_equal(l.urgent->m.error.text, "the VMM died");
	assert_int_equal(peer_next(l.urgent), PAGE_MESSAGE_NONE);
	links_down(&l);
	bed_end(b);
}

/* ---- lane_free() at any moment ---- */

/* A source that sends right and wrong things by chance, and lives through any end. */
struct chaos {
	struct bed *bed;
	pthread_t thread;
	int stop_fd;
	unsigned seed;
	struct peer *peers[8]; /* NULL: ended */
};

static void chaos_accept(struct chaos *c)
{
	struct peer **at = c->peers;
	int fd = accept(c->bed->listener, NULL, NULL);
	SSL *ssl;

	while (*at)
		at++;
	must(fd >= 0 && at < c->peers + ARRAY_SIZE(c->peers));
	must(tls_session_new(c->bed->source, true, &ssl, NULL) == 0);
	*at = peer_new(c->bed, fd, ssl);
	(*at)->tolerant = true;
	(*at)->evil = false;
	if (SSL_accept(ssl) != 1)
		*at = peer_free(*at);
	ERR_clear_error();
}

static void chaos_stream(struct chaos *c, struct peer *p)
{
	for (uint64_t page = 0; page < c->bed->n_pages; page++)
		if (rand_r(&c->seed) % 2)
			peer_pages(p, 0, page, 1, c->bed->kinds[page]);
	peer_progress_end(p);
}

static void chaos_answer(struct chaos *c, struct peer *p)
{
	uint64_t id = p->m.page_request.id, page = p->m.page_request.runs.runs[0].first;

	switch (rand_r(&c->seed) % 8) {
	case 0: /* wrong */
		peer_pages(p, id, page + 1, 1, PAGE_KIND_DATA);
		break;
	case 1: /* lost, and told twice */
		peer_poison(p, page, 1);
		peer_pages(p, id, page, 1, PAGE_KIND_POISONED);
		break;
	case 2: /* never */
		break;
	default:
		peer_pages(p, id, page, 1, c->bed->kinds[page]);
	}
}

/* False at the end of the connection. */
static bool chaos_serve(struct chaos *c, struct peer *p)
{
	do {
		switch (peer_receive(p)) {
		case PAGE_MESSAGE_NONE:
			return false;
		case PAGE_MESSAGE_HELLO:
			peer_welcome(p, rand_r(&c->seed) % 4 > 0);
			break;
		case PAGE_MESSAGE_PAGE_REQUEST:
			chaos_answer(c, p);
			break;
		case PAGE_MESSAGE_RESUME:
			if (p->m.resume.last)
				chaos_stream(c, p);
			break;
		default:
			break;
		}
	} while (peer_buffered(p));
	return true;
}

static void *chaos_main(void *arg)
{
	struct chaos *c = arg;
	struct pollfd fds[2 + ARRAY_SIZE(c->peers)];

	for (;;) {
		fds[0] = (struct pollfd){.fd = c->stop_fd, .events = POLLIN};
		fds[1] = (struct pollfd){.fd = c->bed->listener, .events = POLLIN};
		for (size_t i = 0; i < ARRAY_SIZE(c->peers); i++)
			fds[2 + i] = (struct pollfd){.fd = c->peers[i] ? c->peers[i]->fd : -1,
			                             .events = POLLIN};
		must(poll(fds, ARRAY_SIZE(fds), -1) > 0);
		if (fds[0].revents)
			return NULL;
		for (size_t i = 0; i < ARRAY_SIZE(c->peers); i++)
			if (fds[2 + i].revents && !chaos_serve(c, c->peers[i]))
				c->peers[i] = peer_free(c->peers[i]);
		if (fds[1].revents)
			chaos_accept(c);
	}
}

/* One thing that a migration may do with its lane. */
static void chaos_order(struct bed *b, unsigned *seed)
{
	struct lane *lane = b->lanes[0];

	switch (rand_r(seed) % 8) {
	case 0:
		lane_disconnect(lane);
		break;
	case 1:
		lane_set_bandwidth(lane, (uint64_t)rand_r(seed));
		break;
	case 2:
		lane_poison_units(lane, (uint64_t)rand_r(seed) % 60, 4, LEDGER_OPERATOR, 0);
		break;
	case 3:
		lane_send_complete(lane, 1, 2, 3, 4);
		break;
	case 4:
		lane_set_tls(lane, b->destination);
		break;
	default:
		lane_connect(lane, b->address);
	}
}

static void chaos_run(unsigned seed)
{
	struct bed *b = bed_start_small();
	struct chaos c = {.bed = b, .seed = seed, .stop_fd = eventfd(0, EFD_CLOEXEC)};
	unsigned n_orders = (unsigned)rand_r(&seed) % 5;
	struct waiter w[6];
	uint64_t one = 1;

	must(pthread_create(&c.thread, NULL, chaos_main, &c) == 0);
	lane_connect(b->lanes[0], b->address);
	for (unsigned i = 0; i < ARRAY_SIZE(w); i++)
		waiter_start(b, (uint64_t)rand_r(&seed) % 64, &w[i]);
	for (unsigned i = 0; i < n_orders; i++) {
		/* A moment of no meaning: this is what is tried out here. */
		usleep((useconds_t)rand_r(&seed) % 3000);
		chaos_order(b, &seed);
		event_base_loop(loop_base(b->main_loop), EVLOOP_NONBLOCK);
		b->n_events = 0;
	}
	usleep((useconds_t)rand_r(&seed) % 3000);
	if (rand_r(&seed) % 2)
		lane_give_up(b->lanes[0], "enough");
	lane_free(TAKE_PTR(b->lanes[0]));
	/* Whoever still waits goes on now. */
	must(uffd_unregister(b->uffds[0], b->table->regions[0].hva,
	                     b->table->regions[0].length_bytes) == 0);
	for (unsigned i = 0; i < ARRAY_SIZE(w); i++)
		waiter_end(&w[i]);
	must(write(c.stop_fd, &one, sizeof(one)) == sizeof(one));
	must(pthread_join(c.thread, NULL) == 0);
	for (size_t i = 0; i < ARRAY_SIZE(c.peers); i++)
		peer_free(c.peers[i]);
	close(c.stop_fd);
	bed_end(b);
}

static void test_free_at_any_moment(void **state)
{
	size_t before;

	(void)state;
	chaos_run(0);
	before = proc_self_n_fds();
	for (unsigned seed = 1; seed <= 60; seed++)
		chaos_run(seed * 7919);
	assert_int_equal(proc_self_n_fds(), before);
}

static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_late_and_out_of_order),
        cmocka_unit_test(test_complete),
        cmocka_unit_test(test_connect_when_finished),
        cmocka_unit_test(test_poison_while_disconnected),
        cmocka_unit_test(test_give_up),
        cmocka_unit_test(test_free_at_any_moment),
};

LANE_TEST_MAIN(tests)
