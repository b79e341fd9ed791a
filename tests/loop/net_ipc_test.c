/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The daemon's side of a local socket: messages and descriptors arrive
 * together, and a hostile or slow client costs no more than its bounds.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/un.h>

#include "net/ipc.h"
#include "support/proc_self.h"

#define LIMIT 4096

struct server {
	struct loop *loop;
	struct ipc_connection *c;
	int peer; /* the client's end, blocking */
	int dup;  /* of the server's end: what the next process would find */
	unsigned n_messages;
	unsigned stop_at;
	size_t last_len;
	uint8_t last[FDPASS_MESSAGE_MAX];
	size_t n_fds;
	bool take_fds;
	bool free_in_message;
	bool answer_and_close;
	int taken[FDPASS_FDS_MAX];
	int refuse;
	bool closed;
	struct error end;
};

static int on_message(struct ipc_connection *c, const uint8_t *buf, size_t len, int *fds,
                      size_t n_fds, struct error *err, void *user)
{
	struct server *s = user;

	s->n_messages++;
	s->last_len = len;
	memcpy(s->last, buf, len);
	s->n_fds = n_fds;
	for (size_t i = 0; i < n_fds && s->take_fds; i++)
		s->taken[i] = TAKE_FD(fds[i]);
	if (s->answer_and_close) {
		assert_int_equal(ipc_send(c, "no", 2), 0);
		ipc_close_after_flush(c);
	}
	if (s->free_in_message)
		s->c = ipc_connection_free(c);
	if (s->n_messages == s->stop_at || s->free_in_message)
		loop_stop(s->loop);
	return s->refuse ? error_set(err, s->refuse, "refused") : 0;
}

static void on_closed(struct ipc_connection *c, const struct error *err, void *user)
{
	struct server *s = user;

	(void)c;
	assert_false(s->closed);
	s->closed = true;
	s->end = *err;
	loop_stop(s->loop);
}

static struct server *server_new_with(size_t limit)
{
	static const struct ipc_callbacks callbacks = {on_message, on_closed};
	struct server *s = calloc(1, sizeof(*s));
	int fds[2];

	assert_non_null(s);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	assert_int_equal(evutil_make_socket_nonblocking(fds[0]), 0);
	s->dup = fcntl(fds[0], F_DUPFD_CLOEXEC, 0);
	assert_true(s->dup >= 0);
	assert_int_equal(loop_new(&s->loop), 0);
	assert_int_equal(ipc_connection_new(s->loop, fds[0], limit, &callbacks, s, &s->c), 0);
	s->peer = fds[1];
	return s;
}

static struct server *server_new(void)
{
	return server_new_with(LIMIT);
}

static void server_free(struct server *s)
{
	ipc_connection_free(s->c);
	close_fd(&s->dup);
	close_fd(&s->peer);
	loop_free(s->loop);
	free(s);
}

static void give_up(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	(void)arg;
	fail_msg("nothing happened for 20 s");
}

static void run(struct server *s)
{
	struct timeval tv = {.tv_sec = 20};
	struct event *ev = evtimer_new(loop_base(s->loop), give_up, NULL);

	event_add(ev, &tv);
	assert_int_equal(loop_run(s->loop), 0);
	event_free(ev);
}

static void assert_contains(const char *text, const char *part)
{
	if (!strstr(text, part))
		fail_msg("\"%s\" does not contain \"%s\"", text, part);
}

static void messages_arrive_whole(void **state)
{
	struct server *s = server_new();
	uint8_t *answer;
	size_t len, n_fds;

	(void)state;
	s->stop_at = 3;
	assert_int_equal(fdpass_send_message(s->peer, "one", 3, NULL, 0), 0);
	assert_int_equal(fdpass_send_message(s->peer, NULL, 0, NULL, 0), 0);
	assert_int_equal(fdpass_send_message(s->peer, "three", 5, NULL, 0), 0);
	run(s);
	assert_int_equal(s->n_messages, 3);
	assert_int_equal(s->last_len, 5);
	assert_memory_equal(s->last, "three", 5);
	assert_int_equal(ipc_send(s->c, "answer", 6), 0);
	assert_int_equal(ipc_queued(s->c), 0);
	assert_int_equal(fdpass_recv_message(s->peer, &answer, &len, NULL, 0, &n_fds, 1000000), 0);
	assert_int_equal(len, 6);
	assert_memory_equal(answer, "answer", 6);
	free(answer);
	server_free(s);
}

