/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A lane over real userfaultfd memory on a main loop that the test drives, and
 * sources for it over real TLS on the loopback: peers of which the test decides
 * every byte (here), and one that behaves (daemon_lane_source.h).
 *
 * must() works on any thread, cmocka's assertions only on the test's own.
 */
#ifndef LOOP_DAEMON_LANE_FIXTURE_H
#define LOOP_DAEMON_LANE_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <event2/event.h>
#include <openssl/err.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "core/cleanup.h"
#include "core/clock.h"
#include "core/uffd_abi.h"
#include "daemon/fault_path.h"
#include "daemon/lane.h"
#include "daemon/state_memfd.h"
#include "net/tls.h"
#include "support/pki.h"
#include "unit/daemon_guest_memory.h"
#include "wire/page_message.h"

#define PAGE ((size_t)WIRE_PAGE_SIZE)
#define HUGE_PAGES (1U << (HUGE_SHIFT - WIRE_PAGE_SHIFT))
/* A test that moves much defines a longer one before. */
#ifndef DEADLINE_S
#define DEADLINE_S 20
#endif
#define PROGRAM_DEADLINE_S 110 /* for a guest's thread that nobody lets go on */
#define PARTS_MAX 3
#define LANES_MAX 2
#define EVENTS_MAX 64
#define EVIL_BYTE 0xee

struct waiter;

#define must(condition)                                                                         \
	do {                                                                                    \
		if (!(condition)) {                                                             \
			fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
			abort();                                                                \
		}                                                                               \
	} while (0)

static const uint8_t lane_token[16] = "only for the two";

/* ---- the bed ---- */

struct spec {
	enum memory_kind kind;
	uint64_t n_units;
	uint32_t lane; /* | SPEC_PIECE: of the region that the spec before is one of */
};
#define SPEC_PIECE 0x100U

static inline uint32_t spec_lane(const struct spec *spec)
{
	return spec->lane & ~SPEC_PIECE;
}

struct part {
	uint8_t *base;
	uint64_t length_bytes;
	int memfd;
};

struct heard {
	uint32_t lane;
	struct lane_event event;
};

struct bed {
	struct pki *pki;
	struct tls_context *source, *destination;
	struct part parts[PARTS_MAX];
	uint32_t n_lanes;
	int uffds[LANES_MAX];
	struct region_table *table; /* numbered as the source does */
	struct state_memfd *state;
	struct uffd_msg read[LANES_MAX][FAULT_BATCH];
	bool adopted; /* lanes made from now on find what others have left */
	struct lane *lanes[LANES_MAX];
	struct loop *main_loop;
	int listener;
	char address[32];
	enum page_kind *kinds; /* what the source has in each wire page */
	uint64_t n_pages;
	bool *lost; /* units that are to be poisoned whatever their pages' kinds */
	struct heard events[EVENTS_MAX];
	size_t n_events;
	unsigned n_poisoned_events;
	bool finished[LANES_MAX];
	bool timed_out;
	struct waiter *waiters; /* not joined yet */
};

static inline void bed_on_event(struct lane *lane, const struct lane_event *e, void *user)
{
	struct bed *b = user;

	if (e->type == LANE_EVENT_POISONED)
		b->n_poisoned_events++;
	if (e->type == LANE_EVENT_FINISHED) {
		must(!b->finished[lane_index(lane)]); /* comes once */
		b->finished[lane_index(lane)] = true;
	}
	if (e->type == LANE_EVENT_POISONED || e->type == LANE_EVENT_WARNING)
		return;
	must(b->n_events < EVENTS_MAX);
	b->events[b->n_events++] = (struct heard){lane_index(lane), *e};
}

