/* SPDX-License-Identifier: Apache-2.0 */
/*
 * postcopyd: options, signals, and what systemd wants to know. All else is in
 * daemon.c and below.
 */
#include <errno.h>
#include <event2/event.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include "core/clock.h"
#include "core/log.h"
#include "daemon/daemon.h"

struct options {
	const char *config; /* NULL: the default path, if it is there */
	struct settings_overrides overrides;
	bool exit; /* --help, --version */
};

/* What the signal handlers (on the loop) need. */
struct program {
	struct options options;
	struct daemon *daemon;
	struct event *term, *interrupt, *hangup, *watchdog;
	unsigned n_live_told;
	struct migration_listener *listener;
};

static const char usage[] = "Usage: postcopyd [OPTION]...\n"
                            "Serve the page faults of guests that are migrated to this host.\n"
                            "\n"
                            "  --config FILE      settings (default " SETTINGS_PATH_DEFAULT ")\n"
                            "  --control PATH     control socket\n"
                            "  --attach PATH      attach socket\n"
                            "  --status PATH      status socket\n"
                            "  --cert FILE        certificate chain, PEM\n"
                            "  --key FILE         private key, PEM\n"
                            "  --ca FILE          what sources are verified against, PEM\n"
                            "  --log-level LEVEL  error, warning, notice, info or debug\n"
                            "  --help             show this and exit\n"
                            "  --version          show the version and exit\n"
                            "\n"
                            "Options override the file. See postcopyd(8) and postcopyd.conf(5).\n";

static const struct option long_options[] = {
        {"config", required_argument, NULL, 'c'},
        {"control", required_argument, NULL, 'C'},
        {"attach", required_argument, NULL, 'A'},
        {"status", required_argument, NULL, 'S'},
        {"cert", required_argument, NULL, 'e'},
        {"key", required_argument, NULL, 'k'},
        {"ca", required_argument, NULL, 'a'},
        {"log-level", required_argument, NULL, 'l'},
        {"help", no_argument, NULL, 'h'},
        {"version", no_argument, NULL, 'V'},
        {0},
};

static int options_parse(int argc, char **argv, struct options *o)
{
	int c;

	while ((c = getopt_long(argc, argv, "h", long_options, NULL)) != -1) {
		switch (c) {
		case 'c':
			o->config = optarg;
			break;
		case 'C':
			o->overrides.control = optarg;
			break;
		case 'A':
			o->overrides.attach = optarg;
			break;
		case 'S':
			o->overrides.status = optarg;
			break;
		case 'e':
			o->overrides.certificate = optarg;
			break;
		case 'k':
			o->overrides.key = optarg;
			break;
		case 'a':
			o->overrides.ca = optarg;
			break;
		case 'l':
			o->overrides.log_level = optarg;
			break;
		case 'h':
			fputs(usage, stdout);
			o->exit = true;
			break;
		case 'V':
			puts("postcopyd " PROJECT_VERSION);
			o->exit = true;
			break;
		default:
			fputs("Try postcopyd --help.\n", stderr);
			return -EINVAL;
		}
	}
	if (optind < argc) {
		fprintf(stderr, "postcopyd: unexpected argument \"%s\". Try postcopyd --help.\n",
		        argv[optind]);
		return -EINVAL;
	}
	return 0;
}

/* The default file may be absent: the defaults do. One that was asked for may not. */
static int load_settings(const struct options *o, struct settings **ret, struct error *err)
{
	const char *path = o->config;

	if (!path && access(SETTINGS_PATH_DEFAULT, F_OK) == 0)
		path = SETTINGS_PATH_DEFAULT;
	return settings_load(path, &o->overrides, ret, err);
}

static void tell_status(struct program *p)
{
	p->n_live_told = migration_table_count_live(daemon_migrations(p->daemon));
	sd_notifyf(0, "STATUS=%u live migrations", p->n_live_told);
}

static void on_change(const struct migration *m, void *user)
{
	struct program *p = user;

	(void)m;
	if (migration_table_count_live(daemon_migrations(p->daemon)) != p->n_live_told)
		tell_status(p);
}

