/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The life of a channel: handshake, events, timers, the end, and the move to
 * another thread. Made by the daemons for each connection of the page protocol.
 *
 * What always holds: callbacks run only from the event handlers at the end of
 * this file, never from a function that the owner calls; a handler looks at its
 * guard after each callback and leaves a channel alone that is gone.
 */
#include "net/channel.h"

#include <errno.h>
#include <openssl/err.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "core/clock.h"
#include "core/units.h"
#include "net/channel_internal.h"
#include "net/tcp_path.h"
#include "net/tls_explain.h"
#include "net/tls_socket.h"

#define OUT_BUFFER_DEFAULT (1024 * 1024)
#define IN_BUFFER_BYTES (FRAME_MAX + SSL3_RT_MAX_PLAIN_LENGTH)
#define HANDSHAKE_TIMEOUT_US 10000000
#define FLUSH_TIMEOUT_US 5000000
#define LATE_US \
	10000 /* a timer runs within a millisecond where the thread has nothing else to do */
/* What is read before a close, so that it does not make the kernel send a reset. */
#define CLOSE_DRAIN_BYTES (256 * 1024)

static void on_readable(evutil_socket_t fd, short what, void *arg);
static void on_writable(evutil_socket_t fd, short what, void *arg);
static void on_turn(evutil_socket_t fd, short what, void *arg);
static void on_timer(evutil_socket_t fd, short what, void *arg);

static struct timeval timeval_from_us(uint64_t us)
{
	return (struct timeval){.tv_sec = (time_t)(us / 1000000),
	                        .tv_usec = (suseconds_t)(us % 1000000)};
}

/*
 * A timer of length zero, not event_active(): the loop then asks the kernel for
 * the other connections' events first.
 */
void channel_schedule_turn(struct channel *ch)
{
	static const struct timeval now = {0};

	if (ch->loop && ch->state != CHANNEL_CLOSED)
		event_add(&ch->turn_event, &now);
}

void channel_start_timer(struct channel *ch, uint64_t us)
{
	struct timeval tv = timeval_from_us(us);

	ch->timer_due_us = clock_monotonic_us() + us;
	if (ch->loop)
		event_add(&ch->timer, &tv);
}

static void events_assign(struct channel *ch)
{
	struct event_base *base = loop_base(ch->loop);

	event_assign(&ch->read_event, base, ch->fd, EV_READ | EV_PERSIST, on_readable, ch);
	event_assign(&ch->write_event, base, ch->fd, EV_WRITE, on_writable, ch);
	event_assign(&ch->turn_event, base, -1, 0, on_turn, ch);
	event_assign(&ch->timer, base, -1, 0, on_timer, ch);
	event_priority_set(&ch->read_event, ch->priority);
	event_priority_set(&ch->write_event, ch->priority);
	event_priority_set(&ch->turn_event, ch->priority);
	event_priority_set(&ch->timer, ch->priority);
}

static void events_delete(struct channel *ch)
{
	if (!ch->loop)
		return;
	event_del(&ch->read_event);
	event_del(&ch->write_event);
	event_del(&ch->turn_event);
	event_del(&ch->timer);
}

static void socket_close(struct channel *ch)
{
	if (ch->fd < 0)
		return;
	shutdown(ch->fd, SHUT_WR);
	for (size_t total = 0; total < CLOSE_DRAIN_BYTES;) {
		ssize_t n = recv(ch->fd, ch->in.data, ch->in.size, MSG_DONTWAIT);

		if (n <= 0)
			break;
		total += (size_t)n;
	}
	close_fd(&ch->fd);
}

static void channel_release(struct channel *ch)
{
	close_fd(&ch->fd);
	SSL_free(ch->ssl);
	tls_context_unref(ch->tls);
	free(ch->in.data);
	free(ch->out.data);
	free(ch);
}

static int buffers_new(struct channel *ch, const struct channel_options *o)
{
	size_t limit = o->out_buffer_bytes ? o->out_buffer_bytes : OUT_BUFFER_DEFAULT;

	ch->out_limit = MAX(limit, (size_t)FRAME_MAX);
	/* A frame that found no room must leave the queue above the mark, or nobody waits. */
	ch->low_water_bytes = MIN(o->low_water_bytes, ch->out_limit - FRAME_MAX);
	ch->out.size = 2 * ch->out_limit;
	ch->in.size = IN_BUFFER_BYTES;
	ch->out.data = malloc(ch->out.size);
	ch->in.data = malloc(ch->in.size);
	return ch->out.data && ch->in.data ? 0 : -ENOMEM;
}

