/* SPDX-License-Identifier: Apache-2.0 */
/*
 * For postcopyctl's tests: a daemon's control socket in a thread, which plays a
 * script with real messages, and postcopyctl itself in a child whose output and
 * exit status are caught.
 */
#ifndef UNIT_CTL_FAKE_H
#define UNIT_CTL_FAKE_H

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ctl/command.h"
#include "unit/fake_server.h"
#include "wire/control_message.h"

#define FAKE_ID "123e4567-e89b-12d3-a456-426614174000"
#define FAKE_OUTPUT_MAX 65536

struct fake {
	struct fake_server server;
	void (*script)(struct fake *f);
	struct control_request request;
};

struct output {
	char out[FAKE_OUTPUT_MAX];
	char err[FAKE_OUTPUT_MAX];
	int status;
};

static inline void fake_receive(struct fake *f, enum control_request_type type)
{
	_cleanup_free_ uint8_t *body = NULL;
	struct error err = {0};
	size_t len = 0;
	int r = fdpass_recv_message(f->server.sock, &body, &len, NULL, 0, NULL, 10000000);

	control_request_free(&f->request);
	memset(&f->request, 0, sizeof(f->request));
	FAKE_CHECK(f, r == 0);
	if (r == 0 && control_request_decode(body, len, &f->request, &err) < 0)
		fprintf(stderr, "decode: %s\n", err.text);
	FAKE_CHECK(f, f->request.type == type);
}

static inline void fake_reply(struct fake *f, struct control_response *r)
{
	_cleanup_free_ uint8_t *body = NULL;
	size_t len = 0;

	FAKE_CHECK(f, control_response_encode(r, &body, &len) == 0);
	FAKE_CHECK(f, fdpass_send_message(f->server.sock, body, len, NULL, 0) == 0);
}

static inline void fake_answer(struct fake *f, int error, const char *text)
{
	struct control_response r = {.id = f->request.id, .error = error};

	snprintf(r.text, sizeof(r.text), "%s", text);
	fake_reply(f, &r);
}

static inline struct control_migration fake_migration(const char *state, uint64_t remaining)
{
	struct control_migration m = {
	        .peer = "src.example:7000",
	        .peer_identity = "src.example",
	        .lanes = 2,
	        .memory_total = 1 << 30,
	        .memory_remaining = remaining,
	        .memory_bps = 800 << 20,
	        .pages_data = 1000,
	        .pages_poisoned = 64,
	        .faults = 777,
	        .fault_p50_ns = 41000,
	        .fault_p99_ns = 87000,
	        .total_time_us = 4100000,
	        .eta_us = 3000000,
	        .lost_bytes = 64 * 4096,
	};

	uuid_parse(FAKE_ID, &m.migration_id);
	snprintf(m.state, sizeof(m.state), "%s", state);
	return m;
}

static inline void fake_migration_send(struct fake *f, enum control_response_type type, uint64_t id,
                                       struct control_migration *m)
{
	struct control_response r = {
	        .id = id, .type = type, .migrations = m, .n_migrations = 1, .state_changed = true};

	fake_reply(f, &r);
}

static inline void fake_run(void *user)
{
	struct fake *f = user;

	f->script(f);
	close_fd(&f->server.sock);
}

static inline void fake_start(struct fake *f, void (*script)(struct fake *f))
{
	memset(f, 0, sizeof(*f));
	f->script = script;
	fake_server_start(&f->server, fake_run, f);
}

static inline void fake_join(struct fake *f)
{
	fake_server_join(&f->server);
	control_request_free(&f->request);
}

static inline int words_count(char **words)
{
	int n = 0;

	while (words[n])
		n++;
	return n;
}

/* In the child: run and leave without the test program's own clean-up. */
static inline void run_and_exit(char **words)
{
	int status = (int)postcopyctl(words_count(words), words);

	fflush(stdout);
	fflush(stderr);
	_exit(status);
}

/* All of a pipe or terminal until its end. */
static inline void output_read(int fd, char buf[FAKE_OUTPUT_MAX])
{
	size_t len = 0;
	ssize_t n;

	while (len < FAKE_OUTPUT_MAX - 1 &&
	       (n = read(fd, buf + len, FAKE_OUTPUT_MAX - 1 - len)) > 0)
		len += (size_t)n;
	buf[len] = '\0';
}

/* "postcopyctl" and the words, NULL-terminated; stdout and stderr are files. */
static inline void run(struct output *o, char **words)
{
	_cleanup_close_ int out = -1;
	_cleanup_close_ int err = -1;
	char path[] = "/tmp/postcopy-XXXXXX";
	pid_t pid;

	fflush(NULL);
	out = mkstemp(path);
	unlink(path);
	strcpy(path + sizeof(path) - 7, "XXXXXX");
	err = mkstemp(path);
	unlink(path);
	assert_true(out >= 0 && err >= 0);
	pid = fork();
	if (pid == 0) {
		dup2(out, STDOUT_FILENO);
		dup2(err, STDERR_FILENO);
		run_and_exit(words);
	}
	assert_int_equal(waitpid(pid, &o->status, 0), pid);
	lseek(out, 0, SEEK_SET);
	lseek(err, 0, SEEK_SET);
	output_read(out, o->out);
	output_read(err, o->err);
}

#define WORDS(...)                                         \
	(char *[])                                         \
	{                                                  \
		(char[]){"postcopyctl"}, __VA_ARGS__, NULL \
	}

#endif
