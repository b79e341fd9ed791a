/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Promises of core/fdpass.h: messages come whole or not at all, in time, and no
 * descriptor is ever leaked (the table of descriptors is counted around each test).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/cleanup.h"
#include "core/clock.h"
#include "core/fdpass.h"
#include "core/uffd_open.h"
#include "support/proc_self.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>

#define SECOND_US UINT64_C(1000000)

static bool skipped; /* CTest is to count it, see main() */
static int pair[2];
static size_t fds_before;
static char dir[] = "/tmp/core_fdpass_test.XXXXXX";

static int make_pair(void **state)
{
	(void)state;
	fds_before = proc_self_n_fds();
	return socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair);
}

static int check_no_leak(void **state)
{
	(void)state;
	close_fd(&pair[0]);
	close_fd(&pair[1]);
	return proc_self_n_fds() == fds_before ? 0 : -1;
}

static int memfd_with(const char *text)
{
	int fd = memfd_create("test", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
	return fd;
}

static void assert_holds(int fd, const char *text)
{
	char buf[64] = "";

	assert_int_equal(pread(fd, buf, sizeof(buf) - 1, 0), strlen(text));
	assert_string_equal(buf, text);
}

static void descriptors_come_with_the_message_in_order(void **state)
{
	int sent[2] = {memfd_with("one"), memfd_with("two")};
	int got[4] = {-1, -1, -1, -1};
	uint8_t *buf = NULL;
	size_t len = 0, n = 99;

	(void)state;
	assert_int_equal(fdpass_send_message(pair[0], "hello", 5, sent, 2), 0);
	close(sent[0]);
	close(sent[1]);
	assert_int_equal(
	        fdpass_recv_message(pair[1], &buf, &len, got, ARRAY_SIZE(got), &n, SECOND_US), 0);
	assert_int_equal(len, 5);
	assert_memory_equal(buf, "hello", 5);
	assert_int_equal(n, 2);
	assert_holds(got[0], "one");
	assert_holds(got[1], "two");
	assert_true(fcntl(got[0], F_GETFD) & FD_CLOEXEC);
	close(got[0]);
	close(got[1]);
	free(buf);
}

static void messages_keep_their_borders_and_descriptors(void **state)
{
	int fd = memfd_with("second's");
	int got[1];
	uint8_t *buf;
	size_t len, n;

	(void)state;
	assert_int_equal(fdpass_send_message(pair[0], "first", 5, NULL, 0), 0);
	assert_int_equal(fdpass_send_message(pair[0], "second", 6, &fd, 1), 0);
	assert_int_equal(fdpass_send_message(pair[0], "", 0, NULL, 0), 0);
	close(fd);
	assert_int_equal(fdpass_recv_message(pair[1], &buf, &len, got, 1, &n, SECOND_US), 0);
	assert_int_equal(len, 5);
	assert_int_equal(n, 0);
	free(buf);
	assert_int_equal(fdpass_recv_message(pair[1], &buf, &len, got, 1, &n, SECOND_US), 0);
	assert_int_equal(len, 6);
	assert_int_equal(n, 1);
	assert_holds(got[0], "second's");
	close(got[0]);
	free(buf);
	assert_int_equal(fdpass_recv_message(pair[1], &buf, &len, NULL, 0, NULL, SECOND_US), 0);
	assert_int_equal(len, 0);
	free(buf);
}

static void too_many_descriptors_are_closed(void **state)
{
	int sent[3] = {memfd_with("1"), memfd_with("2"), memfd_with("3")};
	int got[2] = {-7, -7};
	uint8_t *buf = NULL;
	size_t len, n = 99;
	char byte;

	(void)state;
	assert_int_equal(fdpass_send_message(pair[0], "x", 1, sent, 3), 0);
	assert_int_equal(fdpass_recv_message(pair[1], &buf, &len, got, 2, &n, SECOND_US), -E2BIG);
	assert_null(buf);
	assert_int_equal(n, 99);
	assert_int_equal(fdpass_send(pair[0], "y", 1, sent, 3, 0), 1);
	assert_int_equal(fdpass_recv(pair[1], &byte, 1, got, 2, &n, 0), -E2BIG);
	assert_int_equal(got[0], -7);
	assert_int_equal(n, 99);
	for (int i = 0; i < 3; i++)
		close(sent[i]);
	/* What is still open is counted by check_no_leak(). */
}

/* The most that the kernel passes, more than any honest peer of ours sends. */
static void a_flood_of_descriptors_is_closed(void **state)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(253 * sizeof(int))];
	} control = {0};
	struct iovec iov = {.iov_base = (char[]){"z"}, .iov_len = 1};
	struct msghdr msg = {.msg_iov = &iov,
	                     .msg_iovlen = 1,
	                     .msg_control = &control,
	                     .msg_controllen = sizeof(control)};
	struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);
	int got[FDPASS_FDS_MAX];
	size_t n;
	char byte;

	(void)state;
	cmsg->cmsg_level = SOL_SOCKET;
	cmsg->cmsg_type = SCM_RIGHTS;
	cmsg->cmsg_len = CMSG_LEN(253 * sizeof(int));
	for (size_t i = 0; i < 253; i++)
		memcpy(CMSG_DATA(cmsg) + i * sizeof(int), &pair[0], sizeof(int));
	assert_int_equal(sendmsg(pair[0], &msg, 0), 1);
	assert_int_equal(fdpass_recv(pair[1], &byte, 1, got, FDPASS_FDS_MAX, &n, 0), -E2BIG);
	assert_int_equal(fdpass_send(pair[0], "x", 1, got, FDPASS_FDS_MAX + 1, 0), -E2BIG);
	assert_int_equal(fdpass_send(pair[0], "", 0, pair, 1, 0), -EINVAL);
}

