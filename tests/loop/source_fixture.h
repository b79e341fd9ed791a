/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A whole postcopy-sourced in this process (its main loop on a thread), and
 * plain blocking peers for it: a VMM on the export socket, an operator on the
 * control socket, a destination over real TLS on the loopback.
 */
#ifndef LOOP_SOURCE_FIXTURE_H
#define LOOP_SOURCE_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "core/cleanup.h"
#include "core/fdpass.h"
#include "core/log.h"
#include "net/tls.h"
#include "source/agent.h"
#include "support/pki.h"
#include "wire/attach_message.h"
#include "wire/control_message.h"
#include "wire/page_message.h"

#define UNUSED __attribute__((unused))
#define REPLY_TIMEOUT_US 10000000
#define PAGE ((size_t)WIRE_PAGE_SIZE)

static const uint8_t token[32] = "the token of this one migration";

struct fixture {
	struct pki *pki;
	struct tls_context *destination;
	struct agent *agent;
	pthread_t thread;
	char dir[64];
	char export_path[96];
	char control_path[96];
	char config_path[96];
};

static UNUSED void *run_agent(void *arg)
{
	struct fixture *f = arg;

	assert_int_equal(loop_run(agent_loop(f->agent)), 0);
	return NULL;
}

/* config: more lines for the settings file, or NULL. */
static UNUSED struct fixture *fixture_new(const char *config)
{
	struct fixture *f = calloc(1, sizeof(*f));
	char cert[PKI_PATH_MAX], key[PKI_PATH_MAX], ca[PKI_PATH_MAX];
	struct settings *settings;
	struct error err = {0};

	assert_non_null(f);
	log_init("test", LOG_TARGET_STDERR);
	if (!getenv("TEST_VERBOSE"))
		log_set_level(LOG_CRIT);
	signal(SIGPIPE, SIG_IGN);
	f->pki = pki_new();
	(void)snprintf(f->dir, sizeof(f->dir), "/tmp/source-test-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	(void)snprintf(f->export_path, sizeof(f->export_path), "%s/export.sock", f->dir);
	(void)snprintf(f->control_path, sizeof(f->control_path), "%s/control.sock", f->dir);
	(void)snprintf(f->config_path, sizeof(f->config_path), "%s/conf", f->dir);

	FILE *file = fopen(f->config_path, "w");

	assert_non_null(file);
	if (config)
		fputs(config, file);
	assert_int_equal(fclose(file), 0);

	struct settings_overrides o = {
	        .listen = "127.0.0.1:0",
	        .export_socket = f->export_path,
	        .control_socket = f->control_path,
	        .certificate = pki_path(f->pki, "source.pem", cert),
	        .key = pki_path(f->pki, "source.key", key),
	        .ca = pki_path(f->pki, "ca.pem", ca),
	};

	int level = log_level();

	if (settings_load(f->config_path, &o, &settings, &err) < 0)
		fail_msg("%s", err.text);
	if (agent_new(settings, &f->agent, &err) < 0)
		fail_msg("%s", err.text);
	log_set_level(level);
	f->destination = pki_context(f->pki, "destination", "ca", NULL);
	assert_int_equal(pthread_create(&f->thread, NULL, run_agent, f), 0);
	return f;
}

static UNUSED void fixture_free(struct fixture *f)
{
	loop_stop(agent_loop(f->agent));
	pthread_join(f->thread, NULL);
	agent_free(f->agent);
	tls_context_unref(f->destination);
	pki_free(f->pki);
	unlink(f->export_path);
	unlink(f->control_path);
	unlink(f->config_path);
	rmdir(f->dir);
	free(f);
}

/* ---- guest memory ---- */

/* Byte i of page p; pages 4n+3 are zero. */
static UNUSED void page_fill(uint8_t *to, uint64_t page)
{
	memset(to, 0, PAGE);
	if (page % 4 == 3)
		return;
	for (size_t i = 0; i < PAGE; i++)
		to[i] = (uint8_t)(page * 7 + i * 13 + 1);
}

/* A memfd with n pages, of which the first is page number first. */
static UNUSED int memory_new(uint64_t first, uint64_t n)
{
	int fd = memfd_create("guest", MFD_CLOEXEC);
	uint8_t page[WIRE_PAGE_SIZE];

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)(n * PAGE)), 0);
	for (uint64_t i = 0; i < n; i++) {
		if ((first + i) % 4 == 3)
			continue; /* a hole */
		page_fill(page, first + i);
		assert_int_equal(pwrite(fd, page, PAGE, (off_t)(i * PAGE)), PAGE);
	}
	return fd;
}

