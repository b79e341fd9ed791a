/* SPDX-License-Identifier: Apache-2.0 */
/* The daemon put together: loop, settings, keys, migrations, servers. */
#ifndef DAEMON_DAEMON_H
#define DAEMON_DAEMON_H

#include <stdbool.h>
#include <stdint.h>

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

/* Whether a restarted daemon would go on with all of it: there is an FD store. */
bool daemon_kept(const struct daemon *d);

/* Go on for the guests that depend on it (drain.h), and stop the loop after the last. -ENOMEM. */
int daemon_drain(struct daemon *d);

/* The end is a restart's beginning: nobody is left behind, and the log need not say so. */
void daemon_set_restarting(struct daemon *d);

/* For the watchdog: see lane_watch_all(). */
bool daemon_alive(struct daemon *d, uint64_t allowed_us);

/*
 * Take new settings and load the keys again; running connections go on. On
 * failure (err) nothing has changed. settings are owned, also on failure.
 */
int daemon_reload(struct daemon *d, struct settings *settings, struct error *err);

#endif
