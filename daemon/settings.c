/* SPDX-License-Identifier: Apache-2.0 */
/*
 * postcopyd's settings. Called by main.c at start and on SIGHUP. A settings
 * object that exists is complete and consistent.
 */
#include "daemon/settings.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/config.h"
#include "core/units.h"
#include "daemon/source_address.h"
#include "daemon/status_connections.h"

#define OPTION(...) CONFIG_OPTION(struct settings, __VA_ARGS__)

static const struct config_option options[] = {
        OPTION("tls", "certificate", config_parse_string, certificate,
               "/etc/postcopyd/postcopyd.crt", true, NULL, "PEM chain, own certificate first"),
        OPTION("tls", "key", config_parse_string, key, "/etc/postcopyd/postcopyd.key", true, NULL,
               "PEM, not encrypted"),
        OPTION("tls", "ca", config_parse_string, ca, "/etc/postcopyd/ca.crt", true, NULL,
               "PEM, what sources are verified against"),

        OPTION("sockets", "control", config_parse_string, control, "/run/postcopyd/control.sock",
               false, NULL, "path of the control socket"),
        OPTION("sockets", "control_mode", config_parse_mode, control_mode, "0660", false, NULL,
               "file mode of the control socket"),
        OPTION("sockets", "control_uids", config_parse_string, control_uids, "", true, NULL,
               "users that may control, beside root and the daemon's own"),
        OPTION("sockets", "control_gids", config_parse_string, control_gids, "", true, NULL,
               "groups whose members may control"),
        OPTION("sockets", "attach", config_parse_string, attach, "/run/postcopyd/attach.sock",
               false, NULL, "path of the attach socket"),
        OPTION("sockets", "attach_mode", config_parse_mode, attach_mode, "0660", false, NULL,
               "file mode of the attach socket"),
        OPTION("sockets", "status", config_parse_string, status, "/run/postcopyd/status.sock",
               false, NULL, "path of the status socket"),
        OPTION("sockets", "status_mode", config_parse_mode, status_mode, "0660", false, NULL,
               "file mode of the status socket"),
        OPTION("sockets", "status_tcp", config_parse_string, status_tcp, "", false, NULL,
               "loopback HOST:PORT for the status interface"),
        OPTION("sockets", "status_connections", config_parse_uint, status_connections, "64", true,
               NULL, "clients of the status interface at the same time"),

        OPTION("lanes", "urgent_rt_priority", config_parse_uint, urgent_rt_priority, "1", true,
               NULL, "SCHED_FIFO priority of the threads that serve faults, 0: none"),
        OPTION("lanes", "bulk_nice", config_parse_uint, bulk_nice, "19", true, NULL,
               "nice value of the threads that take the stream"),
        OPTION("lanes", "urgent_cpus", config_parse_cpus, urgent_cpus, "", true, NULL,
               "CPUs of the threads that serve faults"),
        OPTION("lanes", "bulk_cpus", config_parse_cpus, bulk_cpus, "", true, NULL,
               "CPUs of the threads that take the stream"),
        OPTION("lanes", "stream_window", config_parse_bytes, stream_window_bytes, "1M", true,
               "bytes", "streamed after a faulted page before the stream goes back"),

        OPTION("migrations", "max", config_parse_uint, max, "64", true, NULL,
               "migrations at the same time"),
        OPTION("migrations", "fd_store_max", config_parse_uint, fd_store_max, "2560", false, NULL,
               "FileDescriptorStoreMax= of the unit; 0: keep nothing over a restart"),
        OPTION("migrations", "reconnect_min", config_parse_duration, reconnect_min_us, "100ms",
               true, "us", "wait before the first attempt to connect again"),
        OPTION("migrations", "reconnect_max", config_parse_duration, reconnect_max_us, "10s", true,
               "us", "longest wait between attempts"),
        OPTION("migrations", "completion_timeout", config_parse_duration, completion_timeout_us,
               "30s", true, "us", "how long to try to tell the source that all is here"),

        OPTION("log", "level", config_parse_log_level, log_level, "info", true, NULL,
               "error, warning, notice, info or debug"),
        OPTION("log", "target", config_parse_log_target, log_target, "auto", false, NULL,
               "auto, journal or stderr"),
};

struct settings *settings_free(struct settings *s)
{
	if (!s)
		return NULL;
	config_free(options, ARRAY_SIZE(options), s);
	free(s);
	return NULL;
}