static int channel_init(struct channel *ch, const struct channel_options *o, struct error *err)
{
	int r = tls_session_new(ch->tls, ch->server, &ch->ssl, err);

	if (r < 0)
		return r;
	if (buffers_new(ch, o) < 0 || tls_socket_attach(ch->ssl, ch->fd) < 0)
		return error_set(err, -ENOMEM, "no memory for a connection");
	ch->socket_buffer_bytes = o->socket_buffer_bytes;
	ch->priority = o->event_priority;
	ch->handshake_timeout_us =
	        o->handshake_timeout_us ? o->handshake_timeout_us : HANDSHAKE_TIMEOUT_US;
	ch->idle_timeout_us = o->idle_timeout_us;
	address_format_peer(ch->fd, ch->peer);
	return 0;
}

int channel_new(struct loop *loop, int fd, struct tls_context *tls, bool server,
                const struct channel_options *options, const struct channel_callbacks *callbacks,
                void *user, struct channel **ret, struct error *err)
{
	static const struct channel_options defaults;
	struct channel *ch = calloc(1, sizeof(*ch));
	int r;

	if (!ch) {
		close(fd);
		return error_set(err, -ENOMEM, "no memory for a connection");
	}
	ch->fd = fd;
	ch->write_budget = CHANNEL_WRITE_BYTES_PER_TURN;
	ch->server = server;
	ch->tls = tls_context_ref(tls);
	r = channel_init(ch, options ? options : &defaults, err);
	if (r == 0)
		r = channel_attach(ch, loop, callbacks, user);
	if (r < 0) {
		channel_release(ch);
		return r;
	}
	*ret = ch;
	return 0;
}

struct channel *channel_free(struct channel *ch)
{
	if (!ch)
		return NULL;
	events_delete(ch);
	ch->loop = NULL;
	ch->state = CHANNEL_CLOSED;
	if (!ch->guard) {
		channel_release(ch);
		return NULL;
	}
	ch->guard->gone = true;
	ch->guard->freed = ch;
	return NULL;
}

void channel_detach(struct channel *ch)
{
	events_delete(ch);
	ch->loop = NULL;
	ch->corked = false;
	if (ch->guard)
		ch->guard->gone = true;
	ch->guard = NULL;
}

int channel_attach(struct channel *ch, struct loop *loop, const struct channel_callbacks *callbacks,
                   void *user)
{
	if (ch->state == CHANNEL_CLOSED)
		return -ENOTCONN;
	ch->loop = loop;
	ch->callbacks = *callbacks;
	ch->user = user;
	events_assign(ch);
	if (event_add(&ch->read_event, NULL) < 0) {
		ch->loop = NULL;
		return -ENOMEM;
	}
	if (ch->paused)
		event_del(&ch->read_event);
	ch->last_received_us = clock_monotonic_us();
	if (ch->state == CHANNEL_HANDSHAKE)
		channel_start_timer(ch, ch->handshake_timeout_us);
	else if (ch->state != CHANNEL_READY)
		channel_start_timer(ch, FLUSH_TIMEOUT_US);
	else if (ch->idle_timeout_us)
		channel_start_timer(ch, ch->idle_timeout_us);
	channel_schedule_turn(ch);
	return 0;
}

void channel_end(struct channel *ch, const struct error *err)
{
	struct error last = *err;

	if (ch->state == CHANNEL_CLOSED)
		return;
	/* Only a clean end says so: after an error the peer must not take it for one. */
	if (ch->state == CHANNEL_READY && last.code == 0 && !ch->write_failed &&
	    !ch->write_blocked) {
		ERR_clear_error();
		SSL_shutdown(ch->ssl);
	}
	events_delete(ch);
	socket_close(ch);
	ch->state = CHANNEL_CLOSED;
	ERR_clear_error();
	ch->callbacks.on_closed(ch, &last, ch->user);
}

int channel_explain(struct channel *ch, int ssl_error, struct error *err)
{
	int error = tls_socket_errno(ch->ssl);
	bool handshake = ch->state == CHANNEL_HANDSHAKE;
	unsigned long e = ERR_peek_error();

	if (ssl_error == SSL_ERROR_ZERO_RETURN) {
		err->code = 0;
		snprintf(err->text, sizeof(err->text), "the peer closed the connection");
		return 0;
	}
	if (ssl_error == SSL_ERROR_SYSCALL && error) {
		ERR_clear_error();
		return error_set_errno(err, -error,
		                       handshake ? "cannot connect, or cut off in the TLS "
		                                   "handshake"
		                                 : "connection lost");
	}
	if (handshake && (!e || ERR_GET_REASON(e) == SSL_R_UNEXPECTED_EOF_WHILE_READING)) {
		ERR_clear_error();
		return error_set(err, -ECONNRESET,
		                 "the peer closed the connection in the TLS handshake");
	}
	return tls_explain(ch->ssl, err);
}

