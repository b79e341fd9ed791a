/* SPDX-License-Identifier: Apache-2.0 */
/* Called by channel.c when a handshake is done. No state; what the kernel refuses is left. */
#include "net/tcp_path.h"

#include <linux/tcp.h>
#include <netinet/in.h>
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

static void set(int fd, int level, int option, int value)
{
	(void)setsockopt(fd, level, option, &value, sizeof(value));
}

void tcp_path_fit(int fd, int bytes)
{
	if (bytes <= 0)
		return;
	set(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, bytes);
	if (path_holds_bytes(fd) > (uint64_t)bytes)
		return;
	set(fd, SOL_SOCKET, SO_SNDBUF, bytes);
	set(fd, SOL_SOCKET, SO_RCVBUF, bytes);
}
