/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The table of migrations. Called by the servers (find, list, start), by the
 * migrations themselves (notify) and by the daemon (reload, end).
 *
 * Always holds: at most settings->max live ones and MIGRATION_TOMBSTONES_MAX
 * ended ones; an ended one's counters are in the totals, a live one's are not.
 */
#include "daemon/migration_table.h"

#include <errno.h>
#include <stdlib.h>
#include <utlist.h>

#include "core/clock.h"
#include "daemon/migration_parts.h"

struct migration_listener {
	struct migration_listener *prev, *next;
	migration_change_fn fn; /* NULL: removed while being told */
	void *user;
};

struct migration_table {
	struct loop *loop;
	const struct settings *settings;
	struct tls_context *tls;
	struct fd_store *fd_store;
	struct migration *by_id;
	struct migration *ended; /* oldest first */
	unsigned n_live;
	unsigned n_ended;
	struct migration_totals totals; /* of those that ended, and of state changes */
	struct migration_listener *listeners;
	unsigned notifying;
	bool draining;
	migration_start_fn start_fn;
	void *start_user;
	struct event *sample_timer;
};

static void on_sample(evutil_socket_t fd, short what, void *arg)
{
	struct migration_table *t = arg;
	uint64_t now_us = clock_monotonic_us();

	(void)fd;
	(void)what;
	for (struct migration *m = t->by_id; m; m = m->hh.next)
		migration_sample(m, now_us);
}

int migration_table_new(struct loop *loop, const struct settings *settings, struct tls_context *tls,
                        struct migration_table **ret)
{
	static const struct timeval second = {.tv_sec = 1};
	_cleanup_(cleanup_migration_table_free) struct migration_table *t = calloc(1, sizeof(*t));

	if (!t)
		return -ENOMEM;
	t->loop = loop;
	t->settings = settings;
	t->tls = tls ? tls_context_ref(tls) : NULL;
	if (fd_store_new(settings->fd_store_max, &t->fd_store) < 0)
		return -ENOMEM;
	t->sample_timer = event_new(loop_base(loop), -1, EV_PERSIST, on_sample, t);
	if (!t->sample_timer || event_add(t->sample_timer, &second) < 0)
		return -ENOMEM;
	*ret = TAKE_PTR(t);
	return 0;
}

static void entry_free(struct migration_table *t, struct migration *m)
{
	HASH_DEL(t->by_id, m);
	migration_free(m);
}

struct migration_table *migration_table_free(struct migration_table *t)
{
	struct migration_listener *l, *next;

	if (!t)
		return NULL;
	while (t->by_id)
		entry_free(t, t->by_id);
	DL_FOREACH_SAFE (t->listeners, l, next) {
		DL_DELETE(t->listeners, l);
		free(l);
	}
	if (t->sample_timer)
		event_free(t->sample_timer);
	tls_context_unref(t->tls);
	fd_store_free(t->fd_store);
	free(t);
	return NULL;
}

void migration_table_set_settings(struct migration_table *t, const struct settings *settings)
{
	t->settings = settings;
}

void migration_table_set_tls(struct migration_table *t, struct tls_context *tls)
{
	tls_context_ref(tls);
	tls_context_unref(t->tls);
	t->tls = tls;
	for (struct migration *m = t->by_id; m; m = m->hh.next)
		migration_set_tls(m, tls);
}

struct fd_store *migration_table_fd_store(const struct migration_table *t)
{
	return t->fd_store;
}

struct loop *migration_table_loop(const struct migration_table *t)
{
	return t->loop;
}

const struct settings *migration_table_settings(const struct migration_table *t)
{
	return t->settings;
}

struct tls_context *migration_table_tls(const struct migration_table *t)
{
	return t->tls;
}

void migration_table_set_draining(struct migration_table *t)
{
	t->draining = true;
}

bool migration_table_draining(const struct migration_table *t)
{
	return t->draining;
}

static void tombstone_drop(struct migration_table *t, struct migration *m)
{
	DL_DELETE2(t->ended, m, ended_prev, ended_next);
	t->n_ended--;
	migration_audit_all(m);
	if (!m->keep.stranded)
		migration_keep_forget(m);
	entry_free(t, m);
}

void migration_table_on_start(struct migration_table *t, migration_start_fn fn, void *user)
{
	t->start_fn = fn;
	t->start_user = user;
}

int migration_table_start(struct migration_table *t, const struct migration_params *params,
                          struct migration **ret, struct error *err)
{
	struct migration *old = migration_table_find(t, &params->id);
	struct migration *m;
	int r;

	if (t->draining)
		return error_set(err, -ESHUTDOWN,
		                 "postcopyd is stopping: it goes on with the guests it has, and "
		                 "takes no new one; start the migration to another host, or here "
		                 "when postcopyd has been started again");
	if (old && !migration_state_final(old->state))
		return error_set(err, -EEXIST, "migration %s exists already (%s)", old->id_text,
		                 migration_state_name(old->state));
	if (t->n_live >= t->settings->max)
		return error_set(
		        err, -EUSERS,
		        "%u migrations are running and [migrations] max is %u: wait for one "
		        "to end, or raise it",
		        t->n_live, t->settings->max);
	if (old && old->keep.stranded)
		return error_set(err, -EEXIST,
		                 "what an earlier daemon has kept of migration %s is still in the "
		                 "FD store: give it up first with postcopyctl cancel --force "
		                 "(postcopyctl show says why it was not taken up)",
		                 old->id_text);
	r = migration_new(t, params, &m, err);
	if (r < 0)
		return r;
	if (old) /* it ended; the id is used again, also in the FD store */
		tombstone_drop(t, old);
	r = migration_keep_start(m, err);
	if (r == 0 && t->start_fn) {
		r = t->start_fn(m, t->start_user, err);
		if (r < 0)
			migration_keep_forget(m);
	}
	if (r < 0) {
		migration_free(m);
		return r;
	}
	migration_log_started(m);
	HASH_ADD(hh, t->by_id, id, sizeof(m->id), m);
	t->n_live++;
	t->totals.started++;
	t->totals.entered[m->state]++;
	*ret = m;
	migration_table_notify(t, m);
	return 0;
}

