/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A daemon's socket for clients' tests: a thread accepts one connection on a
 * real UNIX socket and plays a script. What it speaks is client_fake.h's and
 * ctl_fake.h's. A failed check in the script is told by fake_server_join().
 */
#ifndef UNIT_FAKE_SERVER_H
#define UNIT_FAKE_SERVER_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/cleanup.h"
#include "core/fdpass.h"

struct fake_server {
	char dir[32];
	char path[64];
	int listener;
	int sock;
	pthread_t thread;
	void (*run)(void *user); /* on the thread, once sock is connected */
	void *user;
	int failed_line;
};

/* cmocka's assertions leave by longjmp(), which only the test's own thread may do. */
#define FAKE_CHECK(f, condition)                              \
	do {                                                  \
		if (!(condition) && !(f)->server.failed_line) \
			(f)->server.failed_line = __LINE__;   \
	} while (0)

static inline void *fake_server_thread(void *arg)
{
	struct fake_server *s = arg;
	struct pollfd p = {.fd = s->listener, .events = POLLIN};

	if (poll(&p, 1, 10000) == 1)
		s->sock = accept(s->listener, NULL, NULL);
	if (s->sock >= 0)
		s->run(s->user);
	else
		s->failed_line = __LINE__;
	return NULL;
}

static inline void fake_server_start(struct fake_server *s, void (*run)(void *user), void *user)
{
	*s = (struct fake_server){.sock = -1, .run = run, .user = user};
	strcpy(s->dir, "/tmp/postcopy-XXXXXX");
	assert_non_null(mkdtemp(s->dir));
	snprintf(s->path, sizeof(s->path), "%s/sock", s->dir);
	s->listener = unix_listen(s->path, 0600, NULL);
	assert_true(s->listener >= 0);
	assert_int_equal(pthread_create(&s->thread, NULL, fake_server_thread, s), 0);
}

static inline void fake_server_join(struct fake_server *s)
{
	pthread_join(s->thread, NULL);
	close_fd(&s->sock);
	close_fd(&s->listener);
	unlink(s->path);
	rmdir(s->dir);
	if (s->failed_line)
		fail_msg("the script failed at line %d", s->failed_line);
}

#endif