static inline void bed_map(struct bed *b, size_t i, const struct spec *spec, struct region *r)
{
	static const enum region_backing backings[] = {REGION_ANONYMOUS, REGION_MEMFD, REGION_MEMFD,
	                                               REGION_HUGETLB};
	unsigned shift = spec->kind == MEMORY_HUGETLB ? HUGE_SHIFT : WIRE_PAGE_SHIFT;
	struct part *p = &b->parts[i];
	uint64_t ioctls;

	p->length_bytes = spec->n_units << shift;
	p->base = memory_map(spec->kind, p->length_bytes, &p->memfd);
	must(p->base != MAP_FAILED);
	if (spec->kind != MEMORY_HUGETLB)
		madvise(p->base, p->length_bytes, MADV_NOHUGEPAGE);
	*r = (struct region){
	        .gpa = {(i + 1) << 32},
	        .hva = {(uintptr_t)p->base},
	        .length_bytes = p->length_bytes,
	        .unit_shift = shift,
	        .backing = backings[spec->kind],
	        .mode = spec->kind == MEMORY_MEMFD_MINOR ? REGION_MINOR : REGION_MISSING,
	        .lane = spec_lane(spec),
	        .memory_fd = p->memfd,
	};
	snprintf(r->name, sizeof(r->name), "ram%zu", i);
	if (i > 0 && (spec->lane & SPEC_PIECE)) {
		memcpy(r->name, r[-1].name, sizeof(r->name));
		r->gpa.addr = r[-1].gpa.addr + r[-1].length_bytes;
	}
	must(uffd_register(b->uffds[spec_lane(spec)], r->hva, r->length_bytes,
	                   r->mode == REGION_MINOR, &ioctls, NULL) == 0);
	r->zeropage = ioctls & (UINT64_C(1) << _UFFDIO_ZEROPAGE);
}

static inline struct uuid bed_id(void)
{
	return (struct uuid){{7, 2, 3, 4, 5, 6, 0x47, 8, 0x89, 10, 11, 12, 13, 14, 15, 16}};
}

static inline void bed_lane_new(struct bed *b, uint32_t index)
{
	static const struct lane_tuning tuning = {.stream_window_pages = 16};
	struct error err = {0};
	struct lane_params p = {
	        .main_loop = b->main_loop,
	        .on_event = bed_on_event,
	        .user = b,
	        .migration_id = bed_id(),
	        .token = lane_token,
	        .token_len = sizeof(lane_token),
	        .peer_identity = "dns:" PKI_SOURCE_DNS,
	        .tls = b->destination,
	        .index = index,
	        .uffd = b->uffds[index],
	        .poison_supported = true,
	        .adopted = b->adopted,
	        .events = b->read[index],
	        .regions = b->table,
	        .map = &b->state->map,
	        .ledger = &b->state->ledger,
	        .tuning = &tuning,
	};

	if (lane_new(&p, &b->lanes[index], &err) < 0)
		fail_msg("%s", err.text);
}

/* What the source has: pieces are one. At most PARTS_MAX. */
static inline size_t bed_sources(const struct bed *b, struct region_source *ret)
{
	size_t n = 0;

	for (size_t i = 0; i < b->table->n_regions; i++) {
		const struct region *r = &b->table->regions[i];

		if (r->piece_offset_bytes == 0)
			ret[n++] = (struct region_source){r->name, r->gpa, 0};
		ret[n - 1].length_bytes += r->length_bytes;
	}
	return n;
}

static inline void bed_number_pages(struct bed *b)
{
	struct region_source sources[PARTS_MAX];
	size_t n = bed_sources(b, sources);

	must(region_table_match(b->table, sources, n, NULL) == 0);
	b->n_pages = b->table->total_bytes >> WIRE_PAGE_SHIFT;
	b->kinds = calloc(b->n_pages, sizeof(b->kinds[0]));
	b->lost = calloc(b->table->n_units, sizeof(b->lost[0]));
	for (uint64_t i = 0; i < b->n_pages; i++)
		b->kinds[i] = i % 7 == 3 ? PAGE_KIND_ZERO : PAGE_KIND_DATA;
}

static inline void bed_listen(struct bed *b)
{
	struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(at);

	b->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	must(bind(b->listener, (struct sockaddr *)&at, sizeof(at)) == 0);
	must(listen(b->listener, 16) == 0);
	must(getsockname(b->listener, (struct sockaddr *)&at, &len) == 0);
	snprintf(b->address, sizeof(b->address), "127.0.0.1:%d", ntohs(at.sin_port));
}

static struct pki *bed_pki; /* one for all beds */

