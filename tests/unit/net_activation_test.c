/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Promises: what the service manager passed is given out once, by its name; a
 * listener is checked to be one; what nobody takes stays open and is named in the
 * log; a passed socket's file and mode stay as they are; without a service manager
 * everything is as if it did not exist.
 *
 * Each case runs in a child that has the descriptors at 3, 4 ... and the
 * environment, as the service manager makes them.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/cleanup.h"
#include "core/fdpass.h"
#include "core/log.h"
#include "net/activation.h"

#define FIRST_FD 3

static char directory[] = "/tmp/postcopy-activation-XXXXXX";

/* In the child: the line that failed becomes its complaint. */
#define NEED(condition)                                                         \
	do {                                                                    \
		if (!(condition)) {                                             \
			fprintf(stderr, "line %d: %s\n", __LINE__, #condition); \
			_exit(1);                                               \
		}                                                               \
	} while (0)

static const char *path_of(const char *name)
{
	static char path[128];

	snprintf(path, sizeof(path), "%s/%s", directory, name);
	return path;
}

/* A socket as a .socket unit makes it: not ours to name, and blocking. */
static int socket_made(const char *name, int type, bool listening)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, type, 0);

	snprintf(sun.sun_path, sizeof(sun.sun_path), "%s/%s", directory, name);
	unlink(sun.sun_path);
	NEED(fd >= 0 && bind(fd, (struct sockaddr *)&sun, sizeof(sun)) == 0);
	NEED(chmod(sun.sun_path, 0604) == 0);
	NEED(!listening || listen(fd, 8) == 0);
	return fd;
}

/* They go to 3, 4 ...; the environment says so. */
static void pass(const int *fds, int n, const char *names)
{
	char text[16];
	int kept[8];

	for (int i = 0; i < n; i++)
		kept[i] = fcntl(fds[i], F_DUPFD, 64);
	for (int i = 0; i < n; i++)
		NEED(dup2(kept[i], FIRST_FD + i) == FIRST_FD + i && close(kept[i]) == 0);
	snprintf(text, sizeof(text), "%d", n);
	setenv("LISTEN_FDS", text, 1);
	snprintf(text, sizeof(text), "%d", (int)getpid());
	setenv("LISTEN_PID", text, 1);
	if (names)
		setenv("LISTEN_FDNAMES", names, 1);
	else
		unsetenv("LISTEN_FDNAMES");
}

