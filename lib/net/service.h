/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The life of a daemon's process: command line, start, signals, what systemd
 * wants to know, end. What is the daemon's own it says in a struct service.
 */
#ifndef NET_SERVICE_H
#define NET_SERVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/error.h"
#include "core/log.h"
#include "net/loop.h"

#define SERVICE_OPTIONS_MAX 16

/* A long option with an argument, which is stored (borrowed from argv). */
struct service_option {
	const char *name;
	const char **value;
};

/* Why a daemon is to end. */
struct service_stop {
	const char *signal_name; /* "TERM" */
	bool forced;             /* not the first such signal: nothing is waited for */
	bool restarting;         /* SIGUSR1 came just before: another one will be started at once */
};

/* Each function is called with user. Those that fail fill err; it is logged here. */
struct service {
	const char *name;
	const char *usage; /* printed by --help, which need not be among the options */
	const struct service_option *options;
	size_t n_options;

	/* Read the settings; logging starts as they say. */
	int (*load)(void *user, enum log_target *ret_target, int *ret_level, struct error *err);
	/* With these settings: all that listens does so when it returns 0. */
	int (*start)(void *user, struct loop **ret_loop, struct error *err);
	/* SIGHUP: read the settings again and take them; on failure nothing has changed. */
	int (*reload)(void *user, struct error *err);
	/* NULL, or: it has started or reloaded; may tell systemd a STATUS. */
	void (*ready)(void *user);
	/*
	 * SIGTERM or SIGINT: log it. True: it ends now; always when forced. False: somebody depends
	 * on it. It goes on as before until it calls loop_stop() itself or a second signal
	 * comes, and the manager is asked for patience meanwhile.
	 */
	bool (*stop)(void *user, const struct service_stop *how);
	/*
	 * NULL, or: whether it works, as far as can be seen. Asked several times in
	 * allowed_us, after which the watchdog is to bite; it has logged what stands still.
	 */
	bool (*alive)(void *user, uint64_t allowed_us);
	/* Release everything, also after a failure, last of all. */
	void (*end)(void *user);
	void *user;
};

/* All of main(): the exit status. 2 for a bad command line or bad settings. */
int service_run(const struct service *s, int argc, char **argv);

/* The given file, or the default one if it is there, or NULL: one that was asked for must exist. */
const char *service_config_path(const char *given, const char *default_path);

#endif