static UNUSED void assert_page(const uint8_t *bytes, uint64_t page)
{
	uint8_t expected[WIRE_PAGE_SIZE];

	page_fill(expected, page);
	assert_memory_equal(bytes, expected, PAGE);
}

/* ---- a VMM ---- */

struct vmm {
	int sock;
	struct attach_reply state; /* the last event */
	unsigned n_states;
	uint32_t last_id;              /* of a request */
	struct attach_reply asked[16]; /* Populates that nobody has looked at yet */
	unsigned n_asked;
	bool ignores; /* whatever else is asked */
};

static UNUSED struct vmm vmm_connect(struct fixture *f)
{
	struct error err;
	struct vmm v = {.sock = unix_connect(f->export_path, &err)};

	assert_true(v.sock >= 0);
	return v;
}

static UNUSED void vmm_receive(struct vmm *v, struct attach_reply *ret)
{
	uint8_t *buf;
	size_t len, n_fds;
	struct error err;

	assert_int_equal(
	        fdpass_recv_message(v->sock, &buf, &len, NULL, 0, &n_fds, REPLY_TIMEOUT_US), 0);
	if (attach_reply_decode(buf, len, ret, &err) < 0)
		fail_msg("%s", err.text);
	free(buf);
	if (ret->type == ATTACH_REPLY_STATE) {
		v->state = *ret;
		v->n_states++;
	}
	if (ret->type == ATTACH_REPLY_POPULATE && !v->ignores) {
		assert_true(v->n_asked < ARRAY_SIZE(v->asked));
		v->asked[v->n_asked++] = *ret;
	}
}

/* Send, with a number of its own, and wait for the Ack, which has that number; its error. */
static UNUSED int vmm_ask(struct vmm *v, const struct attach_request *q, const int *fds,
                          size_t n_fds, struct attach_reply *ret)
{
	struct attach_request numbered = *q;
	struct attach_reply reply;
	uint8_t *buf;
	size_t len;

	numbered.id = ++v->last_id;
	assert_int_equal(attach_request_encode(&numbered, &buf, &len), 0);
	assert_int_equal(fdpass_send_message(v->sock, buf, len, fds, n_fds), 0);
	free(buf);
	do
		vmm_receive(v, &reply);
	while (reply.type != ATTACH_REPLY_ACK);
	assert_int_equal(reply.id, v->last_id);
	if (ret)
		*ret = reply;
	return reply.error;
}

static UNUSED void vmm_wait_state(struct vmm *v, const char *state)
{
	struct attach_reply reply;

	while (strcmp(v->state.state, state) != 0)
		vmm_receive(v, &reply);
}

static UNUSED int vmm_freeze(struct vmm *v)
{
	struct attach_request q = {.type = ATTACH_REQUEST_FREEZE};

	return vmm_ask(v, &q, NULL, 0, NULL);
}

static UNUSED int vmm_withdraw(struct vmm *v, bool force, struct attach_reply *ret)
{
	struct attach_request q = {.type = ATTACH_REQUEST_WITHDRAW, .withdraw.force = force};

	return vmm_ask(v, &q, NULL, 0, ret);
}

static UNUSED int vmm_report(struct vmm *v, uint64_t gpa, uint64_t length, struct attach_reply *ret)
{
	struct poison_range range = {{gpa}, length};
	struct attach_request q = {.type = ATTACH_REQUEST_REPORT_POISON};

	q.report_poison.ranges = &range;
	q.report_poison.n_ranges = 1;
	return vmm_ask(v, &q, NULL, 0, ret);
}

static UNUSED struct uuid test_id(uint8_t n)
{
	struct uuid id = {{n, 2, 3, 4, 5, 6, 0x47, 8, 0x89, 10, 11, 12, 13, 14, 15, 16}};

	return id;
}

static UNUSED struct attach_request export_request(uint8_t id, struct export_region *regions,
                                                   size_t n)
{
	struct attach_request q = {
	        .type = ATTACH_REQUEST_EXPORT,
	        .version = ATTACH_PROTOCOL_VERSION,
	        .migration_id = test_id(id),
	        .token_len = sizeof(token),
	};

	memcpy(q.token, token, sizeof(token));
	(void)snprintf(q.export.peer_identity, sizeof(q.export.peer_identity), "dns:%s",
	               PKI_DESTINATION_DNS);
	q.export.regions = regions;
	q.export.n_regions = n;
	return q;
}

static UNUSED struct export_region memfd_region(const char *name, uint64_t gpa, uint64_t n_pages)
{
	struct export_region r = {
	        .gpa = {gpa},
	        .length_bytes = n_pages * PAGE,
	        .page_size_bytes = PAGE,
	        .backing = BACKING_MEMFD,
	};

	(void)snprintf(r.name, sizeof(r.name), "%s", name);
	return r;
}

