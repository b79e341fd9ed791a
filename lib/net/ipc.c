/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A local connection of a daemon: messages with descriptors over a UNIX socket.
 * Used for the attach, control and export sockets.
 *
 * Each recvmsg() ends at the end of the prefix or of the message, so that
 * descriptors are never ascribed to the wrong message. Memory for a message
 * is bounded by the limit given, output by QUEUE_MAX, work by a wake-up by
 * MESSAGES_PER_TURN. Callbacks run only from the event handlers.
 */
#include "net/ipc.h"

#include <endian.h>
#include <errno.h>
#include <event2/event_struct.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>

#define PREFIX_BYTES 4
#define QUEUE_MAX (4 * 1024 * 1024)
#define MESSAGES_PER_TURN 16
/* A bigger receive buffer is given back after its message. */
#define KEEP_BYTES (64 * 1024)
#define IPC_PRIORITY 2
#define FLUSH_TIMEOUT_S 5

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif

struct ipc_connection {
	struct loop *loop;
	int fd;
	struct ipc_callbacks callbacks;
	void *user;
	struct ucred peer;
	struct event read_event;
	struct event write_event;
	struct event end_event;
	bool in_handler;
	bool freed;   /* within a handler, which then releases it */
	bool closing; /* after the flush */
	bool ended;   /* on_closed was called or is not wanted */
	bool blocked; /* the socket is full */
	struct error end_error;
	size_t max_message_bytes;
	uint8_t prefix[PREFIX_BYTES];
	uint8_t *in; /* of the message under way */
	size_t in_size;
	size_t in_len;  /* its announced length, once the prefix is there */
	size_t in_have; /* bytes so far, prefix included */
	int fds[FDPASS_FDS_MAX];
	size_t n_fds;
	uint8_t *out;
	size_t out_size;
	size_t out_head;
	size_t out_tail;
};

static void connection_events_delete(struct ipc_connection *c)
{
	event_del(&c->read_event);
	event_del(&c->write_event);
	event_del(&c->end_event);
}

static void connection_close_fds(struct ipc_connection *c)
{
	for (size_t i = 0; i < c->n_fds; i++)
		close_fd(&c->fds[i]);
	c->n_fds = 0;
}

static void connection_release(struct ipc_connection *c)
{
	connection_close_fds(c);
	close_fd(&c->fd);
	free(c->in);
	free(c->out);
	free(c);
}

struct ipc_connection *ipc_connection_free(struct ipc_connection *c)
{
	if (!c)
		return NULL;
	connection_events_delete(c);
	c->ended = true;
	c->freed = true;
	if (!c->in_handler)
		connection_release(c);
	return NULL;
}

/* Only from a handler. */
static void connection_end(struct ipc_connection *c, const struct error *err)
{
	struct error last = *err;

	if (c->ended)
		return;
	c->ended = true;
	connection_events_delete(c);
	connection_close_fds(c);
	close_fd(&c->fd);
	c->callbacks.on_closed(c, &last, c->user);
}

/* The owner hears of it from the loop, never from within its own call. */
static void connection_end_later(struct ipc_connection *c, const struct error *err)
{
	static const struct timeval now = {0};

	if (c->end_error.code == 0 && err)
		c->end_error = *err;
	event_add(&c->end_event, &now);
}

static void connection_flush(struct ipc_connection *c)
{
	struct error err = {0};

	c->blocked = false;
	while (c->out_tail > c->out_head) {
		ssize_t n = fdpass_send(c->fd, c->out + c->out_head, c->out_tail - c->out_head,
		                        NULL, 0, MSG_DONTWAIT);

		if (n == -EINTR)
			continue;
		if (n == -EAGAIN) {
			c->blocked = true;
			event_add(&c->write_event, NULL);
			return;
		}
		if (n < 0) {
			error_set_errno(&err, (int)n, "cannot send to the local peer");
			c->out_head = c->out_tail = 0;
			connection_end_later(c, &err);
			return;
		}
		c->out_head += (size_t)n;
	}
	c->out_head = c->out_tail = 0;
	if (c->closing)
		connection_end_later(c, NULL);
}

size_t ipc_queued(const struct ipc_connection *c)
{
	return c->out_tail - c->out_head;
}

