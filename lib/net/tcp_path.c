/* SPDX-License-Identifier: Apache-2.0 */
#include "net/tcp_path.h"

#include <linux/tcp.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

/* 10 Gbit/s: what a path may carry, for what it holds in a round trip. */
#define PATH_BYTES_PER_US 1250

/* The kernel's smallest round-trip time is the path's, without what waits in it. */
static uint64_t path_holds_bytes(int fd)
{
	struct tcp_info info = {0};
	socklen_t len = sizeof(info);

	if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) < 0 ||
	    info.tcpi_min_rtt == UINT32_MAX)
		return 0;
	return (uint64_t)info.tcpi_min_rtt * PATH_BYTES_PER_US;
}

static bool set(int fd, int level, int option, int value)
{
	return setsockopt(fd, level, option, &value, sizeof(value)) == 0;
}

void tcp_path_fit(int fd, int bytes)
{
	if (bytes <= 0)
		return;
	(void)set(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, bytes);
	if (path_holds_bytes(fd) > (uint64_t)bytes)
		return;
	(void)set(fd, SOL_SOCKET, SO_SNDBUF, bytes);
	(void)set(fd, SOL_SOCKET, SO_RCVBUF, bytes);
}