static void unexpected_descriptors_are_closed_and_the_message_kept(void **state)
{
	int fd = memfd_with("x");
	uint8_t *buf;
	size_t len;

	(void)state;
	assert_int_equal(fdpass_send_message(pair[0], "hello", 5, &fd, 1), 0);
	close(fd);
	assert_int_equal(fdpass_recv_message(pair[1], &buf, &len, NULL, 0, NULL, SECOND_US), 0);
	assert_int_equal(len, 5);
	free(buf);
}

static void a_truncated_message_is_a_reset(void **state)
{
	static const uint8_t half[] = {10, 0, 0, 0, 'a', 'b'};
	int fd = memfd_with("x");
	uint8_t *buf = NULL;
	size_t len, n;
	int got[1];

	(void)state;
	assert_int_equal(fdpass_send(pair[0], half, sizeof(half), &fd, 1, 0), sizeof(half));
	close(fd);
	close_fd(&pair[0]);
	assert_int_equal(fdpass_recv_message(pair[1], &buf, &len, got, 1, &n, SECOND_US),
	                 -ECONNRESET);
	assert_int_equal(fdpass_recv_message(pair[1], &buf, &len, got, 1, &n, SECOND_US),
	                 -ECONNRESET);
	assert_null(buf);
	assert_int_equal(fdpass_send_message(pair[1], "x", 1, NULL, 0), -EPIPE); /* no SIGPIPE */
}

static void oversize_is_refused_on_both_sides(void **state)
{
	const uint32_t prefix = FDPASS_MESSAGE_MAX + 1;
	static uint8_t big[FDPASS_MESSAGE_MAX + 1];
	uint8_t *buf = NULL;
	size_t len;

	(void)state;
	assert_int_equal(fdpass_send_message(pair[0], big, sizeof(big), NULL, 0), -EMSGSIZE);
	assert_int_equal(send(pair[0], &prefix, 4, 0), 4);
	assert_int_equal(fdpass_recv_message(pair[1], &buf, &len, NULL, 0, NULL, SECOND_US),
	                 -EMSGSIZE);
	assert_null(buf);
}

static void silence_times_out(void **state)
{
	static const uint8_t half[] = {10, 0, 0, 0, 'a'};
	uint64_t start_us = clock_monotonic_us();
	uint8_t *buf = NULL;
	size_t len;

	(void)state;
	assert_int_equal(fdpass_recv_message(pair[1], &buf, &len, NULL, 0, NULL, 0), -ETIMEDOUT);
	assert_int_equal(send(pair[0], half, sizeof(half), 0), sizeof(half));
	assert_int_equal(fdpass_recv_message(pair[1], &buf, &len, NULL, 0, NULL, 20000),
	                 -ETIMEDOUT);
	assert_true(clock_monotonic_us() - start_us >= 20000);
	assert_null(buf);
}

struct sender {
	const uint8_t *data;
	size_t len;
	int fd;
	int result;
};

static void *send_thread(void *arg)
{
	struct sender *s = arg;

	s->result = fdpass_send_message(pair[0], s->data, s->len, &s->fd, 1);
	return NULL;
}

