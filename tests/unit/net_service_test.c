/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The life of a daemon's process, as a service manager sees it: real processes,
 * signals and notifications. The child writes a letter for each call it gets.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <ctype.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/cleanup.h"
#include "core/clock.h"
#include "net/service.h"

#define NOTIFY_TIMEOUT_MS 10000
#define WATCHDOG_US 200000

struct program {
	int trace_fd;
	int load_result, start_result, reload_result;
	const char *given; /* --given */
	bool busy;         /* somebody depends on it: it does not end at once */
	bool stands;       /* SIGWINCH tells it that something stands still */
	struct loop *loop;
	struct event *idle, *change;
};

struct run {
	pid_t pid;
	int notify_fd, trace_fd;
};

static void trace(const struct program *p, char c)
{
	if (write(p->trace_fd, &c, 1) != 1)
		_exit(99);
}

static int load(void *user, enum log_target *ret_target, int *ret_level, struct error *err)
{
	struct program *p = user;

	trace(p, 'l');
	if (p->load_result < 0)
		return error_set(err, p->load_result, "the settings are bad");
	if (p->given)
		trace(p, *p->given);
	*ret_target = LOG_TARGET_STDERR;
	*ret_level = LOG_ERR;
	return 0;
}

static void on_idle(evutil_socket_t number, short what, void *arg)
{
	struct program *p = arg;

	(void)number;
	(void)what;
	trace(p, 'i');
	loop_stop(p->loop);
}

static void on_change(evutil_socket_t number, short what, void *arg)
{
	struct program *p = arg;

	(void)number;
	(void)what;
	p->stands = !p->stands;
	trace(p, p->stands ? '-' : '+');
}

static int start(void *user, struct loop **ret_loop, struct error *err)
{
	struct program *p = user;

	trace(p, 's');
	if (p->start_result < 0)
		return error_set(err, p->start_result, "it cannot start");
	if (loop_new(&p->loop) < 0)
		return error_set(err, -ENOMEM, "no loop");
	/* SIGUSR2: nobody depends on it any more. SIGWINCH: all stands still, or goes on again. */
	p->idle = evsignal_new(loop_base(p->loop), SIGUSR2, on_idle, p);
	p->change = evsignal_new(loop_base(p->loop), SIGWINCH, on_change, p);
	assert_int_equal(event_add(p->idle, NULL) + event_add(p->change, NULL), 0);
	*ret_loop = p->loop;
	return 0;
}

static int reload(void *user, struct error *err)
{
	struct program *p = user;

	trace(p, 'u');
	return p->reload_result < 0 ? error_set(err, p->reload_result, "bad again") : 0;
}

static void ready(void *user)
{
	trace(user, 'r');
}

/* The signal's first letter, small for a restart; '!' before it: forced. */
static bool stop(void *user, const struct service_stop *how)
{
	struct program *p = user;

	if (how->forced)
		trace(p, '!');
	trace(p, (char)(how->restarting ? tolower(*how->signal_name) : *how->signal_name));
	return !p->busy || how->restarting || how->forced;
}

static bool alive(void *user, uint64_t allowed_us)
{
	const struct program *p = user;

	return !p->stands && allowed_us == WATCHDOG_US;
}

static void end(void *user)
{
	struct program *p = user;

	trace(p, 'e');
	if (p->idle)
		event_free(p->idle);
	if (p->change)
		event_free(p->change);
	p->loop = loop_free(p->loop);
}

static int child_run(struct program *p, char **argv)
{
	const struct service_option options[] = {{"given", &p->given}};
	const struct service service = {
	        .name = "tested",
	        .usage = "Usage: tested\n",
	        .options = options,
	        .n_options = ARRAY_SIZE(options),
	        .load = load,
	        .start = start,
	        .reload = reload,
	        .ready = ready,
	        .stop = stop,
	        .alive = alive,
	        .end = end,
	        .user = p,
	};
	int argc = 0;

	while (argv[argc])
		argc++;
	return service_run(&service, argc, argv);
}

/* An abstract address which the child finds in NOTIFY_SOCKET. */
static int notify_open(void)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	int n = snprintf(sun.sun_path, sizeof(sun.sun_path), "@postcopy-service-%d", (int)getpid());

	assert_true(fd >= 0);
	assert_int_equal(setenv("NOTIFY_SOCKET", sun.sun_path, 1), 0);
	sun.sun_path[0] = '\0';
	assert_int_equal(bind(fd, (const struct sockaddr *)&sun,
	                      (socklen_t)(offsetof(struct sockaddr_un, sun_path) + (size_t)n)),
	                 0);
	return fd;
}

static struct run run_start(struct program *p, char **argv)
{
	struct run run = {.notify_fd = notify_open()};
	int fds[2];

