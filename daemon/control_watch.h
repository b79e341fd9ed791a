/* SPDX-License-Identifier: Apache-2.0 */
/* A Watch on a control connection: events of state changes, and progress by a timer. */
#ifndef DAEMON_CONTROL_WATCH_H
#define DAEMON_CONTROL_WATCH_H

#include "core/cleanup.h"
#include "daemon/migration_table.h"
#include "net/ipc.h"
#include "wire/control_message.h"

#define WATCH_INTERVAL_MIN_US 50000

struct control_watch;

/*
 * Begin: events go to the connection with the request's id, the present state
 * first. The connection outlives the watch.
 */
int control_watch_new(struct migration_table *table, struct ipc_connection *connection,
                      const struct control_request *request, struct control_watch **ret);
struct control_watch *control_watch_free(struct control_watch *w); /* always NULL */

#endif
