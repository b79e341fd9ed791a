/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Promises of a lane's connections: a source that is not the right one, or
 * does not know how to begin, gets nothing believed; the operator reads why;
 * whether trying again is of use is told right; and afterwards the right source
 * finds the lane as it was.
 */
#include "loop/daemon_lane_source.h"

struct link_case {
	const char *name;
	void (*act)(struct bed *b); /* all that the source does after lane_connect() */
	const char *text;
	bool retriable;
};

static void run_case(const struct link_case *c)
{
	struct bed *b = bed_start_small();

	lane_connect(b->lanes[0], b->address);
	c->act(b);
	expect_lost(b, 0, c->text, c->retriable);
	expect_untouched(b);
	expect_no_event(b); /* one LINK_LOST, and never CONNECTED */
	bed_finish(b);
}

static void run_cases(const struct link_case *cases, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		if (getenv("TEST_VERBOSE"))
			printf("  %s\n", cases[i].name);
		run_case(&cases[i]);
	}
}

/* ---- TLS ---- */

/* Handshake as far as it goes, then the end. */
static void tls_serve(struct bed *b, SSL *ssl)
{
	struct peer *p = peer_new(b, listener_accept(b), ssl);
	char byte;

	if (SSL_accept(ssl) == 1)
		(void)SSL_read(ssl, &byte, 1); /* nothing may come but the end */
	ERR_clear_error();
	peer_free(p);
}

static void tls_serve_as(struct bed *b, const char *name, const char *alpn)
{
	struct tls_context *c = pki_context(b->pki, name, "ca", alpn);
	SSL *ssl;

	must(tls_session_new(c, true, &ssl, NULL) == 0);
	tls_serve(b, ssl);
	tls_context_unref(c);
}

static void act_wrong_name(struct bed *b)
{
	tls_serve_as(b, "renamed", NULL);
}

static void act_unknown_ca(struct bed *b)
{
	tls_serve_as(b, "stranger", NULL);
}

static void act_expired(struct bed *b)
{
	tls_serve_as(b, "expired", NULL);
}

static void act_other_alpn(struct bed *b)
{
	tls_serve_as(b, "source", "h2");
}

/* A server of the usual kind: no ALPN; max: the newest TLS that it speaks. */
static void tls_serve_plain(struct bed *b, int max)
{
	SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());
	char path[PKI_PATH_MAX];
	SSL *ssl;

	must(SSL_CTX_use_certificate_chain_file(ctx, pki_path(b->pki, "source.pem", path)) == 1);
	must(SSL_CTX_use_PrivateKey_file(ctx, pki_path(b->pki, "source.key", path),
	                                 SSL_FILETYPE_PEM) == 1);
	must(SSL_CTX_set_max_proto_version(ctx, max) == 1);
	ssl = SSL_new(ctx);
	must(ssl);
	tls_serve(b, ssl);
	SSL_CTX_free(ctx);
}

static void act_tls_12(struct bed *b)
{
	tls_serve_plain(b, TLS1_2_VERSION);
}

static void act_no_alpn(struct bed *b)
{
	tls_serve_plain(b, TLS1_3_VERSION);
}

static void act_not_tls(struct bed *b)
{
	static const char text[] = "HTTP/1.0 400 Bad Request\r\n\r\n";
	int fd = listener_accept(b);
	char buf[4096];

	must(recv(fd, buf, sizeof(buf), 0) > 0);
	must(send(fd, text, sizeof(text), 0) == sizeof(text));
	while (recv(fd, buf, sizeof(buf), 0) > 0)
		;
	close(fd);
}

static void act_close_at_once(struct bed *b)
{
	int fd = listener_accept(b);
	char buf[4096];

	shutdown(fd, SHUT_WR);
	while (recv(fd, buf, sizeof(buf), 0) > 0)
		;
	close(fd);
}