static void message_in_single_bytes(void **state)
{
	struct server *s = server_new();
	uint8_t bytes[8] = {4, 0, 0, 0, 'a', 'b', 'c', 'd'};

	(void)state;
	s->stop_at = 1;
	for (size_t i = 0; i < sizeof(bytes); i++) {
		assert_int_equal(s->n_messages, 0);
		assert_int_equal(write(s->peer, bytes + i, 1), 1);
		event_base_loop(loop_base(s->loop), EVLOOP_NONBLOCK);
	}
	assert_int_equal(s->n_messages, 1);
	assert_memory_equal(s->last, "abcd", 4);
	server_free(s);
}

static size_t unread_bytes(const struct server *s)
{
	int n;

	assert_int_equal(ioctl(s->dup, FIONREAD, &n), 0);
	return (size_t)n;
}

static uint8_t big[FDPASS_MESSAGE_MAX];

/* A message with that many bytes in its body, all different for a while, in big. */
static size_t big_message(size_t len)
{
	uint32_t prefix = htole32((uint32_t)len);

	for (size_t i = 0; i < len; i++)
		big[4 + i] = (uint8_t)(i * 7 + i / 251);
	memcpy(big, &prefix, sizeof(prefix));
	return 4 + len;
}

static void unfinished_case(size_t len, size_t missing)
{
	struct server *s = server_new_with(FDPASS_MESSAGE_MAX);
	static uint8_t found[FDPASS_MESSAGE_MAX];
	size_t total = big_message(len), sent = total - missing;

	s->stop_at = 2;
	assert_int_equal(fdpass_send_message(s->peer, "first", 5, NULL, 0), 0);
	assert_int_equal(send(s->peer, big, sent, MSG_DONTWAIT), sent);
	event_base_loop(loop_base(s->loop), EVLOOP_NONBLOCK);
	assert_int_equal(s->n_messages, 1);
	if (unread_bytes(s) != sent)
		fail_msg("of %zu bytes, %zu of them sent, %zu are left", total, sent,
		         unread_bytes(s));
	assert_int_equal(recv(s->dup, found, sent, MSG_PEEK | MSG_DONTWAIT), sent);
	assert_memory_equal(found, big, sent);
	assert_int_equal(send(s->peer, big + sent, missing, MSG_DONTWAIT), missing);
	run(s);
	assert_int_equal(s->n_messages, 2);
	assert_int_equal(s->last_len, len);
	assert_memory_equal(s->last, big + 4, len);
	assert_int_equal(unread_bytes(s), 0);
	server_free(s);
}

/* Promise: who dies in the middle of a message leaves all of it to the next process. */
static void unfinished_message_stays_in_the_socket(void **state)
{
	(void)state;
	unfinished_case(1, 1);
	unfinished_case(1, 3); /* half a prefix */
	unfinished_case(4000, 1);
	unfinished_case(40000, 39000);
	unfinished_case(100 * 1024, 1);
}

/* Promise: a message is taken alone; what comes after it is left from its beginning. */
static void next_message_stays_in_the_socket(void **state)
{
	struct server *s = server_new_with(FDPASS_MESSAGE_MAX);
	size_t total = big_message(100 * 1024);
	uint8_t found[7];

	(void)state;
	assert_int_equal(send(s->peer, big, total, MSG_DONTWAIT), total);
	assert_int_equal(fdpass_send_message(s->peer, "two", 3, NULL, 0), 0);
	s->free_in_message = true;
	run(s);
	assert_int_equal(s->last_len, 100 * 1024);
	assert_int_equal(recv(s->dup, found, sizeof(found), MSG_DONTWAIT), sizeof(found));
	assert_memory_equal(found, "\3\0\0\0two", 7);
	server_free(s);
}