static inline struct bed *bed_start(const struct spec *specs, size_t n)
{
	struct bed *b = calloc(1, sizeof(*b));
	struct region regions[PARTS_MAX];
	uint64_t features;

	must(b && n <= PARTS_MAX);
	b->pki = bed_pki;
	b->source = pki_context(b->pki, "source", "ca", NULL);
	b->destination = pki_context(b->pki, "destination", "ca", NULL);
	for (size_t i = 0; i < n; i++)
		b->n_lanes = MAX(b->n_lanes, spec_lane(&specs[i]) + 1);
	for (uint32_t i = 0; i < b->n_lanes; i++) {
		b->uffds[i] = uffd_open();
		must(b->uffds[i] >= 0);
		must(uffd_negotiate(b->uffds[i], UFFD_FEATURE_POISON, &features) == 0);
	}
	for (size_t i = 0; i < n; i++)
		bed_map(b, i, &specs[i], &regions[i]);
	must(region_table_new(regions, n, b->n_lanes, &b->table, NULL) == 0);
	must(state_memfd_new(&(struct uuid){{1}}, b->table->n_units, b->n_lanes, &b->state, NULL) ==
	     0);
	must(loop_new(&b->main_loop) == 0);
	bed_listen(b);
	for (uint32_t i = 0; i < b->n_lanes; i++)
		bed_lane_new(b, i);
	bed_number_pages(b); /* after the lanes took their copies, which are not numbered yet */
	return b;
}

/* What most tests need: 64 anonymous pages. */
static inline struct bed *bed_start_small(void)
{
	static const struct spec spec = {MEMORY_ANON, 64, 0};

	return bed_start(&spec, 1);
}

static inline void bed_end(struct bed *b)
{
	for (uint32_t i = 0; i < b->n_lanes; i++)
		lane_free(b->lanes[i]);
	loop_run_posted(b->main_loop);
	loop_free(b->main_loop);
	for (uint32_t i = 0; i < b->n_lanes; i++)
		close(b->uffds[i]);
	for (size_t i = 0; i < b->table->n_regions; i++) {
		munmap(b->parts[i].base, b->parts[i].length_bytes);
		close_fd(&b->parts[i].memfd);
	}
	close(b->listener);
	region_table_free(b->table);
	state_memfd_free(b->state);
	tls_context_unref(b->source);
	tls_context_unref(b->destination);
	free(b->kinds);
	free(b->lost);
	free(b);
}

/* ---- the main loop ---- */

static inline void bed_on_deadline(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	((struct bed *)arg)->timed_out = true;
}

static inline bool bed_take_event(struct bed *b, uint32_t lane, enum lane_event_type type,
                                  struct lane_event *ret)
{
	for (size_t i = 0; i < b->n_events; i++) {
		struct heard *h = &b->events[i];

		if (h->lane != lane || h->event.type != type)
			continue;
		*ret = h->event;
		memmove(h, h + 1, (--b->n_events - i) * sizeof(*h));
		return true;
	}
	return false;
}

/* What came instead, for the message of a test that fails. */
static inline const char *bed_last_text(const struct bed *b)
{
	return b->n_events ? b->events[b->n_events - 1].event.error.text : "no other event";
}

static inline struct lane_event bed_wait(struct bed *b, uint32_t lane, enum lane_event_type type)
{
	struct timeval deadline = {.tv_sec = DEADLINE_S};
	struct event *timer = evtimer_new(loop_base(b->main_loop), bed_on_deadline, b);
	struct lane_event e = {0};

	evtimer_add(timer, &deadline);
	while (!bed_take_event(b, lane, type, &e) && !b->timed_out)
		event_base_loop(loop_base(b->main_loop), EVLOOP_ONCE);
	event_free(timer);
	if (b->timed_out)
		fail_msg("lane event %d did not come; %s", type, bed_last_text(b));
	return e;
}

/* LINK_LOST whose text has this in it. */
static inline void expect_lost(struct bed *b, uint32_t lane, const char *text, bool retriable)
{
	struct lane_event e = bed_wait(b, lane, LANE_EVENT_LINK_LOST);

	if (!strstr(e.error.text, text) || e.retriable != retriable || e.error.code >= 0)
		fail_msg("lost with \"%s\" (%d), retriable %d; expected \"%s\", %d", e.error.text,
		         e.error.code, e.retriable, text, retriable);
}

static inline void expect_no_event(const struct bed *b)
{
	if (b->n_events > 0)
		fail_msg("lane event %d: %s", b->events[0].event.type, bed_last_text(b));
}

/* Nothing was placed or poisoned. */
static inline void expect_untouched(struct bed *b)
{
	for (uint64_t i = 0; i < b->table->n_units; i++) {
		enum page_state s = page_map_get(&b->state->map, i);

		if (s != PAGE_MISSING && s != PAGE_REQUESTED)
			fail_msg("unit %llu is %s", (unsigned long long)i, page_state_name(s));
	}
	assert_int_equal(ledger_count(&b->state->ledger), 0);
}

