/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A local connection of a daemon: messages with descriptors over a UNIX socket.
 * Used for the attach, control and export sockets.
 *
 * Memory for a message is bounded by the limit given, output by QUEUE_MAX, work
 * by a wake-up by MESSAGES_PER_TURN. Callbacks run only from the event handlers.
 *
 * A message stays in the socket until all of it is there (net/ipc_input.c), so
 * the events are edge-triggered: bytes that are left are no reason to wake up.
 * Hence always holds: the socket was found to have no whole message since the
 * last edge, or its read event was added again and looks anew.
 */
#include "net/ipc.h"

#include <endian.h>
#include <errno.h>
#include <event2/event_struct.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>

#include "net/ipc_input.h"

#define PREFIX_BYTES 4
#define QUEUE_MAX (4 * 1024 * 1024)
#define MESSAGES_PER_TURN 16
#define IPC_PRIORITY 2
#define FLUSH_TIMEOUT_S 5
/*
 * So long may a message stay half in the socket. Its sender has died, or waits for
 * us to take some: its send buffer does not hold all of it.
 */
#define STALL_US 100000

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
	struct event stall_event;
	bool in_handler;
	bool freed;   /* within a handler, which then releases it */
	bool closing; /* after the flush */
	bool ended;   /* on_closed was called or is not wanted */
	bool blocked; /* the socket is full */
	bool paused;
	struct error end_error;
	struct ipc_input in;
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
	event_del(&c->stall_event);
}

static void connection_release(struct ipc_connection *c)
{
	ipc_input_fini(&c->in);
	close_fd(&c->fd);
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
	ipc_input_close_fds(&c->in);
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

void ipc_pause(struct ipc_connection *c)
{
	c->paused = true;
	event_del(&c->read_event);
}

void ipc_resume(struct ipc_connection *c)
{
	struct error err = {0};

	if (!c->paused)
		return;
	c->paused = false;
	/* Added anew it finds what has come meanwhile. */
	if (c->ended || c->closing || event_add(&c->read_event, NULL) == 0)
		return;
	error_set_errno(&err, -ENOMEM, "cannot watch the connection");
	connection_end_later(c, &err);
}

/* Returns true when the next message may be looked for. */
static bool connection_deliver(struct ipc_connection *c)
{
	struct error err = {0};
	size_t len;
	const uint8_t *body = ipc_input_body(&c->in, &len);
	int r = c->callbacks.on_message(c, body, len, c->in.fds, c->in.n_fds, &err, c->user);

	if (c->freed)
		return false;
	ipc_input_next(&c->in);
	if (r == 0)
		return !c->closing && !c->ended && !c->paused;
	if (err.code == 0)
		error_set_errno(&err, r, "a message was refused");
	if (c->closing)
		c->end_error = err; /* after what explains it is flushed */
	else
		connection_end(c, &err);
	return false;
}

/* There may be more: adding the event anew finds it, when others have had their turn. */
static void connection_look_again(struct ipc_connection *c)
{
	struct error err = {0};

	event_del(&c->read_event);
	if (event_add(&c->read_event, NULL) == 0)
		return;
	error_set_errno(&err, -ENOMEM, "cannot watch the connection");
	connection_end(c, &err);
}

static void connection_receive(struct ipc_connection *c)
{
	static const struct timeval stall = {.tv_usec = STALL_US};
	struct error err = {0};

	event_del(&c->stall_event);
	for (int budget = MESSAGES_PER_TURN; budget > 0; budget--) {
		int r = ipc_input_fill(&c->in, c->fd, &err);

		if (r == -EAGAIN) {
			if (c->in.incomplete)
				event_add(&c->stall_event, &stall);
			return;
		}
		if (r <= 0) {
			connection_end(c, &err);
			return;
		}
		if (!connection_deliver(c))
			return;
	}
	connection_look_again(c);
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

static void connection_receive_pieces(struct ipc_connection *c)
{
	c->in.piecewise = true;
	connection_receive(c);
}

static void on_stall(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	connection_handle(arg, connection_receive_pieces);
}

/* What the peer had sent before it stopped listening is still delivered. */
static void connection_end_now(struct ipc_connection *c)
{
	if (!c->closing && !c->paused)
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

	event_assign(&c->read_event, base, c->fd, EV_READ | EV_PERSIST | EV_ET, on_readable, c);
	event_assign(&c->write_event, base, c->fd, EV_WRITE | EV_ET, on_writable, c);
	event_assign(&c->end_event, base, -1, 0, on_end, c);
	event_assign(&c->stall_event, base, -1, 0, on_stall, c);
	event_priority_set(&c->read_event, IPC_PRIORITY);
	event_priority_set(&c->write_event, IPC_PRIORITY);
	event_priority_set(&c->end_event, IPC_PRIORITY);
	event_priority_set(&c->stall_event, IPC_PRIORITY);
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
	c->in.max_message_bytes = MIN(max_message_bytes, (size_t)FDPASS_MESSAGE_MAX);
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

int ipc_fd(const struct ipc_connection *c)
{
	return c->fd;
}

const struct ucred *ipc_peer(const struct ipc_connection *c)
{
	return &c->peer;
}

int socket_peer_pidfd(int sock, pid_t pid)
{
	int fd = -1;
	socklen_t len = sizeof(fd);

	if (getsockopt(sock, SOL_SOCKET, SO_PEERPIDFD, &fd, &len) == 0)
		return fd;
	if (errno != ENOPROTOOPT)
		return -errno;
	fd = (int)syscall(SYS_pidfd_open, pid, 0);
	return fd < 0 ? -errno : fd;
}

int ipc_peer_pidfd(const struct ipc_connection *c)
{
	return c->fd < 0 ? -ENOTCONN : socket_peer_pidfd(c->fd, c->peer.pid);
}