static uint64_t cpu_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
	return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

/* Promise: half a message costs no time while it waits for the rest, nor for ever after. */
static void unfinished_message_does_not_spin(void **state)
{
	static const struct timeval while_ = {.tv_usec = 300000};
	struct server *s = server_new();
	uint64_t before;

	(void)state;
	assert_int_equal(write(s->peer, "\5\0\0\0he", 6), 6);
	event_base_loopexit(loop_base(s->loop), &while_);
	before = cpu_us();
	assert_int_equal(loop_run(s->loop), 0);
	assert_true(cpu_us() - before < 75000);
	s->stop_at = 1;
	assert_int_equal(write(s->peer, "llo", 3), 3);
	run(s);
	assert_memory_equal(s->last, "hello", 5);
	server_free(s);
}

/* Promise: more messages than one wake-up takes are all found, though no further one comes. */
static void many_messages_at_once(void **state)
{
	struct server *s = server_new();

	(void)state;
	for (uint8_t i = 0; i < 100; i++)
		assert_int_equal(fdpass_send_message(s->peer, &i, 1, NULL, 0), 0);
	s->stop_at = 100;
	run(s);
	assert_int_equal(s->n_messages, 100);
	assert_int_equal(s->last[0], 99);
	server_free(s);
}

struct sender {
	int sock;
	size_t len;
	int result;
};

static void *sender_run(void *arg)
{
	struct sender *sender = arg;

	sender->result = fdpass_send_message(sender->sock, big + 4, sender->len, NULL, 0);
	return NULL;
}

/* Promise: a message that the socket cannot hold at once arrives all the same. */
static void message_bigger_than_the_socket(void **state)
{
	static const struct {
		size_t len;
		int send_buffer;
	} cases[] = {{60000, 4608}, {FDPASS_MESSAGE_MAX - 4, 0}};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct server *s = server_new_with(FDPASS_MESSAGE_MAX);
		struct sender sender = {s->peer, cases[i].len, -1};
		pthread_t thread;

		big_message(cases[i].len);
		if (cases[i].send_buffer)
			assert_int_equal(setsockopt(s->peer, SOL_SOCKET, SO_SNDBUF,
			                            &cases[i].send_buffer, sizeof(int)),
			                 0);
		s->stop_at = 1;
		assert_int_equal(pthread_create(&thread, NULL, sender_run, &sender), 0);
		run(s);
		pthread_join(thread, NULL);
		assert_int_equal(sender.result, 0);
		assert_int_equal(s->last_len, cases[i].len);
		assert_memory_equal(s->last, big + 4, cases[i].len);
		server_free(s);
	}
}

/* Two messages in the socket at once: the descriptors belong to the second. */
static void descriptors_come_with_their_message(void **state)
{
	size_t before = proc_self_n_fds();
	struct server *s = server_new();
	int fds[FDPASS_FDS_MAX];

	(void)state;
	for (size_t i = 0; i < FDPASS_FDS_MAX; i++)
		fds[i] = 0;
	s->stop_at = 1;
	s->take_fds = true;
	assert_int_equal(fdpass_send_message(s->peer, "plain", 5, NULL, 0), 0);
	assert_int_equal(fdpass_send_message(s->peer, "fds", 3, fds, FDPASS_FDS_MAX), 0);
	s->stop_at = 2;
	run(s);
	assert_int_equal(s->n_messages, 2);
	assert_int_equal(s->n_fds, FDPASS_FDS_MAX);
	for (size_t i = 0; i < FDPASS_FDS_MAX; i++)
		close(s->taken[i]);
	/* Not taken: closed for us. */
	s->take_fds = false;
	s->stop_at = 3;
	assert_int_equal(fdpass_send_message(s->peer, "fds", 3, fds, 2), 0);
	run(s);
	assert_int_equal(s->n_fds, 2);
	server_free(s);
	assert_int_equal(proc_self_n_fds(), before);
}

