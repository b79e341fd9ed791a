/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The connection to the daemon, and its messages. Called by all other files of
 * the library.
 *
 * Always holds: at most one thread reads the socket (h->reading); the socket is
 * shut down when the connection breaks and closed only with the handle, so that
 * no thread polls a descriptor that is another's.
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "client/inbound.h"
#include "client/internal.h"
#include "core/cleanup.h"
#include "core/clock.h"
#include "core/fdpass.h"

/* Between two looks at other work; a daemon that floods us starves nobody. */
#define DRAIN_READS_MAX 64

uint64_t timeout_from_ms(int timeout_ms)
{
	return timeout_ms < 0 ? UINT64_MAX : (uint64_t)timeout_ms * 1000;
}

uint64_t deadline_after_us(uint64_t timeout_us)
{
	uint64_t now = clock_monotonic_us();

	return timeout_us > UINT64_MAX - now ? UINT64_MAX : now + timeout_us;
}

/* A daemon that stops reading makes send() fail at last, too. */
static int send_timeout_set(struct postcopy *h)
{
	struct timeval tv;

	if (h->timeout_us == UINT64_MAX)
		return 0;
	tv.tv_sec = (time_t)(h->timeout_us / 1000000);
	tv.tv_usec = (suseconds_t)(h->timeout_us % 1000000);
	if (setsockopt(h->sock, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof(tv)) < 0)
		return -errno;
	return 0;
}

static int epoll_add(int epoll_fd, int fd)
{
	struct epoll_event event = {.events = EPOLLIN};

	return epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
}

static int event_fds_open(struct postcopy *h)
{
	int r;

	h->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (h->event_fd < 0)
		return -errno;
	h->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (h->epoll_fd < 0)
		return -errno;
	r = epoll_add(h->epoll_fd, h->event_fd);
	return r < 0 ? r : epoll_add(h->epoll_fd, h->sock);
}

void condition_init(pthread_cond_t *c)
{
	pthread_condattr_t attr;

	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(c, &attr);
	pthread_condattr_destroy(&attr);
}

static struct postcopy *handle_alloc(bool is_source, int timeout_ms)
{
	struct postcopy *h = calloc(1, sizeof(*h));

	if (!h)
		return NULL;
	h->is_source = is_source;
	h->timeout_us = timeout_from_ms(timeout_ms == 0 ? DEFAULT_TIMEOUT_MS : timeout_ms);
	h->sock = h->event_fd = h->epoll_fd = -1;
	h->pending_tail = &h->pending_head;
	h->status.connected = 1;
	pthread_mutex_init(&h->send_lock, NULL);
	pthread_mutex_init(&h->lock, NULL);
	condition_init(&h->changed);
	collapse_init(&h->collapse);
	return h;
}

int link_new(const char *path, bool is_source, int timeout_ms, struct postcopy **ret,
             struct error *err)
{
	struct postcopy *h = handle_alloc(is_source, timeout_ms);
	int r;

	if (!h)
		return error_set_errno(err, -ENOMEM, "cannot make a handle");
	if (!path)
		path = is_source ? POSTCOPY_EXPORT_SOCKET : POSTCOPY_ATTACH_SOCKET;
	r = unix_connect(path, err);
	if (r < 0)
		goto fail;
	h->sock = r;
	r = send_timeout_set(h);
	if (r == 0)
		r = event_fds_open(h);
	if (r < 0) {
		error_set_errno(err, r, "cannot watch the connection to %s", path);
		goto fail;
	}
	*ret = h;
	return 0;
fail:
	link_free(h);
	return r;
}

