/* SPDX-License-Identifier: Apache-2.0 */
/* The control socket: proto/control.proto over net/ipc.h. */
#ifndef DAEMON_CONTROL_SERVER_H
#define DAEMON_CONTROL_SERVER_H

#include <sys/types.h>

#include "core/cleanup.h"
#include "core/error.h"
#include "daemon/migration_table.h"

#define CONTROL_CLIENTS_MAX 64
#define CONTROL_WATCHES_MAX 16 /* of one connection */

struct control_server;

int control_server_new(struct migration_table *table, const char *path, mode_t mode,
                       struct control_server **ret, struct error *err);
struct control_server *control_server_free(struct control_server *s); /* always NULL */
DEFINE_CLEANUP(struct control_server, control_server_free)

#endif
