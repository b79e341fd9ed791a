/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The channel over real TLS and real sockets: who gets in, what every refusal
 * says, that frames arrive whole and in order, and that closing, freeing and
 * moving it at any moment is safe.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <openssl/err.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/socket.h>

#include "core/clock.h"
#include "net/address.h"
#include "net/channel.h"
#include "support/pki.h"

#define GIVE_UP_S 30
#define HEAD_BYTES (FRAME_PREFIX_BYTES + 8)

static struct pki *pki;

struct side {
	struct loop *loop;
	struct channel *ch;
	bool ready, closed;
	struct error end;
	unsigned n_frames, n_drained, n_after_end;
	unsigned stop_at_frames; /* stop the loop then */
	uint64_t bytes;
	int (*frame_fn)(struct side *s, const struct frame *frame, struct error *err);
	void (*drained_fn)(struct side *s);
	void *context;
};

struct pair {
	struct loop *loop;
	struct side server, client;
};

/* --- harness --- */

static void on_ready(struct channel *ch, void *user)
{
	struct side *s = user;

	(void)ch;
	s->ready = true;
	loop_stop(s->loop);
}

static int on_frame(struct channel *ch, const struct frame *frame, struct error *err, void *user)
{
	struct side *s = user;
	int r = 0;

	(void)ch;
	s->n_after_end += s->closed;
	s->n_frames++;
	s->bytes += frame->payload_len;
	if (s->n_frames == s->stop_at_frames)
		loop_stop(s->loop);
	if (s->frame_fn)
		r = s->frame_fn(s, frame, err);
	return r;
}

static void on_drained(struct channel *ch, void *user)
{
	struct side *s = user;

	(void)ch;
	s->n_drained++;
	if (s->drained_fn)
		s->drained_fn(s);
	else
		loop_stop(s->loop);
}

static void on_closed(struct channel *ch, const struct error *err, void *user)
{
	struct side *s = user;

	(void)ch;
	s->n_after_end += s->closed;
	s->closed = true;
	s->end = *err;
	loop_stop(s->loop);
}

static const struct channel_callbacks callbacks = {on_ready, on_frame, on_drained, on_closed};

static void on_give_up(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	*(bool *)arg = true;
}

/* Run the loop until the condition holds; callbacks stop the loop at each change. */
#define run_until(loop_, condition)                                                       \
	do {                                                                              \
		bool gave_up_ = false;                                                    \
		struct timeval tv_ = {.tv_sec = GIVE_UP_S};                               \
		struct event *ev_ = evtimer_new(loop_base(loop_), on_give_up, &gave_up_); \
		struct timeval tick_ = {.tv_usec = 20000};                                \
		event_add(ev_, &tv_);                                                     \
		while (!(condition) && !gave_up_) {                                       \
			event_base_loopexit(loop_base(loop_), &tick_);                    \
			loop_run(loop_);                                                  \
		}                                                                         \
		event_free(ev_);                                                          \
		if (gave_up_)                                                             \
			fail_msg("%s: gave up waiting for: %s", __func__, #condition);    \
	} while (0)

static void socket_pair(int fds[2])
{
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds),
	                 0);
}

/* A TCP connection over loopback: fds[0] accepted, fds[1] connecting. */
static void tcp_pair(int fds[2])
{
	struct sockaddr_storage ss;
	struct addrinfo *ai, to;
	struct error err = {0};
	socklen_t len = sizeof(ss);
	int listener;

	assert_int_equal(address_resolve("127.0.0.1:0", true, &ai, &err), 0);
	listener = address_listen(ai, &err);
	assert_true(listener >= 0);
	assert_int_equal(getsockname(listener, (struct sockaddr *)&ss, &len), 0);
	to = *ai;
	to.ai_addr = (struct sockaddr *)&ss;
	to.ai_addrlen = len;
	fds[1] = address_connect(&to, &err);
	assert_true(fds[1] >= 0);
	do
		fds[0] = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	while (fds[0] < 0 && errno == EAGAIN);
	assert_true(fds[0] >= 0);
	assert_int_equal(address_tune(fds[0]), 0);
	close(listener);
	freeaddrinfo(ai);
}

static void side_open_with(struct side *s, struct loop *loop, int fd, bool server,
                           struct tls_context *tls, const struct channel_options *options)
{
	struct error err = {0};

	s->loop = loop;
	assert_int_equal(channel_new(loop, fd, tls, server, options, &callbacks, s, &s->ch, &err),
	                 0);
}

static void side_open(struct side *s, struct loop *loop, int fd, bool server, const char *name,
                      const char *ca, const char *alpn, const struct channel_options *options)
{
	struct tls_context *tls = pki_context(pki, name, ca, alpn);

	side_open_with(s, loop, fd, server, tls, options);
	tls_context_unref(tls);
}

static void pair_new(struct pair *p)
{
	memset(p, 0, sizeof(*p));
	assert_int_equal(loop_new(&p->loop), 0);
}

static void pair_open(struct pair *p, const struct channel_options *options)
{
	int fds[2];

	pair_new(p);
	tcp_pair(fds);
	side_open(&p->server, p->loop, fds[0], true, "source", "ca", NULL, options);
	side_open(&p->client, p->loop, fds[1], false, "destination", "ca", NULL, options);
	run_until(p->loop, p->server.ready && p->client.ready);
}

static void pair_close(struct pair *p)
{
	channel_free(p->server.ch);
	channel_free(p->client.ch);
	assert_int_equal(p->server.n_after_end, 0);
	assert_int_equal(p->client.n_after_end, 0);
	loop_free(p->loop);
}

static uint8_t pattern(uint32_t seq, size_t i)
{
	return (uint8_t)(seq * 31 + i * 7 + (i >> 8));
}