static int paths_check(const struct settings *s, struct error *err)
{
	const struct {
		const char *name;
		const char *value;
	} paths[] = {
	        {"[tls] certificate", s->certificate},
	        {"[tls] key", s->key},
	        {"[tls] ca", s->ca},
	        {"[sockets] control", s->control},
	        {"[sockets] attach", s->attach},
	        {"[sockets] status", s->status},
	};

	for (size_t i = 0; i < ARRAY_SIZE(paths); i++) {
		if (!*paths[i].value)
			return error_set(err, -EINVAL, "%s: expected a path, not nothing",
			                 paths[i].name);
		for (size_t j = 3; j < i; j++)
			if (strcmp(paths[i].value, paths[j].value) == 0)
				return error_set(err, -EINVAL,
				                 "%s and %s: expected different paths, both are %s",
				                 paths[j].name, paths[i].name, paths[i].value);
	}
	return 0;
}

static int numbers_check(const struct settings *s, struct error *err)
{
	if (s->urgent_rt_priority > 99)
		return error_set(err, -EINVAL,
		                 "[lanes] urgent_rt_priority: expected 0 to 99, not %u",
		                 s->urgent_rt_priority);
	if (s->bulk_nice > 19)
		return error_set(err, -EINVAL, "[lanes] bulk_nice: expected 0 to 19, not %u",
		                 s->bulk_nice);
	if (s->stream_window_bytes < WIRE_PAGE_SIZE || s->stream_window_bytes > (UINT64_C(1) << 30))
		return error_set(err, -EINVAL,
		                 "[lanes] stream_window: expected 4K to 1G, not %llu bytes",
		                 (unsigned long long)s->stream_window_bytes);
	if (s->status_connections < 1 || s->status_connections > STATUS_CONNECTIONS_MAX)
		return error_set(err, -EINVAL,
		                 "[sockets] status_connections: expected 1 to %d, not %u",
		                 STATUS_CONNECTIONS_MAX, s->status_connections);
	if (s->max < 1 || s->max > 256)
		return error_set(err, -EINVAL, "[migrations] max: expected 1 to 256, not %u",
		                 s->max);
	if (s->reconnect_min_us < 1000)
		return error_set(err, -EINVAL, "[migrations] reconnect_min: expected 1ms or more");
	if (s->reconnect_max_us < s->reconnect_min_us ||
	    s->reconnect_max_us > UINT64_C(3600) * 1000000)
		return error_set(err, -EINVAL,
		                 "[migrations] reconnect_max: expected reconnect_min to 1h");
	if (s->completion_timeout_us > UINT64_C(24) * 3600 * 1000000)
		return error_set(err, -EINVAL,
		                 "[migrations] completion_timeout: expected at most 24h");
	return 0;
}

static int settings_check(struct settings *s, struct error *err)
{
	int r = paths_check(s, err);

	if (r == 0)
		r = numbers_check(s, err);
	if (r == 0)
		r = access_list_parse("control", s->control_uids, s->control_gids,
		                      &s->control_access, err);
	if (r == 0 && *s->status_tcp) {
		r = loopback_address_check(s->status_tcp, err);
		if (r < 0)
			error_prefix(err, "[sockets] status_tcp");
	}
	return r;
}

static int overrides_apply(const struct settings_overrides *o, struct settings *s,
                           struct error *err)
{
	int r;

	if (!o)
		return 0;
	if ((r = config_override(&s->certificate, o->certificate, err)) < 0 ||
	    (r = config_override(&s->key, o->key, err)) < 0 ||
	    (r = config_override(&s->ca, o->ca, err)) < 0 ||
	    (r = config_override(&s->control, o->control, err)) < 0 ||
	    (r = config_override(&s->attach, o->attach, err)) < 0 ||
	    (r = config_override(&s->status, o->status, err)) < 0)
		return r;
	if (o->log_level && config_parse_log_level(o->log_level, &s->log_level, err) < 0)
		return error_prefix(err, "--log-level");
	return 0;
}

int settings_load(const char *path, const struct settings_overrides *overrides,
                  struct settings **ret, struct error *err)
{
	_cleanup_(cleanup_settings_free) struct settings *s = calloc(1, sizeof(*s));
	int r;

	if (!s)
		return error_set(err, -ENOMEM, "not enough memory");
	r = config_load(options, ARRAY_SIZE(options), path, s, err);
	if (r < 0)
		return r;
	r = overrides_apply(overrides, s, err);
	if (r < 0)
		return r;
	r = settings_check(s, err);
	if (r < 0) {
		if (path)
			error_prefix(err, "%s", path);
		return r;
	}
	*ret = TAKE_PTR(s);
	return 0;
}

int settings_check_reload(const struct settings *old, const struct settings *new, struct error *err)
{
	return config_check_reload(options, ARRAY_SIZE(options), old, new, err);
}