	assert_int_equal(pipe(fds), 0);
	fflush(NULL);
	run.pid = fork();
	if (run.pid == 0) {
		p->trace_fd = fds[1];
		int status = child_run(p, argv);

		fflush(stdout);
		_exit(status);
	}
	close(fds[1]);
	run.trace_fd = fds[0];
	return run;
}

/* Whether the next one is the first, not the second of these. */
static bool expect_notify_or(const struct run *run, const char *first, const char *second)
{
	struct pollfd p = {.fd = run->notify_fd, .events = POLLIN};
	char text[256] = "";

	assert_int_equal(poll(&p, 1, NOTIFY_TIMEOUT_MS), 1);
	assert_true(recv(run->notify_fd, text, sizeof(text) - 1, 0) > 0);
	if (strncmp(text, first, strlen(first)) == 0)
		return true;
	if (strncmp(text, second, strlen(second)) != 0)
		fail_msg("%s instead of %s or %s", text, first, second);
	return false;
}

static void expect_notify(const struct run *run, const char *expected)
{
	(void)expect_notify_or(run, expected, expected);
}

/* The next letter that the child writes. */
static void expect_trace(const struct run *run, char expected)
{
	struct pollfd p = {.fd = run->trace_fd, .events = POLLIN};
	char c;

	assert_int_equal(poll(&p, 1, NOTIFY_TIMEOUT_MS), 1);
	assert_int_equal(read(run->trace_fd, &c, 1), 1);
	assert_int_equal(c, expected);
}

static void expect_traces(const struct run *run, const char *expected)
{
	for (; *expected; expected++)
		expect_trace(run, *expected);
}

/* Its exit status, and that these calls came, in this order. */
static int run_end(struct run *run, const char *calls)
{
	char got[32] = "";
	size_t len = 0;
	ssize_t n;
	int status;

	while ((n = read(run->trace_fd, got + len, sizeof(got) - 1 - len)) > 0)
		len += (size_t)n;
	assert_int_equal(waitpid(run->pid, &status, 0), run->pid);
	assert_true(WIFEXITED(status));
	assert_string_equal(got, calls);
	close(run->notify_fd);
	close(run->trace_fd);
	return WEXITSTATUS(status);
}

#define WORDS(...) ((char *[]){(char[]){"tested"}, __VA_ARGS__})

/* Promise: the manager hears of start, reload and end, and a reload calls ready again. */
static void test_life(void **state)
{
	struct program program = {0};
	struct run run = run_start(&program, WORDS("--given", "X", NULL));

	(void)state;
	expect_notify(&run, "READY=1");
	kill(run.pid, SIGHUP);
	expect_notify(&run, "RELOADING=1\nMONOTONIC_USEC=");
	expect_notify(&run, "READY=1");
	kill(run.pid, SIGTERM);
	expect_notify(&run, "STOPPING=1");
	assert_int_equal(run_end(&run, "lXsrurTe"), 0);
}

/* Promise: a reload that fails ends nothing; SIGINT ends as SIGTERM does. */
static void test_failed_reload(void **state)
{
	struct program program = {.reload_result = -EINVAL};
	struct run run = run_start(&program, WORDS(NULL));

	(void)state;
	expect_notify(&run, "READY=1");
	kill(run.pid, SIGHUP);
	expect_notify(&run, "RELOADING=1");
	expect_notify(&run, "READY=1");
	kill(run.pid, SIGINT);
	expect_notify(&run, "STOPPING=1");
	assert_int_equal(run_end(&run, "lsrurIe"), 0);
}

/* Promise: while somebody depends on it, it asks for patience again and again, and ends itself. */
static void test_drain(void **state)
{
	struct program program = {.busy = true};
	struct run run = run_start(&program, WORDS(NULL));

	(void)state;
	expect_notify(&run, "READY=1");
	kill(run.pid, SIGTERM);
	for (int i = 0; i < 3; i++)
		expect_notify(&run, "EXTEND_TIMEOUT_USEC=");
	kill(run.pid, SIGHUP); /* it goes on as before */
	expect_notify(&run, "RELOADING=1");
	expect_notify(&run, "READY=1");
	kill(run.pid, SIGUSR2);
	while (expect_notify_or(&run, "EXTEND_TIMEOUT_USEC=", "STOPPING=1"))
		;
	assert_int_equal(run_end(&run, "lsrTurie"), 0);
}