/* One memfd of n_pages at guest-physical 0, exported; frozen if asked for. */
static UNUSED struct vmm vmm_export(struct fixture *f, uint8_t id, uint64_t n_pages, bool freeze)
{
	struct export_region r = memfd_region("ram", 0, n_pages);
	struct attach_request q = export_request(id, &r, 1);
	int fd = memory_new(0, n_pages);
	struct vmm v = vmm_connect(f);
	struct attach_reply reply;

	if (vmm_ask(&v, &q, &fd, 1, &reply) != 0)
		fail_msg("%s", reply.text);
	close(fd);
	if (freeze)
		assert_int_equal(vmm_freeze(&v), 0);
	return v;
}

/* ---- an operator ---- */

static UNUSED int operator_ask(struct fixture *f, const struct control_request *q,
                               struct control_response *ret)
{
	struct error err;
	uint8_t *buf;
	size_t len, n_fds;
	int sock = unix_connect(f->control_path, &err);

	assert_true(sock >= 0);
	assert_int_equal(control_request_encode(q, &buf, &len), 0);
	assert_int_equal(fdpass_send_message(sock, buf, len, NULL, 0), 0);
	free(buf);
	assert_int_equal(fdpass_recv_message(sock, &buf, &len, NULL, 0, &n_fds, REPLY_TIMEOUT_US),
	                 0);
	memset(ret, 0, sizeof(*ret));
	if (control_response_decode(buf, len, ret, &err) < 0)
		fail_msg("%s", err.text);
	free(buf);
	close(sock);
	assert_int_equal(ret->id, q->id);
	return ret->error;
}

/* ---- a destination ---- */

struct destination {
	int fd;
	SSL *ssl;
	struct page_decoder *decoder;
	uint8_t *buf;
	size_t len;
	size_t used; /* of the frame that was returned last */
	struct page_message m;
};

