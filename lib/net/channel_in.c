/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A channel's input: TLS records into one buffer, frames out of it without a
 * copy. Called by channel.c for every readable event; runs the owner's on_frame.
 *
 * The buffer holds a frame and a record. After each record all whole frames
 * are delivered and the rest, less than a record unless it is the start of
 * one big frame, goes to the front: so there is always room for the next one.
 */
#include <errno.h>
#include <openssl/err.h>
#include <string.h>
#include <sys/socket.h>

#include "core/clock.h"
#include "net/channel_internal.h"
#include "net/tls_socket.h"

/* Work for one wake-up: what other connections of the loop may have to wait for. */
#define RECORDS_PER_TURN 32
#define DISCARD_BYTES_PER_TURN (1024 * 1024)

static void in_compact(struct channel_buffer *in)
{
	if (in->head == 0)
		return;
	memmove(in->data, in->data + in->head, in->tail - in->head);
	in->tail -= in->head;
	in->head = 0;
}

/*
 * The callback's error ends the channel; when it has asked for a flush (to say
 * why) the end waits for that.
 */
static void frame_refused(struct channel *ch, struct error *err, int code)
{
	if (err->code == 0)
		error_set_errno(err, code, "a frame was refused");
	if (ch->state == CHANNEL_FLUSHING)
		ch->end_error = *err;
	else
		channel_end(ch, err);
}

/* False when the channel has ended, or the owner has taken it away. */
static bool in_deliver_frames(struct channel *ch, struct channel_guard *g)
{
	struct channel_buffer *in = &ch->in;
	struct error err = {0};
	struct frame frame;

	while (ch->state == CHANNEL_READY && !ch->paused) {
		ssize_t n = frame_parse(in->data + in->head, in->tail - in->head, &frame, &err);
		int r;

		if (n == 0)
			break;
		if (n < 0) {
			channel_end(ch, &err);
			return false;
		}
		in->head += (size_t)n;
		r = ch->callbacks.on_frame(ch, &frame, &err, ch->user);
		if (g->gone)
			return false;
		if (r < 0) {
			frame_refused(ch, &err, r);
			return false;
		}
	}
	return true;
}

/*
 * The answers to what came together leave together: sent one by one they would
 * cost a wake-up of the peer each. Returns true when the channel is still here
 * and wants more.
 */
static bool in_deliver(struct channel *ch, struct channel_guard *g)
{
	ch->corked = true;
	if (!in_deliver_frames(ch, g))
		return false;
	channel_uncork(ch);
	if (ch->state != CHANNEL_READY || ch->paused)
		return false;
	in_compact(&ch->in);
	return true;
}

/* SSL_read() gave nothing: wait for the socket, or the connection has ended. */
static void read_stopped(struct channel *ch, int n)
{
	int ssl_error = SSL_get_error(ch->ssl, n);
	size_t partial = ch->in.tail - ch->in.head;
	struct error err = {0};

	if (ssl_error == SSL_ERROR_WANT_WRITE) {
		ch->read_wants_write = true;
		event_add(&ch->write_event, NULL);
		return;
	}
	if (ssl_error == SSL_ERROR_WANT_READ) {
		if (ch->write_failed)
			channel_end(ch, &ch->end_error);
		return;
	}
	channel_explain(ch, ssl_error, &err);
	if (err.code == 0 && partial)
		error_set(&err, -EBADMSG,
		          "the peer closed in the middle of a frame, after %zu bytes of it",
		          partial);
	channel_end(ch, &err);
}

void channel_receive(struct channel *ch, struct channel_guard *g)
{
	struct channel_buffer *in = &ch->in;

	if (!in_deliver(ch, g))
		return;
	if (ch->idle_timeout_us) {
		ch->last_received_us = clock_monotonic_us();
		ch->idle_excused = false;
	}
	for (int budget = RECORDS_PER_TURN; budget > 0; budget--) {
		int n;

		ERR_clear_error();
		n = SSL_read(ch->ssl, in->data + in->tail, (int)(in->size - in->tail));
		if (n <= 0) {
			read_stopped(ch, n);
			return;
		}
		in->tail += (size_t)n;
		ch->bytes_received += (uint64_t)n;
		if (!in_deliver(ch, g))
			return;
	}
	/* TLS may hold more, of which the socket knows nothing. */
	channel_schedule_turn(ch);
}

/* Closing: what the peer still sends is read, so that it reads us to the end. */
void channel_discard_input(struct channel *ch)
{
	for (size_t total = 0; total < DISCARD_BYTES_PER_TURN;) {
		ssize_t n = recv(ch->fd, ch->in.data, ch->in.size, MSG_DONTWAIT);

		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		if (n <= 0) {
			ch->peer_ended = true;
			event_del(&ch->read_event);
			return;
		}
		total += (size_t)n;
	}
}