static void test_tls(void **state)
{
	static const struct link_case cases[] = {
	        {"wrong SAN", act_wrong_name, PKI_SOURCE_DNS, false},
	        {"unknown CA", act_unknown_ca, "not signed by a CA in this side's CA file", true},
	        {"expired", act_expired, "expired at", true},
	        {"other ALPN", act_other_alpn, "no ALPN protocol in common", true},
	        {"no ALPN", act_no_alpn, "no ALPN protocol in common", true},
	        {"TLS 1.2", act_tls_12, "TLS 1.3", true},
	        {"no TLS", act_not_tls, "not TLS 1.3", true},
	        {"close at once", act_close_at_once, "in the TLS handshake", true},
	};

	(void)state;
	run_cases(cases, ARRAY_SIZE(cases));
}

static void test_nobody_listens(void **state)
{
	struct bed *b = bed_start_small();
	char address[32];

	(void)state;
	snprintf(address, sizeof(address), "%s", b->address);
	close(b->listener);
	lane_connect(b->lanes[0], address);
	expect_lost(b, 0, "refused", true);
	bed_listen(b);
	lane_connect(b->lanes[0], "no-such-host.invalid:1");
	expect_lost(b, 0, "no-such-host.invalid", true);
	bed_finish(b);
}

/* ---- Error ---- */

/* Not one is forgotten: PROTOCOL.md, "Lost connections". */
static void test_errors(void **state)
{
	static const bool retriable[] = {
	        [WIRE_ERROR_PROTOCOL] = false,
	        [WIRE_ERROR_VERSION] = false,
	        [WIRE_ERROR_UNKNOWN_MIGRATION] = false,
	        [WIRE_ERROR_DENIED] = false,
	        [WIRE_ERROR_NOT_FROZEN] = true,
	        [WIRE_ERROR_BAD_PAGE] = false,
	        [WIRE_ERROR_BUSY] = true,
	        [WIRE_ERROR_SOURCE_GONE] = false,
	        [WIRE_ERROR_CANCELLED] = false,
	        [WIRE_ERROR_INTERNAL] = true,
	};
	struct bed *b = bed_start_small();

	(void)state;
	for (unsigned code = WIRE_ERROR_PROTOCOL; code <= WIRE_ERROR_INTERNAL; code++) {
		for (int stage = 0; stage < 3; stage++) {
			struct page_message m = {.type = PAGE_MESSAGE_ERROR,
			                         .error = {.code = code, .text = "so there"}};
			struct links l = {NULL, NULL};
			char text[64];

			if (stage > 0) {
				l = links_up(b, 0, true);
			} else {
				lane_connect(b->lanes[0], b->address);
				l.urgent = peer_accept_hello(b, 0, LINK_ROLE_URGENT);
			}
			peer_send(stage == 2 ? l.bulk : l.urgent, &m);
			snprintf(text, sizeof(text), "the source says %s: so there",
			         wire_error_code_name(code));
			expect_lost(b, 0, text, retriable[code]);
			links_down(&l);
		}
	}
	expect_untouched(b);
	bed_finish(b);
}

/* ---- Hello ---- */

/* Accept, take the Hello, do something, and read to the end. */
static struct peer *greeted(struct bed *b)
{
	return peer_accept_hello(b, 0, LINK_ROLE_URGENT);
}

static void read_to_end(struct peer *p)
{
	while (peer_receive(p) != PAGE_MESSAGE_NONE)
		;
	peer_free(p);
}

static void act_end_after_hello(struct bed *b)
{
	struct peer *p = greeted(b);

	SSL_shutdown(p->ssl);
	read_to_end(p);
}

static void act_cut_after_hello(struct bed *b)
{
	struct peer *p = greeted(b);

	shutdown(p->fd, SHUT_WR);
	read_to_end(p);
}

static void act_end_in_hello_ack(struct bed *b)
{
	static const uint8_t half[] = {60, 0, 0, 0, 0, 0, 0, 0, 0x12};
	struct peer *p = greeted(b);

	peer_write(p, half, sizeof(half));
	SSL_shutdown(p->ssl);
	read_to_end(p);
}

static void act_early_message(struct bed *b, enum page_message_type type)
{
	struct peer *p = greeted(b);

	peer_send_type(p, type);
	read_to_end(p);
}

static void act_early_frozen(struct bed *b)
{
	act_early_message(b, PAGE_MESSAGE_FROZEN);
}

