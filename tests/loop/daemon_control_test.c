/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The control socket: every request, bad ones too, watches, who may, and what
 * an operator's poison does to a guest that waits.
 */
#include "daemon_fixture.h"

#include <grp.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "daemon/control_server.h"
#include "daemon/metrics.h"

/* Promise: a start that cannot work is refused before anything exists. */
static void test_start_bad(void **state)
{
	struct fixture *f = *state;
	struct control_request r = start_request(1), list = {.id = 3, .type = CONTROL_REQUEST_LIST};
	struct control_response response = {0};

	strcpy(r.start.source, "nowhere");
	control_refused(f, &r, EINVAL, "there is no port");
	strcpy(r.start.source, "::1:7000");
	control_refused(f, &r, EINVAL, "needs brackets");
	strcpy(r.start.source, "host:0");
	control_refused(f, &r, EINVAL, "from 1 to 65535");
	r = start_request(1);
	strcpy(r.start.peer_identity, "uri:no-scheme");
	control_refused(f, &r, EINVAL, "no-scheme");
	r = start_request(1);
	r.start.lost_policy = LOST_POLICY_KILL;
	control_refused(f, &r, EINVAL, "needs a deadline");
	control_call(f, &list, &response);
	assert_int_equal(response.type, CONTROL_RESPONSE_LIST);
	assert_int_equal(response.n_migrations, 0);
	control_response_free(&response);
}

/* Promise: an id is used by one live migration; after its end it may be used again. */
static void test_start_twice(void **state)
{
	struct fixture *f = *state;
	struct control_request start = start_request(1);
	struct control_request cancel = simple_request(CONTROL_REQUEST_CANCEL, 1);
	struct control_response response = {0};

	start_migration(f, 1);
	control_refused(f, &start, EEXIST, "exists already");
	control_call(f, &cancel, &response); /* nothing is attached: no force needed */
	assert_string_equal(response.migrations->state, "cancelled");
	control_response_free(&response);
	control_refused(f, &cancel, EALREADY, "has ended");
	start_migration(f, 1);
}

/* Promise: [migrations] max holds, ended ones do not count, and tombstones are bounded. */
static void test_limits(void **state)
{
	struct fixture *f = *state;
	struct control_request start = start_request(200);
	struct control_request list = {.id = 3, .type = CONTROL_REQUEST_LIST};
	struct control_response response = {0};

	for (uint8_t i = 0; i < 64; i++)
		start_migration(f, i);
	control_refused(f, &start, EUSERS, "max is 64");
	for (uint8_t i = 0; i < 64; i++) {
		struct control_request cancel = simple_request(CONTROL_REQUEST_CANCEL, i);

		control_call(f, &cancel, &response);
		assert_int_equal(response.error, 0);
		control_response_free(&response);
	}
	for (uint8_t i = 64; i < 74; i++) {
		struct control_request cancel = simple_request(CONTROL_REQUEST_CANCEL, i);

		start_migration(f, i);
		control_call(f, &cancel, &response);
		control_response_free(&response);
	}
	control_call(f, &list, &response);
	assert_int_equal(response.n_migrations, MIGRATION_TOMBSTONES_MAX);
	control_response_free(&response);
	/* The oldest are forgotten, the newest are not. */
	struct control_request get = simple_request(CONTROL_REQUEST_GET, 0);

	control_refused(f, &get, ENOENT, "unknown migration");
	get = simple_request(CONTROL_REQUEST_GET, 73);
	control_call(f, &get, &response);
	assert_int_equal(response.error, 0);
	control_response_free(&response);
}

