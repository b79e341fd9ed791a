/* SPDX-License-Identifier: Apache-2.0 */
/*
 * All exports, by migration id. An ended export stays for a while as a
 * tombstone, without memory: postcopyctl shows how it ended, and a destination
 * that missed the answer to its Complete gets it again, also from the next agent.
 */
#include "source/export_table.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "core/clock.h"
#include "core/log.h"
#include "core/message_ids.h"

int export_table_new(struct loop *loop, const struct export_limits *limits,
                     struct export_table **ret)
{
	struct export_table *t = calloc(1, sizeof(*t));

	if (!t)
		return -ENOMEM;
	t->loop = loop;
	t->limits = *limits;
	t->audit_timer = evtimer_new(loop_base(loop), export_table_on_audit, t);
	if (!t->audit_timer || fd_store_new(limits->fd_store_max, &t->fd_store) < 0) {
		if (t->audit_timer)
			event_free(t->audit_timer);
		free(t);
		return -ENOMEM;
	}
	*ret = t;
	return 0;
}

static void table_remove(struct export_table *t, struct export *e)
{
	HASH_DEL(t->by_id, e);
	export_unref(e);
}

struct export_table *export_table_free(struct export_table *t)
{
	struct export *e, *next;

	if (!t)
		return NULL;
	HASH_ITER (hh, t->by_id, e, next)
		table_remove(t, e);
	event_free(t->audit_timer);
	fd_store_free(t->fd_store);
	free(t);
	return NULL;
}

/* For every agent to come as well: its losses are in the journal by then. */
static void table_forget(struct export_table *t, struct export *e)
{
	export_audit_all(e);
	export_keep_forget(e);
	table_remove(t, e);
}

void export_table_observe(struct export_table *t, export_observer_fn fn, void *user)
{
	t->observers[t->n_observers].fn = fn;
	t->observers[t->n_observers++].user = user;
}

void export_table_changed(struct export_table *t, struct export *e)
{
	for (size_t i = 0; i < t->n_observers; i++)
		t->observers[i].fn(e, t->observers[i].user);
}

/* Ended, and nobody uses it any more. */
static bool is_tombstone(const struct export *e)
{
	return export_state_final(e->announced) && e->n_links == 0 && !e->keep.stranded;
}

/* Forget ended exports over the limit, oldest first. */
void export_table_trim(struct export_table *t)
{
	for (;;) {
		struct export *e, *next, *oldest = NULL;
		unsigned n = 0;

		HASH_ITER (hh, t->by_id, e, next) {
			if (!is_tombstone(e))
				continue;
			n++;
			if (!oldest || e->ended_ns < oldest->ended_ns)
				oldest = e;
		}
		if (n <= t->limits.ended || !oldest)
			return;
		table_forget(t, oldest);
	}
}

/* The one that can best do without: released ones may have to answer a repeated Complete. */
static struct export *kept_oldest(const struct export_table *t)
{
	struct export *e, *next, *best = NULL;

	HASH_ITER (hh, t->by_id, e, next) {
		bool released = export_state(e) == EXPORT_RELEASED;

		if (!is_tombstone(e) || !e->keep.record)
			continue;
		if (!best || (!released && export_state(best) == EXPORT_RELEASED) ||
		    (released == (export_state(best) == EXPORT_RELEASED) &&
		     e->ended_ns < best->ended_ns))
			best = e;
	}
	return best;
}

int export_table_make_room(struct export_table *t, size_t n, struct error *err)
{
	struct error full = {0};
	struct export *e;
	int r;

	while ((r = fd_store_check_room(t->fd_store, n, &full)) < 0 &&
	       (e = kept_oldest(t)) != NULL) {
		export_audit_all(e);
		export_keep_forget(e);
	}
	if (r < 0)
		*err = full;
	return r;
}

static int check_room(struct export_table *t, const struct export_params *params, struct error *err)
{
	struct export *e, *next;
	unsigned alive = 0;

	if (t->draining)
		return error_set(err, -ESHUTDOWN,
		                 "postcopy-sourced is stopping: it serves the exports it has, and "
		                 "takes no new one; try again when it has been started again");
	e = export_table_find(t, params->id);
	if (e && e->keep.stranded)
		return error_set(err, -EEXIST,
		                 "migration %s was exported to an agent before this one, which "
		                 "cannot take it up: its memory is kept; give that up first "
		                 "(postcopyctl cancel --force), or use another id",
		                 e->id_text);
	if (e && !export_state_final(export_state(e)))
		return error_set(err, -EEXIST,
		                 "migration %s is exported already (by %s): withdraw that export "
		                 "first, or use another id",
		                 e->id_text, e->exporter);
	HASH_ITER (hh, t->by_id, e, next)
		alive += !export_state_final(export_state(e));
	if (alive >= t->limits.exports)
		return error_set(
		        err, -ENOSPC,
		        "%u exports are alive, and no more are allowed (setting [exports] max)",
		        alive);
	return 0;
}