static void send_raw(int fd, const void *buf, size_t len, const int *fds, size_t n_fds)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int) * 253)];
	} control = {0};
	struct iovec iov = {.iov_base = (void *)buf, .iov_len = len};
	struct msghdr msg = {.msg_iov = &iov,
	                     .msg_iovlen = 1,
	                     .msg_control = &control,
	                     .msg_controllen = CMSG_SPACE(sizeof(int) * n_fds)};
	struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);

	cmsg->cmsg_level = SOL_SOCKET;
	cmsg->cmsg_type = SCM_RIGHTS;
	cmsg->cmsg_len = CMSG_LEN(sizeof(int) * n_fds);
	memcpy(CMSG_DATA(cmsg), fds, sizeof(int) * n_fds);
	assert_int_equal(sendmsg(fd, &msg, MSG_NOSIGNAL), len);
}

/* Promise: it makes no difference how a client cuts the message that its descriptors begin. */
static void descriptors_come_in_any_cut(void **state)
{
	size_t before = proc_self_n_fds();
	struct server *s = server_new();
	uint8_t message[] = {4, 0, 0, 0, 'f', 'd', 's', '!'};
	int fd = 0;

	(void)state;
	for (size_t cut = 1; cut < sizeof(message); cut++) {
		send_raw(s->peer, message, cut, &fd, 1);
		if (cut % 2)
			event_base_loop(loop_base(s->loop), EVLOOP_NONBLOCK);
		assert_int_equal(write(s->peer, message + cut, sizeof(message) - cut),
		                 sizeof(message) - cut);
		s->stop_at++;
		run(s);
		assert_int_equal(s->n_messages, cut);
		assert_int_equal(s->n_fds, 1);
		assert_memory_equal(s->last, "fds!", 4);
	}
	server_free(s);
	assert_int_equal(proc_self_n_fds(), before);
}

static void too_many_descriptors_end_it(void **state)
{
	size_t before = proc_self_n_fds();
	struct server *s = server_new();
	uint8_t message[] = {1, 0, 0, 0, 'x'};
	int fds[100] = {0};

	(void)state;
	send_raw(s->peer, message, sizeof(message), fds, 100);
	run(s);
	assert_true(s->closed);
	assert_int_equal(s->end.code, -E2BIG);
	assert_contains(s->end.text, "more than 64 descriptors");
	assert_int_equal(s->n_messages, 0);
	server_free(s);
	assert_int_equal(proc_self_n_fds(), before);
}

static void descriptors_in_the_middle_end_it(void **state)
{
	size_t before = proc_self_n_fds();
	struct server *s = server_new();
	uint8_t message[] = {2, 0, 0, 0, 'x', 'y'};
	int fd = 0;

	(void)state;
	assert_int_equal(write(s->peer, message, 5), 5);
	send_raw(s->peer, message + 5, 1, &fd, 1);
	run(s);
	assert_true(s->closed);
	assert_int_equal(s->end.code, -EBADMSG);
	assert_contains(s->end.text, "middle of a message");
	server_free(s);
	assert_int_equal(proc_self_n_fds(), before);
}

static void oversize_ends_it(void **state)
{
	struct server *s = server_new();
	uint32_t prefix = htole32(LIMIT + 1);

	(void)state;
	assert_int_equal(write(s->peer, &prefix, 4), 4);
	run(s);
	assert_int_equal(s->end.code, -EMSGSIZE);
	assert_contains(s->end.text, "message of 4097 bytes, the limit is 4096");
	server_free(s);
}