/* Far beyond the socket's buffer: both sides go on after partial calls, also non-blocking ones. */
static void a_large_message_goes_through_small_buffers(void **state)
{
	static uint8_t data[FDPASS_MESSAGE_MAX];
	struct sender sender = {.data = data, .len = sizeof(data), .fd = memfd_with("big")};
	uint8_t *buf;
	size_t len, n;
	int got[1], small = 4096;
	pthread_t thread;

	(void)state;
	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)(i * 7 + i / 256);
	assert_int_equal(setsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &small, sizeof(small)), 0);
	assert_int_equal(fcntl(pair[0], F_SETFL, O_NONBLOCK), 0);
	assert_int_equal(pthread_create(&thread, NULL, send_thread, &sender), 0);
	assert_int_equal(fdpass_recv_message(pair[1], &buf, &len, got, 1, &n, UINT64_MAX), 0);
	pthread_join(thread, NULL);
	assert_int_equal(sender.result, 0);
	assert_int_equal(len, sizeof(data));
	assert_memory_equal(buf, data, sizeof(data));
	assert_int_equal(n, 1);
	assert_holds(got[0], "big");
	close(got[0]);
	close(sender.fd);
	free(buf);
}

static void descriptors_are_sent_once_however_many_calls_it_takes(void **state)
{
	static uint8_t data[FDPASS_MESSAGE_MAX];
	struct sender sender = {.data = data, .len = sizeof(data), .fd = memfd_with("once")};
	size_t n_fds = 0;
	pthread_t thread;
	int small = 4096;

	(void)state;
	assert_int_equal(setsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &small, sizeof(small)), 0);
	assert_int_equal(fcntl(pair[0], F_SETFL, O_NONBLOCK), 0); /* partial sends */
	assert_int_equal(pthread_create(&thread, NULL, send_thread, &sender), 0);
	for (size_t done = 0; done < sizeof(data) + 4;) {
		static uint8_t buf[65536];
		int got[1];
		size_t n_got = 0;
		ssize_t n = fdpass_recv(pair[1], buf, sizeof(buf), got, 1, &n_got, 0);

		assert_true(n > 0);
		if (n_got > 0)
			close(got[0]);
		n_fds += n_got;
		done += (size_t)n;
	}
	pthread_join(thread, NULL);
	assert_int_equal(sender.result, 0);
	assert_int_equal(n_fds, 1);
	close(sender.fd);
}

static void end_of_stream_is_zero_bytes(void **state)
{
	size_t n = 99;
	char byte;

	(void)state;
	assert_int_equal(fdpass_recv(pair[1], &byte, 1, NULL, 0, &n, MSG_DONTWAIT), -EAGAIN);
	assert_int_equal(n, 99);
	close_fd(&pair[0]);
	assert_int_equal(fdpass_recv(pair[1], &byte, 1, NULL, 0, &n, 0), 0);
	assert_int_equal(n, 0);
}

static const char *in_dir(const char *name)
{
	static char path[100];

	(void)snprintf(path, sizeof(path), "%s/%s", dir, name);
	return path;
}

static void listens_with_its_mode_and_accepts(void **state)
{
	const char *path = in_dir("s");
	struct stat st;
	int listener = unix_listen(path, 0620, NULL);
	int client = unix_connect(path, NULL);
	int server = accept(listener, NULL, NULL);

	(void)state;
	assert_true(listener >= 0 && client >= 0 && server >= 0);
	assert_true(fcntl(listener, F_GETFL) & O_NONBLOCK);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0620);
	close(server);
	close(client);
	close(listener);
	unlink(path);
}

static void replaces_a_dead_socket_and_no_living_one(void **state)
{
	const char *path = in_dir("s");
	int first = unix_listen(path, 0600, NULL);
	struct error err = {0};

	(void)state;
	assert_true(first >= 0);
	assert_int_equal(unix_listen(path, 0600, &err), -EADDRINUSE);
	assert_non_null(strstr(err.text, path));
	assert_non_null(strstr(err.text, "another process listens"));
	int client = unix_connect(path, NULL); /* the living one is still there */

	assert_true(client >= 0);
	close(client);
	close(first);
	int second = unix_listen(path, 0600, &err);

	assert_true(second >= 0);
	close(second);
	unlink(path);
}

static void never_removes_what_is_no_socket(void **state)
{
	const char *path = in_dir("file");
	int fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	struct error err = {0};

	(void)state;
	assert_true(fd >= 0);
	close(fd);
	assert_int_equal(unix_listen(path, 0600, &err), -EADDRINUSE);
	assert_non_null(strstr(err.text, "is not a socket"));
	assert_int_equal(unlink(path), 0);
}

static void abstract_names_work(void **state)
{
	char name[64];
	int listener, client;

	(void)state;
	(void)snprintf(name, sizeof(name), "@core-fdpass-test-%d", getpid());
	listener = unix_listen(name, 0600, NULL);
	assert_true(listener >= 0);
	client = unix_connect(name, NULL);
	assert_true(client >= 0);
	assert_int_equal(unix_listen(name, 0600, NULL), -EADDRINUSE);
	close(client);
	/* The name is these bytes and no more: other programs reach it. */
	struct sockaddr_un sun = {.sun_family = AF_UNIX};

	memcpy(sun.sun_path + 1, name + 1, strlen(name) - 1);
	client = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(
	        connect(client, (struct sockaddr *)&sun,
	                (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(name))),
	        0);
	close(client);
	close(listener);
	assert_int_equal(unix_connect(name, NULL), -ECONNREFUSED);
}