static void head_make(uint8_t head[HEAD_BYTES], uint32_t seq, size_t payload_len)
{
	frame_prefix_write(head, HEAD_BYTES - FRAME_PREFIX_BYTES, payload_len);
	memset(head + FRAME_PREFIX_BYTES, 0x5a, 8);
	memcpy(head + FRAME_PREFIX_BYTES, &seq, sizeof(seq));
}

static int send_frame(struct side *s, uint32_t seq, size_t payload_len)
{
	static _Thread_local uint8_t payload[FRAME_PAYLOAD_MAX];
	uint8_t head[HEAD_BYTES];

	head_make(head, seq, payload_len);
	for (size_t i = 0; i < payload_len; i++)
		payload[i] = pattern(seq, i);
	return channel_send(s->ch, head, sizeof(head), payload, payload_len);
}

/* -EBADMSG unless the frame is number seq, whole and unchanged. */
static int frame_verify(const struct frame *frame, uint32_t seq)
{
	uint32_t got;

	if (frame->header_len != 8)
		return -EBADMSG;
	memcpy(&got, frame->header, sizeof(got));
	if (got != seq)
		return -EBADMSG;
	for (size_t i = 0; i < frame->payload_len; i++) {
		if (frame->payload[i] != pattern(seq, i))
			return -EBADMSG;
	}
	return 0;
}

static int frame_in_order(struct side *s, const struct frame *frame, struct error *err)
{
	int r = frame_verify(frame, s->n_frames - 1);

	return r < 0 ? error_set(err, r, "frame %u is wrong", s->n_frames - 1) : 0;
}

static void assert_contains(const char *text, const char *part)
{
	if (!strstr(text, part))
		fail_msg("\"%s\" does not contain \"%s\"", text, part);
}

/* --- who gets in --- */

static void handshake_gives_identity(void **state)
{
	struct error err = {0};
	struct pair p;
	char names[128];
	uint8_t print[32], other[32];

	(void)state;
	pair_open(&p, NULL);
	assert_string_equal(channel_cipher(p.client.ch), "TLS_AES_128_GCM_SHA256");
	assert_int_equal(channel_check_identity(p.client.ch, "dns:SOURCE.Example", &err), 0);
	assert_int_equal(channel_check_identity(p.client.ch, "postcopy://source", &err), 0);
	assert_int_equal(channel_check_identity(p.server.ch, "destination.example", &err), 0);
	assert_string_equal(channel_peer_names(p.client.ch, names, sizeof(names)),
	                    "dns:source.example, uri:postcopy://source");
	assert_int_equal(channel_peer_fingerprint(p.client.ch, print), 0);
	assert_int_equal(channel_peer_fingerprint(p.server.ch, other), 0);
	assert_memory_not_equal(print, other, 32);
	assert_contains(channel_peer_address(p.server.ch), "127.0.0.1:");
	pair_close(&p);
}

static void wrong_name_is_told_with_both(void **state)
{
	static const char *const wrong[] = {"elsewhere.example", "uri:postcopy://Source",
	                                    "uri:postcopy://sourc", "dns:source.exampl",
	                                    "dns:sub.source.example"};
	struct error err = {0};
	struct pair p;

	(void)state;
	pair_open(&p, NULL);
	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++)
		assert_int_equal(channel_check_identity(p.client.ch, wrong[i], &err), -EACCES);
	assert_contains(err.text, "expected dns:sub.source.example");
	assert_contains(err.text, "dns:source.example, uri:postcopy://source");
	/* The common name of this certificate is "source": it must not count. */
	assert_int_equal(channel_check_identity(p.client.ch, "dns:source", &err), -EACCES);
	assert_int_equal(channel_check_identity(p.client.ch, "*.example", &err), -EINVAL);
	assert_contains(err.text, "no wildcard");
	pair_close(&p);
}

static void name_with_nul_matches_nothing(void **state)
{
	static const char name[] = "source.example\0.evil";
	struct pki_request request = {.name = "nul", .dns = name, .dns_len = sizeof(name) - 1};
	struct error err = {0};
	struct pair p;
	int fds[2];

	(void)state;
	pki_issue(pki, &request);
	pair_new(&p);
	socket_pair(fds);
	side_open(&p.server, p.loop, fds[0], true, "nul", "ca", NULL, NULL);
	side_open(&p.client, p.loop, fds[1], false, "destination", "ca", NULL, NULL);
	run_until(p.loop, p.client.ready);
	assert_int_equal(channel_check_identity(p.client.ch, PKI_SOURCE_DNS, &err), -EACCES);
	assert_contains(err.text, "source.example?.evil");
	pair_close(&p);
}

/* Connect with these certificates and wait until both sides know the end. */
static void refused(const char *server, const char *server_ca, const char *client,
                    const char *client_ca, const char *client_alpn, struct pair *p)
{
	int fds[2];

	pair_new(p);
	tcp_pair(fds);
	side_open(&p->server, p->loop, fds[0], true, server, server_ca, NULL, NULL);
	side_open(&p->client, p->loop, fds[1], false, client, client_ca, client_alpn, NULL);
	run_until(p->loop, p->server.closed && p->client.closed);
	pair_close(p);
}

static void unknown_ca_is_told_on_both_sides(void **state)
{
	struct pair p;

	(void)state;
	refused("source", "ca", "stranger", "ca", NULL, &p);
	assert_int_equal(p.server.end.code, -EKEYREJECTED);
	assert_contains(p.server.end.text, "not signed by a CA in this side's CA file");
	assert_contains(p.client.end.text, "alert unknown CA");
	refused("stranger", "ca", "destination", "ca", NULL, &p);
	assert_contains(p.client.end.text, "not signed by a CA in this side's CA file");
	assert_contains(p.server.end.text, "alert unknown CA");
	assert_false(p.client.ready || p.server.ready);
}

