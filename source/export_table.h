/* SPDX-License-Identifier: Apache-2.0 */
/* All exports of this host, by migration id. Main loop only. */
#ifndef SOURCE_EXPORT_TABLE_H
#define SOURCE_EXPORT_TABLE_H

#include <event2/event.h>

#include "net/fd_store.h"
#include "net/loop.h"
#include "source/export.h"

struct export_limits {
	unsigned exports;      /* that are not ended */
	unsigned ended;        /* kept to be shown, and to answer a repeated Complete */
	uint64_t export_bytes; /* of one export */
	unsigned fd_store_max; /* at start only */
};

/* What a client says about an export. */
struct export_params {
	const struct uuid *id;
	const uint8_t *token;
	size_t token_len;
	const char *peer_identity;
	const struct export_region *regions;
	size_t n_regions;
	const char *exporter; /* for people */
	bool inbound;         /* its memory is still on its way here */
	int connection_fd;    /* the exporter's, borrowed; -1: there is none */
};

/* The state of an export changed, as the new state tells. */
typedef void (*export_observer_fn)(struct export *e, void *user);

#define EXPORT_OBSERVERS_MAX 4

struct export_table {
	struct loop *loop;
	struct export_limits limits;
	struct fd_store *fd_store;
	struct export *by_id;
	struct {
		export_observer_fn fn;
		void *user;
	} observers[EXPORT_OBSERVERS_MAX];
	size_t n_observers;
	bool draining;             /* the agent is to end: no new ones */
	struct event *audit_timer; /* some export has losses without a record in the journal */
};

int export_table_new(struct loop *loop, const struct export_limits *limits,
                     struct export_table **ret);
/* No link may be left; what is in the FD store stays there. Always NULL. */
struct export_table *export_table_free(struct export_table *t);

/* At start only. */
void export_table_observe(struct export_table *t, export_observer_fn fn, void *user);

/*
 * A new export; the descriptors are taken on success (fds[] become -1). -EEXIST
 * while one with this id is alive, -ENOSPC at the limit, -EINVAL ... for bad
 * parameters. The caller has a reference.
 */
int export_table_add(struct export_table *t, const struct export_params *params, int *fds,
                     size_t n_fds, struct export **ret, struct error *err);

/* One without memory, lost pages and a place in the table. The caller has the reference. -ENOMEM. */
int export_new(struct export_table *t, const struct export_params *params, struct export **ret);

/* What an earlier agent left: the caller's reference becomes the table's. */
void export_table_add_restored(struct export_table *t, struct export *e);

/* Until n descriptors fit into the FD store, ended exports give up what they have there. */
int export_table_make_room(struct export_table *t, size_t n, struct error *err);

/* NULL when there is none; no reference. */
struct export *export_table_find(const struct export_table *t, const struct uuid *id);

/* The same with -ENOENT and a text. */
int export_table_get(const struct export_table *t, const struct uuid *id, struct export **ret,
                     struct error *err);

/* For export.c: tell observers; forget the oldest ended ones. */
void export_table_changed(struct export_table *t, struct export *e);
void export_table_trim(struct export_table *t);

/* export_audit.c. There may be new losses: their records follow, from the loop. */
void export_audit(struct export *e);
/* The rest of them now: the export goes. */
void export_audit_all(struct export *e);
void export_table_on_audit(evutil_socket_t fd, short what, void *arg);

#endif
