/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Promise: on a short path little of the stream waits in the kernel's buffers.
 * (That a long one is filled is measured: tests/bench, the case wan.)
 */
#include "net/tcp_path.h"

#include <arpa/inet.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

/*
 * What 10 Gbit/s carry in 0.86 s: no busy machine holds up a handshake on
 * loopback for so long, so the path is a short one whatever else runs here.
 */
#define BYTES (1 << 30)

static int get(int fd, int level, int option)
{
	int value = -1;
	socklen_t len = sizeof(value);

	assert_return_code(getsockopt(fd, level, option, &value, &len), 0);
	return value;
}

/* The kernel takes no more than this sysctl, and doubles it for its own book-keeping: socket(7). */
static int granted(const char *sysctl)
{
	FILE *f = fopen(sysctl, "re");
	int max = 0;

	assert_non_null(f);
	assert_int_equal(fscanf(f, "%d", &max), 1);
	fclose(f);
	return 2 * (BYTES < max ? BYTES : max);
}

static void connect_pair(int fds[2])
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
	socklen_t len = sizeof(address);
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_return_code(bind(listener, (struct sockaddr *)&address, len), 0);
	assert_return_code(listen(listener, 1), 0);
	assert_return_code(getsockname(listener, (struct sockaddr *)&address, &len), 0);
	fds[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_return_code(connect(fds[0], (struct sockaddr *)&address, len), 0);
	fds[1] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	assert_return_code(fds[1], 0);
	close(listener);
}

static void test_loopback_is_short(void **state)
{
	int fds[2], received = granted("/proc/sys/net/core/rmem_max"),
	            sent = granted("/proc/sys/net/core/wmem_max");

	(void)state;
	connect_pair(fds);
	for (int i = 0; i < 2; i++) {
		/* Else the kernel's choice would pass for ours. */
		assert_int_not_equal(get(fds[i], SOL_SOCKET, SO_RCVBUF), received);
		assert_int_not_equal(get(fds[i], SOL_SOCKET, SO_SNDBUF), sent);
		tcp_path_fit(fds[i], BYTES);
		assert_int_equal(get(fds[i], SOL_SOCKET, SO_RCVBUF), received);
		assert_int_equal(get(fds[i], SOL_SOCKET, SO_SNDBUF), sent);
		assert_int_equal(get(fds[i], IPPROTO_TCP, TCP_NOTSENT_LOWAT), BYTES);
		close(fds[i]);
	}
}

/* A path that may hold more than that: 1 byte is less than any path holds. */
static void test_longer_path_keeps_the_kernels_choice(void **state)
{
	int fds[2], before;

	(void)state;
	connect_pair(fds);
	before = get(fds[0], SOL_SOCKET, SO_RCVBUF);
	tcp_path_fit(fds[0], 1);
	assert_int_equal(get(fds[0], SOL_SOCKET, SO_RCVBUF), before);
	assert_int_equal(get(fds[0], IPPROTO_TCP, TCP_NOTSENT_LOWAT), 1);
	close(fds[0]);
	close(fds[1]);
}

static void test_not_asked_for(void **state)
{
	int fds[2], before;

	(void)state;
	connect_pair(fds);
	before = get(fds[0], SOL_SOCKET, SO_SNDBUF);
	tcp_path_fit(fds[0], 0);
	assert_int_equal(get(fds[0], SOL_SOCKET, SO_SNDBUF), before);
	close(fds[0]);
	close(fds[1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_loopback_is_short),
	        cmocka_unit_test(test_longer_path_keeps_the_kernels_choice),
	        cmocka_unit_test(test_not_asked_for),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
