/* SPDX-License-Identifier: Apache-2.0 */
/* The export socket: VMMs hand their memory over (proto/attach.proto). Main loop. */
#ifndef SOURCE_EXPORT_SERVER_H
#define SOURCE_EXPORT_SERVER_H

#include <sys/types.h>

#include "core/access_list.h"
#include "net/loop.h"
#include "source/export_table.h"

struct export_server;

int export_server_new(struct loop *loop, const char *path, mode_t mode,
                      const struct access_list *access, struct export_table *exports,
                      struct export_server **ret, struct error *err);
struct export_server *export_server_free(struct export_server *s); /* always NULL */

/*
 * A connection whose exporter had this export from an agent before this one: it gets the
 * state, marked restarted, and is then like any other. fd is owned, also on failure. -ENOMEM.
 */
int export_server_adopt(struct export_server *s, int fd, struct export *e);

/* For connections from now on. */
void export_server_set_access(struct export_server *s, const struct access_list *access);

#endif