/* A source that only pings would otherwise keep the link for ever, and nobody would know. */
static void act_early_ping(struct bed *b)
{
	act_early_message(b, PAGE_MESSAGE_PING);
}

static void act_early_pages(struct bed *b)
{
	struct peer *p = greeted(b);

	peer_pages(p, 1, 0, 1, PAGE_KIND_DATA);
	read_to_end(p);
}

static void act_early_poison(struct bed *b)
{
	struct peer *p = greeted(b);

	peer_poison(p, 0, 64);
	read_to_end(p);
}

static void act_hello(struct bed *b)
{
	struct peer *p = greeted(b);
	struct page_message m = p->m;

	peer_send(p, &m);
	read_to_end(p);
}

static void act_version(struct bed *b, uint32_t version)
{
	struct wire_region regions[PARTS_MAX + 1];
	struct page_message m = hello_ack(b, true, regions);
	struct peer *p = greeted(b);

	m.hello_ack.version = version;
	peer_send(p, &m);
	read_to_end(p);
}

static void act_version_0(struct bed *b)
{
	act_version(b, 0);
}

static void act_version_9(struct bed *b)
{
	act_version(b, 9);
}

static void test_hello(void **state)
{
	static const struct link_case cases[] = {
	        {"end", act_end_after_hello, "the source closed the connection", true},
	        {"cut", act_cut_after_hello, "without the end of TLS", true},
	        {"half a frame", act_end_in_hello_ack, "in the middle of a frame", true},
	        {"Frozen first", act_early_frozen, "sent Frozen before HelloAck", true},
	        {"Ping first", act_early_ping, "sent Ping before HelloAck", true},
	        {"Pages first", act_early_pages, "sent Pages before HelloAck", true},
	        {"poison first", act_early_poison, "sent PoisonNotice before HelloAck", true},
	        {"Hello back", act_hello, "sent Hello before HelloAck", true},
	        {"version 0", act_version_0, "HelloAck.version is 0", true},
	        {"version 9", act_version_9, "chose version 9", false},
	};

	(void)state;
	run_cases(cases, ARRAY_SIZE(cases));
}

/* ---- the region table ---- */

struct table_case {
	const char *text;
	bool retriable;
	size_t n; /* of the regions below */
	struct wire_region regions[3];
};

#define RAM(suffix, address, pages)                                            \
	{                                                                      \
		"ram" suffix, {UINT64_C(address) << 32}, (pages)*4096ULL, 4096 \
	}

static void test_tables(void **state)
{
	static const struct spec specs[] = {{MEMORY_ANON, 8, 0}, {MEMORY_MEMFD, 5, 0}};
	static const struct table_case cases[] = {
	        {"the source has 1 regions, the VMM here attached 2", false, 1, {RAM("0", 1, 8)}},
	        {"the source has 3 regions, the VMM here attached 2",
	         false,
	         3,
	         {RAM("0", 1, 8), RAM("1", 2, 5), RAM("2", 3, 5)}},
	        {"region ram1 is 20480 bytes here and 24576 on the source",
	         false,
	         2,
	         {RAM("0", 1, 8), RAM("1", 2, 6)}},
	        {"region ram1 is at guest-physical 0x200000000 here and 0x500000000",
	         false,
	         2,
	         {RAM("0", 1, 8), RAM("1", 5, 5)}},
	        {"region rom that the VMM here did not attach",
	         false,
	         2,
	         {RAM("0", 1, 8), {"rom", {UINT64_C(2) << 32}, 5 * 4096, 4096}}},
	        {"name \"ram0\" is also that of region 0",
	         true,
	         2,
	         {RAM("0", 1, 8), RAM("0", 2, 5)}},
	        {"HelloAck has 0 regions, expected 1 to 512", true, 0, {RAM("0", 1, 8)}},
	        {"length 0 is not a positive multiple", true, 2, {RAM("0", 1, 8), RAM("1", 2, 0)}},
	};
	struct bed *b = bed_start(specs, ARRAY_SIZE(specs));

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		for (int bulk = 0; bulk < 2; bulk++) {
			const struct table_case *c = &cases[i];
			struct page_message m = {.type = PAGE_MESSAGE_HELLO_ACK};
			struct links l = {NULL, NULL};

			m.hello_ack.version = 1;
			m.hello_ack.frozen = true;
			m.hello_ack.regions = c->regions;
			m.hello_ack.n_regions = c->n;
			lane_connect(b->lanes[0], b->address);
			l.urgent = greeted(b);
			if (bulk) {
				peer_welcome(l.urgent, true);
				l.bulk = peer_accept_hello(b, 0, LINK_ROLE_BULK);
			}
			peer_send(bulk ? l.bulk : l.urgent, &m);
			expect_lost(b, 0, c->text, c->retriable);
			links_down(&l);
		}
	}
	expect_untouched(b);
	bed_finish(b);
}

