/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Watches. Made by the control server, driven by the migration table's changes
 * and a timer.
 *
 * A watcher that does not read is bounded: it misses progress first, and when
 * not even a state change finds room it is disconnected, so that what it has
 * read is never silently incomplete.
 */
#include "daemon/control_watch.h"

#include <errno.h>
#include <stdlib.h>

#include "core/log.h"
#include "daemon/migration_view.h"

#define PROGRESS_QUEUE_MAX (256 * 1024) /* bytes queued above which progress is left out */

struct control_watch {
	struct migration_table *table;
	struct ipc_connection *connection;
	struct migration_listener *listener;
	struct event *timer;
	uint64_t request_id;
	bool all;
	bool broken;
	struct uuid migration_id;
};

static int event_send(struct control_watch *w, const struct migration *m, bool state_changed)
{
	struct control_migration view = {0};
	struct control_response response = {
	        .id = w->request_id,
	        .type = CONTROL_RESPONSE_EVENT,
	        .migrations = &view,
	        .n_migrations = 1,
	        .state_changed = state_changed,
	};
	_cleanup_free_ uint8_t *buf = NULL;
	size_t len;
	int r = migration_view(m, 0, &view, NULL);

	if (r < 0)
		return r;
	r = control_response_encode(&response, &buf, &len);
	control_migration_free(&view);
	return r < 0 ? r : ipc_send(w->connection, buf, len);
}

static bool watches(const struct control_watch *w, const struct migration *m)
{
	return w->all || uuid_equal(&w->migration_id, &m->id);
}

static void on_change(const struct migration *m, void *user)
{
	struct control_watch *w = user;
	int r;

	if (w->broken || !watches(w, m))
		return;
	r = event_send(w, m, true);
	if (r == 0)
		return;
	w->broken = true;
	if (r == -ENOTCONN) /* it is going already */
		return;
	log_warning("control: pid %d watches and does not read: closing its connection",
	            (int)ipc_peer(w->connection)->pid);
	ipc_close_after_flush(w->connection);
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
	struct control_watch *w = arg;

	(void)fd;
	(void)what;
	for (struct migration *m = migration_table_next(w->table, NULL); m;
	     m = migration_table_next(w->table, m)) {
		if (ipc_queued(w->connection) > PROGRESS_QUEUE_MAX)
			return;
		if (watches(w, m) && !migration_state_final(m->state))
			(void)event_send(w, m, false); /* the next one tells it again */
	}
}

static int timer_init(struct control_watch *w, uint64_t interval_us)
{
	struct timeval tv;

	if (interval_us == 0)
		return 0;
	interval_us = MAX(interval_us, (uint64_t)WATCH_INTERVAL_MIN_US);
	interval_us = MIN(interval_us, UINT64_C(86400) * 1000000);
	tv.tv_sec = (time_t)(interval_us / 1000000);
	tv.tv_usec = (suseconds_t)(interval_us % 1000000);
	w->timer =
	        event_new(loop_base(migration_table_loop(w->table)), -1, EV_PERSIST, on_timer, w);
	if (!w->timer || event_add(w->timer, &tv) < 0)
		return -ENOMEM;
	return 0;
}

/* What is there now, so that a watcher needs no List before. */
static void send_present(struct control_watch *w)
{
	for (struct migration *m = migration_table_next(w->table, NULL); m;
	     m = migration_table_next(w->table, m))
		if (watches(w, m) && (!w->all || !migration_state_final(m->state)))
			(void)event_send(w, m, false);
}

int control_watch_new(struct migration_table *table, struct ipc_connection *connection,
                      const struct control_request *request, struct control_watch **ret)
{
	struct control_watch *w = calloc(1, sizeof(*w));
	int r;

	if (!w)
		return -ENOMEM;
	w->table = table;
	w->connection = connection;
	w->request_id = request->id;
	w->all = !request->has_migration_id;
	w->migration_id = request->migration_id;
	r = timer_init(w, request->watch.interval_us);
	if (r == 0)
		r = migration_table_listen(table, on_change, w, &w->listener);
	if (r < 0) {
		control_watch_free(w);
		return r;
	}
	send_present(w);
	*ret = w;
	return 0;
}

struct control_watch *control_watch_free(struct control_watch *w)
{
	if (!w)
		return NULL;
	migration_table_unlisten(w->table, w->listener);
	if (w->timer)
		event_free(w->timer);
	free(w);
	return NULL;
}
