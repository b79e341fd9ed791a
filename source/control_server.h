/* SPDX-License-Identifier: Apache-2.0 */
/* The control socket of the operator (proto/control.proto). Main loop. */
#ifndef SOURCE_CONTROL_SERVER_H
#define SOURCE_CONTROL_SERVER_H

#include <sys/types.h>

#include "core/access_list.h"
#include "net/loop.h"
#include "source/export_table.h"

struct control_server;

int control_server_new(struct loop *loop, const char *path, mode_t mode,
                       const struct access_list *access, struct export_table *exports,
                       struct control_server **ret, struct error *err);
struct control_server *control_server_free(struct control_server *s); /* always NULL */

/* For connections from now on. */
void control_server_set_access(struct control_server *s, const struct access_list *access);

#endif