static void expired_is_told_on_both_sides(void **state)
{
	struct pair p;

	(void)state;
	refused("source", "ca", "expired", "ca", NULL, &p);
	assert_int_equal(p.server.end.code, -EKEYEXPIRED);
	assert_contains(p.server.end.text, "expired at 20");
	assert_contains(p.client.end.text, "alert certificate expired");
	assert_false(p.server.ready);
	refused("expired", "ca", "destination", "ca", NULL, &p);
	assert_contains(p.client.end.text, "expired at 20");
	assert_contains(p.server.end.text, "alert certificate expired");
}

static void other_alpn_is_told_on_both_sides(void **state)
{
	struct pair p;

	(void)state;
	refused("source", "ca", "destination", "ca", "http/1.1", &p);
	assert_int_equal(p.server.end.code, -EPROTONOSUPPORT);
	assert_contains(p.server.end.text, "no ALPN protocol in common");
	assert_contains(p.client.end.text, "no ALPN protocol in common");
	assert_false(p.client.ready || p.server.ready);
}

/* A peer that does not use our library at all. */
struct raw_client {
	int fd;
	int max_version;
	bool certificate;
	const char *alpn;
	bool server;
	const void *bytes; /* sent after the handshake, without close_notify */
	size_t len;
};

static void raw_context(SSL_CTX *ctx, const struct raw_client *r)
{
	char path[PKI_PATH_MAX];

	SSL_CTX_set_max_proto_version(ctx, r->max_version);
	if (!r->certificate)
		return;
	SSL_CTX_use_certificate_chain_file(ctx, pki_path(pki, "destination.pem", path));
	SSL_CTX_use_PrivateKey_file(ctx, pki_path(pki, "destination.key", path), SSL_FILETYPE_PEM);
}

static void *raw_client_main(void *arg)
{
	struct raw_client *r = arg;
	SSL_CTX *ctx = SSL_CTX_new(TLS_method());
	SSL *ssl;
	sigset_t pipe_signal;
	char byte;

	/* In this thread only: the library must not need it. */
	sigemptyset(&pipe_signal);
	sigaddset(&pipe_signal, SIGPIPE);
	pthread_sigmask(SIG_BLOCK, &pipe_signal, NULL);
	raw_context(ctx, r);
	ssl = SSL_new(ctx);
	if (r->alpn)
		SSL_set_alpn_protos(ssl, (const unsigned char *)r->alpn, (unsigned)strlen(r->alpn));
	SSL_set_fd(ssl, r->fd);
	if ((r->server ? SSL_accept(ssl) : SSL_connect(ssl)) == 1) {
		if (r->len)
			SSL_write(ssl, r->bytes, (int)r->len);
		else
			SSL_read(ssl, &byte, 1);
	}
	ERR_clear_error();
	SSL_free(ssl);
	SSL_CTX_free(ctx);
	close(r->fd);
	return NULL;
}

/* What our side says about such a peer. */
static struct error raw_run(struct raw_client *r)
{
	struct pair p;
	pthread_t thread;
	int fds[2];

	pair_new(&p);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	assert_int_equal(evutil_make_socket_nonblocking(fds[0]), 0);
	r->fd = fds[1];
	side_open(&p.server, p.loop, fds[0], !r->server, "source", "ca", NULL, NULL);
	assert_int_equal(pthread_create(&thread, NULL, raw_client_main, r), 0);
	run_until(p.loop, p.server.closed);
	channel_free(p.server.ch);
	pthread_join(thread, NULL);
	loop_free(p.loop);
	return p.server.end;
}

static void tls_1_2_client_is_refused(void **state)
{
	struct raw_client r = {
	        .max_version = TLS1_2_VERSION, .certificate = true, .alpn = "\012postcopy/1"};
	struct error err = raw_run(&r);

	(void)state;
	assert_int_equal(err.code, -EPROTONOSUPPORT);
	assert_contains(err.text, "TLS 1.2 or older only: TLS 1.3 is required");
}

static void tls_1_2_server_is_refused(void **state)
{
	struct raw_client r = {.max_version = TLS1_2_VERSION, .certificate = true, .server = true};
	struct error err = raw_run(&r);

	(void)state;
	assert_int_equal(err.code, -EPROTONOSUPPORT);
	assert_contains(err.text, "TLS 1.3");
}

static void no_client_certificate_is_refused(void **state)
{
	struct raw_client r = {.max_version = TLS1_3_VERSION, .alpn = "\012postcopy/1"};
	struct error err = raw_run(&r);

	(void)state;
	assert_int_equal(err.code, -ENOKEY);
	assert_contains(err.text, "the peer sent no certificate");
}

static void no_alpn_at_all_is_refused(void **state)
{
	struct raw_client r = {.max_version = TLS1_3_VERSION, .certificate = true};
	struct error err = raw_run(&r);

	(void)state;
	assert_int_equal(err.code, -EPROTONOSUPPORT);
	assert_contains(err.text, "the peer offers none");
	r = (struct raw_client){.max_version = TLS1_3_VERSION, .certificate = true, .server = true};
	err = raw_run(&r);
	assert_contains(err.text, "the peer selected none");
}

static void garbage_is_not_tls(void **state)
{
	struct pair p;
	int fds[2];

	(void)state;
	pair_new(&p);
	socket_pair(fds);
	side_open(&p.server, p.loop, fds[0], true, "source", "ca", NULL, NULL);
	assert_int_equal(write(fds[1], "GET / HTTP/1.1\r\n\r\n", 18), 18);
	run_until(p.loop, p.server.closed);
	assert_contains(p.server.end.text, "HTTP request, not TLS");
	close(fds[1]);
	pair_close(&p);
}