/* Promise: a second signal ends it at once, be it the same or the other one. */
static void test_forced(void **state)
{
	static const int second[] = {SIGTERM, SIGINT};
	static const char *const calls[] = {"!Te", "!Ie"};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(second); i++) {
		struct program program = {.busy = true};
		struct run run = run_start(&program, WORDS(NULL));

		expect_notify(&run, "READY=1");
		kill(run.pid, SIGTERM);
		expect_notify(&run, "EXTEND_TIMEOUT_USEC=");
		expect_traces(&run, "lsrT");
		kill(run.pid, second[i]);
		while (expect_notify_or(&run, "EXTEND_TIMEOUT_USEC=", "STOPPING=1"))
			;
		assert_int_equal(run_end(&run, calls[i]), 0);
	}
}

/* Promise: after SIGUSR1 it knows that it will be started again; both may come together. */
static void test_restart(void **state)
{
	struct program program = {.busy = true};
	struct run run = run_start(&program, WORDS(NULL));

	(void)state;
	expect_notify(&run, "READY=1");
	kill(run.pid, SIGSTOP);
	kill(run.pid, SIGTERM);
	kill(run.pid, SIGUSR1);
	kill(run.pid, SIGCONT);
	expect_notify(&run, "STOPPING=1");
	assert_int_equal(run_end(&run, "lsrte"), 0);
}

/* Promise: the watchdog hears nothing while something stands still, and again when it goes on. */
static void test_watchdog(void **state)
{
	struct program program = {0};
	uint64_t stood_us;
	struct run run;
	char us[32];

	(void)state;
	snprintf(us, sizeof(us), "%d", WATCHDOG_US);
	setenv("WATCHDOG_USEC", us, 1);
	run = run_start(&program, WORDS(NULL));
	unsetenv("WATCHDOG_USEC");
	expect_notify(&run, "READY=1");
	expect_notify(&run, "WATCHDOG=1");
	kill(run.pid, SIGWINCH);
	expect_traces(&run, "lsr-");
	stood_us = clock_monotonic_us();
	while (recv(run.notify_fd, us, sizeof(us), MSG_DONTWAIT) > 0)
		; /* from before */
	assert_int_equal(poll(&(struct pollfd){.fd = run.notify_fd, .events = POLLIN}, 1,
	                      WATCHDOG_US / 1000 * 2),
	                 0);
	assert_true(clock_monotonic_us() - stood_us > WATCHDOG_US);
	kill(run.pid, SIGWINCH);
	expect_notify(&run, "WATCHDOG=1");
	kill(run.pid, SIGTERM);
	while (expect_notify_or(&run, "WATCHDOG=1", "STOPPING=1"))
		;
	assert_int_equal(run_end(&run, "+Te"), 0);
}

/* Promise: while it drains the watchdog is fed as before. */
static void test_watchdog_in_drain(void **state)
{
	struct program program = {.busy = true};
	struct run run;
	char us[32];

	(void)state;
	snprintf(us, sizeof(us), "%d", WATCHDOG_US);
	setenv("WATCHDOG_USEC", us, 1);
	run = run_start(&program, WORDS(NULL));
	unsetenv("WATCHDOG_USEC");
	expect_notify(&run, "READY=1");
	kill(run.pid, SIGTERM);
	while (expect_notify_or(&run, "WATCHDOG=1", "EXTEND_TIMEOUT_USEC="))
		;
	expect_notify(&run, "WATCHDOG=1");
	kill(run.pid, SIGUSR2);
	assert_int_equal(run_end(&run, "lsrTie"), 0);
}

/* Promise: bad settings exit with 2, a failed start with 1 after everything is released. */
static void test_failures(void **state)
{
	struct program bad_settings = {.load_result = -EINVAL};
	struct program bad_start = {.start_result = -EADDRINUSE};
	struct run run = run_start(&bad_settings, WORDS(NULL));

	(void)state;
	assert_int_equal(run_end(&run, "l"), 2);
	run = run_start(&bad_start, WORDS(NULL));
	assert_int_equal(run_end(&run, "lse"), 1);
}

/* Promise: the command line is judged before anything else happens. */
static void test_command_line(void **state)
{
	struct program program = {0};
	char **good[] = {WORDS("--help", NULL), WORDS("-h", NULL), WORDS("--version", NULL)};
	char **bad[] = {WORDS("--nothing", NULL), WORDS("--given", NULL), WORDS("word", NULL)};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		struct run run = run_start(&program, good[i]);

		assert_int_equal(run_end(&run, ""), 0);
	}
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct run run = run_start(&program, bad[i]);

		assert_int_equal(run_end(&run, ""), 2);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_life),
	        cmocka_unit_test(test_failed_reload),
	        cmocka_unit_test(test_drain),
	        cmocka_unit_test(test_forced),
	        cmocka_unit_test(test_restart),
	        cmocka_unit_test(test_watchdog),
	        cmocka_unit_test(test_watchdog_in_drain),
	        cmocka_unit_test(test_failures),
	        cmocka_unit_test(test_command_line),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