void channel_close_after_flush(struct channel *ch)
{
	if (ch->state == CHANNEL_HANDSHAKE)
		ch->end_pending = true;
	else if (ch->state == CHANNEL_READY)
		ch->state = CHANNEL_FLUSHING;
	else
		return;
	ch->reserved = 0;
	if (ch->loop && ch->paused)
		event_add(&ch->read_event, NULL);
	ch->paused = false;
	channel_start_timer(ch, FLUSH_TIMEOUT_US);
	channel_schedule_turn(ch);
}

void channel_pause_reading(struct channel *ch)
{
	if (ch->paused || ch->state != CHANNEL_READY)
		return;
	ch->paused = true;
	if (ch->loop)
		event_del(&ch->read_event);
}

void channel_resume_reading(struct channel *ch)
{
	if (!ch->paused)
		return;
	ch->paused = false;
	ch->last_received_us = clock_monotonic_us();
	if (ch->loop)
		event_add(&ch->read_event, NULL);
	/* The buffer and TLS may hold frames of which the socket knows nothing. */
	channel_schedule_turn(ch);
}

int channel_check_identity(const struct channel *ch, const char *identity, struct error *err)
{
	return tls_check_identity(ch->ssl, identity, err);
}

const char *channel_peer_names(const struct channel *ch, char *buf, size_t buf_len)
{
	return tls_peer_names(ch->ssl, buf, buf_len);
}

int channel_peer_fingerprint(const struct channel *ch, uint8_t ret[32])
{
	return tls_peer_fingerprint(ch->ssl, ret);
}

const char *channel_peer_address(const struct channel *ch)
{
	return ch->peer;
}

const char *channel_cipher(const struct channel *ch)
{
	return ch->state == CHANNEL_HANDSHAKE
	               ? ""
	               : SSL_CIPHER_get_name(SSL_get_current_cipher(ch->ssl));
}

uint64_t channel_bytes_received(const struct channel *ch)
{
	return ch->bytes_received;
}

uint64_t channel_bytes_sent(const struct channel *ch)
{
	return ch->bytes_sent;
}

/* The handshake is done; without ALPN on both sides this is not our protocol. */
static bool handshake_finish(struct channel *ch, struct channel_guard *g)
{
	const unsigned char *alpn;
	struct error err = {0};
	unsigned alpn_len;

	SSL_get0_alpn_selected(ch->ssl, &alpn, &alpn_len);
	if (alpn_len == 0) {
		error_set(&err, -EPROTONOSUPPORT, "no ALPN protocol in common: the peer %s none",
		          ch->server ? "offers" : "selected");
		channel_end(ch, &err);
		return false;
	}
	event_del(&ch->timer);
	address_format_peer(ch->fd, ch->peer);
	tcp_path_fit(ch->fd, ch->socket_buffer_bytes);
	ch->state = CHANNEL_READY;
	ch->last_received_us = clock_monotonic_us();
	if (ch->idle_timeout_us)
		channel_start_timer(ch, ch->idle_timeout_us);
	if (ch->callbacks.on_ready)
		ch->callbacks.on_ready(ch, ch->user);
	return !g->gone && ch->state == CHANNEL_READY;
}

static void channel_handshake(struct channel *ch, struct channel_guard *g)
{
	struct error err = {0};
	int n, ssl_error;

	ERR_clear_error();
	n = SSL_do_handshake(ch->ssl);
	if (n == 1) {
		if (handshake_finish(ch, g))
			channel_receive(ch, g);
		return;
	}
	ssl_error = SSL_get_error(ch->ssl, n);
	if (ssl_error == SSL_ERROR_WANT_WRITE) {
		event_add(&ch->write_event, NULL);
	} else if (ssl_error != SSL_ERROR_WANT_READ) {
		channel_explain(ch, ssl_error, &err);
		channel_end(ch, &err);
	}
}

/* All is queued in the kernel: say goodbye, and wait for the peer to do the same. */
static void channel_say_goodbye(struct channel *ch)
{
	int n;

	ERR_clear_error();
	n = SSL_shutdown(ch->ssl);
	if (n < 0 && SSL_get_error(ch->ssl, n) == SSL_ERROR_WANT_WRITE) {
		event_add(&ch->write_event, NULL);
		return;
	}
	ERR_clear_error();
	shutdown(ch->fd, SHUT_WR);
	ch->state = CHANNEL_LINGERING;
}

static void channel_close_step(struct channel *ch)
{
	if (!ch->peer_ended)
		channel_discard_input(ch);
	if (ch->state == CHANNEL_FLUSHING && !ch->write_blocked)
		channel_flush(ch);
	if (ch->state == CHANNEL_FLUSHING && !ch->write_failed && !channel_queued(ch))
		channel_say_goodbye(ch);
	if (ch->write_failed || (ch->state == CHANNEL_LINGERING && ch->peer_ended))
		channel_end(ch, &ch->end_error);
}