int migration_table_make_room(struct migration_table *t, size_t n, struct error *err)
{
	struct error full = {0};
	struct migration *m;
	int r = fd_store_check_room(t->fd_store, n, &full);

	DL_FOREACH2(t->ended, m, ended_next)
	{
		if (r == 0)
			break;
		if (m->keep.stranded || !m->keep.record || m->memory)
			continue;
		migration_keep_forget(m);
		r = fd_store_check_room(t->fd_store, n, &full);
	}
	if (r < 0)
		*err = full;
	return r;
}

void migration_table_add_restored(struct migration_table *t, struct migration *m)
{
	HASH_ADD(hh, t->by_id, id, sizeof(m->id), m);
	if (migration_state_final(m->state)) {
		t->n_ended++;
		DL_APPEND2(t->ended, m, ended_prev, ended_next);
	} else {
		t->n_live++;
	}
}

static int by_start(const struct migration *a, const struct migration *b)
{
	return (a->started_us > b->started_us) - (a->started_us < b->started_us);
}

static int by_end(const struct migration *a, const struct migration *b)
{
	return (a->ended_mono_us > b->ended_mono_us) - (a->ended_mono_us < b->ended_mono_us);
}

void migration_table_sort_restored(struct migration_table *t)
{
	HASH_SRT(hh, t->by_id, by_start);
	/* cppcheck-suppress nullPointer ; the macro's own steps: an empty list is left alone */
	DL_SORT2(t->ended, by_end, ended_prev, ended_next);
}

struct migration *migration_table_find(const struct migration_table *t, const struct uuid *id)
{
	struct migration *m;

	HASH_FIND(hh, t->by_id, id, sizeof(*id), m);
	return m;
}

struct migration *migration_table_next(const struct migration_table *t,
                                       const struct migration *after)
{
	return after ? after->hh.next : t->by_id;
}

unsigned migration_table_count_live(const struct migration_table *t)
{
	return t->n_live;
}

static void stats_sum_add(struct stats_sum *into, const struct stats_sum *from)
{
#define X(name) into->name += from->name;
	STATS_COUNTERS(X)
#undef X
	histogram_merge(&into->fault_ns, &from->fault_ns);
}

static void totals_add(struct migration_totals *totals, const struct migration *m)
{
	struct migration_sums sums;

	migration_sum(m, &sums);
	stats_sum_add(&totals->sums.urgent, &sums.urgent);
	stats_sum_add(&totals->sums.bulk, &sums.bulk);
	totals->lost_bytes += migration_lost_bytes(m);
}

void migration_table_totals(const struct migration_table *t, struct migration_totals *ret)
{
	*ret = t->totals;
	for (const struct migration *m = t->by_id; m; m = m->hh.next)
		if (!migration_state_final(m->state))
			totals_add(ret, m);
}

/*
 * The oldest tombstone goes when a new one comes. It is not m: the one that is
 * just ending is the newest, and its caller still uses it.
 */
void migration_table_entered(struct migration_table *t, struct migration *m)
{
	t->totals.entered[m->state]++;
	if (!migration_state_final(m->state))
		return;
	totals_add(&t->totals, m);
	t->n_live--;
	t->n_ended++;
	DL_APPEND2(t->ended, m, ended_prev, ended_next);
	if (t->n_ended > MIGRATION_TOMBSTONES_MAX)
		tombstone_drop(t, t->ended);
}

void migration_table_reconnected(struct migration_table *t)
{
	t->totals.reconnects++;
}

static void listeners_purge(struct migration_table *t)
{
	struct migration_listener *l, *next;

	DL_FOREACH_SAFE (t->listeners, l, next) {
		if (l->fn)
			continue;
		DL_DELETE(t->listeners, l);
		free(l);
	}
}

void migration_table_notify(struct migration_table *t, const struct migration *m)
{
	struct migration_listener *l;

	t->notifying++;
	DL_FOREACH (t->listeners, l) {
		if (l->fn)
			l->fn(m, l->user);
	}
	if (--t->notifying == 0)
		listeners_purge(t);
}

int migration_table_listen(struct migration_table *t, migration_change_fn fn, void *user,
                           struct migration_listener **ret)
{
	struct migration_listener *l = calloc(1, sizeof(*l));

	if (!l)
		return -ENOMEM;
	l->fn = fn;
	l->user = user;
	DL_APPEND(t->listeners, l);
	*ret = l;
	return 0;
}

void migration_table_unlisten(struct migration_table *t, struct migration_listener *l)
{
	if (!l)
		return;
	l->fn = NULL;
	if (t->notifying == 0)
		listeners_purge(t);
}