static void hang_up_is_clean_only_between_messages(void **state)
{
	struct server *s = server_new();

	(void)state;
	assert_int_equal(fdpass_send_message(s->peer, "last", 4, NULL, 0), 0);
	close_fd(&s->peer);
	run(s);
	assert_int_equal(s->n_messages, 1);
	assert_true(s->closed);
	assert_int_equal(s->end.code, 0);
	assert_int_equal(ipc_send(s->c, "x", 1), -ENOTCONN);
	server_free(s);

	s = server_new();
	assert_int_equal(write(s->peer, "\x05\0\0\0ab", 6), 6);
	close_fd(&s->peer);
	run(s);
	assert_int_equal(s->end.code, -EBADMSG);
	assert_contains(s->end.text, "after 6 bytes");
	server_free(s);
}

/* A client that sends its last request and dies: our failing answer must not lose it. */
static void last_request_survives_a_failed_send(void **state)
{
	struct server *s = server_new();

	(void)state;
	assert_int_equal(fdpass_send_message(s->peer, "last", 4, NULL, 0), 0);
	close_fd(&s->peer);
	assert_int_equal(ipc_send(s->c, "x", 1), 0);
	run(s);
	assert_int_equal(s->n_messages, 1);
	assert_true(s->closed);
	server_free(s);
}

static void refused_message_ends_with_that_error(void **state)
{
	struct server *s = server_new();

	(void)state;
	s->refuse = -EPERM;
	assert_int_equal(fdpass_send_message(s->peer, "a", 1, NULL, 0), 0);
	assert_int_equal(fdpass_send_message(s->peer, "b", 1, NULL, 0), 0);
	run(s);
	assert_int_equal(s->end.code, -EPERM);
	assert_string_equal(s->end.text, "refused");
	assert_int_equal(s->n_messages, 1);
	server_free(s);
}

static void refusal_with_an_answer(void **state)
{
	struct server *s = server_new();
	uint8_t *answer;
	size_t len, n_fds;

	(void)state;
	s->refuse = -EACCES;
	s->answer_and_close = true;
	assert_int_equal(fdpass_send_message(s->peer, "a", 1, NULL, 0), 0);
	run(s);
	assert_int_equal(s->end.code, -EACCES);
	assert_int_equal(fdpass_recv_message(s->peer, &answer, &len, NULL, 0, &n_fds, 1000000), 0);
	assert_memory_equal(answer, "no", 2);
	free(answer);
	server_free(s);
}

static void slow_reader_is_bounded(void **state)
{
	struct server *s = server_new();
	static uint8_t message[100000];
	unsigned n = 0;
	int r;

	(void)state;
	while ((r = ipc_send(s->c, message, sizeof(message))) == 0 && n < 1000)
		n++;
	assert_int_equal(r, -ENOBUFS);
	assert_true(ipc_queued(s->c) <= 4 * 1024 * 1024);
	assert_true(ipc_queued(s->c) > 3 * 1024 * 1024);
	/* And nothing of it is lost. */
	for (size_t want = (size_t)n * (4 + sizeof(message)); want > 0;) {
		ssize_t got = recv(s->peer, message, MIN(sizeof(message), want), MSG_DONTWAIT);

		assert_true(got > 0);
		want -= (size_t)got;
		event_base_loop(loop_base(s->loop), EVLOOP_NONBLOCK);
	}
	assert_int_equal(ipc_queued(s->c), 0);
	server_free(s);
}

static void free_within_on_message_is_safe(void **state)
{
	size_t before = proc_self_n_fds();
	struct server *s = server_new();
	int fds[2] = {0, 0};

	(void)state;
	s->free_in_message = true;
	assert_int_equal(fdpass_send_message(s->peer, "a", 1, fds, 2), 0);
	assert_int_equal(fdpass_send_message(s->peer, "b", 1, fds, 2), 0);
	run(s);
	assert_int_equal(s->n_messages, 1);
	assert_false(s->closed);
	server_free(s);
	assert_int_equal(proc_self_n_fds(), before);
}

static void peer_is_known(void **state)
{
	struct server *s = server_new();
	struct pollfd p = {.events = POLLIN};

	(void)state;
	assert_int_equal(ipc_peer(s->c)->pid, getpid());
	assert_int_equal(ipc_peer(s->c)->uid, geteuid());
	p.fd = ipc_peer_pidfd(s->c);
	assert_true(p.fd >= 0);
	assert_int_equal(poll(&p, 1, 0), 0); /* a pidfd: readable only after death */
	close(p.fd);
	server_free(s);
}

