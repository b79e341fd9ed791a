/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Promises: what is kept goes to the service manager as one message with one
 * descriptor, which is not watched there; what would not fit is refused before it is
 * sent, for the manager would drop it without a word; a name is kept once; the barrier
 * does not return before the manager has dealt with all that came before it; without a
 * manager nothing is kept and nothing fails.
 *
 * The manager is a real datagram socket, as systemd's is.
 */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/cleanup.h"
#include "core/fdpass.h"
#include "net/fd_store.h"

static int manager = -1;
static char directory[] = "/tmp/postcopy-fd-store-XXXXXX";

static int manager_start(void **state)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};

	(void)state;
	assert_non_null(mkdtemp(directory));
	snprintf(sun.sun_path, sizeof(sun.sun_path), "%s/notify", directory);
	manager = socket(AF_UNIX, SOCK_DGRAM, 0);
	assert_int_equal(bind(manager, (struct sockaddr *)&sun, sizeof(sun)), 0);
	setenv("NOTIFY_SOCKET", sun.sun_path, 1);
	return 0;
}

static int manager_stop(void **state)
{
	(void)state;
	unlink(getenv("NOTIFY_SOCKET"));
	rmdir(directory);
	close(manager);
	return 0;
}

/* The next message, and its only descriptor (-1: none came). */
static int message(char *buf, size_t size)
{
	int fds[2] = {-1, -1};
	size_t n_fds = 0;
	ssize_t n = fdpass_recv(manager, buf, size - 1, fds, 2, &n_fds, 0);

	assert_true(n > 0);
	assert_true(n_fds <= 1);
	buf[n] = '\0';
	return n_fds ? fds[0] : -1;
}

static void nothing_came(void)
{
	char buf[8];

	assert_int_equal(recv(manager, buf, sizeof(buf), MSG_DONTWAIT), -1);
	assert_int_equal(errno, EAGAIN);
}

static bool same_file(int a, int b)
{
	struct stat sa, sb;

	assert_int_equal(fstat(a, &sa), 0);
	assert_int_equal(fstat(b, &sb), 0);
	return sa.st_dev == sb.st_dev && sa.st_ino == sb.st_ino;
}

static bool has_line(const char *text, const char *line)
{
	const char *at = strstr(text, line);
	size_t len = strlen(line);

	return at && (at == text || at[-1] == '\n') && (at[len] == '\n' || at[len] == '\0');
}

static struct fd_store *store_new(unsigned max)
{
	struct fd_store *s = NULL;

	assert_int_equal(fd_store_new(max, &s), 0);
	return s;
}

static void test_a_message_a_descriptor(void **state)
{
	_cleanup_(cleanup_fd_store_free) struct fd_store *s = store_new(4);
	struct error error = {0};
	char text[256];
	int fds[2], got;

	(void)state;
	assert_int_equal(pipe(fds), 0);
	assert_true(fd_store_present(s));
	assert_int_equal(fd_store_add(s, "id.uffd0", fds[0], &error), 0);
	assert_int_equal(fd_store_used(s), 1);
	got = message(text, sizeof(text));
	assert_true(got >= 0 && same_file(got, fds[0]));
	assert_true(has_line(text, "FDSTORE=1"));
	assert_true(has_line(text, "FDNAME=id.uffd0"));
	assert_true(has_line(text, "FDPOLL=0"));
	fd_store_remove(s, "id.uffd0");
	assert_int_equal(message(text, sizeof(text)), -1);
	assert_true(has_line(text, "FDSTOREREMOVE=1"));
	assert_true(has_line(text, "FDNAME=id.uffd0"));
	assert_int_equal(fd_store_used(s), 0);
	fd_store_remove(s, "id.uffd0");
	nothing_came();
	close(got);
	close(fds[0]);
	close(fds[1]);
}

static void test_full(void **state)
{
	_cleanup_(cleanup_fd_store_free) struct fd_store *s = store_new(2);
	struct error error = {0};
	char text[256];

	(void)state;
	assert_int_equal(fd_store_passed(s, "from before"), 0);
	assert_int_equal(fd_store_check_room(s, 1, &error), 0);
	assert_int_equal(fd_store_check_room(s, 2, &error), -ENOSPC);
	assert_non_null(strstr(error.text, "room for 2 descriptors, 1 are used"));
	assert_non_null(strstr(error.text, "fd_store_max"));
	assert_int_equal(fd_store_add(s, "second", 0, &error), 0);
	close(message(text, sizeof(text)));
	assert_int_equal(fd_store_add(s, "third", 0, &error), -ENOSPC);
	nothing_came();
	fd_store_remove(s, "from before");
	(void)message(text, sizeof(text));
	assert_int_equal(fd_store_add(s, "third", 0, &error), 0);
	close(message(text, sizeof(text)));
}

