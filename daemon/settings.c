/* SPDX-License-Identifier: Apache-2.0 */
/*
 * postcopyd's settings. Called by main.c at start and on SIGHUP. A settings
 * object that exists is complete and consistent.
 */
#include "daemon/settings.h"

#include <ctype.h>
#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>

#include "core/config.h"
#include "core/units.h"
#include "daemon/source_address.h"

static int parse_log_target(const char *value, void *dest, struct error *err)
{
	static const char *const names[] = {
	        [LOG_TARGET_AUTO] = "auto",
	        [LOG_TARGET_JOURNAL] = "journal",
	        [LOG_TARGET_STDERR] = "stderr",
	};

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		if (strcmp(value, names[i]) == 0) {
			*(int *)dest = (int)i;
			return 0;
		}
	}
	return error_set(err, -EINVAL, "expected auto, journal or stderr, not \"%.64s\"", value);
}

#define OPTION(section, key, parser, field, value, may_reload, unit_name, text)            \
	{                                                                                  \
		section, key, parser, offsetof(struct settings, field), value, may_reload, \
		        unit_name, text                                                    \
	}

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

        OPTION("lanes", "urgent_rt_priority", config_parse_uint, urgent_rt_priority, "1", true,
               NULL, "SCHED_FIFO priority of the threads that serve faults, 0: none"),
        OPTION("lanes", "bulk_nice", config_parse_uint, bulk_nice, "19", true, NULL,
               "nice value of the threads that take the stream"),
        OPTION("lanes", "urgent_cpus", config_parse_string, urgent_cpus, "", true, NULL,
               "CPUs of the threads that serve faults"),
        OPTION("lanes", "bulk_cpus", config_parse_string, bulk_cpus, "", true, NULL,
               "CPUs of the threads that take the stream"),
        OPTION("lanes", "stream_window", config_parse_bytes, stream_window_bytes, "1M", true,
               "bytes", "streamed after a faulted page before the stream goes back"),

        OPTION("migrations", "max", config_parse_uint, max, "64", true, NULL,
               "migrations at the same time"),
        OPTION("migrations", "reconnect_min", config_parse_duration, reconnect_min_us, "100ms",
               true, "us", "wait before the first attempt to connect again"),
        OPTION("migrations", "reconnect_max", config_parse_duration, reconnect_max_us, "10s", true,
               "us", "longest wait between attempts"),
        OPTION("migrations", "completion_timeout", config_parse_duration, completion_timeout_us,
               "30s", true, "us", "how long to try to tell the source that all is here"),

        OPTION("log", "level", config_parse_log_level, log_level, "info", true, NULL,
               "error, warning, notice, info or debug"),
        OPTION("log", "target", parse_log_target, log_target, "auto", false, NULL,
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

bool id_list_contains(const struct id_list *list, uint32_t id)
{
	for (unsigned i = 0; i < list->n_ids; i++)
		if (list->ids[i] == id)
			return true;
	return false;
}

/* A number or a name. NSS may block here: settings are read at start and reload only. */
static int id_parse(const char *word, bool group, uint32_t *ret)
{
	char *end;

	if (isdigit((unsigned char)*word)) {
		errno = 0;
		unsigned long long number = strtoull(word, &end, 10);

		if (*end || errno || number >= UINT32_MAX)
			return -EINVAL;
		*ret = (uint32_t)number;
		return 0;
	}
	if (group) {
		const struct group *gr = getgrnam(word);

		if (!gr)
			return -ENOENT;
		*ret = gr->gr_gid;
		return 0;
	}
	const struct passwd *pw = getpwnam(word);

	if (!pw)
		return -ENOENT;
	*ret = pw->pw_uid;
	return 0;
}

static int id_list_parse(const char *text, bool group, struct id_list *ret, struct error *err)
{
	const char *key = group ? "control_gids" : "control_uids";
	const char *what = group ? "group" : "user";
	_cleanup_free_ char *copy = strdup(text);
	char *save = NULL;

	if (!copy)
		return error_set(err, -ENOMEM, "not enough memory");
	for (char *word = strtok_r(copy, " ,\t", &save); word;
	     word = strtok_r(NULL, " ,\t", &save)) {
		if (ret->n_ids == SETTINGS_IDS_MAX)
			return error_set(err, -EINVAL, "[sockets] %s: expected at most %d %ss", key,
			                 SETTINGS_IDS_MAX, what);
		int r = id_parse(word, group, &ret->ids[ret->n_ids]);

		if (r < 0)
			return error_set(err, -EINVAL,
			                 "[sockets] %s: expected %s names or numbers, but there is "
			                 "no %s \"%.64s\"",
			                 key, what, what, word);
		ret->n_ids++;
	}
	return 0;
}

/* "0,2-3": what the lanes take; whether the CPUs exist is known there. */
static int cpu_list_check(const char *key, const char *text, struct error *err)
{
	const char *p = text;

	while (*p) {
		char *end;
		unsigned long first, last;

		if (!isdigit((unsigned char)*p))
			goto bad;
		first = last = strtoul(p, &end, 10);
		if (*end == '-') {
			if (!isdigit((unsigned char)end[1]))
				goto bad;
			last = strtoul(end + 1, &end, 10);
		}
		if (first > last || last >= 8192 || (*end && *end != ',') || (*end && !end[1]))
			goto bad;
		p = *end ? end + 1 : end;
	}
	return 0;
bad:
	return error_set(err, -EINVAL, "[lanes] %s: expected CPUs like 0,2-3, not \"%.64s\"", key,
	                 text);
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
		r = cpu_list_check("urgent_cpus", s->urgent_cpus, err);
	if (r == 0)
		r = cpu_list_check("bulk_cpus", s->bulk_cpus, err);
	if (r == 0)
		r = id_list_parse(s->control_uids, false, &s->allowed_uids, err);
	if (r == 0)
		r = id_list_parse(s->control_gids, true, &s->allowed_gids, err);
	if (r == 0 && *s->status_tcp) {
		r = loopback_address_check(s->status_tcp, err);
		if (r < 0)
			error_prefix(err, "[sockets] status_tcp");
	}
	return r;
}

static int string_override(const char *value, char **field, struct error *err)
{
	return value ? config_parse_string(value, field, err) : 0;
}

static int overrides_apply(const struct settings_overrides *o, struct settings *s,
                           struct error *err)
{
	int r;

	if (!o)
		return 0;
	if ((r = string_override(o->certificate, &s->certificate, err)) < 0 ||
	    (r = string_override(o->key, &s->key, err)) < 0 ||
	    (r = string_override(o->ca, &s->ca, err)) < 0 ||
	    (r = string_override(o->control, &s->control, err)) < 0 ||
	    (r = string_override(o->attach, &s->attach, err)) < 0 ||
	    (r = string_override(o->status, &s->status, err)) < 0)
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
	const struct config_option *o =
	        config_first_fixed_change(options, ARRAY_SIZE(options), old, new);

	if (!o)
		return 0;
	return error_set(err, -EINVAL, "[%s] %s has changed: that needs a restart", o->section,
	                 o->key);
}