/* Room for len more bytes at the tail; the buffer doubles up to what QUEUE_MAX needs. */
static int out_reserve(struct ipc_connection *c, size_t len)
{
	size_t size = c->out_size ? c->out_size : 4096;
	uint8_t *grown;

	if (c->out_size - c->out_tail >= len)
		return 0;
	if (c->out_head > 0) {
		memmove(c->out, c->out + c->out_head, ipc_queued(c));
		c->out_tail -= c->out_head;
		c->out_head = 0;
	}
	while (size - c->out_tail < len)
		size *= 2;
	if (size == c->out_size)
		return 0;
	grown = realloc(c->out, size);
	if (!grown)
		return -ENOMEM;
	c->out = grown;
	c->out_size = size;
	return 0;
}

int ipc_send(struct ipc_connection *c, const void *buf, size_t len)
{
	uint32_t prefix = htole32((uint32_t)len);
	int r;

	if (c->ended || c->closing || c->end_error.code)
		return -ENOTCONN;
	if (len > FDPASS_MESSAGE_MAX)
		return -EMSGSIZE;
	if (ipc_queued(c) + PREFIX_BYTES + len > QUEUE_MAX)
		return -ENOBUFS;
	r = out_reserve(c, PREFIX_BYTES + len);
	if (r < 0)
		return r;
	memcpy(c->out + c->out_tail, &prefix, PREFIX_BYTES);
	if (len)
		memcpy(c->out + c->out_tail + PREFIX_BYTES, buf, len);
	c->out_tail += PREFIX_BYTES + len;
	if (!c->blocked)
		connection_flush(c);
	return 0;
}

void ipc_close_after_flush(struct ipc_connection *c)
{
	static const struct timeval flush_timeout = {.tv_sec = FLUSH_TIMEOUT_S};

	if (c->ended || c->closing)
		return;
	c->closing = true;
	event_del(&c->read_event);
	if (ipc_queued(c) == 0)
		connection_end_later(c, NULL);
	else
		event_add(&c->end_event, &flush_timeout);
}

static int in_take_prefix(struct ipc_connection *c, struct error *err)
{
	uint32_t len;
	uint8_t *grown;

	memcpy(&len, c->prefix, sizeof(len));
	c->in_len = le32toh(len);
	if (c->in_len > c->max_message_bytes)
		return error_set(err, -EMSGSIZE, "message of %zu bytes, the limit is %zu",
		                 c->in_len, c->max_message_bytes);
	if (c->in_len <= c->in_size)
		return 0;
	grown = realloc(c->in, c->in_len);
	if (!grown)
		return error_set(err, -ENOMEM, "no memory for a message of %zu bytes", c->in_len);
	c->in = grown;
	c->in_size = c->in_len;
	return 0;
}

/* Descriptors come with the first byte of a message, and at most FDPASS_FDS_MAX of them. */
static ssize_t in_recv(struct ipc_connection *c, uint8_t *to, size_t len, struct error *err)
{
	int fds[FDPASS_FDS_MAX];
	size_t n_fds = 0;
	ssize_t n = fdpass_recv(c->fd, to, len, fds, FDPASS_FDS_MAX, &n_fds, MSG_DONTWAIT);

	if (n == -E2BIG)
		return error_set(err, -E2BIG, "a message came with more than %d descriptors",
		                 FDPASS_FDS_MAX);
	if (n < 0)
		return n == -EAGAIN || n == -EINTR
		               ? n
		               : error_set_errno(err, (int)n, "cannot receive from the local peer");
	if (n_fds > 0 && (c->in_have > 0 || n == 0)) {
		for (size_t i = 0; i < n_fds; i++)
			close(fds[i]);
		return error_set(err, -EBADMSG, "descriptors came in the middle of a message");
	}
	if (n_fds > 0)
		memcpy(c->fds, fds, n_fds * sizeof(fds[0]));
	if (n_fds > 0)
		c->n_fds = n_fds;
	if (n == 0 && c->in_have > 0)
		return error_set(
		        err, -EBADMSG,
		        "the local peer hung up in the middle of a message, after %zu bytes",
		        c->in_have);
	return n;
}

/* Returns 1 when a whole message is there, 0 at the end of the stream, -EAGAIN, other -errno. */
static int in_fill(struct ipc_connection *c, struct error *err)
{
	for (;;) {
		bool body = c->in_have >= PREFIX_BYTES;
		size_t want = body ? PREFIX_BYTES + c->in_len : PREFIX_BYTES;
		uint8_t *to = body ? c->in + (c->in_have - PREFIX_BYTES) : c->prefix + c->in_have;
		ssize_t n;

		if (body && c->in_have == want)
			return 1;
		n = in_recv(c, to, want - c->in_have, err);
		if (n <= 0)
			return (int)n;
		c->in_have += (size_t)n;
		if (!body && c->in_have == PREFIX_BYTES) {
			int r = in_take_prefix(c, err);

			if (r < 0)
				return r;
		}
	}
}

