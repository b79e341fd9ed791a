/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The command socket in QEMU's process: one thread, which also takes in what the
 * daemons say of the migrations. It never touches guest memory, and so never waits
 * for a page. Started by memory.c.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "client/qemu/qemu.h"
#include "core/cleanup.h"
#include "core/fdpass.h"
#include "core/thread.h"

#define CLIENTS_MAX 8
#define LINE_MAX_BYTES 4096

struct client {
	int fd; /* -1: free */
	enum command_wait wait;
	size_t len;
	char line[LINE_MAX_BYTES];
};

static struct client clients[CLIENTS_MAX];
static int listener = -1;

static void client_close(struct client *c)
{
	close_fd(&c->fd);
	c->len = 0;
	c->wait = WAIT_NOTHING;
}

/* A client that does not read its answers is not waited for. Takes the answer over. */
static void client_answer(struct client *c, json_t *answer)
{
	_cleanup_free_ char *text = answer ? json_dumps(answer, JSON_COMPACT) : NULL;
	size_t len = text ? strlen(text) : 0;

	json_decref(answer);
	/* The NUL's place is the newline's. */
	if (text)
		text[len] = '\n';
	if (!text || send(c->fd, text, len + 1, MSG_NOSIGNAL | MSG_DONTWAIT) != (ssize_t)len + 1)
		client_close(c);
}

static void client_line(struct client *c, size_t len)
{
	json_t *answer = command_run(c->line, len, &c->wait);

	if (answer)
		client_answer(c, answer);
}

static void client_too_long(struct client *c)
{
	client_answer(c, json_pack("{s:b, s:i, s:s}", "ok", 0, "errno", EMSGSIZE, "error",
	                           "a request has at most 4095 bytes in one line"));
	client_close(c);
}

/* One line after the other; those behind a "wait" stay until it is answered. */
static void client_lines(struct client *c)
{
	char *newline;

	while (c->fd >= 0 && c->wait == WAIT_NOTHING && (newline = memchr(c->line, '\n', c->len))) {
		size_t len = (size_t)(newline - c->line);

		client_line(c, len);
		if (c->fd < 0)
			return;
		c->len -= len + 1;
		memmove(c->line, newline + 1, c->len);
	}
	if (c->fd >= 0 && c->wait == WAIT_NOTHING && c->len == sizeof(c->line))
		client_too_long(c);
}

static void client_read(struct client *c)
{
	ssize_t n = recv(c->fd, c->line + c->len, sizeof(c->line) - c->len, MSG_DONTWAIT);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		client_close(c);
		return;
	}
	c->len += (size_t)n;
	client_lines(c);
}

static void client_accept(void)
{
	int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	struct client refused = {.fd = fd};

	if (fd < 0)
		return;
	for (size_t i = 0; i < CLIENTS_MAX; i++)
		if (clients[i].fd < 0) {
			clients[i].fd = fd;
			return;
		}
	client_answer(&refused, json_pack("{s:b, s:i, s:s}", "ok", 0, "errno", EMFILE, "error",
	                                  "too many connections to this QEMU's socket; close one"));
	client_close(&refused);
}

/* Those who wait may have their answer now, and go on to what they asked behind it. */
static void waiters_answer(void)
{
	for (size_t i = 0; i < CLIENTS_MAX; i++) {
		json_t *answer = NULL;

		if (clients[i].wait != WAIT_NOTHING)
			answer = command_wait_answer(clients[i].wait);
		if (!answer)
			continue;
		clients[i].wait = WAIT_NOTHING;
		client_answer(&clients[i], answer);
		client_lines(&clients[i]);
	}
}

/* A waiting client is only watched for its end: its line buffer may be full. */
static short client_events(const struct client *c)
{
	return c->wait != WAIT_NOTHING ? POLLRDHUP : POLLIN;
}

static void *server_thread(void *unused)
{
	struct pollfd p[1 + GUEST_SIDES + CLIENTS_MAX];

	(void)unused;
	(void)interpose_own(true);
	for (;;) {
		p[0] = (struct pollfd){.fd = listener, .events = POLLIN};
		for (int i = 0; i < GUEST_SIDES; i++)
			p[1 + i] = (struct pollfd){.fd = guest_fd(i), .events = POLLIN};
		for (size_t i = 0; i < CLIENTS_MAX; i++)
			p[1 + GUEST_SIDES + i] = (struct pollfd){
			        .fd = clients[i].fd, .events = client_events(&clients[i])};
		if (poll(p, ARRAY_SIZE(p), -1) < 0)
			continue;
		for (int i = 0; i < GUEST_SIDES; i++)
			if (p[1 + i].revents)
				guest_process(i);
		for (size_t i = 0; i < CLIENTS_MAX; i++) {
			if (!p[1 + GUEST_SIDES + i].revents)
				continue;
			if (clients[i].wait != WAIT_NOTHING)
				client_close(&clients[i]);
			else
				client_read(&clients[i]);
		}
		waiters_answer();
		if (p[0].revents)
			client_accept();
	}
	return NULL;
}

static void server_start_once(void)
{
	const char *path = getenv(SOCKET_VARIABLE);
	struct error err = {0};
	pthread_t thread;
	int r;

	for (size_t i = 0; i < CLIENTS_MAX; i++)
		clients[i].fd = -1;
	if (!path || !*path) {
		say(SOCKET_VARIABLE " is not set: this guest cannot be moved");
		return;
	}
	listener = unix_listen(path, 0600, &err);
	r = listener < 0 ? listener : thread_create_quiet(&thread, NULL, server_thread, NULL);
	if (r == 0)
		r = pthread_detach(thread);
	if (r == 0)
		return;
	say(SOCKET_VARIABLE ": %s", listener < 0 ? err.text : strerror(-r));
	_exit(1);
}

void server_start(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, server_start_once);
}