/* Promise: requests for what is not there, not attached, or another daemon's are refused so. */
static void test_refusals(void **state)
{
	struct fixture *f = *state;
	struct poison_range range = {{REGION_GPA}, 4096};
	struct process_range process = {
	        .name = "ram", .length_bytes = 4096, .page_size_bytes = 4096};
	static const enum control_request_type types[] = {
	        CONTROL_REQUEST_GET, CONTROL_REQUEST_CANCEL, CONTROL_REQUEST_RECOVER,
	        CONTROL_REQUEST_SET_LIMITS, CONTROL_REQUEST_WATCH};
	struct control_request r;

	for (size_t i = 0; i < ARRAY_SIZE(types); i++) {
		r = simple_request(types[i], 9);
		control_refused(f, &r, ENOENT, "unknown migration 10203040-5060-4000-");
	}
	r = simple_request(CONTROL_REQUEST_FREEZE, 9);
	control_refused(f, &r, ENOTSUP, "postcopy-sourced");
	r = simple_request(CONTROL_REQUEST_EXPORT_PROCESS, 9);
	memcpy(r.export_process.token, TOKEN, 16);
	r.export_process.token_len = 16;
	strcpy(r.export_process.peer_identity, "a.example");
	r.export_process.pid = getpid();
	r.export_process.ranges = &process;
	r.export_process.n_ranges = 1;
	control_refused(f, &r, ENOTSUP, "postcopy-sourced");

	start_migration(f, 1);
	r = simple_request(CONTROL_REQUEST_POISON, 1);
	r.poison.ranges = &range;
	r.poison.n_ranges = 1;
	control_refused(f, &r, ENOTCONN, "no VMM is attached");
	r = simple_request(CONTROL_REQUEST_RECOVER, 1);
	strcpy(r.recover.source, "[::1");
	control_refused(f, &r, EINVAL, "not an address");
}

/* Promise: recover can name a new source, limits are kept, and both are shown. */
static void test_change(void **state)
{
	struct fixture *f = *state;
	struct control_request r = simple_request(CONTROL_REQUEST_RECOVER, 1);
	struct control_response response = {0};

	start_migration(f, 1);
	strcpy(r.recover.source, "[::1]:7001");
	control_call(f, &r, &response);
	assert_string_equal(response.migrations->peer, "[::1]:7001");
	control_response_free(&response);
	r = simple_request(CONTROL_REQUEST_SET_LIMITS, 1);
	r.set_limits.bandwidth = 12345;
	control_call(f, &r, &response);
	assert_int_equal(response.migrations->bandwidth, 12345);
	control_response_free(&response);
}

/* Promise: bytes that are no request are answered with what was wrong; others go on. */
static void test_garbage(void **state)
{
	struct fixture *f = *state;
	struct control_response response = {0};
	int sock = connect_to(f->control);
	uint8_t *buf;
	size_t len;

	assert_int_equal(fdpass_send_message(sock, "\xff\xff\xff", 3, NULL, 0), 0);
	control_recv(sock, &response);
	assert_int_equal(response.error, EBADMSG);
	control_response_free(&response);
	assert_int_equal(fdpass_recv_message(sock, &buf, &len, NULL, 0, NULL, ANSWER_TIMEOUT_US),
	                 -ECONNRESET);
	close(sock);
	start_migration(f, 1);
}

/* Promise: the answers come in order with their ids; a watch starts with what is there. */
static void test_watch(void **state)
{
	struct fixture *f = *state;
	struct control_request watch = simple_request(CONTROL_REQUEST_WATCH, 1);
	struct control_request cancel = simple_request(CONTROL_REQUEST_CANCEL, 1);
	struct control_response r = {0};
	int sock = connect_to(f->control);

	start_migration(f, 1);
	watch.watch.interval_us = 60000;
	control_send(sock, &watch);
	control_recv(sock, &r);
	assert_int_equal(r.type, CONTROL_RESPONSE_PLAIN);
	assert_int_equal(r.id, 9);
	for (int i = 0; i < 3; i++) { /* the present state, then progress */
		control_recv(sock, &r);
		assert_int_equal(r.type, CONTROL_RESPONSE_EVENT);
		assert_false(r.state_changed);
		assert_string_equal(r.migrations->state, "setup");
		control_response_free(&r);
	}
	start_migration(f, 2); /* not watched */
	control_call(f, &cancel, &r);
	control_response_free(&r);
	do {
		control_response_free(&r);
		memset(&r, 0, sizeof(r));
		control_recv(sock, &r);
		assert_int_equal(r.migrations->migration_id.bytes[15], 1);
	} while (!r.state_changed);
	assert_string_equal(r.migrations->state, "cancelled");
	control_response_free(&r);
	close(sock);
}

