/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A whole postcopyd in this process for the loop.daemon_* tests: real sockets,
 * real keys, its main loop on a thread; the test is its client. There is no
 * source: a migration that was attached stays in "active".
 */
#ifndef TESTS_LOOP_DAEMON_FIXTURE_H
#define TESTS_LOOP_DAEMON_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/fdpass.h"
#include "core/uffd_abi.h"
#include "core/uffd_open.h"
#include "daemon/daemon.h"
#include "support/pki.h"
#include "wire/attach_message.h"
#include "wire/control_message.h"

#define ANSWER_TIMEOUT_US 20000000
#define TOKEN "0123456789abcdef"
#define REGION_BYTES (UINT64_C(16) * 4096)
#define REGION_GPA UINT64_C(0x100000)

struct fixture {
	struct pki *pki;
	char config[PKI_PATH_MAX];
	char control[PKI_PATH_MAX];
	char attach[PKI_PATH_MAX];
	char status[PKI_PATH_MAX];
	struct daemon *daemon;
	pthread_t thread;
};

static inline void *fixture_run(void *arg)
{
	struct fixture *f = arg;

	assert_int_equal(loop_run(daemon_loop(f->daemon)), 0);
	return NULL;
}

static inline void fixture_write_config(const struct fixture *f, const char *more)
{
	FILE *file = fopen(f->config, "we");
	char path[PKI_PATH_MAX];

	assert_non_null(file);
	fprintf(file, "[tls]\ncertificate = %s\n", pki_path(f->pki, "destination.pem", path));
	fprintf(file, "key = %s\n", pki_path(f->pki, "destination.key", path));
	fprintf(file, "ca = %s\n", pki_path(f->pki, "ca.pem", path));
	fprintf(file, "[sockets]\ncontrol = %s\nattach = %s\nstatus = %s\n", f->control, f->attach,
	        f->status);
	fprintf(file, "[lanes]\nurgent_rt_priority = 0\nbulk_nice = 0\n");
	fprintf(file, "[log]\nlevel = error\ntarget = stderr\n%s", more);
	assert_int_equal(fclose(file), 0);
}

static inline struct settings *fixture_settings(const struct fixture *f)
{
	struct settings *settings;
	struct error error = {0};

	if (settings_load(f->config, NULL, &settings, &error) < 0)
		fail_msg("%s", error.text);
	return settings;
}

/* Call on the loop's thread what belongs to it, and wait. */
struct fixture_call {
	void (*fn)(struct fixture *f, void *arg);
	struct fixture *f;
	void *arg;
	int pipe[2];
};

static inline void fixture_call_run(void *arg)
{
	struct fixture_call *call = arg;

	call->fn(call->f, call->arg);
	assert_int_equal(write(call->pipe[1], "", 1), 1);
}

static inline void fixture_call(struct fixture *f, void (*fn)(struct fixture *f, void *arg),
                                void *arg)
{
	struct fixture_call call = {.fn = fn, .f = f, .arg = arg};
	char byte;

	assert_int_equal(pipe(call.pipe), 0);
	assert_int_equal(loop_post(daemon_loop(f->daemon), fixture_call_run, &call), 0);
	assert_int_equal(read(call.pipe[0], &byte, 1), 1);
	close(call.pipe[0]);
	close(call.pipe[1]);
}

/* more: further lines of the configuration. */
static inline int fixture_setup_with(void **state, const char *more)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct error error = {0};

	log_set_level(LOG_CRIT); /* refusals are what these tests are about */
	f->pki = pki_new();
	pki_path(f->pki, "postcopyd.conf", f->config);
	pki_path(f->pki, "control.sock", f->control);
	pki_path(f->pki, "attach.sock", f->attach);
	pki_path(f->pki, "status.sock", f->status);
	fixture_write_config(f, more);
	if (daemon_new(fixture_settings(f), &f->daemon, &error) < 0)
		fail_msg("%s", error.text);
	assert_int_equal(pthread_create(&f->thread, NULL, fixture_run, f), 0);
	*state = f;
	return 0;
}

static inline int fixture_setup(void **state)
{
	return fixture_setup_with(state, "");
}

static inline int fixture_teardown(void **state)
{
	struct fixture *f = *state;

	loop_stop(daemon_loop(f->daemon));
	pthread_join(f->thread, NULL);
	daemon_free(f->daemon);
	unlink(f->config);
	pki_free(f->pki);
	free(f);
	return 0;
}

static inline int connect_to(const char *path)
{
	struct error error = {0};
	int fd = unix_connect(path, &error);

	if (fd < 0)
		fail_msg("%s", error.text);
	return fd;
}

/* ---- control ---- */

static inline void control_send(int sock, const struct control_request *request)
{
	uint8_t *buf;
	size_t len;

	assert_int_equal(control_request_encode(request, &buf, &len), 0);
	assert_int_equal(fdpass_send_message(sock, buf, len, NULL, 0), 0);
	free(buf);
}

