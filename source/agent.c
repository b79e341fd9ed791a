/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Puts the parts together and takes them apart in the right order: first what
 * brings new work, then the links (whose threads read exports), then exports.
 */
#include "source/agent.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "core/log.h"
#include "core/message_ids.h"
#include "source/control_server.h"
#include "source/export_restore.h"
#include "source/export_server.h"
#include "source/export_table.h"
#include "source/link.h"
#include "source/page_listener.h"

/* Looked at so often: the end of a link tells nobody here. */
#define DRAIN_INTERVAL_US 100000
#define DRAIN_LAST_WORDS_MAX 50 /* turns for a destination that does not hang up */
#define NAMED_MAX 3

struct agent {
	struct settings *settings;
	struct loop *loop;
	struct export_table *exports;
	struct links *links;
	struct page_listener *listener;
	struct export_server *export_server;
	struct control_server *control_server;
	struct event *drain_timer; /* NULL: not draining */
	unsigned n_idle;           /* its turns without anybody to serve */
};

static int load_tls(const struct settings *s, struct tls_context **ret, struct error *err)
{
	struct tls_settings tls = {
	        .certificate_path = s->certificate,
	        .key_path = s->key,
	        .ca_path = s->ca,
	        .alpn = PAGE_PROTOCOL_ALPN,
	};

	return tls_context_new(&tls, ret, err);
}

static struct links_options links_options(const struct settings *s)
{
	return (struct links_options){
	        .max = s->links,
	        .stream_bandwidth = s->bandwidth,
	        .tuning =
	                {
	                        .urgent_realtime = s->urgent_realtime,
	                        .bulk_nice = (int)s->bulk_nice,
	                        .urgent_cpus = s->urgent_cpus,
	                        .bulk_cpus = s->bulk_cpus,
	                },
	};
}

static struct export_limits export_limits(const struct settings *s)
{
	return (struct export_limits){
	        .exports = s->exports,
	        .ended = s->ended,
	        .export_bytes = s->export_bytes,
	        .fd_store_max = s->fd_store_max,
	};
}

static int make_tables(struct agent *a, const struct settings *s, struct error *err)
{
	struct export_limits limits = export_limits(s);
	struct links_options options = links_options(s);

	if (loop_new(&a->loop) < 0 || export_table_new(a->loop, &limits, &a->exports) < 0 ||
	    links_new(a->loop, &options, &a->links) < 0)
		return error_set(err, -ENOMEM, "not enough memory to start");
	return 0;
}

static int make_listener(struct agent *a, const struct settings *s, struct error *err)
{
	_cleanup_(cleanup_tls_context_unref) struct tls_context *tls = NULL;
	struct page_listener_options options = {
	        .address = s->listen,
	        .max_sessions = s->sessions,
	        .hello_timeout_us = s->hello_timeout_us,
	        .socket_buffer_bytes = (int)s->socket_buffer_bytes,
	};
	int r = load_tls(s, &tls, err);

	if (r == 0)
		r = page_listener_new(a->loop, &options, tls, a->exports, a->links, &a->listener,
		                      err);
	return r;
}

/* Their exporters hear of it; destinations come by themselves. */
static void restored_adopt(struct agent *a)
{
	struct export *e, *next;

	HASH_ITER (hh, a->exports->by_id, e, next) {
		if (e->keep.connection_fd < 0) {
			if (e->inbound)
				export_exporter_left(e); /* nobody is there to be asked */
			continue;
		}
		if (export_server_adopt(a->export_server, TAKE_FD(e->keep.connection_fd), e) < 0) {
			log_migration(LOG_WARNING, e->id_text,
			              "not enough memory to take up the exporter's connection");
			export_exporter_left(e);
		}
	}
}

static void log_fd_store(const struct fd_store *store)
{
	if (fd_store_present(store))
		log_info("what exports need over a restart is kept in the FD store: %u of %u "
		         "descriptors are used",
		         fd_store_used(store), fd_store_max(store));
	else
		log_notice("there is no service manager with an FD store: if this process ends, "
		           "guests that have left this host wait until their memory has been "
		           "exported again");
}

int agent_new(struct settings *settings, struct agent **ret, struct error *err)
{
	struct agent *a = calloc(1, sizeof(*a));
	int r;

	if (!a)
		return error_set(err, -ENOMEM, "not enough memory to start");
	r = make_tables(a, settings, err);
	if (r == 0) /* before anybody can ask for them */
		r = export_restore_all(a->exports, err);
	if (r == 0)
		r = make_listener(a, settings, err);
	if (r == 0)
		r = export_server_new(a->loop, settings->export_socket, settings->export_mode,
		                      &settings->export_access, a->exports, &a->export_server, err);
	if (r == 0)
		r = control_server_new(a->loop, settings->control_socket, settings->control_mode,
		                       &settings->control_access, a->exports, &a->control_server,
		                       err);
	if (r < 0) {
		agent_free(a);
		return r;
	}
	a->settings = settings;
	log_fd_store(a->exports->fd_store);
	restored_adopt(a);
	log_info("listening for destinations on %s, port %u", settings->listen, agent_port(a));
	*ret = a;
	return 0;
}