/* Promise: a watcher that does not read is cut off, and the daemon lives on. */
static void test_watch_slow(void **state)
{
	struct fixture *f = *state;
	struct control_request watch = {.id = 5, .type = CONTROL_REQUEST_WATCH};
	int slow = connect_to(f->control), busy = connect_to(f->control);
	struct control_response r = {0};
	ssize_t n;
	char buf[65536];

	for (int i = 0; i < CONTROL_WATCHES_MAX; i++) /* each change comes 16 times */
		control_send(slow, &watch);
	for (int i = 0; i < 3000; i++) {
		struct control_request request = start_request(1);

		control_send(busy, &request);
		control_recv(busy, &r);
		control_response_free(&r);
		request = simple_request(CONTROL_REQUEST_CANCEL, 1);
		control_send(busy, &request);
		control_recv(busy, &r);
		control_response_free(&r);
	}
	start_migration(f, 1); /* others are served */
	/* Far more was to be told than may be queued: the connection must have an end. */
	while ((n = recv(slow, buf, sizeof(buf), 0)) > 0)
		;
	assert_true(n == 0 || errno == ECONNRESET);
	close(slow);
	close(busy);
}

/* Promise: what the daemon knows of its own userfaultfd, and where to ask for the rest. */
static void test_probe(void **state)
{
	struct fixture *f = *state;
	struct control_request r = {.id = 1, .type = CONTROL_REQUEST_PROBE};
	struct control_response response = {0};

	control_call(f, &r, &response);
	assert_int_equal(response.type, CONTROL_RESPONSE_PROBE);
	assert_int_equal(response.n_probe_results, 1);
	assert_non_null(strstr(response.remedy, "postcopyctl probe"));
	control_response_free(&response);
}

static void settings_for_uid(struct fixture *f, void *more)
{
	struct error error = {0};

	fixture_write_config(f, more);
	if (daemon_reload(f->daemon, fixture_settings(f), &error) < 0)
		fail_msg("%s", error.text);
}

