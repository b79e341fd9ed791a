/* SPDX-License-Identifier: Apache-2.0 */
/*
 * All migrations by id, live and (the latest) ended ones, and what they share:
 * loop, settings, keys, totals, listeners. Main thread only.
 */
#ifndef DAEMON_MIGRATION_TABLE_H
#define DAEMON_MIGRATION_TABLE_H

#include <stdbool.h>
#include <stdint.h>

#include "core/cleanup.h"
#include "daemon/migration.h"
#include "daemon/settings.h"
#include "net/fd_store.h"
#include "net/loop.h"
#include "net/tls.h"

#define MIGRATION_TOMBSTONES_MAX 64

/* What has been counted since the daemon started. */
struct migration_totals {
	uint64_t started;
	uint64_t entered[MIGRATION_STATES_]; /* how often a state was entered */
	uint64_t reconnects;
	uint64_t lost_bytes;
	struct migration_sums sums;
};

/*
 * settings and tls are borrowed until replaced; tls is referenced. Starts a
 * timer that samples the rates once a second.
 */
int migration_table_new(struct loop *loop, const struct settings *settings, struct tls_context *tls,
                        struct migration_table **ret);
struct migration_table *migration_table_free(struct migration_table *t); /* always NULL */
DEFINE_CLEANUP(struct migration_table, migration_table_free)

/* After a reload: for new connections and, TLS, for all lanes. */
void migration_table_set_settings(struct migration_table *t, const struct settings *settings);
void migration_table_set_tls(struct migration_table *t, struct tls_context *tls);

/* What outlives the daemon, if there is a service manager; never NULL. */
struct fd_store *migration_table_fd_store(const struct migration_table *t);

struct loop *migration_table_loop(const struct migration_table *t);
const struct settings *migration_table_settings(const struct migration_table *t);
struct tls_context *migration_table_tls(const struct migration_table *t);

/* The daemon is to end: no migration starts, and no VMM attaches, from now on. */
void migration_table_set_draining(struct migration_table *t);
bool migration_table_draining(const struct migration_table *t);

/* What has to succeed, too, before a migration has started: 0, or -errno with a text. */
typedef int (*migration_start_fn)(struct migration *m, void *user, struct error *err);
void migration_table_on_start(struct migration_table *t, migration_start_fn fn, void *user);

/*
 * Start one. -ESHUTDOWN while draining, -EEXIST while one with this id is live, -EUSERS when
 * there are too many.
 */
int migration_table_start(struct migration_table *t, const struct migration_params *params,
                          struct migration **ret, struct error *err);

/*
 * See that n descriptors have room in the FD store: ended migrations are the first to
 * leave it, the oldest first. -ENOSPC with a text.
 */
int migration_table_make_room(struct migration_table *t, size_t n, struct error *err);

/* One that another daemon has left; the table's from here on. */
void migration_table_add_restored(struct migration_table *t, struct migration *m);
/* After the last of them: in the order in which they were started, and ended. */
void migration_table_sort_restored(struct migration_table *t);

struct migration *migration_table_find(const struct migration_table *t, const struct uuid *id);
/* In order of starting; NULL: the first, and after the last. */
struct migration *migration_table_next(const struct migration_table *t,
                                       const struct migration *after);
unsigned migration_table_count_live(const struct migration_table *t);

/* Totals with the live ones' counters: they never decrease. */
void migration_table_totals(const struct migration_table *t, struct migration_totals *ret);

/* Called by a migration when its state or its text changed. */
void migration_table_notify(struct migration_table *t, const struct migration *m);
void migration_table_entered(struct migration_table *t, struct migration *m);
void migration_table_reconnected(struct migration_table *t);

/*
 * Listeners are called on every change of state or text, in any order. They
 * may remove any listener, but start or end no migration.
 */
struct migration_listener;
typedef void (*migration_change_fn)(const struct migration *m, void *user);
int migration_table_listen(struct migration_table *t, migration_change_fn fn, void *user,
                           struct migration_listener **ret);
void migration_table_unlisten(struct migration_table *t, struct migration_listener *l);

#endif