static void in_reset(struct ipc_connection *c)
{
	connection_close_fds(c);
	c->in_have = 0;
	if (c->in_size <= KEEP_BYTES)
		return;
	free(c->in);
	c->in = NULL;
	c->in_size = 0;
}

/* Returns true when the next message may be looked for. */
static bool in_deliver(struct ipc_connection *c)
{
	static const uint8_t nothing[1];
	struct error err = {0};
	int r = c->callbacks.on_message(c, c->in_len ? c->in : nothing, c->in_len, c->fds, c->n_fds,
	                                &err, c->user);

	if (c->freed)
		return false;
	in_reset(c);
	if (r == 0)
		return !c->closing && !c->ended;
	if (err.code == 0)
		error_set_errno(&err, r, "a message was refused");
	if (c->closing)
		c->end_error = err; /* after what explains it is flushed */
	else
		connection_end(c, &err);
	return false;
}

static void connection_receive(struct ipc_connection *c)
{
	struct error err = {0};

	for (int budget = MESSAGES_PER_TURN; budget > 0; budget--) {
		int r = in_fill(c, &err);

		if (r == -EAGAIN || r == -EINTR)
			return;
		if (r <= 0) {
			connection_end(c, &err);
			return;
		}
		if (!in_deliver(c))
			return;
	}
}

static void connection_handle(struct ipc_connection *c, void (*work)(struct ipc_connection *c))
{
	c->in_handler = true;
	work(c);
	c->in_handler = false;
	if (c->freed)
		connection_release(c);
}

static void on_readable(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	connection_handle(arg, connection_receive);
}

static void on_writable(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	connection_handle(arg, connection_flush);
}

/* What the peer had sent before it stopped listening is still delivered. */
static void connection_end_now(struct ipc_connection *c)
{
	if (!c->closing)
		connection_receive(c);
	connection_end(c, &c->end_error);
}

static void on_end(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	connection_handle(arg, connection_end_now);
}

static int connection_watch(struct ipc_connection *c)
{
	struct event_base *base = loop_base(c->loop);

	event_assign(&c->read_event, base, c->fd, EV_READ | EV_PERSIST, on_readable, c);
	event_assign(&c->write_event, base, c->fd, EV_WRITE, on_writable, c);
	event_assign(&c->end_event, base, -1, 0, on_end, c);
	event_priority_set(&c->read_event, IPC_PRIORITY);
	event_priority_set(&c->write_event, IPC_PRIORITY);
	event_priority_set(&c->end_event, IPC_PRIORITY);
	return event_add(&c->read_event, NULL) < 0 ? -ENOMEM : 0;
}

int ipc_connection_new(struct loop *loop, int fd, size_t max_message_bytes,
                       const struct ipc_callbacks *callbacks, void *user,
                       struct ipc_connection **ret)
{
	struct ipc_connection *c = calloc(1, sizeof(*c));
	socklen_t len = sizeof(c->peer);
	int r = 0;

	if (!c) {
		close(fd);
		return -ENOMEM;
	}
	c->loop = loop;
	c->fd = fd;
	c->callbacks = *callbacks;
	c->user = user;
	c->max_message_bytes = MIN(max_message_bytes, (size_t)FDPASS_MESSAGE_MAX);
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &c->peer, &len) < 0)
		r = -errno;
	if (r == 0)
		r = connection_watch(c);
	if (r < 0) {
		connection_release(c);
		return r;
	}
	*ret = c;
	return 0;
}

const struct ucred *ipc_peer(const struct ipc_connection *c)
{
	return &c->peer;
}

int ipc_peer_pidfd(const struct ipc_connection *c)
{
	int fd = -1;
	socklen_t len = sizeof(fd);

	if (c->fd < 0)
		return -ENOTCONN;
	if (getsockopt(c->fd, SOL_SOCKET, SO_PEERPIDFD, &fd, &len) == 0)
		return fd;
	if (errno != ENOPROTOOPT)
		return -errno;
	fd = (int)syscall(SYS_pidfd_open, c->peer.pid, 0);
	return fd < 0 ? -errno : fd;
}
