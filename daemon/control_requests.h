/* SPDX-License-Identifier: Apache-2.0 */
/* What the control interface's requests do, but for Watch. Those that take time have a function. */
#ifndef DAEMON_CONTROL_REQUESTS_H
#define DAEMON_CONTROL_REQUESTS_H

#include "core/error.h"
#include "daemon/migration_table.h"
#include "wire/control_message.h"

/*
 * Fill *ret_response (zeroed; its id is the caller's) with the answer; released
 * with control_response_free(). On failure it is empty and err is for the client.
 */
int control_request_run(struct migration_table *table, const struct control_request *request,
                        struct control_response *ret_response, struct error *err);

/* Poison: fn is called when it has been done, see migration_poison(). */
int control_request_poison(struct migration_table *table, const struct control_request *request,
                           migration_poison_fn fn, void *user, struct poison_request **ret,
                           struct error *err);

/* False for those that only look: they may come every second and are no news. */
bool control_request_changes(enum control_request_type type);

/* -ENOENT with the text that every request gives for it. */
int control_unknown_migration(const struct uuid *id, struct error *err);

#endif
