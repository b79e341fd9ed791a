/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Watches of a control client: an event for each change of state, and, if asked
 * for, one in each interval for every export that is alive.
 */
#include <errno.h>

#include "source/control_connection.h"
#include "source/control_report.h"

#define INTERVAL_US_MIN 10000

static void send_event(const struct control_watch *w, struct export *e, bool state_changed)
{
	struct control_migration m;
	struct control_response response = {
	        .id = w->id,
	        .type = CONTROL_RESPONSE_EVENT,
	        .migrations = &m,
	        .n_migrations = 1,
	        .state_changed = state_changed,
	};

	if (control_report(e, CONTROL_BRIEF, &m) < 0)
		return; /* the next one will come */
	control_client_send(w->client, &response);
	control_migration_free(&m);
}

static bool watches(const struct control_watch *w, const struct export *e)
{
	return w->all || uuid_equal(&w->migration_id, &e->id);
}

static void on_interval(evutil_socket_t fd, short what, void *arg)
{
	struct control_watch *w = arg;
	struct export *e, *next;

	(void)fd;
	(void)what;
	HASH_ITER (hh, w->client->exports->by_id, e, next) {
		if (watches(w, e) && !export_state_final(export_state(e)))
			send_event(w, e, false);
	}
}

static int start_timer(struct control_watch *w, uint64_t interval_us)
{
	uint64_t us = MAX(interval_us, (uint64_t)INTERVAL_US_MIN);
	struct timeval tv = {.tv_sec = (time_t)(us / 1000000),
	                     .tv_usec = (suseconds_t)(us % 1000000)};

	w->timer = event_new(loop_base(w->client->loop), -1, EV_PERSIST, on_interval, w);
	return w->timer && event_add(w->timer, &tv) == 0 ? 0 : -ENOMEM;
}

int control_watch_add(struct control_client *c, const struct control_request *q, struct error *err)
{
	struct export *e;

	if (c->n_watches == CONTROL_WATCHES_MAX)
		return error_set(err, -E2BIG, "this connection has %d watches already",
		                 CONTROL_WATCHES_MAX);
	if (q->has_migration_id && export_table_get(c->exports, &q->migration_id, &e, err) < 0)
		return err->code;

	struct control_watch *w = &c->watches[c->n_watches];

	*w = (struct control_watch){
	        .client = c,
	        .id = q->id,
	        .all = !q->has_migration_id,
	        .migration_id = q->migration_id,
	};
	if (q->watch.interval_us && start_timer(w, q->watch.interval_us) < 0) {
		if (w->timer)
			event_free(w->timer);
		return error_set(err, -ENOMEM, "not enough memory for a watch");
	}
	c->n_watches++;
	return 0;
}

void control_watch_changed(struct control_client *c, struct export *e)
{
	for (size_t i = 0; i < c->n_watches; i++)
		if (watches(&c->watches[i], e))
			send_event(&c->watches[i], e, true);
}

void control_watch_end(struct control_client *c)
{
	for (size_t i = 0; i < c->n_watches; i++)
		if (c->watches[i].timer)
			event_free(c->watches[i].timer);
	c->n_watches = 0;
}
