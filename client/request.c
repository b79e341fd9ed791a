/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests to the daemon, and their way over its restart. Called by all files of
 * the library that ask it something.
 *
 * Always holds: the queue of pending requests has the order of the bytes sent, for
 * both happen under send_lock. A request that a dead daemon left without an answer
 * is sent again by the thread that waits for it, not by the reader, which holds
 * h->lock and must not wait for room in the socket.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "client/internal.h"
#include "core/cleanup.h"
#include "core/clock.h"
#include "core/fdpass.h"

/* A number for a request; 0 would be none. */
static uint32_t request_id(struct postcopy *h)
{
	uint32_t id;

	pthread_mutex_lock(&h->lock);
	do {
		id = ++h->last_id;
	} while (id == 0);
	pthread_mutex_unlock(&h->lock);
	return id;
}

/* Put p at the queue's end; -ENOTCONN when nothing can be sent any more. */
static int pending_add(struct postcopy *h, struct pending *p)
{
	int r;

	pthread_mutex_lock(&h->lock);
	r = h->broken ? -ENOTCONN : 0;
	if (r == 0) {
		*h->pending_tail = p;
		h->pending_tail = &p->next;
	}
	pthread_mutex_unlock(&h->lock);
	return r;
}

/* A daemon that has closed may have said why before: the reader finds that, and then the end. */
static bool send_error_is_close(int r)
{
	return r == -EPIPE || r == -ECONNRESET;
}

/* Queue and send: the queue's order must be that of the bytes. */
static int request_send(struct postcopy *h, const struct attach_request *request, const int *fds,
                        size_t n_fds, struct pending *p)
{
	_cleanup_free_ uint8_t *body = NULL;
	struct attach_request numbered = *request; /* borrows what the other holds */
	size_t len;
	int r, sent;

	numbered.id = p->id = request_id(h);
	r = attach_request_encode(&numbered, &body, &len);
	if (r < 0)
		return r;
	pthread_mutex_lock(&h->send_lock);
	r = pending_add(h, p);
	if (r == 0) {
		sent = fdpass_send_message(h->sock, body, len, fds, n_fds);
		if (sent < 0 && !send_error_is_close(sent)) {
			/* What was sent of it, if anything, cannot be taken back. */
			pthread_mutex_lock(&h->lock);
			connection_break(h, -ECONNRESET);
			pthread_mutex_unlock(&h->lock);
		}
	}
	pthread_mutex_unlock(&h->send_lock);
	return r;
}

/*
 * With h->lock held: the answer's verdict, or why there is none. Frees p or leaves
 * it to the reader.
 */
static int request_finish(struct postcopy *h, struct pending *p, int r, struct error *err)
{
	if (p->done && !p->lost) {
		r = p->error;
		if (r < 0)
			error_set(err, r, "%s", p->text[0] ? p->text : strerror(-r));
		free(p);
		return r;
	}
	if (p->done) /* and nobody's but ours any more */
		free(p);
	else
		p->abandoned = true;
	if (r == -ETIMEDOUT)
		return error_set(err, r, "no answer from the daemon within %llu ms",
		                 (unsigned long long)(h->timeout_us / 1000));
	if (r == -EPROTO)
		return error_set(err, r,
		                 "the daemon's answer is not the attach protocol; "
		                 "is the socket path right?");
	return error_set(err, r, "the daemon closed the connection without an answer");
}

/*
 * Wait for the answer, with h->lock held. 0, or why there is none; -EAGAIN when the
 * request has to be sent again.
 */
static int request_wait(struct postcopy *h, const struct pending *p, uint64_t deadline_us)
{
	int r = link_wait(h, &p->done, deadline_us);

	if (!p->lost)
		return r;
	if (h->broken)
		return h->broken;
	/* However often the daemon is restarted, or says so. */
	return clock_monotonic_us() >= deadline_us ? -ETIMEDOUT : -EAGAIN;
}

static int request_call(struct postcopy *h, const struct attach_request *request, const int *fds,
                        size_t n_fds, struct attach_reply *list, struct error *err)
{
	struct pending *p = calloc(1, sizeof(*p));
	uint64_t deadline_us = deadline_after_us(h->timeout_us);
	bool again;
	int r;

	if (!p)
		return error_set_errno(err, -ENOMEM, "cannot send a request");
	p->list = list;
	p->begins = request->type == ATTACH_REQUEST_ATTACH ||
	            request->type == ATTACH_REQUEST_ATTACH_MAPPING ||
	            request->type == ATTACH_REQUEST_EXPORT;
	do {
		p->done = p->lost = false;
		r = request_send(h, request, fds, n_fds, p);
		if (r < 0) {
			free(p);
			return error_set(err, r,
			                 r == -ENOTCONN ? "the connection to the daemon has ended"
			                                : "the request cannot be encoded");
		}
		pthread_mutex_lock(&h->lock);
		r = request_wait(h, p, deadline_us);
		again = r == -EAGAIN;
		if (!again)
			r = request_finish(h, p, r, err);
		pthread_mutex_unlock(&h->lock);
	} while (again);
	return r;
}

int link_call(struct postcopy *h, const struct attach_request *request, const int *fds,
              size_t n_fds, struct error *err)
{
	return request_call(h, request, fds, n_fds, NULL, err);
}

int link_ask(struct postcopy *h, const struct attach_request *request, struct attach_reply *ret,
             struct error *err)
{
	return request_call(h, request, NULL, 0, ret, err);
}

int link_begin(struct postcopy *h, const struct attach_request *request, const struct fd_table *fds,
               const char *state, struct error *err)
{
	int r = link_call(h, request, fds->fds, fds->n_fds, err);

	if (r < 0)
		return r;
	/* The daemon may have told its state with the Ack. */
	pthread_mutex_lock(&h->lock);
	if (h->status.name[0] == '\0')
		state_enter(h, state, "", false);
	pthread_mutex_unlock(&h->lock);
	return 0;
}
