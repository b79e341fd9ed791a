/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The settings. Loaded by main.c at start and on SIGHUP; an object that exists
 * is complete, and a reload swaps it as a whole or not at all.
 */
#include "source/settings.h"

#include <errno.h>
#include <limits.h>
#include <string.h>

#include "core/cleanup.h"
#include "core/config.h"
#include "core/log.h"

#define OPTION(...) CONFIG_OPTION(struct settings, __VA_ARGS__)

static const struct config_option table[] = {
        OPTION("listen", "address", config_parse_string, listen, "[::]:4950", false, NULL,
               "HOST:PORT where destinations connect"),
        OPTION("listen", "sessions", config_parse_uint, sessions, "64", true, NULL,
               "connections that have not said yet who they are"),
        OPTION("listen", "hello_timeout", config_parse_duration, hello_timeout_us, "10s", true,
               "us", "for the TLS handshake and Hello"),

        OPTION("tls", "certificate", config_parse_string, certificate,
               "/etc/postcopyd/postcopy-sourced.crt", true, NULL,
               "PEM chain, own certificate first"),
        OPTION("tls", "key", config_parse_string, key, "/etc/postcopyd/postcopy-sourced.key", true,
               NULL, "PEM, not encrypted"),
        OPTION("tls", "ca", config_parse_string, ca, "/etc/postcopyd/ca.crt", true, NULL,
               "PEM, what destinations are verified against"),

        OPTION("sockets", "export", config_parse_string, export_socket,
               "/run/postcopy-sourced/export.sock", false, NULL, "path of the export socket"),
        OPTION("sockets", "export_mode", config_parse_mode, export_mode, "0660", false, NULL,
               "file mode of the export socket"),
        OPTION("sockets", "export_uids", config_parse_string, export_uids, "", true, NULL,
               "users that may export"),
        OPTION("sockets", "export_gids", config_parse_string, export_gids, "", true, NULL,
               "groups whose members may export"),
        OPTION("sockets", "control", config_parse_string, control_socket,
               "/run/postcopy-sourced/control.sock", false, NULL, "path of the control socket"),
        OPTION("sockets", "control_mode", config_parse_mode, control_mode, "0660", false, NULL,
               "file mode of the control socket"),
        OPTION("sockets", "control_uids", config_parse_string, control_uids, "", true, NULL,
               "users that may control"),
        OPTION("sockets", "control_gids", config_parse_string, control_gids, "", true, NULL,
               "groups whose members may control"),

        OPTION("exports", "max", config_parse_uint, exports, "1024", true, NULL,
               "exports at the same time"),
        OPTION("exports", "ended", config_parse_uint, ended, "64", true, NULL,
               "ended exports that stay in the list"),
        OPTION("exports", "bytes", config_parse_bytes, export_bytes, "16T", true, "bytes",
               "largest export"),
        OPTION("exports", "fd_store_max", config_parse_uint, fd_store_max, "2560", false, NULL,
               "descriptors that the service manager keeps"),

        OPTION("links", "max", config_parse_uint, links, "1024", true, NULL,
               "connections of destinations, a thread each"),
        OPTION("links", "bandwidth", config_parse_bytes, bandwidth, "0", true, "bytes",
               "a second for each stream; 0: no limit but the destination's"),
        OPTION("links", "socket_buffer", config_parse_bytes, socket_buffer_bytes, "512K", false,
               "bytes", "the kernel's send and receive buffer"),
        OPTION("links", "urgent_realtime", config_parse_bool, urgent_realtime, "yes", true, NULL,
               "SCHED_FIFO for threads that answer faults, where that is permitted"),
        OPTION("links", "bulk_nice", config_parse_uint, bulk_nice, "19", true, NULL,
               "nice value of the threads that stream; 0 to 19"),
        OPTION("links", "urgent_cpus", config_parse_cpus, urgent_cpus, "", true, NULL,
               "CPUs of the threads that answer faults, as in 0,2-3; empty: all"),
        OPTION("links", "bulk_cpus", config_parse_cpus, bulk_cpus, "", true, NULL,
               "CPUs of the threads that stream; empty: all"),

        OPTION("log", "level", config_parse_log_level, log_level, "info", true, NULL,
               "error, warning, notice, info or debug"),
        OPTION("log", "target", config_parse_log_target, log_target, "auto", false, NULL,
               "auto, journal or stderr"),
};

struct settings *settings_free(struct settings *s)
{
	if (!s)
		return NULL;
	config_free(table, ARRAY_SIZE(table), s);
	free(s);
	return NULL;
}

static int apply_overrides(struct settings *s, const struct settings_overrides *o,
                           struct error *err)
{
	int r;

	if ((r = config_override(&s->listen, o->listen, err)) < 0 ||
	    (r = config_override(&s->export_socket, o->export_socket, err)) < 0 ||
	    (r = config_override(&s->control_socket, o->control_socket, err)) < 0 ||
	    (r = config_override(&s->certificate, o->certificate, err)) < 0 ||
	    (r = config_override(&s->key, o->key, err)) < 0 ||
	    (r = config_override(&s->ca, o->ca, err)) < 0)
		return r;
	if (o->log_level && config_parse_log_level(o->log_level, &s->log_level, err) < 0)
		return error_prefix(err, "--log-level");
	return 0;
}

/* With both lists empty, whoever the socket's mode lets in. */
static int parse_access(const char *socket, const char *uids, const char *gids,
                        struct access_list *ret, struct error *err)
{
	int r = access_list_parse(socket, uids, gids, ret, err);

	if (r == 0)
		ret->open = access_list_is_empty(ret);
	return r;
}

static int check(struct settings *s, struct error *err)
{
	if (s->sessions == 0 || s->exports == 0 || s->links < 2 || s->hello_timeout_us == 0)
		return error_set(err, -EINVAL,
		                 "[listen] sessions and hello_timeout and [exports] max must be at "
		                 "least 1, [links] max at least 2");
	if (s->bulk_nice > 19)
		return error_set(err, -EINVAL, "[links] bulk_nice: expected 0 to 19, not %u",
		                 s->bulk_nice);
	if (s->socket_buffer_bytes > INT_MAX / 2)
		return error_set(err, -EINVAL, "[links] socket_buffer: expected at most 1G");
	int r = parse_access("export", s->export_uids, s->export_gids, &s->export_access, err);

	if (r == 0)
		r = parse_access("control", s->control_uids, s->control_gids, &s->control_access,
		                 err);
	return r;
}

int settings_load(const char *path, const struct settings_overrides *overrides,
                  struct settings **ret, struct error *err)
{
	struct settings *s = calloc(1, sizeof(*s));
	int r;

	if (!s)
		return error_set(err, -ENOMEM, "not enough memory for the settings");
	r = config_load(table, ARRAY_SIZE(table), path, s, err);
	if (r == 0)
		r = apply_overrides(s, overrides, err);
	if (r == 0)
		r = check(s, err);
	if (r < 0) {
		settings_free(s);
		return r;
	}
	*ret = s;
	return 0;
}

int settings_check_reload(const struct settings *old_settings, const struct settings *new_settings,
                          struct error *err)
{
	return config_check_reload(table, ARRAY_SIZE(table), old_settings, new_settings, err);
}