/* ---- a peer: one connection ---- */

struct peer {
	struct bed *bed;
	int fd;
	SSL *ssl;
	struct page_decoder *decoder;
	uint8_t *buf;
	size_t len, used;
	struct page_message m;
	bool evil;     /* its DATA is not the guest's */
	bool tolerant; /* the lane may end at any time: then nothing is sent */
};

static inline void page_fill(uint8_t *to, uint64_t page, bool evil)
{
	for (size_t i = 0; i < PAGE / 8; i++) {
		/* No byte of it is zero: zeros and stale bytes cannot be confused. */
		uint64_t word = ((page * 512 + i + 1) * UINT64_C(0x9e3779b97f4a7c15)) |
		                UINT64_C(0x0101010101010101);

		memcpy(to + i * 8, &word, 8);
	}
	if (evil)
		memset(to, EVIL_BYTE, PAGE);
}

static inline int listener_accept(struct bed *b)
{
	struct timeval timeout = {.tv_sec = DEADLINE_S};
	struct pollfd p = {.fd = b->listener, .events = POLLIN};
	int fd;

	must(poll(&p, 1, DEADLINE_S * 1000) == 1);
	fd = accept(b->listener, NULL, NULL);
	must(fd >= 0);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout));
	return fd;
}

static inline struct peer *peer_new(struct bed *b, int fd, SSL *ssl)
{
	struct peer *p = calloc(1, sizeof(*p));

	must(p);
	p->bed = b;
	p->fd = fd;
	p->ssl = ssl;
	p->evil = true;
	p->buf = malloc(FRAME_MAX);
	must(p->buf && page_decoder_new(&p->decoder) == 0);
	must(SSL_set_fd(ssl, fd) == 1);
	return p;
}

static inline struct peer *peer_accept(struct bed *b)
{
	int fd = listener_accept(b);
	struct peer *p;
	SSL *ssl;

	must(tls_session_new(b->source, true, &ssl, NULL) == 0);
	p = peer_new(b, fd, ssl);
	must(SSL_accept(ssl) == 1);
	return p;
}

static inline struct peer *peer_free(struct peer *p)
{
	if (!p)
		return NULL;
	SSL_free(p->ssl);
	close(p->fd);
	page_decoder_free(p->decoder);
	free(p->buf);
	free(p);
	return NULL;
}

static inline void peer_write(struct peer *p, const void *bytes, size_t len)
{
	for (size_t done = 0; done < len;) {
		int n = SSL_write(p->ssl, (const uint8_t *)bytes + done, (int)(len - done));

		if (n <= 0 && p->tolerant)
			return;
		must(n > 0);
		done += (size_t)n;
	}
}

static inline void peer_send_payload(struct peer *p, const struct page_message *m,
                                     const uint8_t *payload, size_t payload_len)
{
	uint8_t *buf = malloc(PAGE_MESSAGE_HEAD_MAX + payload_len);
	ssize_t n = page_message_encode(m, buf, PAGE_MESSAGE_HEAD_MAX);

	must(n > 0);
	if (payload_len)
		memcpy(buf + n, payload, payload_len);
	peer_write(p, buf, (size_t)n + payload_len);
	free(buf);
}

static inline void peer_send(struct peer *p, const struct page_message *m)
{
	peer_send_payload(p, m, NULL, 0);
}

static inline void peer_send_type(struct peer *p, enum page_message_type type)
{
	struct page_message m = {.type = type};

	peer_send(p, &m);
}

static inline void peer_pages_runs(struct peer *p, uint64_t id, const struct page_run *runs,
                                   size_t n)
{
	struct page_message m = {.type = PAGE_MESSAGE_PAGES,
	                         .pages = {.id = id, .runs = {runs, n}}};
	uint8_t *payload = malloc(FRAME_PAYLOAD_MAX);

	for (size_t i = 0; i < n; i++)
		for (uint32_t k = 0; runs[i].kind == PAGE_KIND_DATA && k < runs[i].count; k++) {
			must(m.pages.bytes_len < FRAME_PAYLOAD_MAX);
			page_fill(payload + m.pages.bytes_len, runs[i].first + k, p->evil);
			m.pages.bytes_len += PAGE;
		}
	peer_send_payload(p, &m, payload, m.pages.bytes_len);
	free(payload);
}

