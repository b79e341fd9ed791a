/* SPDX-License-Identifier: Apache-2.0 */
/* The status interface: read-only HTTP/1.1 over a UNIX socket and, if asked, loopback TCP. */
#ifndef DAEMON_STATUS_SERVER_H
#define DAEMON_STATUS_SERVER_H

#include <sys/types.h>

#include "core/cleanup.h"
#include "core/error.h"
#include "daemon/migration_table.h"

struct status_server;

/* tcp_address: HOST:PORT, "" or NULL for none. */
int status_server_new(struct migration_table *table, const char *path, mode_t mode,
                      const char *tcp_address, struct status_server **ret, struct error *err);
struct status_server *status_server_free(struct status_server *s); /* always NULL */
DEFINE_CLEANUP(struct status_server, status_server_free)

#endif
