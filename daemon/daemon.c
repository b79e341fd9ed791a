/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The daemon's parts in their order of life. Made by main.c, and by tests.
 */
#include "daemon/daemon.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/clock.h"
#include "core/log.h"
#include "core/message_ids.h"
#include "daemon/attach_firecracker.h"
#include "daemon/attach_postcopy.h"
#include "daemon/attach_server.h"
#include "daemon/control_server.h"
#include "daemon/drain.h"
#include "daemon/lane_watch.h"
#include "daemon/migration_mapping.h"
#include "daemon/migration_restore.h"
#include "daemon/status_server.h"
#include "net/tls.h"

/* Looked at so often, for the end of an audit tells nobody. */
#define DRAIN_INTERVAL_US 100000

struct daemon {
	struct settings *settings;
	struct loop *loop;
	struct migration_table *migrations;
	struct attach_server *attach;
	struct control_server *control;
	struct status_server *status;
	struct event *drain_timer; /* NULL: not draining */
	struct lane_watch watch;
	bool restarting;
};

static int tls_load(const struct settings *s, struct tls_context **ret, struct error *err)
{
	const struct tls_settings tls = {
	        .certificate_path = s->certificate,
	        .key_path = s->key,
	        .ca_path = s->ca,
	        .alpn = PAGE_PROTOCOL_ALPN,
	};

	return tls_context_new(&tls, ret, err);
}

/* A migration whose VMM calls at a socket of its own. */
static int open_socket(struct migration *m, void *user, struct error *err)
{
	struct daemon *d = user;

	if (!m->firecracker_socket[0])
		return 0;
	return attach_server_open(d->attach, &attach_protocol_firecracker, m, m->firecracker_socket,
	                          d->settings->attach_mode, err);
}

/* Those that were restored before their VMM has called. */
static void reopen_sockets(struct daemon *d)
{
	for (struct migration *m = migration_table_next(d->migrations, NULL); m;
	     m = migration_table_next(d->migrations, m)) {
		struct error error = {0};

		if (m->state == MIGRATION_SETUP && open_socket(m, d, &error) < 0)
			log_migration(
			        LOG_ERR, m->id_text,
			        "migration %s: its VMM cannot attach: %s; cancel it and start "
			        "it again",
			        m->id_text, error.text);
	}
}

static int servers_start(struct daemon *d, struct error *err)
{
	const struct settings *s = d->settings;
	int r = attach_server_new(d->migrations, &d->attach);

	if (r < 0)
		return error_set(err, r, "not enough memory");
	r = attach_server_listen(d->attach, &attach_protocol_postcopy, "attach", s->attach,
	                         s->attach_mode, err);
	if (r == 0) {
		attach_server_speak(d->attach, &attach_protocol_firecracker);
		migration_table_on_start(d->migrations, open_socket, d);
		reopen_sockets(d);
	}
	if (r == 0)
		r = control_server_new(d->migrations, s->control, s->control_mode, &d->control,
		                       err);
	if (r == 0)
		r = status_server_new(d->migrations, s->status, s->status_mode, s->status_tcp,
		                      &d->status, err);
	return r;
}

/* The connections of other processes that map its memory: they hear of it, too. */
static void mappings_adopt(struct daemon *d, struct migration *m)
{
	for (uint32_t i = 0; i < MAPPINGS_MAX; i++) {
		struct migration_mapping *p = m->mappings[i];

		if (p && p->connection_fd >= 0 &&
		    attach_server_adopt(d->attach, attach_protocol_postcopy.name,
		                        TAKE_FD(p->connection_fd), m, i) < 0)
			log_migration(LOG_WARNING, m->id_text,
			              "migration %s: no memory for the connection of pid %d; its "
			              "mapping is served all the same",
			              m->id_text, (int)p->pid);
	}
}

/* Those that were restored: their VMMs hear of it, and they get their source. */
static void restored_connect(struct daemon *d)
{
	for (struct migration *m = migration_table_next(d->migrations, NULL); m;
	     m = migration_table_next(d->migrations, m)) {
		int r = 0;

		if (m->keep.connection_fd >= 0)
			r = attach_server_adopt(d->attach, m->keep.protocol,
			                        TAKE_FD(m->keep.connection_fd), m,
			                        ATTACH_CLIENT_VMM);
		if (r < 0)
			log_migration(LOG_WARNING, m->id_text,
			              "migration %s: the VMM's connection (%s) cannot be taken up: "
			              "%s; its memory is served all the same",
			              m->id_text, m->keep.protocol, strerror(-r));
		mappings_adopt(d, m);
		migration_connect(m);
	}
}

static void log_fd_store(const struct fd_store *store)
{
	if (fd_store_present(store))
		log_info("what migrations need over a restart is kept in the FD store: %u of %u "
		         "descriptors are used",
		         fd_store_used(store), fd_store_max(store));
	else
		log_notice("there is no service manager with an FD store: if this process ends "
		           "before its migrations do, their guests wait for ever (their memory "
		           "hangs on descriptors, which no file can keep)");
}

