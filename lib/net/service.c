/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Called by the daemons' main() only. Signals come through the loop, so that
 * everything here runs on its thread.
 */
#include "net/service.h"

#include <assert.h>
#include <errno.h>
#include <event2/event.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include "core/cleanup.h"
#include "core/clock.h"
#include "core/message_ids.h"
#include "net/activation.h"

/* getopt_long()'s values for what is not in the service's table: its indices come first. */
#define OPTION_HELP 1000
#define OPTION_VERSION 1001

/* How long after SIGUSR1 an end is taken for the beginning of a restart. */
#define RESTART_ANNOUNCED_US 10000000
/* Each time the manager is asked for more patience than lasts until the next time. */
#define PATIENCE_INTERVAL_S 2
#define PATIENCE_TEXT "EXTEND_TIMEOUT_USEC=20000000"
#define WATCHDOG_TICKS 4 /* in WATCHDOG_USEC */

struct process {
	const struct service *service;
	struct loop *loop;
	struct event *term, *interrupt, *hangup, *announce, *watchdog, *patience;
	uint64_t watchdog_us;
	uint64_t announced_us; /* when SIGUSR1 came; 0: it did not */
	bool draining;         /* to end, but not yet */
};

static void long_options_fill(const struct service *s, struct option *to)
{
	assert(s->n_options <= SERVICE_OPTIONS_MAX);
	for (size_t i = 0; i < s->n_options; i++)
		*to++ = (struct option){s->options[i].name, required_argument, NULL, (int)i};
	*to++ = (struct option){"help", no_argument, NULL, OPTION_HELP};
	*to++ = (struct option){"version", no_argument, NULL, OPTION_VERSION};
	*to = (struct option){0};
}

/* 1: done, for only a text was asked for. */
static int options_parse(const struct service *s, int argc, char **argv)
{
	struct option long_options[SERVICE_OPTIONS_MAX + 3];
	int c;

	long_options_fill(s, long_options);
	while ((c = getopt_long(argc, argv, "h", long_options, NULL)) != -1) {
		if (c == OPTION_HELP || c == 'h') {
			fputs(s->usage, stdout);
			return 1;
		}
		if (c == OPTION_VERSION) {
			printf("%s " PROJECT_VERSION "\n", s->name);
			return 1;
		}
		if (c == '?') {
			fprintf(stderr, "Try %s --help.\n", s->name);
			return -EINVAL;
		}
		*s->options[c].value = optarg;
	}
	if (optind == argc)
		return 0;
	fprintf(stderr, "%s: unexpected argument \"%s\". Try %s --help.\n", s->name, argv[optind],
	        s->name);
	return -EINVAL;
}

const char *service_config_path(const char *given, const char *default_path)
{
	if (given)
		return given;
	return access(default_path, F_OK) == 0 ? default_path : NULL;
}

/* Also after a reload that failed: it goes on as before. */
static void tell_ready(const struct service *s)
{
	sd_notify(0, "READY=1");
	if (s->ready)
		s->ready(s->user);
}

static bool restart_announced(const struct process *p)
{
	return p->announced_us && clock_monotonic_us() - p->announced_us < RESTART_ANNOUNCED_US;
}

static void on_patience(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	(void)arg;
	/*
	 * Not STOPPING=1 before the end: it would start the manager's clock, and stop its
	 * watchdog, also where it did not ask for the stop.
	 */
	sd_notify(0, PATIENCE_TEXT);
}

static void drain_start(struct process *p)
{
	static const struct timeval interval = {.tv_sec = PATIENCE_INTERVAL_S};

	p->draining = true;
	on_patience(-1, 0, p);
	event_add(p->patience, &interval);
}

static void on_end(evutil_socket_t number, short what, void *arg)
{
	struct process *p = arg;
	const struct service_stop how = {
	        .signal_name = sigabbrev_np((int)number),
	        .forced = p->draining,
	        .restarting = restart_announced(p),
	};

	(void)what;
	if (p->service->stop(p->service->user, &how) || p->draining)
		loop_stop(p->loop);
	else
		drain_start(p);
}

static void on_announce(evutil_socket_t number, short what, void *arg)
{
	struct process *p = arg;

	(void)number;
	(void)what;
	p->announced_us = clock_monotonic_us();
	log_notice("received SIGUSR1: a restart is about to come");
}

