/* SPDX-License-Identifier: Apache-2.0 */
/* The daemon put together: loop, settings, keys, migrations, servers. */
#ifndef DAEMON_DAEMON_H
#define DAEMON_DAEMON_H

#include "core/cleanup.h"
#include "core/error.h"
#include "daemon/migration_table.h"
#include "daemon/settings.h"
#include "net/loop.h"

struct daemon;

/* Everything listens when it returns 0. settings are owned from here on, also on failure. */
int daemon_new(struct settings *settings, struct daemon **ret, struct error *err);
/* After the loop has returned; logs which migrations are still live. Always NULL. */
struct daemon *daemon_free(struct daemon *d);
DEFINE_CLEANUP(struct daemon, daemon_free)

struct loop *daemon_loop(struct daemon *d);
struct migration_table *daemon_migrations(struct daemon *d);

/*
 * Take new settings and load the keys again; running connections go on. On
 * failure (err) nothing has changed. settings are owned, also on failure.
 */
int daemon_reload(struct daemon *d, struct settings *settings, struct error *err);

#endif
