/* SPDX-License-Identifier: Apache-2.0 */
/* How many clients the status interface has at a time: descriptors are for guests. */
#ifndef DAEMON_STATUS_CONNECTIONS_H
#define DAEMON_STATUS_CONNECTIONS_H

#include <event2/bufferevent.h>

#include "core/cleanup.h"

/* The largest limit that can be set. */
#define STATUS_CONNECTIONS_MAX 1024

struct status_connections;

int status_connections_new(struct status_connections **ret);
/* After evhttp_free(), which closes them. Always NULL. */
struct status_connections *status_connections_free(struct status_connections *c);
DEFINE_CLEANUP(struct status_connections, status_connections_free)

/*
 * evhttp has accepted one and wants its bufferevent: NULL without memory. With
 * max of them, the one that has been there for longest and is owed no answer is closed.
 */
struct bufferevent *status_connections_add(struct status_connections *c, struct event_base *base,
                                           unsigned max);

#endif