struct agent *agent_free(struct agent *a)
{
	if (!a)
		return NULL;
	if (a->drain_timer)
		event_free(a->drain_timer);
	page_listener_free(a->listener);
	control_server_free(a->control_server);
	if (a->exports)
		a->exports->n_observers = 0;
	export_server_free(a->export_server);
	links_free(a->links);
	export_table_free(a->exports);
	loop_free(a->loop);
	settings_free(a->settings);
	free(a);
	return NULL;
}

struct loop *agent_loop(struct agent *a)
{
	return a->loop;
}

uint16_t agent_port(const struct agent *a)
{
	return page_listener_port(a->listener);
}

bool agent_kept(const struct agent *a)
{
	return fd_store_present(a->exports->fd_store);
}

unsigned agent_live_exports(const struct agent *a)
{
	struct export *e, *next;
	unsigned n = 0;

	HASH_ITER (hh, a->exports->by_id, e, next)
		n += !export_state_final(export_state(e));
	return n;
}

static struct export *serving_next(const struct agent *a, const struct export *after)
{
	struct export *e = after ? after->hh.next : a->exports->by_id;

	while (e && export_state(e) != EXPORT_SERVING)
		e = e->hh.next;
	return e;
}

unsigned agent_serving(const struct agent *a)
{
	unsigned n = 0;

	for (struct export *e = serving_next(a, NULL); e; e = serving_next(a, e))
		n++;
	return n;
}

const char *agent_serving_names(const struct agent *a, char *buf, size_t buf_len)
{
	unsigned n = 0;
	size_t len = 0;

	buf[0] = '\0';
	for (struct export *e = serving_next(a, NULL); e; e = serving_next(a, e))
		if (n++ < NAMED_MAX)
			len += (size_t)snprintf(buf + len, buf_len - len, "%s%s", n > 1 ? ", " : "",
			                        e->id_text);
	if (n > NAMED_MAX)
		snprintf(buf + len, buf_len - len, " and %u more", n - NAMED_MAX);
	return buf;
}

/* Its destination has not read the answer to its Complete yet, perhaps. */
static bool last_words_wait(const struct agent *a)
{
	struct export *e, *next;

	HASH_ITER (hh, a->exports->by_id, e, next)
		if (export_state(e) == EXPORT_RELEASED && e->n_links > 0)
			return true;
	return false;
}

static void on_drain_timer(evutil_socket_t fd, short what, void *arg)
{
	struct agent *a = arg;

	(void)fd;
	(void)what;
	if (agent_serving(a) > 0) {
		a->n_idle = 0;
		return;
	}
	if (last_words_wait(a) && a->n_idle++ < DRAIN_LAST_WORDS_MAX)
		return;
	log_notice("no destination depends on this agent any more: ending");
	loop_stop(a->loop);
}

int agent_drain(struct agent *a)
{
	static const struct timeval interval = {.tv_usec = DRAIN_INTERVAL_US};
	struct event *timer = event_new(loop_base(a->loop), -1, EV_PERSIST, on_drain_timer, a);

	if (!timer || event_add(timer, &interval) < 0) {
		if (timer)
			event_free(timer);
		return -ENOMEM;
	}
	a->drain_timer = timer;
	a->exports->draining = true;
	for (const struct export *e = serving_next(a, NULL); e; e = serving_next(a, e))
		log_event(LOG_WARNING, MESSAGE_EXPORT_STOP_WAITS,
		          LOG_FIELDS({"MIGRATION_ID", e->id_text}, {"PEER", e->peer_identity},
		                     {"PEER_ADDRESS", e->peer}),
		          "export %s: a guest at %s depends on it: the end waits for it; a second "
		          "signal would not",
		          e->id_text, e->peer);
	return 0;
}

int agent_reload(struct agent *a, struct settings *settings, struct error *err)
{
	_cleanup_(cleanup_tls_context_unref) struct tls_context *tls = NULL;
	struct links_options options = links_options(settings);
	int r = settings_check_reload(a->settings, settings, err);

	if (r == 0)
		r = load_tls(settings, &tls, err);
	if (r < 0)
		return r;
	page_listener_set_tls(a->listener, tls);
	page_listener_set_limits(a->listener, settings->sessions, settings->hello_timeout_us);
	links_set_options(a->links, &options);
	a->exports->limits = export_limits(settings);
	export_server_set_access(a->export_server, &settings->export_access);
	control_server_set_access(a->control_server, &settings->control_access);
	log_set_level(settings->log_level);
	settings_free(a->settings);
	a->settings = settings;
	return 0;
}
