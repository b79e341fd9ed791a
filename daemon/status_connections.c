/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The limit on the status interface's connections. Called by the status server
 * when evhttp accepts one.
 *
 * evhttp (libevent 2.1) has no such limit, and tells neither that it could
 * refuse a connection nor that one has ended. What it does say: it asks for
 * each connection's bufferevent, and bufferevent_free() takes its callbacks
 * away. So a reference to each is kept, and looked at when the next one comes.
 *
 * The descriptor is closed with the last reference, not by evhttp: the bufferevent
 * is in the event loop until then, and another connection of the same number would
 * never be looked at. The client has its end of the stream from shutdown().
 *
 * Always holds: not more than the limit are open; newcomers are served, so
 * clients that hold connections cannot shut the others out.
 */
#include "daemon/status_connections.h"

#include <errno.h>
#include <event2/buffer.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "core/log.h"

struct status_connections {
	struct bufferevent *all[STATUS_CONNECTIONS_MAX]; /* the oldest first */
	unsigned n;
	bool full_logged;
};

int status_connections_new(struct status_connections **ret)
{
	struct status_connections *c = calloc(1, sizeof(*c));

	if (!c)
		return -ENOMEM;
	*ret = c;
	return 0;
}

struct status_connections *status_connections_free(struct status_connections *c)
{
	if (!c)
		return NULL;
	for (unsigned i = 0; i < c->n; i++)
		bufferevent_decref(c->all[i]);
	free(c);
	return NULL;
}

static bool has_ended(struct bufferevent *bev)
{
	bufferevent_event_cb event_cb;

	bufferevent_getcb(bev, NULL, NULL, &event_cb, NULL);
	return !event_cb;
}

static void forget(struct status_connections *c, unsigned i)
{
	bufferevent_decref(c->all[i]);
	c->n--;
	memmove(&c->all[i], &c->all[i + 1], (c->n - i) * sizeof(c->all[0]));
}

static void forget_ended(struct status_connections *c)
{
	for (unsigned i = 0; i < c->n;) {
		if (has_ended(c->all[i]))
			forget(c, i);
		else
			i++;
	}
}

/* The oldest that waits for its client; if all are being answered, the oldest of all. */
static unsigned choose(const struct status_connections *c)
{
	for (unsigned i = 0; i < c->n; i++)
		if (evbuffer_get_length(bufferevent_get_output(c->all[i])) == 0)
			return i;
	return 0;
}

static void close_one(struct status_connections *c)
{
	unsigned i = choose(c);

	/* As if the client had been silent for too long: evhttp closes it, in this call. */
	bufferevent_trigger_event(c->all[i], BEV_EVENT_READING | BEV_EVENT_TIMEOUT, 0);
	forget(c, i);
}

static void make_room(struct status_connections *c, unsigned max)
{
	forget_ended(c);
	if (c->n < max) {
		c->full_logged = false;
		return;
	}
	if (!c->full_logged)
		log_warning("%u status connections are open, the most that [sockets] "
		            "status_connections allows: closing the oldest for new ones",
		            c->n);
	c->full_logged = true;
	while (c->n >= max)
		close_one(c);
}

struct bufferevent *status_connections_add(struct status_connections *c, struct event_base *base,
                                           unsigned max)
{
	struct bufferevent *bev;

	make_room(c, max);
	bev = bufferevent_socket_new(base, -1, BEV_OPT_CLOSE_ON_FREE);
	if (!bev)
		return NULL;
	bufferevent_incref(bev);
	c->all[c->n++] = bev;
	return bev;
}
