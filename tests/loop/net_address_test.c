/* SPDX-License-Identifier: Apache-2.0 */
/* Addresses: what is accepted, what is refused with which words, and the sockets' options. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "core/cleanup.h"
#include "net/address.h"

static void good_addresses(void **state)
{
	static const struct {
		const char *text;
		bool passive;
		int family;
		unsigned port;
	} good[] = {
	        {"127.0.0.1:4711", false, AF_INET, 4711},
	        {"[::1]:4711", false, AF_INET6, 4711},
	        {"0.0.0.0:0", true, AF_INET, 0},
	        {"[::]:65535", true, AF_INET6, 65535},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		struct addrinfo *ai;
		struct error err = {0};

		assert_int_equal(address_resolve(good[i].text, good[i].passive, &ai, &err), 0);
		assert_int_equal(ai->ai_family, good[i].family);
		/* The port is at the same place for both families. */
		assert_int_equal(ntohs(((struct sockaddr_in *)ai->ai_addr)->sin_port),
		                 good[i].port);
		freeaddrinfo(ai);
	}
}

static void bad_addresses_say_why(void **state)
{
	static const struct {
		const char *text;
		bool passive;
		const char *why;
	} bad[] = {
	        {"", false, "expected HOST:PORT"},
	        {"host", false, "expected HOST:PORT"},
	        {"host:", false, "expected a port number"},
	        {"host:http", false, "expected a port number"},
	        {"host:-1", false, "expected a port number"},
	        {"host:123456", false, "expected a port number"},
	        {"host:65536", false, "not in 1..65535"},
	        {"host:0", false, "not in 1..65535"},
	        {":4711", false, "host name is empty"},
	        {"::1:4711", false, "in brackets"},
	};
	char long_name[400];
	struct addrinfo *ai = NULL;
	struct error err = {0};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		assert_int_equal(address_resolve(bad[i].text, bad[i].passive, &ai, &err), -EINVAL);
		if (!strstr(err.text, bad[i].why))
			fail_msg("\"%s\": %s", bad[i].text, err.text);
		assert_null(ai);
	}
	memset(long_name, 'a', sizeof(long_name));
	memcpy(long_name + sizeof(long_name) - 4, ":12", 4);
	assert_int_equal(address_resolve(long_name, false, &ai, &err), -EINVAL);
	assert_non_null(strstr(err.text, "longer than 255"));
	assert_int_equal(address_resolve("[::zz]:1", false, &ai, &err), -EHOSTUNREACH);
	assert_non_null(strstr(err.text, "cannot resolve \"::zz\""));
}

static int option_get(int fd, int level, int option)
{
	int value = -1;
	socklen_t len = sizeof(value);

	assert_int_equal(getsockopt(fd, level, option, &value, &len), 0);
	return value;
}

static void sockets_are_tuned_and_named(void **state)
{
	char text[ADDRESS_TEXT_MAX];
	struct sockaddr_storage ss;
	socklen_t len = sizeof(ss);
	struct addrinfo *ai, to;
	struct error err = {0};
	_cleanup_close_ int listener = -1, client = -1, accepted = -1;
	struct pollfd ready;

	(void)state;
	assert_int_equal(address_resolve("127.0.0.1:0", true, &ai, &err), 0);
	listener = address_listen(ai, &err);
	assert_true(listener >= 0);
	assert_int_equal(getsockname(listener, (struct sockaddr *)&ss, &len), 0);
	to = *ai;
	to.ai_addr = (struct sockaddr *)&ss;
	to.ai_addrlen = len;
	assert_int_equal(address_listen(&to, &err), -EADDRINUSE);
	assert_non_null(strstr(err.text, "cannot listen on 127.0.0.1:"));
	client = address_connect(&to, &err);
	assert_true(client >= 0);
	ready = (struct pollfd){.fd = listener, .events = POLLIN};
	assert_int_equal(poll(&ready, 1, 5000), 1);
	accepted = accept(listener, NULL, NULL);
	assert_int_equal(option_get(client, IPPROTO_TCP, TCP_NODELAY), 1);
	assert_int_equal(option_get(client, SOL_SOCKET, SO_KEEPALIVE), 1);
	assert_int_equal(option_get(client, IPPROTO_TCP, TCP_USER_TIMEOUT), 10000);
	assert_true(fcntl(client, F_GETFL) & O_NONBLOCK);
	assert_true(fcntl(client, F_GETFD) & FD_CLOEXEC);
	snprintf(text, sizeof(text), "127.0.0.1:%u", ntohs(((struct sockaddr_in *)&ss)->sin_port));
	char peer[ADDRESS_TEXT_MAX];
	assert_string_equal(address_format_peer(client, peer), text);
	assert_string_equal(address_format_peer(listener, peer), "?");
	freeaddrinfo(ai);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(good_addresses),
	        cmocka_unit_test(bad_addresses_say_why),
	        cmocka_unit_test(sockets_are_tuned_and_named),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
