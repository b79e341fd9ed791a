/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Promises of postcopyctl qemu-migrate's command line: what is missing is named before
 * anybody is asked, id and secret are made where none are given, and whoever answers at
 * the sockets in QEMU's place is told apart from it.
 */
#include "unit/ctl_fake.h"

#include "ctl/qmp.h"
#include "ctl/request.h"

#define OPTIONS_WORDS 18 /* of complete[] behind the command */

static char *const complete[] = {
        "postcopyctl",
        "qemu-migrate",
        "--source",
        "h:1",
        "--peer",
        "p",
        "--uri",
        "unix:/none",
        "--destination-peer",
        "d",
        "--source-qmp",
        "/none",
        "--source-preload",
        "/none",
        "--destination-qmp",
        "/none",
        "--destination-preload",
        "/none",
};
_Static_assert(sizeof(complete) / sizeof(complete[0]) == OPTIONS_WORDS, "one more?");

static void test_missing_options(void **state)
{
	(void)state;
	for (size_t left_out = 2; left_out < OPTIONS_WORDS; left_out += 2) {
		char *words[OPTIONS_WORDS + 1] = {0};
		struct output o;
		size_t n = 0;

		for (size_t i = 0; i < OPTIONS_WORDS; i++)
			if (i != left_out && i != left_out + 1)
				words[n++] = complete[i];
		run(&o, words);
		assert_int_equal(WEXITSTATUS(o.status), EXIT_USAGE);
		assert_non_null(strstr(o.err, complete[left_out]));
	}
}

static void test_id_and_secret(void **state)
{
	struct control_request a = {0}, b = {0};
	struct invocation inv;
	struct error err = {0};
	char *words[OPTIONS_WORDS + 1] = {0};

	(void)state;
	memcpy(words, complete, sizeof(complete));
	assert_int_equal(invocation_parse(OPTIONS_WORDS, words, &inv, &err), 0);
	assert_int_equal(request_from_invocation(&inv, &a, &err), 0);
	assert_int_equal(request_from_invocation(&inv, &b, &err), 0);
	assert_int_equal(a.type, CONTROL_REQUEST_START);
	assert_true(a.has_migration_id);
	assert_false(uuid_equal(&a.migration_id, &b.migration_id));
	assert_int_equal(a.start.token_len, TOKEN_BYTES_MAX);
	assert_memory_not_equal(a.start.token, b.start.token, TOKEN_BYTES_MAX);
	assert_string_equal(a.start.source, "h:1");
	assert_string_equal(a.start.peer_identity, "p");
	control_request_free(&a);
	control_request_free(&b);
}

/* A monitor at one end of a socket pair, which has been told this. */
static int fds[2];

static void monitor_begin(struct qmp *q, const char *said)
{
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
	*q = (struct qmp){.stream = {.name = "QEMU", .fd = fds[0]}};
	assert_int_equal(write(fds[1], said, strlen(said)), (ssize_t)strlen(said));
}

static void monitor_end(struct qmp *q)
{
	close(fds[1]);
	qmp_close(q);
}

static void test_monitor(void **state)
{
	struct error err = {0};
	char run_state[32];
	struct qmp q;

	(void)state;
	/* Events before an answer, and an answer to somebody who has given up. */
	monitor_begin(&q, "{\"event\": \"STOP\"}\n{\"return\": {}, \"id\": 7}\n"
	                  "{\"event\": \"MIGRATION\", \"data\": {\"status\": \"active\"}}\n"
	                  "{\"return\": {\"status\": \"running\"}, \"id\": 1}\n");
	assert_int_equal(qmp_run_state(&q, run_state, UINT64_MAX, &err), 0);
	assert_string_equal(run_state, "running");
	assert_string_equal(q.migration, "active");
	assert_true(q.stopped_us > 0 && q.resumed_us == 0);
	assert_int_equal(qmp_wait_resume(&q, 0, &err), -ETIMEDOUT);
	monitor_end(&q);

	monitor_begin(&q, "{\"error\": {\"desc\": \"no such command\"}, \"id\": 1}\n");
	assert_int_equal(qmp_run_state(&q, run_state, UINT64_MAX, &err), -EREMOTEIO);
	assert_non_null(strstr(err.text, "query-status: no such command"));
	monitor_end(&q);

	monitor_begin(&q, "{\"event\": \"MIGRATION\", \"data\": {\"status\": \"failed\"}}\n"
	                  "{\"return\": {\"error-desc\": \"no room\"}, \"id\": 1}\n");
	assert_int_equal(qmp_wait_migration(&q, "completed", UINT64_MAX, &err), -ECANCELED);
	assert_string_equal(err.text,
	                    "QEMU: its migration is failed instead of completed: no room");
	monitor_end(&q);
}

static void test_no_monitor(void **state)
{
	static const char *const nonsense[] = {"hello\n", "[]\n{\"return\": 1}\n", "7\n", "{\n",
	                                       "{\"event\": 7}\n{\"event\": {}}\n"};
	struct error err = {0};
	char run_state[32], *long_line;
	struct qmp q;

	(void)state;
	for (size_t i = 0; i < sizeof(nonsense) / sizeof(nonsense[0]); i++) {
		monitor_begin(&q, nonsense[i]);
		shutdown(fds[1], SHUT_WR);
		assert_true(qmp_run_state(&q, run_state, UINT64_MAX, &err) < 0);
		monitor_end(&q);
	}
	/* A line without an end takes no more than its bound. */
	monitor_begin(&q, "");
	long_line = calloc(1, 65536);
	memset(long_line, ' ', 65536);
	for (size_t sent = 0; sent < JSON_LINE_MAX; sent += 65536) {
		json_t *o = NULL;

		assert_int_equal(send(fds[1], long_line, 65536, 0), 65536);
		if (sent + 65536 < JSON_LINE_MAX)
			assert_int_equal(json_stream_receive(&q.stream, 0, &o, &err), -ETIMEDOUT);
		else
			assert_int_equal(json_stream_receive(&q.stream, 0, &o, &err), -EPROTO);
	}
	free(long_line);
	monitor_end(&q);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_missing_options),
	        cmocka_unit_test(test_id_and_secret),
	        cmocka_unit_test(test_monitor),
	        cmocka_unit_test(test_no_monitor),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
