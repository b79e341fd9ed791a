/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Promises of a lane whose source is a name: it is found as this host finds
 * names, and nobody waits for a name server that does not answer.
 *
 * The program has a network and an /etc of its own, whose one name server is
 * the test.
 */
#include <net/if.h>
#include <semaphore.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include "loop/daemon_lane_source.h"
#include "support/proc_self.h"

#define DNS_PORT 53
#define ANSWER_NXDOMAIN 3

/* A file for path, which programs in this mount namespace find there. */
static bool file_bind(const char *path, const char *text)
{
	char name[] = "/tmp/lookup-test-XXXXXX";
	int fd = mkstemp(name);
	bool done;

	must(fd >= 0);
	must(write(fd, text, strlen(text)) == (ssize_t)strlen(text));
	must(fchmod(fd, 0644) == 0);
	done = mount(name, path, NULL, MS_BIND, NULL) == 0;
	close(fd);
	unlink(name);
	return done;
}

static bool loopback_up(void)
{
	struct ifreq request = {.ifr_name = "lo"};
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	bool done;

	request.ifr_flags = IFF_UP;
	done = ioctl(fd, SIOCSIFFLAGS, &request) == 0;
	close(fd);
	return done;
}

/* Before there is any other thread. */
static bool own_network(void)
{
	if (unshare(CLONE_NEWNS | CLONE_NEWNET) == 0 &&
	    mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 && loopback_up() &&
	    file_bind("/etc/nsswitch.conf", "hosts: files dns\n") &&
	    file_bind("/etc/hosts", "127.0.0.1 the-source\n") &&
	    /* longer than the test may take: only an answer ends a look-up */
	    file_bind("/etc/resolv.conf", "nameserver 127.0.0.1\noptions timeout:30 attempts:5\n"))
		return true;
	print_message("SKIP: no network and mount namespace of its own: %s\n", strerror(errno));
	return false;
}

/* ---- the name server ---- */

struct server {
	int fd;
	int stop[2]; /* a pipe */
	pthread_t thread;
	sem_t asked;      /* once a query */
	sem_t may_answer; /* stays up */
	atomic_bool answered;
};

static void server_answer(int fd, uint8_t *query, size_t len, const struct sockaddr_in *to)
{
	query[2] |= 0x80; /* a response */
	query[3] = (uint8_t)((query[3] & 0xf0) | ANSWER_NXDOMAIN);
	(void)sendto(fd, query, len, 0, (const struct sockaddr *)to, sizeof(*to));
}

/* Says nothing until it may, or the deadline has come; then it says no. */
static void *server_main(void *arg)
{
	struct server *s = arg;
	uint8_t query[512];
	struct sockaddr_in from;
	struct pollfd p[2] = {{.fd = s->fd, .events = POLLIN},
	                      {.fd = s->stop[0], .events = POLLIN}};

	while (poll(p, 2, -1) > 0 && !p[1].revents) {
		socklen_t from_len = sizeof(from);
		ssize_t n = recvfrom(s->fd, query, sizeof(query), 0, (struct sockaddr *)&from,
		                     &from_len);
		struct timespec end;

		must(n >= 12);
		sem_post(&s->asked);
		clock_gettime(CLOCK_MONOTONIC, &end);
		end.tv_sec += DEADLINE_S;
		(void)sem_clockwait(&s->may_answer, CLOCK_MONOTONIC, &end);
		sem_post(&s->may_answer);
		s->answered = true;
		server_answer(s->fd, query, (size_t)n, &from);
	}
	return NULL;
}

static void server_start(struct server *s)
{
	struct sockaddr_in at = {.sin_family = AF_INET,
	                         .sin_port = htons(DNS_PORT),
	                         .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};

	*s = (struct server){.fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0)};
	sem_init(&s->asked, 0, 0);
	sem_init(&s->may_answer, 0, 0);
	must(bind(s->fd, (struct sockaddr *)&at, sizeof(at)) == 0);
	must(pipe(s->stop) == 0);
	must(pthread_create(&s->thread, NULL, server_main, s) == 0);
}

static void server_end(struct server *s)
{
	sem_post(&s->may_answer);
	must(write(s->stop[1], "", 1) == 1);
	must(pthread_join(s->thread, NULL) == 0);
	close(s->stop[0]);
	close(s->stop[1]);
	close(s->fd);
}

/* A detached thread has no other end that can be seen. */
static void wait_threads(size_t n)
{
	uint64_t end_us = clock_monotonic_us() + DEADLINE_S * UINT64_C(1000000);

	while (proc_self_n_threads() > n && clock_monotonic_us() < end_us)
		sched_yield();
	assert_int_equal(proc_self_n_threads(), n);
}

/* The end of the lane comes before the end of the look-up, which then disturbs nobody. */
static void test_end_does_not_wait(void **state)
{
	struct bed *b = bed_start_small();
	struct server server;
	size_t before;

	(void)state;
	server_start(&server);
	before = proc_self_n_threads();
	lane_connect(b->lanes[0], "silent.example:1");
	sem_wait(&server.asked);
	lane_free(TAKE_PTR(b->lanes[0]));
	assert_false(server.answered);
	bed_end(b);
	sem_post(&server.may_answer);
	wait_threads(before - 2); /* the lane's two, and the look-up's own */
	server_end(&server);
}

/* Another address is tried while the look-up of the first goes on. */
static void test_other_address_does_not_wait(void **state)
{
	struct bed *b = bed_start_small();
	struct server server;
	size_t before;
	struct links l;

	(void)state;
	server_start(&server);
	before = proc_self_n_threads();
	lane_connect(b->lanes[0], "silent.example:1");
	sem_wait(&server.asked);
	l = links_up(b, 0, false);
	assert_false(server.answered);
	sem_post(&server.may_answer);
	wait_threads(before);
	peer_expect_silence(l.urgent); /* the late answer was for nobody */
	expect_no_event(b);
	links_down(&l);
	bed_end(b);
	server_end(&server);
}

/* What the name server says is said to the migration, which tries again. */
static void test_name_is_unknown(void **state)
{
	struct bed *b = bed_start_small();
	struct server server;

	(void)state;
	server_start(&server);
	sem_post(&server.may_answer);
	lane_connect(b->lanes[0], "unknown.example:1");
	expect_lost(b, 0, "cannot resolve \"unknown.example\"", true);
	bed_end(b);
	server_end(&server);
}

/* Names come from where the host has them. */
static void test_name_in_hosts(void **state)
{
	struct bed *b = bed_start_small();
	char port[8];
	struct links l;

	(void)state;
	snprintf(port, sizeof(port), "%s", strrchr(b->address, ':') + 1);
	snprintf(b->address, sizeof(b->address), "the-source:%s", port);
	l = links_up(b, 0, false);
	links_down(&l);
	bed_end(b);
}

static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_end_does_not_wait),
        cmocka_unit_test(test_other_address_does_not_wait),
        cmocka_unit_test(test_name_is_unknown),
        cmocka_unit_test(test_name_in_hosts),
};

int main(void)
{
	if (!uffd_permitted() || !poison_permitted() || !own_network())
		return TEST_SKIPPED;
	return cmocka_run_group_tests(tests, lane_group_setup, lane_group_teardown);
}
