/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Puts the parts together and takes them apart in the right order: first what
 * brings new work, then the links (whose threads read exports), then exports.
 */
#include "source/agent.h"

#include <errno.h>

#include "core/log.h"
#include "source/control_server.h"
#include "source/export_server.h"
#include "source/export_table.h"
#include "source/link.h"
#include "source/page_listener.h"

struct agent {
	struct settings *settings;
	struct loop *loop;
	struct export_table *exports;
	struct links *links;
	struct page_listener *listener;
	struct export_server *export_server;
	struct control_server *control_server;
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

int agent_new(struct settings *settings, struct agent **ret, struct error *err)
{
	struct agent *a = calloc(1, sizeof(*a));
	int r;

	if (!a)
		return error_set(err, -ENOMEM, "not enough memory to start");
	r = make_tables(a, settings, err);
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
	log_info("listening for destinations on %s, port %u", settings->listen, agent_port(a));
	*ret = a;
	return 0;
}

struct agent *agent_free(struct agent *a)
{
	if (!a)
		return NULL;
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

unsigned agent_live_exports(const struct agent *a)
{
	struct export *e, *next;
	unsigned n = 0;

	HASH_ITER (hh, a->exports->by_id, e, next)
		n += !export_state_final(export_state(e));
	return n;
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
