/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of the control server share: one client, and its watches.
 * control_server.c has the socket, control_requests.c the answers,
 * control_watch.c the events.
 */
#ifndef SOURCE_CONTROL_CONNECTION_H
#define SOURCE_CONTROL_CONNECTION_H

#include <event2/event.h>
#include <stdbool.h>
#include <sys/socket.h>

#include "net/ipc.h"
#include "net/loop.h"
#include "source/export_table.h"
#include "wire/control_message.h"

#define CONTROL_WATCHES_MAX 16 /* of one client */

struct control_client;

struct control_watch {
	struct control_client *client;
	uint64_t id;
	bool all;
	struct uuid migration_id;
	struct event *timer; /* NULL: state changes only */
};

struct control_client {
	struct export_table *exports;
	struct loop *loop;
	struct ipc_connection *ipc;
	struct ucred peer;
	int *fds; /* of the request that is being answered; those that are taken become -1 */
	size_t n_fds;
	struct control_watch watches[CONTROL_WATCHES_MAX];
	size_t n_watches;
	struct control_client *prev, *next;
};

/* Encode and queue; a client that does not read is closed. */
void control_client_send(struct control_client *c, const struct control_response *response);

/* Answer a request. */
void control_client_request(struct control_client *c, const struct control_request *q);

/* -E2BIG, -ENOMEM with a text. */
int control_watch_add(struct control_client *c, const struct control_request *q, struct error *err);
void control_watch_changed(struct control_client *c, struct export *e);
void control_watch_end(struct control_client *c);

#endif
