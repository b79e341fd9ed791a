/* SPDX-License-Identifier: Apache-2.0 */
/*
 * postcopyd's settings: the configuration file, overridden by the command line.
 * A reload makes a whole new object; what may not change while the daemon runs
 * is refused by settings_check_reload().
 */
#ifndef DAEMON_SETTINGS_H
#define DAEMON_SETTINGS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "core/access_list.h"
#include "core/cleanup.h"
#include "core/cpu_list.h"
#include "core/error.h"
#include "core/log.h"

#define SETTINGS_PATH_DEFAULT "/etc/postcopyd/postcopyd.conf"
struct settings {
	/* [tls] */
	char *certificate;
	char *key;
	char *ca;
	/* [sockets] */
	char *control;
	mode_t control_mode;
	char *control_uids; /* as written; see control_access */
	char *control_gids;
	char *attach;
	mode_t attach_mode;
	char *status;
	mode_t status_mode;
	char *status_tcp; /* HOST:PORT, "": none */
	unsigned status_connections;
	/* [lanes] */
	unsigned urgent_rt_priority;
	unsigned bulk_nice;
	struct cpu_list urgent_cpus;
	struct cpu_list bulk_cpus;
	uint64_t stream_window_bytes;
	/* [migrations] */
	unsigned max;
	unsigned fd_store_max;
	uint64_t reconnect_min_us;
	uint64_t reconnect_max_us;
	uint64_t completion_timeout_us;
	/* [log] */
	int log_level;
	int log_target; /* enum log_target */

	/* Parsed from the above. */
	struct access_list control_access;
};

/* What the command line says; NULL: nothing. Strings are borrowed. */
struct settings_overrides {
	const char *certificate;
	const char *key;
	const char *ca;
	const char *control;
	const char *attach;
	const char *status;
	const char *log_level;
};

/*
 * Defaults, then the file (NULL: none), then the overrides (NULL: none), then
 * checks of what depends on each other. -EINVAL, -ENOENT with a text.
 */
int settings_load(const char *path, const struct settings_overrides *overrides,
                  struct settings **ret, struct error *err);
struct settings *settings_free(struct settings *s); /* always NULL */
DEFINE_CLEANUP(struct settings, settings_free)

/* -EINVAL with the name of an option that differs and needs a restart. */
int settings_check_reload(const struct settings *old, const struct settings *new,
                          struct error *err);

#endif
