/* SPDX-License-Identifier: Apache-2.0 */
/* JSON objects, one a line, over a UNIX socket. Called by qmp.c and qemu_memory.c. */
#include "ctl/json_stream.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "core/cleanup.h"
#include "core/clock.h"
#include "core/fdpass.h"

#define READ_BYTES 65536

int json_stream_open(struct json_stream *s, const char *name, const char *path, struct error *err)
{
	int fd = unix_connect(path, err);

	if (fd < 0) {
		error_prefix(err, "%s", name);
		return fd;
	}
	s->name = name;
	s->fd = fd;
	return 0;
}

void json_stream_close(struct json_stream *s)
{
	close_fd(&s->fd);
	free(s->buffer);
	s->buffer = NULL;
	s->len = s->room = 0;
}

int json_stream_send(struct json_stream *s, json_t *o, struct error *err)
{
	_cleanup_free_ char *text = o ? json_dumps(o, JSON_COMPACT) : NULL;
	size_t len = text ? strlen(text) : 0, sent = 0;

	json_decref(o);
	if (!text)
		return error_set_errno(err, -ENOMEM, "%s", s->name);
	text[len++] = '\n'; /* where its NUL was */
	while (sent < len) {
		ssize_t n = send(s->fd, text + sent, len - sent, MSG_NOSIGNAL);

		if (n < 0 && errno != EINTR)
			return error_set_errno(err, -errno, "%s: cannot send", s->name);
		sent += n > 0 ? (size_t)n : 0;
	}
	explicit_bzero(text, len);
	return 0;
}

static int buffer_grow(struct json_stream *s, struct error *err)
{
	char *more;

	if (s->room - s->len >= READ_BYTES)
		return 0;
	if (s->len >= JSON_LINE_MAX)
		return error_set(err, -EPROTO, "%s: a line has more than %u bytes", s->name,
		                 JSON_LINE_MAX);
	more = realloc(s->buffer, s->len + READ_BYTES);
	if (!more)
		return error_set_errno(err, -ENOMEM, "%s", s->name);
	s->buffer = more;
	s->room = s->len + READ_BYTES;
	return 0;
}

/* From now until the deadline; NULL: for ever. */
static const struct timespec *time_left(uint64_t deadline_us, struct timespec *buf)
{
	uint64_t now = clock_monotonic_us(), left = deadline_us > now ? deadline_us - now : 0;

	if (deadline_us == UINT64_MAX)
		return NULL;
	buf->tv_sec = (time_t)(left / 1000000);
	buf->tv_nsec = (long)(left % 1000000) * 1000;
	return buf;
}

static int readable_wait(struct json_stream *s, uint64_t deadline_us, struct error *err)
{
	struct pollfd p = {.fd = s->fd, .events = POLLIN};
	struct timespec buf;
	int n;

	do
		n = ppoll(&p, 1, time_left(deadline_us, &buf), s->signals);
	while (n < 0 && errno == EINTR && !s->signals);
	if (n < 0 && errno == EINTR)
		return error_set(err, -EINTR, "interrupted");
	if (n < 0)
		return error_set_errno(err, -errno, "%s: poll", s->name);
	return n > 0 ? 0 : error_set(err, -ETIMEDOUT, "%s did not answer in time", s->name);
}

static int more_read(struct json_stream *s, uint64_t deadline_us, struct error *err)
{
	int r = buffer_grow(s, err);
	ssize_t n;

	if (r == 0)
		r = readable_wait(s, deadline_us, err);
	if (r < 0)
		return r;
	n = recv(s->fd, s->buffer + s->len, s->room - s->len, 0);
	if (n < 0 && errno != EINTR)
		return error_set_errno(err, -errno, "%s", s->name);
	if (n == 0)
		return error_set(err, -ECONNRESET, "%s has closed the connection", s->name);
	s->len += n > 0 ? (size_t)n : 0;
	return 0;
}

int json_stream_receive(struct json_stream *s, uint64_t deadline_us, json_t **ret,
                        struct error *err)
{
	char *newline;
	json_error_t e;

	while (!(newline = s->len ? memchr(s->buffer, '\n', s->len) : NULL)) {
		int r = more_read(s, deadline_us, err);

		if (r < 0)
			return r;
	}
	*ret = json_loadb(s->buffer, (size_t)(newline - s->buffer), 0, &e);
	s->len -= (size_t)(newline + 1 - s->buffer);
	memmove(s->buffer, newline + 1, s->len);
	if (!*ret)
		return error_set(err, -EPROTO, "%s: what came is no JSON: %s", s->name, e.text);
	return 0;
}