/* Ask as another user; the child's exit status is the errno of the answer. */
static int ask_as_nobody(const struct fixture *f)
{
	struct control_request list = {.id = 3, .type = CONTROL_REQUEST_LIST};
	struct control_response response = {0};
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		/* The socket's directory is the test's: connect first would be root. */
		if (setgroups(0, NULL) < 0 || setgid(65534) < 0 || setuid(65534) < 0)
			_exit(255);
		control_call(f, &list, &response);
		_exit(response.error == EACCES && !strstr(response.text, "control_uids")
		              ? 254
		              : response.error);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

/* Promise: who is not on the list is told so, and a reload can put him on it. */
static void test_access(void **state)
{
	struct fixture *f = *state;

	if (geteuid() != 0) {
		print_message("SKIP: only root can ask as another user\n");
		skip();
	}
	assert_int_equal(chmod(f->pki->dir, 0755), 0);
	assert_int_equal(chmod(f->control, 0666), 0);
	assert_int_equal(ask_as_nobody(f), EACCES);
	fixture_call(f, settings_for_uid, "[sockets]\ncontrol_uids = 65534\n");
	assert_int_equal(ask_as_nobody(f), 0);
	fixture_call(f, settings_for_uid, "[sockets]\ncontrol_gids = 65534\n");
	assert_int_equal(ask_as_nobody(f), 0);
	fixture_call(f, settings_for_uid, "");
	assert_int_equal(ask_as_nobody(f), EACCES);
}

struct metric {
	const char *line;
	bool found;
};

static void metric_find(struct fixture *f, void *arg)
{
	struct metric *metric = arg;
	struct evbuffer *buf = evbuffer_new();

	assert_int_equal(metrics_write(daemon_migrations(f->daemon), buf), 0);
	metric->found = evbuffer_search(buf, metric->line, strlen(metric->line), NULL).pos >= 0;
	evbuffer_free(buf);
}

static void expect_metric(struct fixture *f, const char *line)
{
	struct metric metric = {.line = line};

	fixture_call(f, metric_find, &metric);
	if (!metric.found)
		fail_msg("/metrics has no line %s", line);
}

static sigjmp_buf sigbus_jump;

static void on_sigbus(int number)
{
	(void)number;
	siglongjmp(sigbus_jump, 1);
}

static void *touch(void *page)
{
	bool *ret = calloc(1, sizeof(*ret));

	if (sigsetjmp(sigbus_jump, 1) == 0)
		(void)*(volatile char *)page;
	else
		*ret = true;
	return ret;
}

/*
 * Promise: an operator's poison reaches a guest that waits for the page; it is
 * shown with who said so, and stays shown and counted after the end.
 */
static void test_poison(void **state)
{
	struct fixture *f = *state;
	char *memory = map_anonymous();
	struct attach_region region = anonymous_region(memory);
	struct attach_request attach = attach_request_for(1, &region, 1);
	struct poison_range range = {{REGION_GPA + 3 * 4096}, 2 * 4096};
	struct control_request r = simple_request(CONTROL_REQUEST_POISON, 1);
	struct control_request get = simple_request(CONTROL_REQUEST_GET, 1);
	struct control_response response = {0};
	struct attach_reply reply = {0};
	int sock = connect_to(f->attach), uffd = uffd_open();
	pthread_t guest;
	void *killed;

	if (uffd < 0) {
		print_message("SKIP: no userfaultfd for this user\n");
		skip();
	}
	signal(SIGBUS, on_sigbus);
	start_migration(f, 1);
	attach_send(sock, &attach, &uffd, 1);
	attach_recv(sock, &reply);
	if (reply.error)
		fail_msg("%s", reply.text);
	assert_int_equal(pthread_create(&guest, NULL, touch, memory + 4 * 4096), 0);
	for (uint64_t faults = 0; faults == 0;) { /* until the guest waits */
		control_call(f, &get, &response);
		faults = response.migrations->faults;
		control_response_free(&response);
	}
	r.poison.ranges = &(struct poison_range){{REGION_GPA + REGION_BYTES - 4096}, 8192};
	r.poison.n_ranges = 1;
	control_refused(f, &r, ERANGE, "no region at guest-physical 0x110000");
	r.poison.ranges = &range;
	control_call(f, &r, &response);
	if (response.error)
		fail_msg("%s", response.text);
	control_response_free(&response);
	assert_int_equal(pthread_join(guest, &killed), 0);
	assert_true(*(bool *)killed);
	free(killed);
	for (int round = 0; round < 2; round++) { /* live, then ended */
		control_call(f, &get, &response);
		/* The guest may be killed before the second page has been counted. */
		for (int i = 0;
		     i < 10000 && response.migrations->memory_remaining != REGION_BYTES - 2 * 4096;
		     i++) {
			control_response_free(&response);
			control_call(f, &get, &response);
		}
		const struct control_migration *m = response.migrations;

		assert_int_equal(m->n_regions, 1);
		assert_int_equal(m->n_poisoned, 2);
		assert_string_equal(m->poisoned[0].region, "ram");
		assert_string_equal(m->poisoned[0].reporter, "operator");
		assert_int_equal(m->poisoned[0].offset_bytes + m->poisoned[1].offset_bytes,
		                 7 * 4096);
		assert_int_equal(m->lost_bytes, 2 * 4096);
		assert_int_equal(m->pages_poisoned, 2);
		assert_int_equal(m->memory_remaining, REGION_BYTES - 2 * 4096);
		control_response_free(&response);
		expect_metric(f, "\npostcopyd_faults_total 1\n"); /* totals outlive it */
		expect_metric(f, "\npostcopyd_pages_total{kind=\"poisoned\"} 2\n");
		expect_metric(f, "\npostcopyd_lost_bytes_total 8192\n");
		if (round == 1)
			break;
		r = simple_request(CONTROL_REQUEST_CANCEL, 1);
		r.cancel.force = true;
		control_call(f, &r, &response);
		assert_string_equal(response.migrations->state, "cancelled");
		control_response_free(&response);
	}
	close(sock);
	close(uffd);
	munmap(memory, REGION_BYTES);
}

int main(void)
{
#define WITH_DAEMON(fn) cmocka_unit_test_setup_teardown(fn, fixture_setup, fixture_teardown)
	const struct CMUnitTest tests[] = {
	        WITH_DAEMON(test_start_bad), WITH_DAEMON(test_start_twice),
	        WITH_DAEMON(test_limits),    WITH_DAEMON(test_refusals),
	        WITH_DAEMON(test_change),    WITH_DAEMON(test_garbage),
	        WITH_DAEMON(test_watch),     WITH_DAEMON(test_watch_slow),
	        WITH_DAEMON(test_probe),     WITH_DAEMON(test_access),
	        WITH_DAEMON(test_poison),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