/* --- broken peers --- */

static void frame_over_the_limit_ends_it(void **state)
{
	uint8_t prefix[FRAME_PREFIX_BYTES];
	struct raw_client r = {.max_version = TLS1_3_VERSION,
	                       .certificate = true,
	                       .alpn = "\012postcopy/1",
	                       .bytes = prefix,
	                       .len = sizeof(prefix)};
	struct error err;

	(void)state;
	frame_prefix_write(prefix, 8, FRAME_PAYLOAD_MAX + 1);
	err = raw_run(&r);
	assert_int_equal(err.code, -EMSGSIZE);
	assert_contains(err.text, "262145");
}

static void cut_without_close_notify_is_a_reset(void **state)
{
	uint8_t head[HEAD_BYTES];
	struct raw_client r = {.max_version = TLS1_3_VERSION,
	                       .certificate = true,
	                       .alpn = "\012postcopy/1",
	                       .bytes = head,
	                       .len = sizeof(head)};

	(void)state;
	head_make(head, 0, 4096); /* and no payload: a truncated frame */
	assert_int_equal(raw_run(&r).code, -ECONNRESET);
}

static void clean_close_in_the_middle_of_a_frame_is_told(void **state)
{
	uint8_t head[HEAD_BYTES];
	struct pair p;

	(void)state;
	pair_open(&p, NULL);
	head_make(head, 0, 4096);
	assert_int_equal(channel_send(p.client.ch, head, sizeof(head), NULL, 0), 0);
	channel_close_after_flush(p.client.ch);
	run_until(p.loop, p.server.closed && p.client.closed);
	assert_int_equal(p.server.end.code, -EBADMSG);
	assert_contains(p.server.end.text, "middle of a frame, after 16 bytes");
	pair_close(&p);
}

static void connection_refused_is_told(void **state)
{
	struct addrinfo *ai;
	struct error err = {0};
	struct pair p;
	struct sockaddr_storage ss;
	socklen_t len = sizeof(ss);
	int fd, listener;

	(void)state;
	pair_new(&p);
	assert_int_equal(address_resolve("127.0.0.1:0", true, &ai, &err), 0);
	listener = address_listen(ai, &err);
	getsockname(listener, (struct sockaddr *)&ss, &len);
	close(listener);
	memcpy(ai->ai_addr, &ss, len);
	fd = address_connect(ai, &err);
	freeaddrinfo(ai);
	if (fd >= 0) {
		side_open(&p.client, p.loop, fd, false, "destination", "ca", NULL, NULL);
		run_until(p.loop, p.client.closed);
		assert_int_equal(p.client.end.code, -ECONNREFUSED);
	} else {
		assert_int_equal(fd, -ECONNREFUSED);
	}
	pair_close(&p);
}

/* --- frames --- */

static void before_ready_nothing_is_taken(void **state)
{
	struct pair p;
	int fds[2];

	(void)state;
	pair_new(&p);
	socket_pair(fds);
	side_open(&p.client, p.loop, fds[1], false, "destination", "ca", NULL, NULL);
	assert_int_equal(send_frame(&p.client, 0, 10), -ENOTCONN);
	assert_null(channel_reserve(p.client.ch, 10));
	assert_string_equal(channel_cipher(p.client.ch), "");
	close(fds[0]);
	run_until(p.loop, p.client.closed);
	assert_contains(p.client.end.text, "handshake");
	assert_int_equal(send_frame(&p.client, 0, 10), -ENOTCONN);
	pair_close(&p);
}

#define TRAFFIC_FRAMES 10000

struct traffic {
	struct side side;
	uint32_t n_sent;
	uint32_t random;
};

static size_t traffic_next_size(struct traffic *t)
{
	t->random = t->random * 1664525 + 1013904223;
	/* Mostly small, some a page, a few near the limit. */
	switch (t->random >> 28) {
	case 0:
		return (t->random >> 8) % (FRAME_PAYLOAD_MAX / 8);
	case 1:
		return t->n_sent % 50 == 0 ? FRAME_PAYLOAD_MAX : 0;
	case 2:
	case 3:
	case 4:
		return 4096;
	default:
		return (t->random >> 8) % 700;
	}
}

static void traffic_send(struct side *s)
{
	struct traffic *t = s->context;

	while (t->n_sent < TRAFFIC_FRAMES) {
		uint32_t random = t->random;
		int r = send_frame(s, t->n_sent, traffic_next_size(t));

		if (r == -ENOBUFS) {
			t->random = random;
			return;
		}
		assert_int_equal(r, 0);
		t->n_sent++;
	}
}

static void traffic_done(struct side *s)
{
	struct traffic *t = s->context;

	if (s->n_frames == TRAFFIC_FRAMES && t->n_sent == TRAFFIC_FRAMES)
		loop_stop(s->loop);
}

static int traffic_on_frame(struct side *s, const struct frame *frame, struct error *err)
{
	int r = frame_in_order(s, frame, err);

	traffic_done(s);
	return r;
}

static void traffic_on_drained(struct side *s)
{
	traffic_send(s);
	traffic_done(s);
}

static void *traffic_main(void *arg)
{
	struct traffic *t = arg;
	struct side *s = &t->side;

	run_until(s->loop, s->ready || s->closed);
	traffic_send(s);
	run_until(s->loop,
	          s->closed || (s->n_frames == TRAFFIC_FRAMES && t->n_sent == TRAFFIC_FRAMES));
	/* Until the other side has it all. */
	run_until(s->loop, s->closed || channel_queued(s->ch) == 0);
	return NULL;
}

