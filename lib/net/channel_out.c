/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A channel's output. Called by the owner (a request leaves in the same call,
 * not a loop turn later) and by channel.c when a full socket has room again.
 *
 * The buffer is twice the limit, so that a reservation is contiguous and the
 * queued bytes are moved at most once each. Nothing here calls a callback: a
 * failed write is told in the next turn, after what can still be read (a peer
 * that refused us says why).
 */
#include <errno.h>
#include <openssl/err.h>
#include <string.h>

#include "net/channel_internal.h"
#include "net/tls_socket.h"

/* While corked: some pages. To wait for more of them would only delay the first. */
#define CORK_BYTES ((size_t)64 * 1024)

size_t channel_queued(const struct channel *ch)
{
	return ch->out.tail - ch->out.head;
}

static void write_failed(struct channel *ch, int ssl_error)
{
	ch->write_failed = true;
	ch->write_blocked = false;
	if (ch->end_error.code == 0)
		channel_explain(ch, ssl_error, &ch->end_error);
	channel_schedule_turn(ch);
}

static void write_wait(struct channel *ch)
{
	ch->write_blocked = true;
	if (ch->loop)
		event_add(&ch->write_event, NULL);
}

/* TLS wants the socket: for room, or (never in TLS 1.3) for the peer's bytes. */
static void write_stopped(struct channel *ch, int n)
{
	int ssl_error = SSL_get_error(ch->ssl, n);

	if (ssl_error != SSL_ERROR_WANT_WRITE && ssl_error != SSL_ERROR_WANT_READ) {
		write_failed(ch, ssl_error);
		return;
	}
	if (ssl_error == SSL_ERROR_WANT_WRITE)
		write_wait(ch);
}

void channel_flush(struct channel *ch)
{
	struct channel_buffer *out = &ch->out;

	if (ch->write_failed)
		return;
	ch->write_blocked = false;
	while (out->tail > out->head) {
		size_t queued = out->tail - out->head;
		size_t len = MIN(queued, (size_t)SSL3_RT_MAX_PLAIN_LENGTH);
		int n;

		if (ch->write_budget == 0) {
			write_wait(ch);
			return;
		}
		ERR_clear_error();
		tls_socket_more(ch->ssl, queued > len);
		n = SSL_write(ch->ssl, out->data + out->head, (int)len);
		if (n <= 0) {
			write_stopped(ch, n);
			return;
		}
		out->head += (size_t)n;
		ch->bytes_sent += (uint64_t)n;
		ch->write_budget -= MIN((size_t)n, ch->write_budget);
	}
	if (!ch->reserved)
		out->head = out->tail = 0;
}

/* Called when the queue fell: the owner hears of it once a crossing. */
void channel_settle_drained(struct channel *ch, struct channel_guard *g)
{
	if (g->gone || ch->state != CHANNEL_READY || !ch->above_low_water ||
	    channel_queued(ch) > ch->low_water_bytes)
		return;
	ch->above_low_water = false;
	if (ch->callbacks.on_drained)
		ch->callbacks.on_drained(ch, ch->user);
}

/* Contiguous room for len bytes at the tail, within the limit. */
static bool out_make_room(struct channel *ch, size_t len)
{
	struct channel_buffer *out = &ch->out;

	if (channel_queued(ch) + len > ch->out_limit) {
		ch->above_low_water = true;
		return false;
	}
	if (out->size - out->tail < len) {
		memmove(out->data, out->data + out->head, out->tail - out->head);
		out->tail -= out->head;
		out->head = 0;
	}
	return true;
}

/* Send what was just queued, unless more will follow or the socket is known to be full. */
static void out_push(struct channel *ch)
{
	bool wait = ch->corked && channel_queued(ch) < CORK_BYTES;

	if (!ch->write_blocked && !wait && ch->loop)
		channel_flush(ch);
	if (channel_queued(ch) > ch->low_water_bytes)
		ch->above_low_water = true;
	else if (ch->above_low_water)
		channel_schedule_turn(ch);
}

/* The frames that had arrived are delivered. */
void channel_uncork(struct channel *ch)
{
	ch->corked = false;
	if (ch->state == CHANNEL_READY && channel_queued(ch) > 0)
		out_push(ch);
}

uint8_t *channel_reserve(struct channel *ch, size_t len)
{
	if (ch->state != CHANNEL_READY || ch->write_failed || ch->reserved || len == 0 ||
	    len > ch->out_limit || !out_make_room(ch, len))
		return NULL;
	ch->reserved = len;
	return ch->out.data + ch->out.tail;
}

int channel_commit(struct channel *ch, size_t len)
{
	if (len > ch->reserved)
		return -EINVAL;
	ch->reserved = 0;
	if (ch->state != CHANNEL_READY || ch->write_failed)
		return -ENOTCONN;
	ch->out.tail += len;
	out_push(ch);
	return 0;
}

int channel_send(struct channel *ch, const void *head, size_t head_len, const void *payload,
                 size_t payload_len)
{
	uint8_t *to;

	if (ch->state != CHANNEL_READY || ch->write_failed)
		return -ENOTCONN;
	if (head_len > FRAME_MAX || payload_len > FRAME_MAX - head_len)
		return -EMSGSIZE;
	to = channel_reserve(ch, head_len + payload_len);
	if (!to)
		return -ENOBUFS;
	memcpy(to, head, head_len);
	if (payload_len)
		memcpy(to + head_len, payload, payload_len);
	return channel_commit(ch, head_len + payload_len);
}
