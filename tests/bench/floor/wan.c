/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A link between two network namespaces that delays every packet and loses
 * some: two TUN devices, and this process between them. What netem does, on
 * kernels without it. Prints "{}" when the link is up, and runs until killed.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "floor/floor.h"

#define PACKET_MAX 2048
#define QUEUE_PACKETS \
	65536 /* a power of two; what comes when it is full is dropped, as in routers */

struct packet {
	uint64_t due_ns;
	uint32_t len;
	uint8_t bytes[PACKET_MAX];
};

/* One direction. head and tail count packets and only grow. */
struct direction {
	int from, to;
	struct packet *ring;
	size_t head, tail;
};

static uint64_t random_state = 88172645463325252U;

static unsigned random_permille(void)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return (unsigned)(random_state % 1000);
}

/* As in a shell: this happens once a link. */
static void run_ip(const char *const argv[])
{
	pid_t pid = floor_fork();
	int status = 1;

	if (pid == 0) {
		execvp(argv[0], (char *const *)(const void *)argv);
		_exit(127);
	}
	if (waitpid(pid, &status, 0) < 0 || status != 0) {
		errno = EINVAL;
		floor_die("ip");
	}
}

/* A TUN device in that namespace; this process stays there until the next call. */
static int open_end(const char *netns, const char *inside)
{
	int ns = open(netns, O_RDONLY | O_CLOEXEC), fd;
	struct ifreq request = {.ifr_name = "wan0"};

	if (ns < 0 || setns(ns, CLONE_NEWNET) < 0)
		floor_die(netns);
	close(ns);
	request.ifr_flags = IFF_TUN | IFF_NO_PI;
	fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0 || ioctl(fd, TUNSETIFF, &request) < 0)
		floor_die("/dev/net/tun");
	run_ip((const char *const[]){"ip", "address", "add", inside, "dev", "wan0", NULL});
	run_ip((const char *const[]){"ip", "link", "set", "wan0", "up", "txqueuelen", "10000",
	                             NULL});
	return fd;
}

/* Take what was sent into this end. */
static void take(struct direction *d, const struct floor_options *o)
{
	uint8_t spill[PACKET_MAX];

	for (;;) {
		struct packet *p = &d->ring[d->head % QUEUE_PACKETS];
		bool full = d->head - d->tail == QUEUE_PACKETS;
		ssize_t len = read(d->from, full ? spill : p->bytes, PACKET_MAX);

		if (len <= 0)
			return;
		if (full || random_permille() < o->loss_permille)
			continue;
		p->len = (uint32_t)len;
		p->due_ns = bench_now_ns() + UINT64_C(1000) * o->delay_us;
		d->head++;
	}
}

/* Let out what is due; when the next one is, or far in the future. */
static uint64_t deliver(struct direction *d)
{
	while (d->tail != d->head) {
		struct packet *p = &d->ring[d->tail % QUEUE_PACKETS];

		if (p->due_ns > bench_now_ns())
			return p->due_ns;
		/* A full device loses it, as the network would. */
		if (write(d->to, p->bytes, p->len) < 0 && errno != EAGAIN && errno != ENOBUFS)
			floor_die("tun");
		d->tail++;
	}
	return UINT64_MAX;
}

static void forward(struct direction d[2], const struct floor_options *o)
{
	struct pollfd fds[2] = {{.fd = d[0].from, .events = POLLIN},
	                        {.fd = d[1].from, .events = POLLIN}};

	for (;;) {
		uint64_t a, b, next, now;
		struct timespec wait;

		take(&d[0], o);
		take(&d[1], o);
		a = deliver(&d[0]);
		b = deliver(&d[1]);
		next = a < b ? a : b;
		now = bench_now_ns();
		next = next == UINT64_MAX ? 1000000000 : next > now ? next - now : 0;
		wait = (struct timespec){(time_t)(next / 1000000000), (long)(next % 1000000000)};
		if (ppoll(fds, 2, &wait, NULL) < 0 && errno != EINTR)
			floor_die("ppoll");
	}
}

int floor_wan(const struct floor_options *o)
{
	struct direction d[2];

	if (!o->netns[1] || !o->inside[1])
		return fprintf(stderr, "bench-floor: wan needs two --netns and --inside\n"), 2;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (int i = 0; i < 2; i++)
		d[i] = (struct direction){.from = open_end(o->netns[i], o->inside[i]),
		                          .ring = malloc(QUEUE_PACKETS * sizeof(struct packet))};
	if (!d[0].ring || !d[1].ring)
		floor_die("memory");
	d[0].to = d[1].from;
	d[1].to = d[0].from;
	printf("{}\n");
	fflush(stdout);
	forward(d, o);
	return 0;
}