static void frames_arrive_whole_and_in_order_both_ways(void **state)
{
	struct channel_options options = {.low_water_bytes = 64 * 1024,
	                                  .out_buffer_bytes = 512 * 1024};
	struct traffic t[2] = {{.random = 1}, {.random = 2}};
	pthread_t threads[2];
	int fds[2];

	(void)state;
	tcp_pair(fds);
	for (int i = 0; i < 2; i++) {
		struct loop *loop;

		assert_int_equal(loop_new(&loop), 0);
		t[i].side.context = &t[i];
		t[i].side.frame_fn = traffic_on_frame;
		t[i].side.drained_fn = traffic_on_drained;
		side_open(&t[i].side, loop, fds[i], i == 0, i ? "destination" : "source", "ca",
		          NULL, &options);
	}
	for (int i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, traffic_main, &t[i]), 0);
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	for (int i = 0; i < 2; i++) {
		assert_false(t[i].side.closed);
		assert_int_equal(t[i].side.n_frames, TRAFFIC_FRAMES);
		assert_int_equal(channel_bytes_received(t[i].side.ch),
		                 channel_bytes_sent(t[1 - i].side.ch));
		assert_true(t[i].side.bytes > 10 * 1024 * 1024);
	}
	for (int i = 0; i < 2; i++) {
		channel_free(t[i].side.ch);
		loop_free(t[i].side.loop);
	}
}

/* A receiver that has stopped reading fills the buffer; then every byte still arrives. */
static void back_pressure_and_drained(void **state)
{
	struct channel_options options = {.out_buffer_bytes = 400 * 1024,
	                                  .low_water_bytes = 1000,
	                                  .socket_buffer_bytes = 65536};
	unsigned n = 0;
	struct pair p;
	int r;

	(void)state;
	pair_open(&p, &options);
	p.server.frame_fn = frame_in_order;
	channel_pause_reading(p.server.ch);
	while ((r = send_frame(&p.client, n, 4096)) == 0 && n < 100000)
		n++;
	assert_int_equal(r, -ENOBUFS);
	assert_null(channel_reserve(p.client.ch, 4200));
	assert_true(channel_queued(p.client.ch) > 350 * 1024);
	assert_true(channel_queued(p.client.ch) <= 400 * 1024);
	assert_int_equal(p.server.n_frames, 0);
	assert_int_equal(p.client.n_drained, 0);
	channel_resume_reading(p.server.ch);
	run_until(p.loop, p.client.n_drained > 0 && p.server.n_frames == n);
	assert_int_equal(p.client.n_drained, 1);
	assert_int_equal(send_frame(&p.client, n, 100), 0);
	run_until(p.loop, p.server.n_frames == n + 1);
	assert_int_equal(p.client.n_drained, 1);
	assert_false(p.server.closed);
	pair_close(&p);
}

static int pause_after_each(struct side *s, const struct frame *frame, struct error *err)
{
	channel_pause_reading(s->ch);
	loop_stop(s->loop);
	return frame_in_order(s, frame, err);
}

/* Frames that already left the socket must come after a resume without any new fd event. */
static void pause_within_a_batch_keeps_the_rest(void **state)
{
	struct pair p;

	(void)state;
	pair_open(&p, NULL);
	p.server.frame_fn = pause_after_each;
	for (uint32_t i = 0; i < 20; i++)
		assert_int_equal(send_frame(&p.client, i, 100), 0);
	for (unsigned i = 1; i <= 20; i++) {
		run_until(p.loop, p.server.n_frames >= i);
		assert_int_equal(p.server.n_frames, i);
		channel_resume_reading(p.server.ch);
	}
	assert_false(p.server.closed);
	pair_close(&p);
}

static void reserve_and_commit_send_without_a_copy(void **state)
{
	struct pair p;
	uint8_t *to;

	(void)state;
	pair_open(&p, NULL);
	p.server.frame_fn = frame_in_order;
	to = channel_reserve(p.client.ch, 70000);
	assert_non_null(to);
	assert_null(channel_reserve(p.client.ch, 1)); /* one at a time */
	assert_int_equal(channel_commit(p.client.ch, 70001), -EINVAL);
	assert_int_equal(channel_commit(p.client.ch, 0), 0);
	to = channel_reserve(p.client.ch, 70000);
	head_make(to, 0, 5000);
	for (size_t i = 0; i < 5000; i++)
		to[HEAD_BYTES + i] = pattern(0, i);
	assert_int_equal(channel_commit(p.client.ch, HEAD_BYTES + 5000), 0);
	run_until(p.loop, p.server.n_frames == 1);
	assert_int_equal(p.server.bytes, 5000);
	assert_null(channel_reserve(p.client.ch, 2 * 1024 * 1024));
	pair_close(&p);
}

/* Two channels whose bytes the test carries from one to the other, to look at them. */
struct carried {
	struct pair pair;
	int server_fd, client_fd;
	uint8_t bytes[20000];
};

static ssize_t carry(struct carried *c, int from, int to)
{
	ssize_t n = read(from, c->bytes, sizeof(c->bytes));

	assert_true(n <= 0 || to < 0 || write(to, c->bytes, (size_t)n) == n);
	return n;
}

