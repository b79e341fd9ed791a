/* SPDX-License-Identifier: Apache-2.0 */
/*
 * TCP addresses and sockets. Called by the daemons when they listen, accept or
 * connect; nothing here waits but the name lookup.
 *
 * Every socket made here is non-blocking and close-on-exec.
 */
#include "net/address.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "core/cleanup.h"

#define LISTEN_BACKLOG 128
/* A dead path is noticed within about ten seconds, with and without data under way. */
#define USER_TIMEOUT_MS 10000
#define KEEPALIVE_IDLE_S 5
#define KEEPALIVE_INTERVAL_S 2
#define KEEPALIVE_PROBES 3

struct host_port {
	char host[256];
	char port[8];
};

static int port_validate(const char *text, const char *port, bool passive, struct error *err)
{
	char *end;
	unsigned long value;

	if (!*port || strspn(port, "0123456789") != strlen(port) || strlen(port) > 5)
		return error_set(err, -EINVAL,
		                 "address \"%s\": expected a port number after the last colon",
		                 text);
	value = strtoul(port, &end, 10);
	if (value > 65535 || (value == 0 && !passive))
		return error_set(err, -EINVAL, "address \"%s\": port %lu is not in 1..65535", text,
		                 value);
	return 0;
}

/* Split at the last colon; an IPv6 address must stand in brackets. */
static int host_port_parse(const char *text, bool passive, struct host_port *ret, struct error *err)
{
	const char *colon = strrchr(text, ':');
	const char *host = text;
	size_t host_len;

	if (!colon)
		return error_set(err, -EINVAL, "address \"%s\": expected HOST:PORT or [IPV6]:PORT",
		                 text);
	host_len = (size_t)(colon - text);
	if (host_len >= 2 && host[0] == '[' && host[host_len - 1] == ']') {
		host++;
		host_len -= 2;
	} else if (memchr(host, ':', host_len)) {
		return error_set(err, -EINVAL,
		                 "address \"%s\": put an IPv6 address in brackets: [IPV6]:PORT",
		                 text);
	}
	if (host_len >= sizeof(ret->host) || (host_len == 0 && !passive))
		return error_set(err, -EINVAL, "address \"%.300s\": the host name is %s", text,
		                 host_len ? "longer than 255 bytes" : "empty");
	if (port_validate(text, colon + 1, passive, err) < 0)
		return -EINVAL;
	memcpy(ret->host, host, host_len);
	ret->host[host_len] = '\0';
	snprintf(ret->port, sizeof(ret->port), "%.5s", colon + 1);
	return 0;
}

int address_resolve(const char *text, bool passive, struct addrinfo **ret, struct error *err)
{
	struct addrinfo hints = {
	        .ai_family = AF_UNSPEC,
	        .ai_socktype = SOCK_STREAM,
	        .ai_flags = AI_NUMERICSERV | (passive ? AI_PASSIVE : 0),
	};
	struct host_port hp;
	struct addrinfo *list = NULL;
	bool any;
	int r;

	r = host_port_parse(text, passive, &hp, err);
	if (r < 0)
		return r;
	any = passive && (!hp.host[0] || strcmp(hp.host, "*") == 0);
	r = getaddrinfo(any ? NULL : hp.host, hp.port, &hints, &list);
	if (r != 0)
		return error_set(err, -EHOSTUNREACH, "address \"%s\": cannot resolve \"%s\": %s",
		                 text, hp.host,
		                 r == EAI_SYSTEM ? strerror(errno) : gai_strerror(r));
	*ret = list;
	return 0;
}

static int option_set(int fd, int level, int option, int value)
{
	return setsockopt(fd, level, option, &value, sizeof(value)) < 0 ? -errno : 0;
}

int address_tune(int fd)
{
	static const struct {
		int level, option, value;
	} options[] = {
	        {IPPROTO_TCP, TCP_NODELAY, 1},
	        {SOL_SOCKET, SO_KEEPALIVE, 1},
	        {IPPROTO_TCP, TCP_KEEPIDLE, KEEPALIVE_IDLE_S},
	        {IPPROTO_TCP, TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S},
	        {IPPROTO_TCP, TCP_KEEPCNT, KEEPALIVE_PROBES},
	        {IPPROTO_TCP, TCP_USER_TIMEOUT, USER_TIMEOUT_MS},
	};

	for (size_t i = 0; i < ARRAY_SIZE(options); i++) {
		int r = option_set(fd, options[i].level, options[i].option, options[i].value);

		if (r < 0)
			return r;
	}
	return 0;
}

static const char *sockaddr_format(const struct sockaddr *sa, socklen_t len,
                                   char buf[ADDRESS_TEXT_MAX])
{
	char host[256], port[8];

	if (sa->sa_family == AF_UNIX) {
		snprintf(buf, ADDRESS_TEXT_MAX, "unix");
		return buf;
	}
	if (getnameinfo(sa, len, host, sizeof(host), port, sizeof(port),
	                NI_NUMERICHOST | NI_NUMERICSERV) != 0)
		snprintf(buf, ADDRESS_TEXT_MAX, "?");
	else if (strchr(host, ':'))
		snprintf(buf, ADDRESS_TEXT_MAX, "[%s]:%s", host, port);
	else
		snprintf(buf, ADDRESS_TEXT_MAX, "%s:%s", host, port);
	return buf;
}

static int socket_new(const struct addrinfo *ai, struct error *err)
{
	int fd = socket(ai->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return error_set_errno(err, -errno, "cannot make a TCP socket");
	return fd;
}

int address_connect(const struct addrinfo *ai, struct error *err)
{
	char text[ADDRESS_TEXT_MAX];
	_cleanup_close_ int fd = socket_new(ai, err);
	int r;

	if (fd < 0)
		return fd;
	r = address_tune(fd);
	if (r < 0)
		return error_set_errno(err, r, "cannot set the options of a TCP socket");
	if (connect(fd, ai->ai_addr, ai->ai_addrlen) < 0 && errno != EINPROGRESS) {
		r = -errno;
		return error_set_errno(err, r, "cannot connect to %s",
		                       sockaddr_format(ai->ai_addr, ai->ai_addrlen, text));
	}
	return TAKE_FD(fd);
}

int address_listen(const struct addrinfo *ai, struct error *err)
{
	char text[ADDRESS_TEXT_MAX];
	_cleanup_close_ int fd = socket_new(ai, err);
	int r;

	if (fd < 0)
		return fd;
	r = option_set(fd, SOL_SOCKET, SO_REUSEADDR, 1);
	if (r < 0)
		return error_set_errno(err, r, "cannot set the options of a TCP socket");
	if (bind(fd, ai->ai_addr, ai->ai_addrlen) < 0 || listen(fd, LISTEN_BACKLOG) < 0) {
		r = -errno;
		return error_set_errno(err, r, "cannot listen on %s",
		                       sockaddr_format(ai->ai_addr, ai->ai_addrlen, text));
	}
	return TAKE_FD(fd);
}

const char *address_format_peer(int fd, char buf[ADDRESS_TEXT_MAX])
{
	struct sockaddr_storage ss;
	socklen_t len = sizeof(ss);

	if (getpeername(fd, (struct sockaddr *)&ss, &len) < 0) {
		snprintf(buf, ADDRESS_TEXT_MAX, "?");
		return buf;
	}
	return sockaddr_format((struct sockaddr *)&ss, len, buf);
}