static void in_child(void (*fn)(void))
{
	int status;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0) {
		log_init("test", LOG_TARGET_STDERR);
		fn();
		fflush(NULL);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

static void child_names(void)
{
	struct error err = {0};
	struct activated *a;
	bool own = true;
	int fd;

	pass((int[]){memfd_create("x", 0), socket_made("control", SOCK_STREAM, true),
	             memfd_create("y", 0), socket_made("status", SOCK_STREAM, true)},
	     4, "id.state:control:id.uffd:status");
	NEED(activation_begin(&err) == 0);
	NEED(!getenv("LISTEN_FDS") && !getenv("LISTEN_PID") && !getenv("LISTEN_FDNAMES"));
	for (int i = FIRST_FD; i < FIRST_FD + 4; i++)
		NEED(fcntl(i, F_GETFD) == FD_CLOEXEC);

	NEED(activation_take_listener("attach", &err) == -ENOENT);
	fd = activation_listen("control", path_of("elsewhere"), 0600, &own, &err);
	NEED(fd == FIRST_FD + 1 && !own && fcntl(fd, F_GETFL) & O_NONBLOCK);
	NEED(access(path_of("elsewhere"), F_OK) < 0);
	NEED(activation_take_listener("control", &err) == -ENOENT);

	a = activation_next(NULL);
	NEED(a && strcmp(activated_name(a), "id.state") == 0 && activated_fd(a) == FIRST_FD);
	NEED(activated_take(a) == FIRST_FD && activated_fd(a) == -1);
	a = activation_next(a);
	NEED(a && strcmp(activated_name(a), "id.uffd") == 0);
	a = activation_next(a);
	NEED(a && strcmp(activated_name(a), "status") == 0 && !activation_next(a));
	NEED(strcmp(activated_name(activation_next(NULL)), "id.uffd") == 0);
	NEED(activation_take_listener("status", &err) == FIRST_FD + 3);
	activation_end();
	NEED(!activation_next(NULL));
}

static void test_each_is_taken_once_by_its_name(void **state)
{
	(void)state;
	in_child(child_names);
}

static void child_left(void)
{
	struct error err = {0};
	char text[1024] = "";
	int out, err_fd = fcntl(STDERR_FILENO, F_DUPFD, 64);

	pass((int[]){memfd_create("x", 0), memfd_create("y", 0)}, 2, "left.behind:taken");
	out = memfd_create("stderr", 0);
	NEED(activation_begin(&err) == 0);
	NEED(activated_take(activation_next(activation_next(NULL))) == FIRST_FD + 1);
	dup2(out, STDERR_FILENO);
	activation_end();
	dup2(err_fd, STDERR_FILENO);
	NEED(pread(out, text, sizeof(text) - 1, 0) > 0);
	NEED(strstr(text, "left.behind") && strstr(text, "ignoring") && !strstr(text, "taken"));
	NEED(fcntl(FIRST_FD, F_GETFD) >= 0);
}

static void test_what_nobody_takes_is_told_and_left_open(void **state)
{
	(void)state;
	in_child(child_left);
}

static void refused(const char *name, const char *why)
{
	struct error err = {0};
	bool own;

	NEED(activation_listen(name, path_of("own"), 0600, &own, &err) == -EINVAL);
	NEED(strstr(err.text, name) && strstr(err.text, why) && strstr(err.text, "ListenStream="));
	NEED(access(path_of("own"), F_OK) < 0); /* no second socket beside the wrong one */
}

static void child_wrong_kinds(void)
{
	struct error err = {0};

	pass((int[]){memfd_create("x", 0), socket_made("a", SOCK_STREAM, false),
	             socket_made("b", SOCK_DGRAM, false), socket_made("c", SOCK_SEQPACKET, true),
	             socket(AF_INET, SOCK_STREAM, 0)},
	     5, "file:idle:datagram:packet:inet");
	NEED(listen(FIRST_FD + 4, 1) == 0);
	NEED(activation_begin(&err) == 0);
	refused("file", "no socket");
	refused("idle", "not listening");
	refused("datagram", "type 2");
	refused("packet", "type 5");
	refused("inet", "family 2");
	activation_end();
}

static void test_what_is_no_listener_is_refused(void **state)
{
	(void)state;
	in_child(child_wrong_kinds);
}

static void child_nothing(void)
{
	struct error err = {0};
	struct stat st;
	bool own = false;
	int fd;

	unsetenv("LISTEN_FDS");
	unsetenv("LISTEN_PID");
	NEED(activation_begin(&err) == 0 && !activation_next(NULL));
	fd = activation_listen("control", path_of("own"), 0620, &own, &err);
	NEED(fd >= 0 && own);
	NEED(stat(path_of("own"), &st) == 0 && (st.st_mode & 0777) == 0620);
	NEED(close(fd) == 0 && unlink(path_of("own")) == 0);
	activation_end();
}

static void test_without_a_service_manager(void **state)
{
	(void)state;
	in_child(child_nothing);
}

static void child_of_another(void)
{
	struct error err = {0};

	pass((int[]){socket_made("control", SOCK_STREAM, true)}, 1, "control");
	setenv("LISTEN_PID", "1", 1);
	NEED(activation_begin(&err) == 0 && !activation_next(NULL));
}

static void test_what_is_meant_for_another_process(void **state)
{
	(void)state;
	in_child(child_of_another);
}

static void child_contradiction(void)
{
	struct error err = {0};

	pass((int[]){memfd_create("x", 0), memfd_create("y", 0)}, 2, "only-one");
	NEED(activation_begin(&err) == -EINVAL && strstr(err.text, "LISTEN_FDNAMES"));
	NEED(!activation_next(NULL));
}

static void test_names_that_do_not_fit(void **state)
{
	(void)state;
	in_child(child_contradiction);
}

static void child_file_stays(void)
{
	struct error err = {0};
	struct stat st;
	bool own = true;

	pass((int[]){socket_made("control", SOCK_STREAM, true)}, 1, "control");
	NEED(activation_begin(&err) == 0);
	NEED(activation_listen("control", path_of("control"), 0660, &own, &err) == FIRST_FD);
	activation_end();
	NEED(!own && stat(path_of("control"), &st) == 0 && (st.st_mode & 0777) == 0604);
	NEED(unix_connect(path_of("control"), &err) >= 0);
}

static void test_the_file_and_its_mode_stay(void **state)
{
	(void)state;
	in_child(child_file_stays);
}

static int make_directory(void **state)
{
	(void)state;
	return mkdtemp(directory) ? 0 : -1;
}

static int remove_directory(void **state)
{
	static const char *const names[] = {"control", "status", "a", "b", "c"};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		unlink(path_of(names[i]));
	return rmdir(directory);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_each_is_taken_once_by_its_name),
	        cmocka_unit_test(test_what_nobody_takes_is_told_and_left_open),
	        cmocka_unit_test(test_what_is_no_listener_is_refused),
	        cmocka_unit_test(test_without_a_service_manager),
	        cmocka_unit_test(test_what_is_meant_for_another_process),
	        cmocka_unit_test(test_names_that_do_not_fit),
	        cmocka_unit_test(test_the_file_and_its_mode_stay),
	};

	return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