static void on_hangup(evutil_socket_t number, short what, void *arg)
{
	const struct service *s = ((struct process *)arg)->service;
	struct error error = {0};

	(void)number;
	(void)what;
	sd_notifyf(0, "RELOADING=1\nMONOTONIC_USEC=%llu", (unsigned long long)clock_monotonic_us());
	if (s->reload(s->user, &error) == 0)
		log_event(LOG_NOTICE, MESSAGE_RELOADED, NULL, 0,
		          "settings and keys are loaded again");
	else
		log_event(LOG_ERR, MESSAGE_RELOAD_REFUSED, LOG_FIELDS({"REASON", error.text}),
		          "cannot reload, going on as before: %s", error.text);
	tell_ready(s);
}

static void on_watchdog(evutil_socket_t fd, short what, void *arg)
{
	const struct process *p = arg;

	(void)fd;
	(void)what;
	if (!p->service->alive || p->service->alive(p->service->user, p->watchdog_us))
		sd_notify(0, "WATCHDOG=1");
}

static int watch_signal(struct process *p, int number, event_callback_fn fn, struct event **ret)
{
	*ret = evsignal_new(loop_base(p->loop), number, fn, p);
	return *ret && event_add(*ret, NULL) == 0 ? 0 : -ENOMEM;
}

static int watchdog_start(struct process *p)
{
	struct timeval tv;

	if (sd_watchdog_enabled(0, &p->watchdog_us) <= 0)
		return 0;
	tv.tv_sec = (time_t)(p->watchdog_us / WATCHDOG_TICKS / 1000000);
	tv.tv_usec = (suseconds_t)(p->watchdog_us / WATCHDOG_TICKS % 1000000);
	p->watchdog = event_new(loop_base(p->loop), -1, EV_PERSIST, on_watchdog, p);
	return p->watchdog && event_add(p->watchdog, &tv) == 0 ? 0 : -ENOMEM;
}

static int events_start(struct process *p)
{
	int r = watch_signal(p, SIGTERM, on_end, &p->term);

	if (r == 0)
		r = watch_signal(p, SIGINT, on_end, &p->interrupt);
	if (r == 0)
		r = watch_signal(p, SIGHUP, on_hangup, &p->hangup);
	if (r == 0)
		r = watch_signal(p, SIGUSR1, on_announce, &p->announce);
	if (r == 0)
		r = watchdog_start(p);
	if (r < 0)
		return r;
	p->patience = event_new(loop_base(p->loop), -1, EV_PERSIST, on_patience, p);
	return p->patience ? 0 : -ENOMEM;
}

/* Nobody listens any more: a signal would kill it before its last words. */
static void signals_block(void)
{
	static const int numbers[] = {SIGTERM, SIGINT, SIGHUP, SIGUSR1};
	sigset_t set;

	sigemptyset(&set);
	for (size_t i = 0; i < ARRAY_SIZE(numbers); i++)
		sigaddset(&set, numbers[i]);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
}

static void events_end(struct process *p)
{
	struct event *events[] = {p->term,     p->interrupt, p->hangup,
	                          p->announce, p->watchdog,  p->patience};

	signals_block();
	for (size_t i = 0; i < ARRAY_SIZE(events); i++)
		if (events[i])
			event_free(events[i]);
}

static int process_run(struct process *p)
{
	const struct service *s = p->service;
	struct error error = {0};
	int r = activation_begin(&error);

	if (r == 0)
		r = s->start(s->user, &p->loop, &error);
	if (r < 0) {
		log_error("%s", error.text);
		return r;
	}
	activation_end();
	r = events_start(p);
	if (r == 0) {
		log_notice("%s " PROJECT_VERSION " is ready", s->name);
		tell_ready(s);
		r = loop_run(p->loop);
		sd_notify(0, "STOPPING=1");
	}
	if (r < 0)
		log_error("main loop: %s", strerror(-r));
	events_end(p);
	return r;
}

int service_run(const struct service *s, int argc, char **argv)
{
	struct process process = {.service = s};
	enum log_target target = LOG_TARGET_AUTO;
	struct error error = {0};
	int level, r = options_parse(s, argc, argv);

	if (r != 0)
		return r < 0 ? 2 : EXIT_SUCCESS;
	signal(SIGPIPE, SIG_IGN);
	r = s->load(s->user, &target, &level, &error);
	log_init(s->name, target);
	if (r < 0) {
		log_error("%s", error.text);
		return 2;
	}
	log_set_level(level);
	r = process_run(&process);
	s->end(s->user);
	return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