int export_new(struct export_table *t, const struct export_params *params, struct export **ret)
{
	struct export *e = calloc(1, sizeof(*e));

	if (!e)
		return -ENOMEM;
	e->refs = 1;
	e->keep.connection_fd = -1;
	pthread_mutex_init(&e->lock, NULL);
	e->id = *params->id;
	uuid_format(&e->id, e->id_text);
	memcpy(e->token, params->token, params->token_len);
	e->token_len = params->token_len;
	(void)snprintf(e->peer_identity, sizeof(e->peer_identity), "%s", params->peer_identity);
	(void)snprintf(e->exporter, sizeof(e->exporter), "%s", params->exporter);
	e->table = t;
	e->started_us = clock_realtime_us();
	e->started_ns = clock_monotonic_ns();
	*ret = e;
	return 0;
}

void export_table_add_restored(struct export_table *t, struct export *e)
{
	HASH_ADD(hh, t->by_id, id, sizeof(e->id), e);
}

/* All that can fail but keeping it. */
static int export_make(struct export_table *t, const struct export_params *params, int *fds,
                       size_t n_fds, struct export **ret, struct error *err)
{
	struct export *e;
	int r;

	if (export_new(t, params, &e) < 0)
		return error_set(err, -ENOMEM, "not enough memory for an export");
	r = region_table_new(params->regions, params->n_regions, fds, n_fds, t->limits.export_bytes,
	                     &e->regions, err);
	if (r == 0 && poison_set_new(e->regions, &e->poison) < 0)
		r = error_set(err, -ENOMEM, "not enough memory for the bitmap of %llu pages",
		              (unsigned long long)e->regions->n_pages);
	if (r == 0 && params->inbound && inbound_new(e->regions, EXPORT_LANES_MAX, &e->inbound) < 0)
		r = error_set(err, -ENOMEM, "not enough memory for what is known of %llu pages",
		              (unsigned long long)e->regions->n_pages);
	if (r < 0)
		export_unref(e);
	else
		*ret = e;
	return r;
}

/* In place of a tombstone, if there is one: its names in the FD store are needed. */
static int table_insert(struct export_table *t, struct export *e,
                        const struct export_params *params, struct error *err)
{
	struct export *old = export_table_find(t, &e->id);
	int r;

	if (old) {
		export_audit_all(old);
		export_keep_forget(old);
	}
	r = export_keep_start(e, params, err);
	if (r < 0)
		return r;
	if (old)
		table_remove(t, old);
	export_ref(e);
	HASH_ADD(hh, t->by_id, id, sizeof(e->id), e);
	return 0;
}

int export_table_add(struct export_table *t, const struct export_params *params, int *fds,
                     size_t n_fds, struct export **ret, struct error *err)
{
	struct export *e = NULL;
	int r = check_room(t, params, err);

	if (r < 0)
		return r;
	r = export_make(t, params, fds, n_fds, &e, err);
	if (r < 0)
		return r;
	r = table_insert(t, e, params, err);
	if (r < 0) {
		export_unref(e);
		return r;
	}
	log_event(LOG_INFO, MESSAGE_EXPORT_EXPORTED,
	          LOG_FIELDS({"MIGRATION_ID", e->id_text}, {"PEER", e->peer_identity},
	                     {"EXPORTER", e->exporter}),
	          "exported by %s for %s: %zu regions, %llu pages%s", e->exporter, e->peer_identity,
	          e->regions->n_regions, (unsigned long long)e->regions->n_pages,
	          e->inbound ? ", which are still on their way here" : "");
	*ret = e;
	return 0;
}

struct export *export_table_find(const struct export_table *t, const struct uuid *id)
{
	struct export *e;

	HASH_FIND(hh, t->by_id, id, sizeof(*id), e);
	return e;
}

int export_table_get(const struct export_table *t, const struct uuid *id, struct export **ret,
                     struct error *err)
{
	char text[UUID_TEXT_LEN];
	struct export *e = export_table_find(t, id);

	if (!e)
		return error_set(err, -ENOENT, "there is no export of migration %s here",
		                 uuid_format(id, text));
	*ret = e;
	return 0;
}