struct acceptor {
	struct loop *loop;
	struct ipc_listener *listener;
	unsigned n;
	unsigned stop_at;
	bool free_it;
};

static void on_accept(int fd, void *user)
{
	struct acceptor *a = user;

	assert_true(fcntl(fd, F_GETFL) & O_NONBLOCK);
	close(fd);
	if (a->free_it)
		a->listener = ipc_listener_free(a->listener);
	if (++a->n == a->stop_at)
		loop_stop(a->loop);
}

static int listen_somewhere(struct sockaddr_un *ret, socklen_t *ret_len)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	*ret = (struct sockaddr_un){.sun_family = AF_UNIX};
	assert_int_equal(bind(fd, (struct sockaddr *)ret, sizeof(sa_family_t)), 0);
	*ret_len = sizeof(*ret);
	assert_int_equal(getsockname(fd, (struct sockaddr *)ret, ret_len), 0);
	assert_int_equal(listen(fd, 32), 0);
	return fd;
}

static int connect_to(const struct sockaddr_un *address, socklen_t len)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	assert_int_equal(connect(fd, (const struct sockaddr *)address, len), 0);
	return fd;
}

static void listener_survives_a_shortage_of_descriptors(void **state)
{
	struct rlimit old, tight;
	struct sockaddr_un address;
	struct acceptor a = {.stop_at = 3};
	struct timeval pause = {.tv_usec = 30000};
	socklen_t len;
	int clients[3], lowest;

	(void)state;
	assert_int_equal(loop_new(&a.loop), 0);
	assert_int_equal(ipc_listener_new(a.loop, listen_somewhere(&address, &len), on_accept, &a,
	                                  &a.listener),
	                 0);
	for (int i = 0; i < 3; i++)
		clients[i] = connect_to(&address, len);
	lowest = dup(0);
	close(lowest);
	getrlimit(RLIMIT_NOFILE, &old);
	tight = (struct rlimit){.rlim_cur = (rlim_t)lowest, .rlim_max = old.rlim_max};
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &tight), 0);
	event_base_loopexit(loop_base(a.loop), &pause);
	loop_run(a.loop);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
	assert_int_equal(a.n, 0);
	loop_run(a.loop);
	assert_int_equal(a.n, 3);
	a.free_it = true;
	a.stop_at = 4;
	lowest = connect_to(&address, len);
	loop_run(a.loop);
	assert_null(a.listener);
	close(lowest);
	for (int i = 0; i < 3; i++)
		close(clients[i]);
	loop_free(a.loop);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(messages_arrive_whole),
	        cmocka_unit_test(message_in_single_bytes),
	        cmocka_unit_test(unfinished_message_stays_in_the_socket),
	        cmocka_unit_test(next_message_stays_in_the_socket),
	        cmocka_unit_test(unfinished_message_does_not_spin),
	        cmocka_unit_test(many_messages_at_once),
	        cmocka_unit_test(message_bigger_than_the_socket),
	        cmocka_unit_test(descriptors_come_with_their_message),
	        cmocka_unit_test(descriptors_come_in_any_cut),
	        cmocka_unit_test(too_many_descriptors_end_it),
	        cmocka_unit_test(descriptors_in_the_middle_end_it),
	        cmocka_unit_test(oversize_ends_it),
	        cmocka_unit_test(hang_up_is_clean_only_between_messages),
	        cmocka_unit_test(last_request_survives_a_failed_send),
	        cmocka_unit_test(refused_message_ends_with_that_error),
	        cmocka_unit_test(refusal_with_an_answer),
	        cmocka_unit_test(slow_reader_is_bounded),
	        cmocka_unit_test(free_within_on_message_is_safe),
	        cmocka_unit_test(peer_is_known),
	        cmocka_unit_test(listener_survives_a_shortage_of_descriptors),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
