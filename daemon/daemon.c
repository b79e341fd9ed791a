/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The daemon's parts in their order of life. Made by main.c, and by tests.
 */
#include "daemon/daemon.h"

#include <errno.h>
#include <stdlib.h>

#include "core/log.h"
#include "core/message_ids.h"
#include "daemon/attach_postcopy.h"
#include "daemon/attach_server.h"
#include "daemon/control_server.h"
#include "daemon/status_server.h"
#include "net/tls.h"

struct daemon {
	struct settings *settings;
	struct loop *loop;
	struct migration_table *migrations;
	struct attach_server *attach;
	struct control_server *control;
	struct status_server *status;
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

static int servers_start(struct daemon *d, struct error *err)
{
	const struct settings *s = d->settings;
	int r = attach_server_new(d->migrations, &d->attach);

	if (r < 0)
		return error_set(err, r, "not enough memory");
	r = attach_server_listen(d->attach, &attach_protocol_postcopy, "attach", s->attach,
	                         s->attach_mode, err);
	if (r == 0)
		r = control_server_new(d->migrations, s->control, s->control_mode, &d->control,
		                       err);
	if (r == 0)
		r = status_server_new(d->migrations, s->status, s->status_mode, s->status_tcp,
		                      &d->status, err);
	return r;
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
	r = servers_start(d, err);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(d);
	return 0;
}

static void log_live(const struct daemon *d)
{
	for (struct migration *m = migration_table_next(d->migrations, NULL); m;
	     m = migration_table_next(d->migrations, m)) {
		if (migration_state_final(m->state))
			continue;
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