void link_free(struct postcopy *h)
{
	if (!h)
		return;
	while (h->exports) /* they read memory that may turn to zeros with our uffds */
		inbound_stop(h->exports);
	inbound_free(h->inbound);
	collapse_fini(&h->collapse); /* first: its thread works on the regions */
	while (h->pending_head) {
		struct pending *p = h->pending_head;

		h->pending_head = p->next;
		free(p);
	}
	/* The socket first: the daemon's own uffds then outlive ours. */
	close_fd(&h->sock);
	close_fd(&h->epoll_fd);
	close_fd(&h->event_fd);
	for (size_t i = 0; i < h->n_uffds; i++)
		close_fd(&h->uffds[i]);
	pthread_cond_destroy(&h->changed);
	pthread_mutex_destroy(&h->lock);
	pthread_mutex_destroy(&h->send_lock);
	free(h->regions);
	free(h);
}

/* Take whole messages out of the buffer. The reader, with h->lock held. */
static int buffer_parse(struct postcopy *h)
{
	size_t at = 0;
	int r = 0;

	while (r == 0 && h->buffered - at >= 4) {
		const uint8_t *p = h->buffer + at;
		size_t len =
		        (size_t)p[0] | (size_t)p[1] << 8 | (size_t)p[2] << 16 | (size_t)p[3] << 24;

		if (len > REPLY_BYTES_MAX) {
			r = -EPROTO;
			break;
		}
		if (h->buffered - at - 4 < len)
			break;
		r = reply_dispatch(h, p + 4, len);
		at += 4 + len;
	}
	h->buffered -= at;
	memmove(h->buffer, h->buffer + at, h->buffered);
	return r;
}

/* Bytes taken, 0 at the stream's end, -EAGAIN. The reader, without the lock. */
static ssize_t socket_read(struct postcopy *h)
{
	ssize_t n;

	do {
		n = recv(h->sock, h->buffer + h->buffered, sizeof(h->buffer) - h->buffered,
		         MSG_DONTWAIT);
	} while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : n;
}

/* One read and what follows from it; with h->lock held. False when there is no more. */
static bool read_once(struct postcopy *h)
{
	ssize_t n = socket_read(h);
	int r;

	if (n == -EAGAIN)
		return false;
	if (n <= 0) {
		connection_break(h, -ECONNRESET);
		return false;
	}
	h->buffered += (size_t)n;
	r = buffer_parse(h);
	if (r < 0)
		connection_break(h, r);
	return r == 0;
}

void link_drain(struct postcopy *h)
{
	if (h->reading)
		return; /* the reader takes it in */
	for (int i = 0; i < DRAIN_READS_MAX && !h->broken && read_once(h); i++)
		;
	pthread_cond_broadcast(&h->changed);
}

/* Wait for bytes in the reader's role; with h->lock held but for the wait. */
static void read_until(struct postcopy *h, uint64_t deadline_us)
{
	struct pollfd p = {.fd = h->sock, .events = POLLIN};
	uint64_t now = clock_monotonic_us();
	int timeout_ms = -1;

	if (deadline_us != UINT64_MAX) {
		uint64_t left_us = deadline_us > now ? deadline_us - now : 0;

		timeout_ms = (int)MIN((left_us + 999) / 1000, (uint64_t)60000);
	}
	h->reading = true;
	pthread_mutex_unlock(&h->lock);
	poll(&p, 1, timeout_ms);
	pthread_mutex_lock(&h->lock);
	if (!h->broken)
		read_once(h);
	h->reading = false;
	pthread_cond_broadcast(&h->changed);
}

void condition_wait(pthread_cond_t *c, pthread_mutex_t *lock, uint64_t deadline_us)
{
	struct timespec ts;

	if (deadline_us == UINT64_MAX) {
		pthread_cond_wait(c, lock);
		return;
	}
	ts.tv_sec = (time_t)(deadline_us / 1000000);
	ts.tv_nsec = (long)(deadline_us % 1000000) * 1000;
	pthread_cond_timedwait(c, lock, &ts);
}

int link_wait(struct postcopy *h, const bool *done, uint64_t deadline_us)
{
	link_drain(h);
	while (!*done) {
		if (h->broken)
			return h->broken;
		if (clock_monotonic_us() >= deadline_us)
			return -ETIMEDOUT;
		if (h->reading)
			condition_wait(&h->changed, &h->lock, deadline_us);
		else
			read_until(h, deadline_us);
	}
	return 0;
}
