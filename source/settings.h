/* SPDX-License-Identifier: Apache-2.0 */
/* postcopy-sourced's settings: defaults, then the file, then the command line. */
#ifndef SOURCE_SETTINGS_H
#define SOURCE_SETTINGS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "core/access_list.h"
#include "core/cpu_list.h"
#include "core/error.h"

#define SETTINGS_PATH_DEFAULT "/etc/postcopyd/postcopy-sourced.conf"

struct settings {
	char *listen;
	unsigned sessions;
	uint64_t hello_timeout_us;
	char *certificate;
	char *key;
	char *ca;
	char *export_socket;
	mode_t export_mode;
	char *export_uids;
	char *export_gids;
	char *control_socket;
	mode_t control_mode;
	char *control_uids;
	char *control_gids;
	unsigned exports;
	unsigned ended;
	uint64_t export_bytes;
	unsigned fd_store_max;
	unsigned links;
	uint64_t bandwidth;
	uint64_t socket_buffer_bytes;
	bool urgent_realtime;
	unsigned bulk_nice;
	struct cpu_list urgent_cpus;
	struct cpu_list bulk_cpus;
	int log_level;
	int log_target; /* enum log_target */

	/* Made of the above. */
	struct access_list export_access;
	struct access_list control_access;
};

/* Of the command line; NULL: not given. */
struct settings_overrides {
	const char *listen;
	const char *export_socket;
	const char *control_socket;
	const char *certificate;
	const char *key;
	const char *ca;
	const char *log_level;
};

/* path NULL: defaults and overrides only. -errno with a text that names the place. */
int settings_load(const char *path, const struct settings_overrides *overrides,
                  struct settings **ret, struct error *err);
struct settings *settings_free(struct settings *s); /* always NULL */

/* 0 if a reload may go from old to new; -EINVAL with a text that names what needs a restart. */
int settings_check_reload(const struct settings *old_settings, const struct settings *new_settings,
                          struct error *err);

#endif