int daemon_new(struct settings *settings, struct daemon **ret, struct error *err)
{
	_cleanup_(cleanup_daemon_free) struct daemon *d = calloc(1, sizeof(*d));
	_cleanup_(cleanup_tls_context_unref) struct tls_context *tls = NULL;
	int r;

	if (!d) {
		settings_free(settings);
		return error_set(err, -ENOMEM, "not enough memory");
	}
	d->settings = settings;
	r = tls_load(settings, &tls, err);
	if (r < 0)
		return r;
	r = loop_new(&d->loop);
	if (r == 0)
		r = migration_table_new(d->loop, settings, tls, &d->migrations);
	if (r < 0)
		return error_set_errno(err, r, "cannot set up the main loop");
	r = migration_restore_all(d->migrations, err);
	if (r == 0)
		r = servers_start(d, err);
	if (r < 0)
		return r;
	log_fd_store(migration_table_fd_store(d->migrations));
	restored_connect(d);
	*ret = TAKE_PTR(d);
	return 0;
}

static void log_kept(const struct migration *m)
{
	log_migration(LOG_NOTICE, m->id_text,
	              "migration %s: in state %s, with %llu bytes missing; it goes on when the "
	              "daemon has been started again",
	              m->id_text, migration_state_name(m->state),
	              (unsigned long long)migration_remaining_bytes(m));
}

static void log_live(const struct daemon *d)
{
	for (struct migration *m = migration_table_next(d->migrations, NULL); m;
	     m = migration_table_next(d->migrations, m)) {
		if (migration_state_final(m->state))
			continue;
		if (d->restarting) {
			log_kept(m);
			continue;
		}
		if (m->state == MIGRATION_SETUP) {
			log_migration(LOG_NOTICE, m->id_text,
			              "migration %s: the daemon ends before a VMM attached",
			              m->id_text);
			continue;
		}
		log_event(
		        LOG_WARNING, MESSAGE_MIGRATION_LEFT,
		        LOG_FIELDS({"MIGRATION_ID", m->id_text},
		                   {"MIGRATION_STATE", migration_state_name(m->state)},
		                   {"PEER", m->peer_identity}, {"PEER_ADDRESS", m->source},
		                   {"VMM_PID", LOG_U64((uint64_t)m->vmm_pid)},
		                   {"REMAINING_BYTES", LOG_U64(migration_remaining_bytes(m))}),
		        "migration %s: the daemon ends in state %s with %llu bytes missing: the "
		        "guest waits for them as long as somebody holds its userfaultfds (the VMM, "
		        "or systemd's FD store); if nobody does, they read as zeros",
		        m->id_text, migration_state_name(m->state),
		        (unsigned long long)migration_remaining_bytes(m));
	}
}

struct daemon *daemon_free(struct daemon *d)
{
	if (!d)
		return NULL;
	status_server_free(d->status);
	control_server_free(d->control);
	if (d->migrations)
		log_live(d);
	attach_server_free(d->attach);
	if (d->drain_timer)
		event_free(d->drain_timer);
	migration_table_free(d->migrations);
	if (d->loop)
		loop_run_posted(d->loop); /* the last events of lanes that are gone now */
	loop_free(d->loop);
	settings_free(d->settings);
	free(d);
	return NULL;
}

struct loop *daemon_loop(struct daemon *d)
{
	return d->loop;
}

struct migration_table *daemon_migrations(struct daemon *d)
{
	return d->migrations;
}

bool daemon_kept(const struct daemon *d)
{
	return fd_store_present(migration_table_fd_store(d->migrations));
}

void daemon_set_restarting(struct daemon *d)
{
	d->restarting = true;
}

static void on_drain_timer(evutil_socket_t fd, short what, void *arg)
{
	struct daemon *d = arg;

	(void)fd;
	(void)what;
	if (drain_count(d->migrations) > 0)
		return;
	log_notice("no migration needs this daemon any more: ending");
	loop_stop(d->loop);
}

int daemon_drain(struct daemon *d)
{
	static const struct timeval interval = {.tv_usec = DRAIN_INTERVAL_US};
	struct event *timer = event_new(loop_base(d->loop), -1, EV_PERSIST, on_drain_timer, d);

	if (!timer || event_add(timer, &interval) < 0) {
		if (timer)
			event_free(timer);
		return -ENOMEM;
	}
	d->drain_timer = timer;
	drain_begin(d->migrations);
	return 0;
}

bool daemon_alive(struct daemon *d, uint64_t allowed_us)
{
	return lane_watch_all(&d->watch, d->migrations, clock_monotonic_us(), allowed_us);
}

int daemon_reload(struct daemon *d, struct settings *settings, struct error *err)
{
	_cleanup_(cleanup_tls_context_unref) struct tls_context *tls = NULL;
	int r = settings_check_reload(d->settings, settings, err);

	if (r == 0)
		r = tls_load(settings, &tls, err);
	if (r < 0) {
		settings_free(settings);
		return r;
	}
	migration_table_set_settings(d->migrations, settings);
	migration_table_set_tls(d->migrations, tls);
	settings_free(d->settings);
	d->settings = settings;
	log_set_level(settings->log_level);
	return 0;
}