static inline void control_recv(int sock, struct control_response *response)
{
	struct error error = {0};
	uint8_t *buf;
	size_t len;

	assert_int_equal(fdpass_recv_message(sock, &buf, &len, NULL, 0, NULL, ANSWER_TIMEOUT_US),
	                 0);
	if (control_response_decode(buf, len, response, &error) < 0)
		fail_msg("%s", error.text);
	free(buf);
}

static inline void control_call(const struct fixture *f, const struct control_request *request,
                                struct control_response *response)
{
	int sock = connect_to(f->control);

	control_send(sock, request);
	control_recv(sock, response);
	assert_int_equal(response->id, request->id);
	close(sock);
}

/* The request must be refused with this errno and a text that has this in it. */
static inline void control_refused(const struct fixture *f, const struct control_request *request,
                                   int expected, const char *text)
{
	struct control_response response = {0};

	control_call(f, request, &response);
	if (response.error != expected || !strstr(response.text, text))
		fail_msg("expected %s and \"%s\", got %s: %s", strerror(expected), text,
		         strerror(response.error), response.text);
	control_response_free(&response);
}

static inline struct uuid test_id(uint8_t last)
{
	struct uuid id = {{0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x40}};

	id.bytes[15] = last;
	return id;
}

static inline struct control_request start_request(uint8_t last)
{
	struct control_request r = {
	        .id = 7,
	        .type = CONTROL_REQUEST_START,
	        .has_migration_id = true,
	        .migration_id = test_id(last),
	};

	strcpy(r.start.source, "127.0.0.1:1"); /* nobody listens there */
	strcpy(r.start.peer_identity, PKI_SOURCE_DNS);
	memcpy(r.start.token, TOKEN, sizeof(TOKEN) - 1);
	r.start.token_len = sizeof(TOKEN) - 1;
	r.start.lost_policy = LOST_POLICY_HOLD;
	return r;
}

static inline void start_migration(const struct fixture *f, uint8_t last)
{
	struct control_request request = start_request(last);
	struct control_response response = {0};

	control_call(f, &request, &response);
	if (response.error)
		fail_msg("%s", response.text);
	assert_int_equal(response.type, CONTROL_RESPONSE_MIGRATION);
	assert_string_equal(response.migrations->state, "setup");
	control_response_free(&response);
}

static inline struct control_request simple_request(enum control_request_type type, uint8_t last)
{
	return (struct control_request){
	        .id = 9, .type = type, .has_migration_id = true, .migration_id = test_id(last)};
}

/* The state of a migration, into buf. */
static inline const char *state_of(const struct fixture *f, uint8_t last,
                                   char buf[ATTACH_STATE_MAX])
{
	struct control_request request = simple_request(CONTROL_REQUEST_GET, last);
	struct control_response response = {0};

	control_call(f, &request, &response);
	if (response.error)
		fail_msg("%s", response.text);
	strcpy(buf, response.migrations->state);
	control_response_free(&response);
	return buf;
}

/* ---- attach ---- */

static inline void attach_send(int sock, const struct attach_request *request, const int *fds,
                               size_t n_fds)
{
	uint8_t *buf;
	size_t len;

	assert_int_equal(attach_request_encode(request, &buf, &len), 0);
	assert_int_equal(fdpass_send_message(sock, buf, len, fds, n_fds), 0);
	free(buf);
}

static inline void attach_recv(int sock, struct attach_reply *reply)
{
	struct error error = {0};
	uint8_t *buf;
	size_t len;

	assert_int_equal(fdpass_recv_message(sock, &buf, &len, NULL, 0, NULL, ANSWER_TIMEOUT_US),
	                 0);
	if (attach_reply_decode(buf, len, reply, &error) < 0)
		fail_msg("%s", error.text);
	free(buf);
}

static inline struct attach_region anonymous_region(void *memory)
{
	struct attach_region r = {
	        .name = "ram",
	        .gpa = {REGION_GPA},
	        .hva = {(uintptr_t)memory},
	        .length_bytes = REGION_BYTES,
	        .page_size_bytes = 4096,
	        .backing = BACKING_ANONYMOUS,
	        .mode = UFFD_MODE_MISSING,
	};
	return r;
}

static inline struct attach_request attach_request_for(uint8_t last, struct attach_region *regions,
                                                       size_t n_regions)
{
	struct attach_request r = {
	        .type = ATTACH_REQUEST_ATTACH,
	        .version = ATTACH_PROTOCOL_VERSION,
	        .migration_id = test_id(last),
	        .token_len = sizeof(TOKEN) - 1,
	};

	memcpy(r.token, TOKEN, sizeof(TOKEN) - 1);
	r.attach.n_uffds = 1;
	r.attach.regions = regions;
	r.attach.n_regions = n_regions;
	return r;
}

static inline void *map_anonymous(void)
{
	void *p = mmap(NULL, REGION_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
	               0);

	assert_ptr_not_equal(p, MAP_FAILED);
	return p;
}

/* Nothing here works without a userfaultfd: skip, visibly. */
static inline int require_uffd(void)
{
	int fd = uffd_open();

	if (fd < 0)
		printf("SKIP: no userfaultfd for this user: %s\n", strerror(-fd));
	else
		close(fd);
	return fd;
}

#endif