static inline void peer_pages(struct peer *p, uint64_t id, uint64_t first, uint32_t count,
                              enum page_kind kind)
{
	struct page_run run = {first, count, kind};

	peer_pages_runs(p, id, &run, 1);
}

static inline void peer_poison(struct peer *p, uint64_t first, uint32_t count)
{
	struct page_run run = {first, count, PAGE_KIND_UNSPECIFIED};
	struct page_message m = {
	        .type = PAGE_MESSAGE_POISON_NOTICE,
	        .poison_notice = {.runs = {&run, 1}, .reason = POISON_REASON_REPORTED}};

	peer_send(p, &m);
}

static inline void peer_progress_end(struct peer *p)
{
	struct page_message m = {.type = PAGE_MESSAGE_PROGRESS, .progress = {.end = true}};

	peer_send(p, &m);
}

/* The next message, in p->m; PAGE_MESSAGE_NONE at the end of the connection. */
static inline enum page_message_type peer_receive(struct peer *p)
{
	struct error err = {0};
	struct frame frame;
	ssize_t n;

	memmove(p->buf, p->buf + p->used, p->len - p->used);
	p->len -= p->used;
	p->used = 0;
	p->m.type = PAGE_MESSAGE_NONE;
	while ((n = frame_parse(p->buf, p->len, &frame, &err)) == 0) {
		int got = SSL_read(p->ssl, p->buf + p->len, (int)(FRAME_MAX - p->len));

		if (got <= 0) {
			must(SSL_get_error(p->ssl, got) != SSL_ERROR_WANT_READ); /* the deadline */
			return PAGE_MESSAGE_NONE;
		}
		p->len += (size_t)got;
	}
	must(n > 0 && page_message_decode(p->decoder, &frame, &p->m, &err) == 0);
	p->used = (size_t)n;
	return p->m.type;
}

/* The next message that is no Ping, which may come at any time. */
static inline enum page_message_type peer_next(struct peer *p)
{
	while (peer_receive(p) == PAGE_MESSAGE_PING)
		;
	return p->m.type;
}

static inline void peer_expect(struct peer *p, enum page_message_type type)
{
	enum page_message_type got = peer_next(p);

	if (got != type)
		fprintf(stderr, "got %s, expected %s\n", page_message_type_name(got),
		        page_message_type_name(type));
	must(got == type);
}

/* Wait until the lane has taken in all that was sent; whatever it sends meanwhile is lost. */
static inline void peer_sync(struct peer *p)
{
	peer_send_type(p, PAGE_MESSAGE_PING);
	while (peer_next(p) != PAGE_MESSAGE_PONG)
		must(p->m.type != PAGE_MESSAGE_NONE);
}

/* All that the lane sends up to its answer to this is there: nothing but what was read. */
static inline void peer_expect_silence(struct peer *p)
{
	peer_send_type(p, PAGE_MESSAGE_PING);
	peer_expect(p, PAGE_MESSAGE_PONG);
}

/* ---- greeting ---- */

static inline struct peer *peer_accept_hello(struct bed *b, uint32_t lane, enum link_role role)
{
	struct peer *p = peer_accept(b);

	peer_expect(p, PAGE_MESSAGE_HELLO);
	must(p->m.hello.role == role && p->m.hello.lane == lane);
	must(p->m.hello.token_len == sizeof(lane_token) &&
	     memcmp(p->m.hello.token, lane_token, sizeof(lane_token)) == 0);
	return p;
}

/* The right HelloAck; regions for PARTS_MAX + 1. */
static inline struct page_message hello_ack(const struct bed *b, bool frozen,
                                            struct wire_region *regions)
{
	struct region_source sources[PARTS_MAX];
	size_t n = bed_sources(b, sources);

	for (size_t i = 0; i < n; i++) {
		const struct region_source *s = &sources[i];

		regions[i] = (struct wire_region){
		        .gpa = s->gpa, .length_bytes = s->length_bytes, .page_size_bytes = PAGE};
		snprintf(regions[i].name, sizeof(regions[i].name), "%s", s->name);
	}
	return (struct page_message){
	        .type = PAGE_MESSAGE_HELLO_ACK,
	        .hello_ack = {.version = 1, .regions = regions, .n_regions = n, .frozen = frozen}};
}

static inline void peer_welcome(struct peer *p, bool frozen)
{
	struct wire_region regions[PARTS_MAX + 1];
	struct page_message m = hello_ack(p->bed, frozen, regions);

	peer_send(p, &m);
}