static UNUSED struct destination *destination_connect(struct fixture *f, struct tls_context *tls)
{
	struct destination *d = calloc(1, sizeof(*d));
	struct sockaddr_in to = {.sin_family = AF_INET,
	                         .sin_port = htons(agent_port(f->agent)),
	                         .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	struct timeval timeout = {.tv_sec = 10};
	struct error err;

	assert_non_null(d);
	d->buf = malloc(FRAME_MAX);
	assert_non_null(d->buf);
	assert_int_equal(page_decoder_new(&d->decoder), 0);
	d->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(connect(d->fd, (struct sockaddr *)&to, sizeof(to)), 0);
	setsockopt(d->fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
	assert_int_equal(tls_session_new(tls, false, &d->ssl, &err), 0);
	assert_int_equal(SSL_set_fd(d->ssl, d->fd), 1);
	assert_int_equal(SSL_connect(d->ssl), 1);
	return d;
}

static UNUSED void destination_free(struct destination *d)
{
	SSL_free(d->ssl);
	close(d->fd);
	page_decoder_free(d->decoder);
	free(d->buf);
	free(d);
}

static UNUSED void destination_write(struct destination *d, const void *buf, size_t len)
{
	assert_int_equal(SSL_write(d->ssl, buf, (int)len), len);
}

static UNUSED void destination_send(struct destination *d, const struct page_message *m,
                                    const void *payload, size_t payload_len)
{
	uint8_t *buf = malloc(PAGE_MESSAGE_HEAD_MAX + payload_len);
	ssize_t n = page_message_encode(m, buf, PAGE_MESSAGE_HEAD_MAX);

	assert_true(n > 0);
	if (payload && payload_len)
		memcpy(buf + n, payload, payload_len);
	destination_write(d, buf, (size_t)n + payload_len);
	free(buf);
}

/* The next message, in d->m; PAGE_MESSAGE_NONE at the end of the connection. */
static UNUSED enum page_message_type destination_receive(struct destination *d)
{
	struct frame frame;
	struct error err = {0};
	ssize_t n;

	memmove(d->buf, d->buf + d->used, d->len - d->used);
	d->len -= d->used;
	d->used = 0;
	while ((n = frame_parse(d->buf, d->len, &frame, &err)) == 0) {
		int got = SSL_read(d->ssl, d->buf + d->len, (int)(FRAME_MAX - d->len));

		if (got <= 0) {
			if (errno == EAGAIN && SSL_get_error(d->ssl, got) == SSL_ERROR_WANT_READ)
				fail_msg("nothing came for 10 s");
			return PAGE_MESSAGE_NONE;
		}
		d->len += (size_t)got;
	}
	if (n < 0 || page_message_decode(d->decoder, &frame, &d->m, &err) < 0)
		fail_msg("%s", err.text);
	d->used = (size_t)n;
	return d->m.type;
}

static UNUSED void destination_expect(struct destination *d, enum page_message_type type)
{
	enum page_message_type got = destination_receive(d);

	if (got != type)
		fail_msg("got %s %s, expected %s", page_message_type_name(got),
		         got == PAGE_MESSAGE_ERROR ? d->m.error.text : "",
		         page_message_type_name(type));
}

/* An Error with this code and, in its text, this word; then the end. */
static UNUSED void destination_expect_error(struct destination *d, enum wire_error_code code,
                                            const char *word)
{
	destination_expect(d, PAGE_MESSAGE_ERROR);
	if (d->m.error.code != code || !strstr(d->m.error.text, word))
		fail_msg("got %s: %s, expected %s with \"%s\"",
		         wire_error_code_name(d->m.error.code), d->m.error.text,
		         wire_error_code_name(code), word);
	assert_int_equal(destination_receive(d), PAGE_MESSAGE_NONE);
}

static UNUSED struct page_message hello_message(uint8_t id, enum link_role role, uint32_t lane)
{
	struct page_message m = {.type = PAGE_MESSAGE_HELLO};

	m.hello.version = PAGE_PROTOCOL_VERSION;
	m.hello.version_min = PAGE_PROTOCOL_VERSION_MIN;
	m.hello.migration_id = test_id(id);
	memcpy(m.hello.token, token, sizeof(token));
	m.hello.token_len = sizeof(token);
	m.hello.role = role;
	m.hello.lane = lane;
	return m;
}

/* Connected and greeted; d->m is the HelloAck. */
static UNUSED struct destination *destination_hello(struct fixture *f, uint8_t id,
                                                    enum link_role role, uint32_t lane)
{
	struct destination *d = destination_connect(f, f->destination);
	struct page_message m = hello_message(id, role, lane);

	destination_send(d, &m, NULL, 0);
	destination_expect(d, PAGE_MESSAGE_HELLO_ACK);
	return d;
}

static UNUSED void destination_ask_runs(struct destination *d, uint64_t request_id,
                                        const struct page_run *runs, size_t n)
{
	struct page_message m = {.type = PAGE_MESSAGE_PAGE_REQUEST};

	m.page_request.id = request_id;
	m.page_request.runs.runs = runs;
	m.page_request.runs.n_runs = n;
	destination_send(d, &m, NULL, 0);
}

static UNUSED void destination_ask(struct destination *d, uint64_t request_id, uint64_t first,
                                   uint32_t count)
{
	struct page_run run = {first, count, PAGE_KIND_UNSPECIFIED};

	destination_ask_runs(d, request_id, &run, 1);
}

/* Ask for one page and expect it to be of this kind, with the right content. */
static UNUSED void destination_expect_page(struct destination *d, uint64_t page,
                                           enum page_kind kind)
{
	destination_ask(d, page + 1, page, 1);
	destination_expect(d, PAGE_MESSAGE_PAGES);
	assert_int_equal(d->m.pages.id, page + 1);
	assert_int_equal(d->m.pages.runs.n_runs, 1);
	assert_int_equal(d->m.pages.runs.runs[0].first, page);
	assert_int_equal(d->m.pages.runs.runs[0].count, 1);
	assert_int_equal(d->m.pages.runs.runs[0].kind, kind);
	if (kind == PAGE_KIND_DATA)
		assert_page(d->m.pages.bytes, page);
}

static UNUSED void destination_resume(struct destination *d, uint64_t first, uint64_t count,
                                      uint32_t unit_pages, const uint8_t *bitmap, bool last)
{
	struct page_message m = {.type = PAGE_MESSAGE_RESUME};
	size_t len = bitmap ? (count / unit_pages + 7) / 8 : 0;

	m.resume.first = first;
	m.resume.count = count;
	m.resume.unit_pages = unit_pages;
	m.resume.last = last;
	m.resume.bitmap_len = len;
	destination_send(d, &m, bitmap, len);
}

static UNUSED void destination_control(struct destination *d, int64_t position, uint32_t window,
                                       int64_t bandwidth)
{
	struct page_message m = {.type = PAGE_MESSAGE_STREAM_CONTROL};

	m.stream_control.has_position = position >= 0;
	m.stream_control.position = position >= 0 ? (uint64_t)position : 0;
	m.stream_control.window = window;
	m.stream_control.has_bandwidth = bandwidth >= 0;
	m.stream_control.bandwidth = bandwidth >= 0 ? (uint64_t)bandwidth : 0;
	destination_send(d, &m, NULL, 0);
}

static UNUSED void destination_complete(struct destination *d)
{
	struct page_message m = {.type = PAGE_MESSAGE_COMPLETE};

	destination_send(d, &m, NULL, 0);
}

#endif