/* 513 regions, which our own encoder refuses to write: each an empty submessage. */
static void act_many_regions(struct bed *b)
{
	enum {
		REGIONS = 513,
		BODY = 2 + REGIONS * 2,
		HEADER = 3 + BODY
	};
	uint8_t frame[8 + HEADER] = {HEADER & 0xff, HEADER >> 8};
	struct peer *p = greeted(b);
	uint8_t *at = frame + 8;

	*at++ = 0x12; /* Frame.hello_ack */
	*at++ = (BODY & 0x7f) | 0x80;
	*at++ = BODY >> 7;
	*at++ = 0x08; /* version */
	*at++ = 1;
	for (int i = 0; i < REGIONS; i++) {
		*at++ = 0x12; /* regions */
		*at++ = 0;
	}
	peer_write(p, frame, sizeof(frame));
	read_to_end(p);
}

static void test_many_regions(void **state)
{
	static const struct link_case c = {"513 regions", act_many_regions,
	                                   "HelloAck has 513 regions, expected 1 to 512", true};

	(void)state;
	run_case(&c);
}

/* ---- after HelloAck ---- */

/* On each of the two connections the same: the lane gives up both, with one event. */
static void test_after_hello(void **state)
{
	static const struct {
		int way;
		const char *text;
	} cases[] = {{0, "second HelloAck"},
	             {1, "the source closed the connection"},
	             {2, "without the end of TLS"},
	             {3, "in the middle of a frame, after 5 bytes"}};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases) * 2; i++) {
		struct bed *b = bed_start_small();
		struct links l = links_up(b, 0, false);
		struct peer *p = i % 2 ? l.bulk : l.urgent;

		if (cases[i / 2].way == 0)
			peer_welcome(p, false);
		else if (cases[i / 2].way == 1)
			SSL_shutdown(p->ssl);
		else if (cases[i / 2].way == 2)
			shutdown(p->fd, SHUT_WR);
		else
			peer_write(p, "\x09\0\0\0\0", 5);
		if (cases[i / 2].way == 3)
			SSL_shutdown(p->ssl);
		expect_lost(b, 0, cases[i / 2].text, true);
		assert_int_equal(peer_next(l.urgent), PAGE_MESSAGE_NONE);
		assert_int_equal(peer_next(l.bulk), PAGE_MESSAGE_NONE);
		links_down(&l);
		expect_no_event(b);
		expect_untouched(b);
		bed_finish(b);
	}
}

/* PROTOCOL.md: a Ping only after HelloAck, however long that takes (pings are due every 2 s). */
static void test_no_ping_before_hello_ack(void **state)
{
	struct bed *b = bed_start_small();
	struct pollfd p = {.events = POLLIN};
	struct peer *urgent;

	(void)state;
	lane_connect(b->lanes[0], b->address);
	urgent = greeted(b);
	p.fd = urgent->fd;
	assert_int_equal(poll(&p, 1, 2500), 0);
	peer_free(urgent);
	bed_wait(b, 0, LANE_EVENT_LINK_LOST);
	bed_finish(b);
}

static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tls),         cmocka_unit_test(test_nobody_listens),
        cmocka_unit_test(test_errors),      cmocka_unit_test(test_hello),
        cmocka_unit_test(test_tables),      cmocka_unit_test(test_many_regions),
        cmocka_unit_test(test_after_hello), cmocka_unit_test(test_no_ping_before_hello_ack),
};

LANE_TEST_MAIN(tests)
