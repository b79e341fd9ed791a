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
#include "net/service.h"

#define NOTIFY_TIMEOUT_MS 10000

struct program {
	int trace_fd;
	int load_result, start_result, reload_result;
	const char *given; /* --given */
	struct loop *loop;
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

static int start(void *user, struct loop **ret_loop, struct error *err)
{
	struct program *p = user;

	trace(p, 's');
	if (p->start_result < 0)
		return error_set(err, p->start_result, "it cannot start");
	if (loop_new(&p->loop) < 0)
		return error_set(err, -ENOMEM, "no loop");
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

static void stop(void *user, const char *signal_name)
{
	trace(user, *signal_name);
}

static void end(void *user)
{
	struct program *p = user;

	trace(p, 'e');
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

static void expect_notify(const struct run *run, const char *expected)
{
	struct pollfd p = {.fd = run->notify_fd, .events = POLLIN};
	char text[256] = "";

	assert_int_equal(poll(&p, 1, NOTIFY_TIMEOUT_MS), 1);
	assert_true(recv(run->notify_fd, text, sizeof(text) - 1, 0) > 0);
	if (strncmp(text, expected, strlen(expected)) != 0)
		fail_msg("%s instead of %s", text, expected);
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
	        cmocka_unit_test(test_failures),
	        cmocka_unit_test(test_command_line),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