static void on_end(evutil_socket_t number, short what, void *arg)
{
	struct program *p = arg;

	(void)what;
	log_notice("received SIG%s: ending with %u live migrations", sigabbrev_np((int)number),
	           migration_table_count_live(daemon_migrations(p->daemon)));
	sd_notify(0, "STOPPING=1");
	loop_stop(daemon_loop(p->daemon));
}

static void on_hangup(evutil_socket_t number, short what, void *arg)
{
	struct program *p = arg;
	struct settings *settings;
	struct error error = {0};
	int r;

	(void)number;
	(void)what;
	sd_notifyf(0, "RELOADING=1\nMONOTONIC_USEC=%llu", (unsigned long long)clock_monotonic_us());
	r = load_settings(&p->options, &settings, &error);
	if (r == 0)
		r = daemon_reload(p->daemon, settings, &error);
	if (r == 0)
		log_notice("settings and keys are loaded again");
	else
		log_error("cannot reload, going on as before: %s", error.text);
	sd_notify(0, "READY=1");
	tell_status(p);
}

static void on_watchdog(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	(void)arg;
	sd_notify(0, "WATCHDOG=1");
}

static int watch_signal(struct program *p, int number, event_callback_fn fn, struct event **ret)
{
	*ret = evsignal_new(loop_base(daemon_loop(p->daemon)), number, fn, p);
	return *ret && event_add(*ret, NULL) == 0 ? 0 : -ENOMEM;
}

static int watchdog_start(struct program *p)
{
	struct timeval tv;
	uint64_t us;

	if (sd_watchdog_enabled(0, &us) <= 0)
		return 0;
	tv.tv_sec = (time_t)(us / 2 / 1000000);
	tv.tv_usec = (suseconds_t)(us / 2 % 1000000);
	p->watchdog = event_new(loop_base(daemon_loop(p->daemon)), -1, EV_PERSIST, on_watchdog, p);
	return p->watchdog && event_add(p->watchdog, &tv) == 0 ? 0 : -ENOMEM;
}

static int program_start(struct program *p)
{
	int r = watch_signal(p, SIGTERM, on_end, &p->term);

	if (r == 0)
		r = watch_signal(p, SIGINT, on_end, &p->interrupt);
	if (r == 0)
		r = watch_signal(p, SIGHUP, on_hangup, &p->hangup);
	if (r == 0)
		r = watchdog_start(p);
	if (r == 0)
		r = migration_table_listen(daemon_migrations(p->daemon), on_change, p,
		                           &p->listener);
	return r;
}

static void program_end(struct program *p)
{
	struct event *events[] = {p->term, p->interrupt, p->hangup, p->watchdog};

	for (size_t i = 0; i < ARRAY_SIZE(events); i++)
		if (events[i])
			event_free(events[i]);
	if (p->daemon)
		migration_table_unlisten(daemon_migrations(p->daemon), p->listener);
	p->daemon = daemon_free(p->daemon);
}

static int program_run(struct program *p, struct settings *settings)
{
	struct error error = {0};
	int r = daemon_new(settings, &p->daemon, &error);

	if (r < 0) {
		log_error("%s", error.text);
		return r;
	}
	r = program_start(p);
	if (r == 0) {
		log_notice("postcopyd " PROJECT_VERSION " is ready");
		sd_notify(0, "READY=1");
		tell_status(p);
		r = loop_run(daemon_loop(p->daemon));
	}
	if (r < 0)
		log_error("main loop: %s", strerror(-r));
	return r;
}

int main(int argc, char **argv)
{
	struct program program = {0};
	struct settings *settings = NULL;
	struct error error = {0};
	int r;

	if (options_parse(argc, argv, &program.options) < 0)
		return 2;
	if (program.options.exit)
		return EXIT_SUCCESS;
	signal(SIGPIPE, SIG_IGN);
	r = load_settings(&program.options, &settings, &error);
	log_init("postcopyd", r < 0 ? LOG_TARGET_AUTO : (enum log_target)settings->log_target);
	if (r < 0) {
		log_error("%s", error.text);
		return 2;
	}
	log_set_level(settings->log_level);
	r = program_run(&program, settings);
	program_end(&program);
	return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