struct links {
	struct peer *urgent, *bulk;
};

static inline struct links links_up(struct bed *b, uint32_t lane, bool frozen)
{
	struct links l;

	lane_connect(b->lanes[lane], b->address);
	l.urgent = peer_accept_hello(b, lane, LINK_ROLE_URGENT);
	peer_welcome(l.urgent, frozen);
	l.bulk = peer_accept_hello(b, lane, LINK_ROLE_BULK);
	peer_welcome(l.bulk, frozen);
	assert_int_equal(bed_wait(b, lane, LANE_EVENT_CONNECTED).frozen, frozen);
	return l;
}

static inline void links_down(struct links *l)
{
	l->urgent = peer_free(l->urgent);
	l->bulk = peer_free(l->bulk);
}

/* A PageRequest of one run: its id; the pages are in p->m. */
static inline uint64_t peer_request(struct peer *p)
{
	peer_expect(p, PAGE_MESSAGE_PAGE_REQUEST);
	must(p->m.page_request.runs.n_runs == 1);
	return p->m.page_request.id;
}

/* A round's wishes: wanted has a bool for each page. Returns the bandwidth it began with. */
static inline uint64_t peer_resume(struct peer *p, bool *wanted)
{
	uint64_t bandwidth = UINT64_MAX;

	memset(wanted, 0, p->bed->n_pages * sizeof(wanted[0]));
	do {
		enum page_message_type type = peer_next(p);

		must(type == PAGE_MESSAGE_RESUME || type == PAGE_MESSAGE_STREAM_CONTROL);
		if (type == PAGE_MESSAGE_STREAM_CONTROL) {
			if (p->m.stream_control.has_bandwidth)
				bandwidth = p->m.stream_control.bandwidth;
			continue;
		}
		for (uint64_t i = 0; i < p->m.resume.count; i++) {
			uint64_t unit = i / p->m.resume.unit_pages;

			must(p->m.resume.first + i < p->bed->n_pages);
			must(!wanted[p->m.resume.first + i]); /* each page in one Resume */
			wanted[p->m.resume.first + i] =
			        !p->m.resume.bitmap ||
			        (p->m.resume.bitmap[unit / 8] >> (unit % 8) & 1);
		}
	} while (p->m.type != PAGE_MESSAGE_RESUME || !p->m.resume.last);
	return bandwidth;
}

/* ---- the guest ---- */

static inline uint8_t *unit_at(const struct bed *b, uint64_t unit)
{
	const struct region *r = region_find_unit(b->table, unit);

	return (uint8_t *)region_unit_hva(r, unit).addr;
}

/* Until the lane has noted it: no event tells when a fault was read while there is no link. */
static inline void unit_wait(const struct bed *b, uint64_t unit, enum page_state s)
{
	uint64_t end_us = clock_monotonic_us() + DEADLINE_S * UINT64_C(1000000);

	while (page_map_get(&b->state->map, unit) != s) {
		must(clock_monotonic_us() < end_us);
		sched_yield();
	}
}

/* A vCPU that touches a page: waits, goes on, or gets SIGBUS. */
struct waiter {
	pthread_t thread;
	const uint8_t *at;
	uint8_t byte;
	bool healthy;
	struct bed *bed; /* NULL: joined */
	struct waiter *next;
};

static inline void *waiter_main(void *arg)
{
	struct waiter *w = arg;

	w->healthy = touch_read(w->at, &w->byte);
	return NULL;
}

static inline void waiter_start(struct bed *b, uint64_t unit, struct waiter *w)
{
	*w = (struct waiter){.at = unit_at(b, unit), .bed = b, .next = b->waiters};
	b->waiters = w;
	must(pthread_create(&w->thread, NULL, waiter_main, w) == 0);
}

/* It went on: false with SIGBUS. */
static inline bool waiter_end(struct waiter *w)
{
	struct waiter **at;

	if (!w->bed)
		return w->healthy;
	for (at = &w->bed->waiters; *at != w; at = &(*at)->next)
		;
	*at = w->next;
	w->bed = NULL;
	must(pthread_join(w->thread, NULL) == 0);
	return w->healthy;
}

/* Before the memory goes: a page that is placed has not been read yet. */
static inline void waiters_end(struct bed *b)
{
	while (b->waiters)
		waiter_end(b->waiters);
}

#endif