static void bad_paths_are_explained(void **state)
{
	struct error err = {0};
	char path[200];

	(void)state;
	memset(path, 'p', sizeof(path) - 1);
	path[sizeof(path) - 1] = '\0';
	assert_int_equal(unix_connect(path, &err), -ENAMETOOLONG);
	assert_non_null(strstr(err.text, "199 characters are too long"));
	assert_int_equal(unix_listen("", 0600, &err), -EINVAL);
	assert_int_equal(unix_connect(in_dir("none"), &err), -ENOENT);
	assert_non_null(strstr(err.text, "cannot connect to "));
	assert_non_null(strstr(err.text, "No such file"));
}

static void memory_files_are_recognized(void **state)
{
	int memfd = memfd_with("x");
	int huge = memfd_create("huge", MFD_CLOEXEC | MFD_HUGETLB);
	int proc = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
	int directory = open("/dev/shm", O_RDONLY | O_CLOEXEC);

	(void)state;
	assert_true(fd_is_memory_file(memfd));
	if (huge >= 0) /* a kernel without hugetlbfs has none to tell */
		assert_true(fd_is_memory_file(huge));
	assert_false(fd_is_memory_file(proc));
	assert_false(fd_is_memory_file(directory)); /* on tmpfs, but no file */
	assert_false(fd_is_memory_file(pair[0]));
	assert_false(fd_is_memory_file(-1));
	close_fd(&memfd);
	close_fd(&huge);
	close_fd(&proc);
	close_fd(&directory);
}

static void a_userfaultfd_is_recognized(void **state)
{
	int uffd = uffd_open();

	(void)state;
	if (uffd < 0) {
		print_message("skipped: userfaultfd needs root or access to /dev/userfaultfd\n");
		skipped = true;
		skip();
	}
	assert_true(fd_is_userfaultfd(uffd));
	assert_false(fd_is_memory_file(uffd));
	close(uffd);
}

static void what_is_no_userfaultfd_is_refused(void **state)
{
	int memfd = memfd_with("x");
	/* Another one of the anonymous inodes, and a file that tries to look like one. */
	int epoll = (int)syscall(SYS_epoll_create1, O_CLOEXEC);
	int forged = memfd_create("anon_inode:[userfaultfd]", MFD_CLOEXEC);
	int as_long = memfd_create("1234567", MFD_CLOEXEC); /* "/memfd:1234567 (deleted)" */

	(void)state;
	assert_false(fd_is_userfaultfd(memfd));
	assert_false(fd_is_userfaultfd(epoll));
	assert_false(fd_is_userfaultfd(forged));
	assert_false(fd_is_userfaultfd(as_long));
	assert_false(fd_is_userfaultfd(pair[0]));
	assert_false(fd_is_userfaultfd(-1));
	close(memfd);
	close(epoll);
	close(forged);
	close(as_long);
}

static int make_dir(void **state)
{
	(void)state;
	return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state)
{
	(void)state;
	return rmdir(dir); /* fails, and the group with it, when a test left a file */
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, make_pair, check_no_leak)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        TEST(descriptors_come_with_the_message_in_order),
	        TEST(messages_keep_their_borders_and_descriptors),
	        TEST(too_many_descriptors_are_closed),
	        TEST(a_flood_of_descriptors_is_closed),
	        TEST(unexpected_descriptors_are_closed_and_the_message_kept),
	        TEST(a_truncated_message_is_a_reset),
	        TEST(oversize_is_refused_on_both_sides),
	        TEST(silence_times_out),
	        TEST(a_large_message_goes_through_small_buffers),
	        TEST(descriptors_are_sent_once_however_many_calls_it_takes),
	        TEST(end_of_stream_is_zero_bytes),
	        TEST(listens_with_its_mode_and_accepts),
	        TEST(replaces_a_dead_socket_and_no_living_one),
	        TEST(never_removes_what_is_no_socket),
	        TEST(abstract_names_work),
	        TEST(bad_paths_are_explained),
	        TEST(memory_files_are_recognized),
	        TEST(a_userfaultfd_is_recognized),
	        TEST(what_is_no_userfaultfd_is_refused),
	};

	int failed = cmocka_run_group_tests(tests, make_dir, remove_dir);

	return failed == 0 && skipped ? 77 : failed;
}