static void carried_open(struct carried *c)
{
	struct pair *p = &c->pair;
	int server[2], client[2];

	pair_new(p);
	socket_pair(server);
	socket_pair(client);
	c->server_fd = server[1];
	c->client_fd = client[1];
	side_open(&p->server, p->loop, server[0], true, "source", "ca", NULL, NULL);
	side_open(&p->client, p->loop, client[0], false, "destination", "ca", NULL, NULL);
	for (int turn = 0; turn < 2000 && !(p->server.ready && p->client.ready); turn++) {
		event_base_loop(loop_base(p->loop), EVLOOP_NONBLOCK);
		carry(c, c->server_fd, c->client_fd);
		carry(c, c->client_fd, c->server_fd);
	}
	assert_true(p->server.ready && p->client.ready);
	while (carry(c, c->client_fd, -1) > 0)
		;
	while (carry(c, c->server_fd, -1) > 0)
		;
}

static void carried_close(struct carried *c)
{
	close(c->server_fd);
	close(c->client_fd);
	pair_close(&c->pair);
}

/* What was read is one TLS record of application data. */
static void assert_one_record(const struct carried *c, ssize_t n)
{
	assert_true(n > 5);
	assert_int_equal(c->bytes[0], 23);
	assert_int_equal((c->bytes[3] << 8 | c->bytes[4]) + 5, n);
}

/* One frame up to 16 KiB is one TLS record, whatever it is sent through. */
static void small_frame_is_one_record(void **state)
{
	struct carried c;
	ssize_t n;

	(void)state;
	carried_open(&c);
	assert_int_equal(send_frame(&c.pair.client, 0, 16384 - HEAD_BYTES), 0);
	n = carry(&c, c.client_fd, -1);
	assert_true(n > 16384);
	assert_one_record(&c, n);
	carried_close(&c);
}

#define QUESTIONS 8

/* The first one sends all, so that the others wait in the same record of the client. */
static int ask_all(struct side *s, const struct frame *frame, struct error *err)
{
	(void)frame;
	(void)err;
	for (uint32_t i = 0; i < QUESTIONS; i++)
		assert_int_equal(send_frame(s, i, 100), 0);
	return 0;
}

static int answer_each(struct side *s, const struct frame *frame, struct error *err)
{
	(void)frame;
	(void)err;
	return send_frame(s, s->n_frames - 1, 100);
}

/* What the frames of one record are answered with leaves as one record: one wake-up of the peer. */
static void answers_to_one_record_are_one_record(void **state)
{
	struct carried c;
	struct pair *p = &c.pair;

	(void)state;
	carried_open(&c);
	p->client.frame_fn = ask_all;
	p->server.frame_fn = answer_each;
	assert_int_equal(send_frame(&p->server, 0, 10), 0);
	carry(&c, c.server_fd, c.client_fd);
	run_until(p->loop, p->client.n_frames == 1);
	assert_one_record(&c, carry(&c, c.client_fd, c.server_fd));
	run_until(p->loop, p->server.n_frames == QUESTIONS);
	assert_one_record(&c, carry(&c, c.server_fd, c.client_fd));
	p->client.frame_fn = NULL;
	run_until(p->loop, p->client.n_frames == 1 + QUESTIONS);
	carried_close(&c);
}

static int refuse_frame(struct side *s, const struct frame *frame, struct error *err)
{
	(void)s;
	(void)frame;
	return error_set(err, -EPERM, "page %d is not ours", 7);
}

static void refused_frame_ends_with_that_error(void **state)
{
	struct pair p;

	(void)state;
	pair_open(&p, NULL);
	p.server.frame_fn = refuse_frame;
	assert_int_equal(send_frame(&p.client, 0, 10), 0);
	assert_int_equal(send_frame(&p.client, 1, 10), 0);
	run_until(p.loop, p.server.closed && p.client.closed);
	assert_int_equal(p.server.end.code, -EPERM);
	assert_string_equal(p.server.end.text, "page 7 is not ours");
	assert_int_equal(p.server.n_frames, 1);
	assert_int_equal(p.client.end.code, -ECONNRESET);
	pair_close(&p);
}

/* --- the end --- */

static int free_in_callback(struct side *s, const struct frame *frame, struct error *err)
{
	uint8_t last = frame->payload[frame->payload_len - 1];

	s->ch = channel_free(s->ch);
	loop_stop(s->loop);
	/* The frame is still readable until we return. */
	return last == frame->payload[frame->payload_len - 1] ? 0 : error_set(err, -EIO, "?");
}

static void free_within_on_frame_is_safe(void **state)
{
	struct pair p;

	(void)state;
	pair_open(&p, NULL);
	p.server.frame_fn = free_in_callback;
	for (uint32_t i = 0; i < 5; i++)
		assert_int_equal(send_frame(&p.client, i, 1000), 0);
	run_until(p.loop, p.client.closed);
	assert_int_equal(p.server.n_frames, 1);
	assert_false(p.server.closed);
	pair_close(&p);
}

static void free_on_ready(struct channel *ch, void *user)
{
	struct side *s = user;

	s->ready = true;
	s->ch = channel_free(ch);
	loop_stop(s->loop);
}

static void free_on_closed(struct channel *ch, const struct error *err, void *user)
{
	struct side *s = user;

	s->closed = true;
	s->end = *err;
	s->ch = channel_free(ch);
	loop_stop(s->loop);
}

static void free_within_on_ready_and_on_closed_is_safe(void **state)
{
	const struct channel_callbacks freeing = {free_on_ready, on_frame, NULL, free_on_closed};
	struct tls_context *tls = pki_context(pki, "source", "ca", NULL);
	struct error err = {0};
	struct pair p;
	int fds[2];

	(void)state;
	pair_new(&p);
	socket_pair(fds);
	p.server.loop = p.client.loop = p.loop;
	assert_int_equal(channel_new(p.loop, fds[0], tls, true, NULL, &freeing, &p.server,
	                             &p.server.ch, &err),
	                 0);
	assert_int_equal(
	        channel_new(p.loop, fds[1], tls, false, NULL,
	                    &(struct channel_callbacks){NULL, on_frame, NULL, free_on_closed},
	                    &p.client, &p.client.ch, &err),
	        0);
	tls_context_unref(tls);
	run_until(p.loop, p.client.closed);
	assert_null(p.client.ch);
	assert_null(p.server.ch);
	assert_false(p.server.closed);
	pair_close(&p);
}

