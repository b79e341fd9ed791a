/* SPDX-License-Identifier: Apache-2.0 */
/*
 * postcopy-sourced: options, signals, and what systemd wants to know. All else
 * is in agent.c and below.
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
#include "source/agent.h"

struct options {
	const char *config; /* NULL: the default path, if it is there */
	struct settings_overrides overrides;
	bool exit; /* --help, --version */
};

/* What the signal handlers (on the loop) need. */
struct program {
	struct options options;
	struct agent *agent;
	struct event *term, *interrupt, *hangup, *watchdog;
};

static const char usage[] =
        "Usage: postcopy-sourced [OPTION]...\n"
        "Serve the frozen memory of guests that have left this host, and what is lost of it.\n"
        "\n"
        "  --config FILE           settings (default " SETTINGS_PATH_DEFAULT ")\n"
        "  --listen HOST:PORT      where destinations connect\n"
        "  --export-socket PATH    where VMMs export memory\n"
        "  --control-socket PATH   for postcopyctl\n"
        "  --cert FILE             certificate chain, PEM\n"
        "  --key FILE              private key, PEM\n"
        "  --ca FILE               what destinations are verified against, PEM\n"
        "  --log-level LEVEL       error, warning, notice, info or debug\n"
        "  --help                  show this and exit\n"
        "  --version               show the version and exit\n"
        "\n"
        "Options override the file. See postcopy-sourced(8).\n";

static const struct option long_options[] = {
        {"config", required_argument, NULL, 'c'},
        {"listen", required_argument, NULL, 'L'},
        {"export-socket", required_argument, NULL, 'E'},
        {"control-socket", required_argument, NULL, 'C'},
        {"cert", required_argument, NULL, 'e'},
        {"key", required_argument, NULL, 'k'},
        {"ca", required_argument, NULL, 'a'},
        {"log-level", required_argument, NULL, 'l'},
        {"help", no_argument, NULL, 'h'},
        {"version", no_argument, NULL, 'V'},
        {0},
};

/* Where the argument of an option goes; NULL: it is not one of these. */
static const char **option_field(struct options *o, int c)
{
	switch (c) {
	case 'c':
		return &o->config;
	case 'L':
		return &o->overrides.listen;
	case 'E':
		return &o->overrides.export_socket;
	case 'C':
		return &o->overrides.control_socket;
	case 'e':
		return &o->overrides.certificate;
	case 'k':
		return &o->overrides.key;
	case 'a':
		return &o->overrides.ca;
	case 'l':
		return &o->overrides.log_level;
	default:
		return NULL;
	}
}

static int options_parse(int argc, char **argv, struct options *o)
{
	int c;

	while ((c = getopt_long(argc, argv, "h", long_options, NULL)) != -1) {
		const char **field = option_field(o, c);

		if (field) {
			*field = optarg;
		} else if (c == 'h' || c == 'V') {
			fputs(c == 'h' ? usage : "postcopy-sourced " PROJECT_VERSION "\n", stdout);
			o->exit = true;
			return 0;
		} else {
			fputs("Try postcopy-sourced --help.\n", stderr);
			return -EINVAL;
		}
	}
	if (optind == argc)
		return 0;
	fprintf(stderr,
	        "postcopy-sourced: unexpected argument \"%s\". Try postcopy-sourced --help.\n",
	        argv[optind]);
	return -EINVAL;
}

/* The default file may be absent: the defaults do. One that was asked for may not. */
static int load_settings(const struct options *o, struct settings **ret, struct error *err)
{
	const char *path = o->config;

	if (!path && access(SETTINGS_PATH_DEFAULT, F_OK) == 0)
		path = SETTINGS_PATH_DEFAULT;
	return settings_load(path, &o->overrides, ret, err);
}

static void on_end(evutil_socket_t number, short what, void *arg)
{
	struct program *p = arg;
	unsigned live = agent_live_exports(p->agent);

	(void)what;
	log_write(live ? LOG_WARNING : LOG_NOTICE, NULL, 0,
	          "received SIG%s: ending with %u live exports", sigabbrev_np((int)number), live);
	sd_notify(0, "STOPPING=1");
	loop_stop(agent_loop(p->agent));
}

static void on_hangup(evutil_socket_t number, short what, void *arg)
{
	struct program *p = arg;
	struct settings *settings = NULL;
	struct error error = {0};
	int r;

	(void)number;
	(void)what;
	sd_notifyf(0, "RELOADING=1\nMONOTONIC_USEC=%llu", (unsigned long long)clock_monotonic_us());
	r = load_settings(&p->options, &settings, &error);
	if (r == 0)
		r = agent_reload(p->agent, settings, &error);
	if (r == 0) {
		log_notice("settings and keys are loaded again");
	} else {
		settings_free(settings);
		log_error("cannot reload, going on as before: %s", error.text);
	}
	sd_notify(0, "READY=1");
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
	*ret = evsignal_new(loop_base(agent_loop(p->agent)), number, fn, p);
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
	p->watchdog = event_new(loop_base(agent_loop(p->agent)), -1, EV_PERSIST, on_watchdog, p);
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
	return r;
}

static void program_end(struct program *p)
{
	struct event *events[] = {p->term, p->interrupt, p->hangup, p->watchdog};

	for (size_t i = 0; i < sizeof(events) / sizeof(*events); i++)
		if (events[i])
			event_free(events[i]);
	p->agent = agent_free(p->agent);
}

static int program_run(struct program *p, struct settings *settings)
{
	struct error error = {0};
	int r = agent_new(settings, &p->agent, &error);

	if (r < 0) {
		settings_free(settings);
		log_error("%s", error.text);
		return r;
	}
	r = program_start(p);
	if (r == 0) {
		log_notice("postcopy-sourced " PROJECT_VERSION " is ready");
		sd_notify(0, "READY=1");
		r = loop_run(agent_loop(p->agent));
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
	log_init("postcopy-sourced",
	         r < 0 ? LOG_TARGET_AUTO : (enum log_target)settings->log_target);
	if (r < 0) {
		log_error("%s", error.text);
		return 2;
	}
	log_set_level(settings->log_level);
	r = program_run(&program, settings);
	program_end(&program);
	return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
