/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A daemon's side of the attach protocol for libpostcopy's tests: a thread that
 * accepts one connection on a real UNIX socket and plays a script with real
 * messages and descriptors. A failed check in the script is told by fake_join().
 */
#ifndef UNIT_CLIENT_FAKE_H
#define UNIT_CLIENT_FAKE_H

#include <errno.h>
#include <poll.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "postcopy.h"
#include "unit/fake_server.h"
#include "wire/attach_message.h"

#define FAKE_SECONDS_US (UINT64_C(1000000))
#define FAKE_PAGE 4096
static const uint8_t fake_token[32] = {1, 2, 3, 4, 5, 6, 7, 8};

struct fake {
	struct fake_server server;
	void (*script)(struct fake *f);
	sem_t go; /* the test lets the script go on */
	sem_t at; /* the script tells how far it is */
	struct attach_request request;
	int fds[ATTACH_FDS_MAX];
	size_t n_fds;
};

static inline void fake_request_drop(struct fake *f)
{
	attach_request_free(&f->request);
	memset(&f->request, 0, sizeof(f->request));
	for (size_t i = 0; i < f->n_fds; i++)
		close(f->fds[i]);
	f->n_fds = 0;
}

/* The next request, of the given type, into f->request and f->fds. */
static inline void fake_receive(struct fake *f, enum attach_request_type type)
{
	_cleanup_free_ uint8_t *body = NULL;
	struct error err = {0};
	size_t len = 0;
	int r;

	fake_request_drop(f);
	r = fdpass_recv_message(f->server.sock, &body, &len, f->fds, ATTACH_FDS_MAX, &f->n_fds,
	                        10 * FAKE_SECONDS_US);
	FAKE_CHECK(f, r == 0);
	if (r == 0 && attach_request_decode(body, len, &f->request, &err) < 0)
		fprintf(stderr, "decode: %s\n", err.text);
	FAKE_CHECK(f, f->request.type == type);
}

static inline void fake_reply(struct fake *f, const struct attach_reply *reply)
{
	_cleanup_free_ uint8_t *body = NULL;
	size_t len = 0;

	FAKE_CHECK(f, attach_reply_encode(reply, &body, &len) == 0);
	FAKE_CHECK(f, fdpass_send_message(f->server.sock, body, len, NULL, 0) == 0);
}

/* An answer to the request of this number. */
static inline void fake_ack_to(struct fake *f, uint32_t id, int error, const char *text)
{
	struct attach_reply reply = {.type = ATTACH_REPLY_ACK, .id = id, .error = error};

	snprintf(reply.text, sizeof(reply.text), "%s", text);
	fake_reply(f, &reply);
}

/* As a daemon answers that knows no numbers. */
static inline void fake_ack(struct fake *f, int error, const char *text)
{
	fake_ack_to(f, 0, error, text);
}

static inline void fake_state(struct fake *f, const char *state, const char *text, bool final)
{
	struct attach_reply reply = {.type = ATTACH_REPLY_STATE, .final = final};

	snprintf(reply.state, sizeof(reply.state), "%s", state);
	snprintf(reply.text, sizeof(reply.text), "%s", text);
	fake_reply(f, &reply);
}

/* Another daemon takes the connection over. */
static inline void fake_restarted(struct fake *f, const char *state, const char *text)
{
	struct attach_reply reply = {.type = ATTACH_REPLY_STATE, .restarted = true};

	snprintf(reply.state, sizeof(reply.state), "%s", state);
	snprintf(reply.text, sizeof(reply.text), "%s", text);
	fake_reply(f, &reply);
}

static inline void fake_wait_go(struct fake *f)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	ts.tv_sec += 20;
	FAKE_CHECK(f, sem_timedwait(&f->go, &ts) == 0);
}

/* Answer a question for lost memory with so many ranges of the script's. */
static inline void fake_list(struct fake *f, const struct poison_range *ranges, size_t n, bool more)
{
	struct attach_reply reply = {.type = ATTACH_REPLY_POISON_LIST, .n_ranges = n, .more = more};

	for (size_t i = 0; i < n; i++)
		reply.ranges[i] = ranges[i];
	fake_reply(f, &reply);
}

/* The client has closed: nothing but the stream's end comes. */
static inline void fake_expect_close(struct fake *f)
{
	struct pollfd p = {.fd = f->server.sock, .events = POLLIN};
	char c;

	FAKE_CHECK(f, poll(&p, 1, 10000) == 1 && recv(f->server.sock, &c, 1, 0) <= 0);
}

static inline void fake_run(void *user)
{
	struct fake *f = user;

	f->script(f);
}

static inline void fake_start(struct fake *f, void (*script)(struct fake *f))
{
	memset(f, 0, sizeof(*f));
	sem_init(&f->go, 0, 0);
	sem_init(&f->at, 0, 0);
	f->script = script;
	fake_server_start(&f->server, fake_run, f);
}

static inline void fake_join(struct fake *f)
{
	fake_server_join(&f->server);
	fake_request_drop(f);
	sem_destroy(&f->go);
	sem_destroy(&f->at);
}

/* n pages of anonymous memory, or of a memfd when *ret_fd is wanted. */
static inline void *fake_memory(size_t n_pages, int *ret_fd)
{
	int fd = -1;
	void *p;

	if (ret_fd) {
		fd = memfd_create("guest", MFD_CLOEXEC);
		assert_true(fd >= 0);
		assert_int_equal(ftruncate(fd, (off_t)(n_pages * FAKE_PAGE)), 0);
		*ret_fd = fd;
	}
	p = mmap(NULL, n_pages * FAKE_PAGE, PROT_READ | PROT_WRITE,
	         fd >= 0 ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS, fd, 0);
	assert_true(p != MAP_FAILED);
	return p;
}

static inline struct postcopy_region fake_region(const char *name, uint64_t gpa, void *address,
                                                 uint64_t n_pages)
{
	struct postcopy_region r = {
	        .name = name,
	        .guest_physical_address = gpa,
	        .address = address,
	        .length = n_pages * FAKE_PAGE,
	        .page_size = FAKE_PAGE,
	        .backing = POSTCOPY_BACKING_ANONYMOUS,
	        .mode = POSTCOPY_MODE_MISSING,
	        .memory_fd = -1,
	};

	return r;
}

#endif