static void close_after_flush_delivers_everything(void **state)
{
	struct channel_options options = {.socket_buffer_bytes = 128 * 1024};
	struct pair p;
	unsigned n = 0;

	(void)state;
	pair_open(&p, &options);
	p.server.frame_fn = frame_in_order;
	while (send_frame(&p.client, n, 30000) == 0)
		n++;
	assert_true(n > 20);
	channel_close_after_flush(p.client.ch);
	assert_int_equal(send_frame(&p.client, n, 10), -ENOTCONN);
	run_until(p.loop, p.server.closed && p.client.closed);
	assert_int_equal(p.server.n_frames, n);
	assert_int_equal(p.server.end.code, 0);
	assert_int_equal(p.client.end.code, 0);
	pair_close(&p);
}

static int say_why_and_refuse(struct side *s, const struct frame *frame, struct error *err)
{
	(void)frame;
	assert_int_equal(send_frame(s, 0, 300000 % FRAME_PAYLOAD_MAX), 0);
	channel_close_after_flush(s->ch);
	return error_set(err, -EACCES, "wrong token");
}

static void refusal_with_a_last_word(void **state)
{
	struct pair p;

	(void)state;
	pair_open(&p, NULL);
	p.server.frame_fn = say_why_and_refuse;
	p.client.frame_fn = frame_in_order;
	for (uint32_t i = 0; i < 50; i++) /* unread input must not destroy the answer */
		assert_int_equal(send_frame(&p.client, i, 10000), 0);
	run_until(p.loop, p.server.closed && p.client.closed);
	assert_int_equal(p.server.end.code, -EACCES);
	assert_string_equal(p.server.end.text, "wrong token");
	assert_int_equal(p.client.n_frames, 1);
	assert_int_equal(p.client.end.code, 0);
	pair_close(&p);
}

static void silent_peer_times_out_in_the_handshake(void **state)
{
	struct channel_options options = {.handshake_timeout_us = 50000};
	uint64_t start = clock_monotonic_us();
	struct pair p;
	int fds[2];

	(void)state;
	pair_new(&p);
	socket_pair(fds);
	side_open(&p.server, p.loop, fds[0], true, "source", "ca", NULL, &options);
	run_until(p.loop, p.server.closed);
	assert_int_equal(p.server.end.code, -ETIMEDOUT);
	assert_contains(p.server.end.text, "handshake within 50");
	assert_true(clock_monotonic_us() - start >= 40000);
	close(fds[1]);
	pair_close(&p);
}

static void idle_peer_times_out(void **state)
{
	/* Ten times the pause between frames: a busy machine must not look like an idle peer. */
	struct channel_options options = {.idle_timeout_us = 1500000};
	uint64_t last;
	struct pair p;

	(void)state;
	pair_open(&p, &options);
	last = clock_monotonic_us();
	for (unsigned i = 0; i < 12; i++) { /* traffic each way keeps it alive */
		assert_int_equal(send_frame(&p.client, i, 10), 0);
		assert_int_equal(send_frame(&p.server, i, 10), 0);
		run_until(p.loop, clock_monotonic_us() - last > (i + 1) * 150000);
		assert_false(p.server.closed || p.client.closed);
	}
	last = clock_monotonic_us();
	run_until(p.loop, p.server.closed || p.client.closed);
	assert_int_equal((p.server.closed ? p.server : p.client).end.code, -ETIMEDOUT);
	assert_contains((p.server.closed ? p.server : p.client).end.text, "nothing arrived");
	pair_close(&p);
}

static void busy_thread_blames_no_peer(void **state)
{
	const struct timespec busy = {.tv_sec = 1, .tv_nsec = 200000000};
	struct channel_options options = {.idle_timeout_us = 1000000};
	struct pair p;

	(void)state;
	pair_open(&p, &options);
	nanosleep(&busy, NULL); /* the thread does something else, and sends nothing */
	event_base_loop(loop_base(p.loop), EVLOOP_NONBLOCK);
	assert_false(p.server.closed || p.client.closed);
	assert_int_equal(send_frame(&p.client, 0, 10), 0);
	run_until(p.loop, p.server.n_frames == 1 || p.server.closed);
	assert_false(p.server.closed || p.client.closed);
	/* That is no excuse for silence. */
	run_until(p.loop, p.server.closed || p.client.closed);
	assert_contains((p.server.closed ? p.server : p.client).end.text, "nothing arrived");
	pair_close(&p);
}

/* --- moving between threads --- */

struct mover {
	struct side *side;
	struct loop *loops[2]; /* each with its thread */
	unsigned at;
	unsigned n_moves;
	unsigned total;
	atomic_bool done;
};

static void mover_attach(void *arg);

static int move_sometimes(struct side *s, const struct frame *frame, struct error *err)
{
	struct mover *m = s->context;
	int r = frame_in_order(s, frame, err);

	if (s->n_frames == m->total) {
		m->done = true;
		return r;
	}
	if (r == 0 && s->n_frames % 10 == 0) {
		channel_detach(s->ch);
		m->at = 1 - m->at;
		m->n_moves++;
		s->loop = m->loops[m->at];
		loop_post(s->loop, mover_attach, m);
	}
	return r;
}