static void channel_turn(struct channel *ch, struct channel_guard *g)
{
	if (ch->end_pending) {
		channel_end(ch, &ch->end_error);
		return;
	}
	switch (ch->state) {
	case CHANNEL_HANDSHAKE:
		channel_handshake(ch, g);
		break;
	case CHANNEL_READY:
		if (ch->write_failed && ch->paused)
			channel_end(ch, &ch->end_error);
		else
			channel_receive(ch, g);
		break;
	case CHANNEL_FLUSHING:
	case CHANNEL_LINGERING:
		channel_close_step(ch);
		break;
	case CHANNEL_CLOSED:
		break;
	}
}

static void guard_enter(struct channel *ch, struct channel_guard *g)
{
	ch->guard = g;
	ch->write_budget = CHANNEL_WRITE_BYTES_PER_TURN;
}

static void guard_leave(struct channel *ch, struct channel_guard *g)
{
	if (g->freed)
		channel_release(g->freed);
	else if (!g->gone)
		ch->guard = NULL;
}

static void on_readable(evutil_socket_t fd, short what, void *arg)
{
	struct channel *ch = arg;
	struct channel_guard g = {0};

	(void)fd;
	(void)what;
	guard_enter(ch, &g);
	tls_socket_arm(ch->ssl);
	channel_turn(ch, &g);
	guard_leave(ch, &g);
}

static void on_turn(evutil_socket_t fd, short what, void *arg)
{
	struct channel *ch = arg;
	struct channel_guard g = {0};

	(void)fd;
	(void)what;
	guard_enter(ch, &g);
	tls_socket_arm(ch->ssl);
	if (ch->state == CHANNEL_READY && !ch->write_blocked)
		channel_flush(ch);
	channel_settle_drained(ch, &g);
	if (!g.gone)
		channel_turn(ch, &g);
	guard_leave(ch, &g);
}

static void on_writable(evutil_socket_t fd, short what, void *arg)
{
	struct channel *ch = arg;
	struct channel_guard g = {0};

	(void)fd;
	(void)what;
	guard_enter(ch, &g);
	if (ch->state == CHANNEL_READY) {
		channel_flush(ch);
		channel_settle_drained(ch, &g);
		if (!g.gone && ch->read_wants_write) {
			ch->read_wants_write = false;
			channel_turn(ch, &g);
		}
	} else {
		ch->write_blocked = false;
		channel_turn(ch, &g);
	}
	guard_leave(ch, &g);
}

/*
 * A thread that was busy when it should have looked has not asked the peer anything
 * meanwhile either: once in a silence the peer gets the time again.
 */
static bool idle_excuse(struct channel *ch, uint64_t now)
{
	bool excused = !ch->idle_excused && now - ch->timer_due_us > LATE_US;

	ch->idle_excused |= excused;
	return excused;
}

/* Returns true when the idle timer was only re-armed: the peer is not silent. */
static bool idle_rearm(struct channel *ch)
{
	uint64_t now = clock_monotonic_us();
	uint64_t idle_us = now - ch->last_received_us;

	if (ch->paused || (idle_us >= ch->idle_timeout_us && idle_excuse(ch, now)))
		idle_us = 0;
	if (idle_us >= ch->idle_timeout_us)
		return false;
	channel_start_timer(ch, ch->idle_timeout_us - idle_us);
	return true;
}

static void timer_explain(struct channel *ch, struct error *err)
{
	char text[24];

	if (ch->state == CHANNEL_HANDSHAKE)
		error_set(err, -ETIMEDOUT, "no connection and TLS handshake within %s",
		          units_format_duration(text, sizeof(text), ch->handshake_timeout_us));
	else if (ch->state == CHANNEL_READY)
		error_set(err, -ETIMEDOUT, "nothing arrived from the peer for %s",
		          units_format_duration(text, sizeof(text), ch->idle_timeout_us));
	else if (ch->state == CHANNEL_FLUSHING && ch->end_error.code == 0)
		error_set(err, -ETIMEDOUT, "the peer did not take the last %zu bytes within %s",
		          channel_queued(ch),
		          units_format_duration(text, sizeof(text), FLUSH_TIMEOUT_US));
	else
		*err = ch->end_error;
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
	struct channel *ch = arg;
	struct channel_guard g = {0};
	struct error err = {0};

	(void)fd;
	(void)what;
	if (ch->state == CHANNEL_READY && idle_rearm(ch))
		return;
	guard_enter(ch, &g);
	timer_explain(ch, &err);
	channel_end(ch, &err);
	guard_leave(ch, &g);
}