static void test_names(void **state)
{
	_cleanup_(cleanup_fd_store_free) struct fd_store *s = store_new(9);
	struct error error = {0};
	char text[256], name[FD_STORE_NAME_MAX + 1];

	(void)state;
	assert_int_equal(fd_store_add(s, "one", 0, &error), 0);
	close(message(text, sizeof(text)));
	assert_int_equal(fd_store_add(s, "one", 0, &error), -EEXIST);
	assert_int_equal(fd_store_passed(s, "one"), -EEXIST);
	assert_int_equal(fd_store_add(s, "a:b", 0, &error), -EINVAL);
	memset(name, 'x', sizeof(name) - 1);
	name[sizeof(name) - 1] = '\0';
	assert_int_equal(fd_store_add(s, name, 0, &error), -EINVAL);
	assert_int_equal(fd_store_used(s), 1);
	nothing_came();
}

/* systemd could not start a program with more of them, and the guests were lost. */
static void test_names_fit_the_environment(void **state)
{
	_cleanup_(cleanup_fd_store_free) struct fd_store *s = store_new(100000);
	struct error error = {0};
	char text[256], name[64];
	int r = 0;

	(void)state;
	for (unsigned i = 0; r == 0; i++) {
		snprintf(name, sizeof(name), "6ba7b810-9dad-11d1-80b4-%012u.memory12", i);
		r = fd_store_add(s, name, 0, &error);
		if (r == 0)
			close(message(text, sizeof(text)));
	}
	assert_int_equal(r, -ENOSPC);
	assert_non_null(strstr(error.text, "names"));
	assert_in_range(fd_store_used(s), 2560, 131072 / 46);
	fd_store_remove(s, "6ba7b810-9dad-11d1-80b4-000000000000.memory12");
	(void)message(text, sizeof(text));
	assert_int_equal(fd_store_add(s, name, 0, &error), 0);
	close(message(text, sizeof(text)));
}

/* What cannot be sent is not counted as kept. */
static void test_no_answer(void **state)
{
	_cleanup_(cleanup_fd_store_free) struct fd_store *s = store_new(9);
	_cleanup_free_ char *path = strdup(getenv("NOTIFY_SOCKET"));
	struct error error = {0};

	(void)state;
	setenv("NOTIFY_SOCKET", "/nobody/listens/here", 1);
	assert_int_equal(fd_store_add(s, "one", 0, &error), -ENOENT);
	assert_int_equal(fd_store_used(s), 0);
	assert_true(fd_store_barrier(s, &error) < 0);
	setenv("NOTIFY_SOCKET", path, 1);
}

/* Answers the barrier after it has looked at what came before. */
static void *manager_main(void *arg)
{
	char text[256];
	int *order = arg;

	close(message(text, sizeof(text)));
	order[0] = has_line(text, "FDNAME=before") ? 1 : -1;
	int fd = message(text, sizeof(text));

	order[1] = has_line(text, "BARRIER=1") ? 2 : -1;
	close(fd);
	return NULL;
}

static void test_barrier(void **state)
{
	_cleanup_(cleanup_fd_store_free) struct fd_store *s = store_new(9);
	struct error error = {0};
	int order[2] = {0};
	pthread_t thread;

	(void)state;
	assert_int_equal(pthread_create(&thread, NULL, manager_main, order), 0);
	assert_int_equal(fd_store_add(s, "before", 0, &error), 0);
	assert_int_equal(fd_store_barrier(s, &error), 0);
	pthread_join(thread, NULL);
	assert_int_equal(order[0], 1);
	assert_int_equal(order[1], 2);
}

/* The unit's own number, where systemd tells it. */
static void test_environment(void **state)
{
	static const struct {
		const char *text;
		unsigned expected;
	} cases[] = {{"7", 7}, {"0", 0}, {"", 5}, {"-1", 5}, {"7x", 5}, {"99999999999999", 5}};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		setenv("FDSTORE", cases[i].text, 1);
		_cleanup_(cleanup_fd_store_free) struct fd_store *s = store_new(5);

		assert_int_equal(fd_store_max(s), cases[i].expected);
		assert_int_equal(fd_store_present(s), cases[i].expected > 0);
	}
	unsetenv("FDSTORE");
}

static void test_none(void **state)
{
	_cleanup_free_ char *path = strdup(getenv("NOTIFY_SOCKET"));
	struct error error = {0};

	(void)state;
	unsetenv("NOTIFY_SOCKET");
	_cleanup_(cleanup_fd_store_free) struct fd_store *s = store_new(5);

	setenv("NOTIFY_SOCKET", path, 1);
	assert_false(fd_store_present(s));
	assert_int_equal(fd_store_check_room(s, 100, &error), 0);
	assert_int_equal(fd_store_add(s, "one", 0, &error), 0);
	assert_int_equal(fd_store_barrier(s, &error), 0);
	fd_store_remove(s, "one");
	nothing_came();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_a_message_a_descriptor),
	        cmocka_unit_test(test_full),
	        cmocka_unit_test(test_names),
	        cmocka_unit_test(test_names_fit_the_environment),
	        cmocka_unit_test(test_no_answer),
	        cmocka_unit_test(test_barrier),
	        cmocka_unit_test(test_environment),
	        cmocka_unit_test(test_none),
	};

	return cmocka_run_group_tests(tests, manager_start, manager_stop);
}