static void mover_attach(void *arg)
{
	struct mover *m = arg;

	assert_int_equal(channel_attach(m->side->ch, m->side->loop, &callbacks, m->side), 0);
}

static void *loop_main(void *arg)
{
	loop_run(arg);
	return NULL;
}

static void detach_for_mover(void *arg)
{
	struct mover *m = arg;

	channel_detach(m->side->ch);
	m->side->loop = m->loops[0];
	loop_post(m->loops[0], mover_attach, m);
}

static void moves_between_threads_lose_nothing(void **state)
{
	struct channel_options options = {.low_water_bytes = 100000};
	struct mover m = {.total = 3000};
	pthread_t threads[2];
	unsigned n = 0;
	struct pair p;

	(void)state;
	pair_open(&p, &options);
	m.side = &p.server;
	p.server.context = &m;
	p.server.frame_fn = move_sometimes;
	for (int i = 0; i < 2; i++) {
		assert_int_equal(loop_new(&m.loops[i]), 0);
		assert_int_equal(pthread_create(&threads[i], NULL, loop_main, m.loops[i]), 0);
	}
	detach_for_mover(&m);
	while (n < m.total) {
		if (send_frame(&p.client, n, n % 900) == 0)
			n++;
		else
			run_until(p.loop, channel_queued(p.client.ch) <= 100000);
	}
	run_until(p.loop, m.done || p.client.closed);
	for (int i = 0; i < 2; i++)
		loop_stop(m.loops[i]);
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(p.server.n_frames, m.total);
	assert_int_equal(m.n_moves, m.total / 10 - 1);
	channel_free(p.server.ch);
	p.server.ch = NULL;
	for (int i = 0; i < 2; i++)
		loop_free(m.loops[i]);
	pair_close(&p);
}

/* --- files --- */

static void bad_files_are_named(void **state)
{
	char cert[PKI_PATH_MAX], key[PKI_PATH_MAX], ca[PKI_PATH_MAX];
	struct tls_settings s = {.certificate_path = pki_path(pki, "source.pem", cert),
	                         .key_path = pki_path(pki, "source.key", key),
	                         .ca_path = pki_path(pki, "ca.pem", ca),
	                         .alpn = PKI_ALPN};
	struct tls_settings bad = s;
	struct tls_context *c;
	struct error err = {0};

	(void)state;
	bad.certificate_path = "/nonexistent/c.pem";
	assert_true(tls_context_new(&bad, &c, &err) < 0);
	assert_contains(err.text, "cannot load the certificate (PEM): /nonexistent/c.pem");
	assert_contains(err.text, "No such file");
	bad = s;
	bad.key_path = "/nonexistent/k.pem";
	assert_true(tls_context_new(&bad, &c, &err) < 0);
	assert_contains(err.text, "cannot load the key (PEM): /nonexistent/k.pem");
	bad = s;
	bad.ca_path = "/nonexistent/ca.pem";
	assert_true(tls_context_new(&bad, &c, &err) < 0);
	assert_contains(err.text, "/nonexistent/ca.pem");
	bad = s;
	bad.key_path = pki_path(pki, "destination.key", key);
	assert_true(tls_context_new(&bad, &c, &err) < 0);
	assert_contains(err.text, "the key does not belong to the certificate");
}

static int pki_setup(void **state)
{
	(void)state;
	pki = pki_new();
	return 0;
}

static int pki_teardown(void **state)
{
	(void)state;
	pki = pki_free(pki);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(handshake_gives_identity),
	        cmocka_unit_test(wrong_name_is_told_with_both),
	        cmocka_unit_test(name_with_nul_matches_nothing),
	        cmocka_unit_test(unknown_ca_is_told_on_both_sides),
	        cmocka_unit_test(expired_is_told_on_both_sides),
	        cmocka_unit_test(other_alpn_is_told_on_both_sides),
	        cmocka_unit_test(tls_1_2_client_is_refused),
	        cmocka_unit_test(tls_1_2_server_is_refused),
	        cmocka_unit_test(no_client_certificate_is_refused),
	        cmocka_unit_test(no_alpn_at_all_is_refused),
	        cmocka_unit_test(garbage_is_not_tls),
	        cmocka_unit_test(frame_over_the_limit_ends_it),
	        cmocka_unit_test(cut_without_close_notify_is_a_reset),
	        cmocka_unit_test(clean_close_in_the_middle_of_a_frame_is_told),
	        cmocka_unit_test(connection_refused_is_told),
	        cmocka_unit_test(before_ready_nothing_is_taken),
	        cmocka_unit_test(frames_arrive_whole_and_in_order_both_ways),
	        cmocka_unit_test(back_pressure_and_drained),
	        cmocka_unit_test(pause_within_a_batch_keeps_the_rest),
	        cmocka_unit_test(reserve_and_commit_send_without_a_copy),
	        cmocka_unit_test(small_frame_is_one_record),
	        cmocka_unit_test(answers_to_one_record_are_one_record),
	        cmocka_unit_test(refused_frame_ends_with_that_error),
	        cmocka_unit_test(free_within_on_frame_is_safe),
	        cmocka_unit_test(free_within_on_ready_and_on_closed_is_safe),
	        cmocka_unit_test(close_after_flush_delivers_everything),
	        cmocka_unit_test(refusal_with_a_last_word),
	        cmocka_unit_test(silent_peer_times_out_in_the_handshake),
	        cmocka_unit_test(idle_peer_times_out),
	        cmocka_unit_test(busy_thread_blames_no_peer),
	        cmocka_unit_test(moves_between_threads_lose_nothing),
	        cmocka_unit_test(bad_files_are_named),
	};

	return cmocka_run_group_tests(tests, pki_setup, pki_teardown);
}
