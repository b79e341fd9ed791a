/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Promises of postcopyctl towards a daemon: requests arrive as typed, answers
 * are shown to people and to programs, and the exit status tells a refusal from
 * a daemon that is not there.
 */
#include "unit/ctl_fake.h"

#include <jansson.h>

static void script_start(struct fake *f)
{
	fake_receive(f, CONTROL_REQUEST_START);
	FAKE_CHECK(f, f->request.has_migration_id && f->request.migration_id.bytes[0] == 0x12);
	FAKE_CHECK(f, strcmp(f->request.start.source, "src:7000") == 0);
	FAKE_CHECK(f, strcmp(f->request.start.peer_identity, "src.example") == 0);
	FAKE_CHECK(f, f->request.start.token_len == 16);
	FAKE_CHECK(f, f->request.start.bandwidth == 100 << 20);
	fake_answer(f, 0, "waiting for the VMM to attach");
}

static void test_start(void **state)
{
	struct fake f;
	struct output o;
	char path[] = "/tmp/postcopy-token-XXXXXX";
	int fd = mkstemp(path);

	(void)state;
	assert_int_equal(write(fd, "00112233445566778899aabbccddeeff\n", 33), 33);
	fake_start(&f, script_start);
	run(&o, WORDS("start", FAKE_ID, "--source", "src:7000", "--peer", "src.example",
	              "--token-file", path, "--bandwidth", "100M", "--socket", f.server.path));
	assert_string_equal(o.err, "");
	assert_int_equal(o.status, 0);
	assert_string_equal(o.out, "waiting for the VMM to attach\n");
	fake_join(&f);
	close(fd);
	unlink(path);
}

static void script_refuse(struct fake *f)
{
	fake_receive(f, CONTROL_REQUEST_CANCEL);
	FAKE_CHECK(f, !f->request.cancel.force);
	fake_answer(f, EBUSY, "the guest misses 12 pages; use force");
}

static void test_refusal_exits_1(void **state)
{
	struct fake f;
	struct output o;

	(void)state;
	fake_start(&f, script_refuse);
	run(&o, WORDS("--socket", f.server.path, "cancel", FAKE_ID));
	assert_int_equal(WEXITSTATUS(o.status), EXIT_REFUSED);
	assert_string_equal(o.err, "postcopyctl: the guest misses 12 pages; use force\n");
	fake_join(&f);
}

/* A client without the right is told so before its request is looked at. */
static void script_deny(struct fake *f)
{
	fake_answer(f, EACCES, "user 1000 may not control this daemon");
}

static void test_denied_client_is_told(void **state)
{
	struct fake f;
	struct output o;

	(void)state;
	fake_start(&f, script_deny);
	run(&o, WORDS("--socket", f.server.path, "list"));
	assert_int_equal(WEXITSTATUS(o.status), EXIT_REFUSED);
	assert_string_equal(o.err, "postcopyctl: user 1000 may not control this daemon\n");
	fake_join(&f);
}

static void script_die(struct fake *f)
{
	fake_receive(f, CONTROL_REQUEST_LIST);
}

static void test_no_daemon_exits_3(void **state)
{
	struct fake f;
	struct output o;

	(void)state;
	run(&o, WORDS("--socket", "/nonexistent/control.sock", "list"));
	assert_int_equal(WEXITSTATUS(o.status), EXIT_UNREACHABLE);
	assert_non_null(strstr(o.err, "/nonexistent/control.sock"));
	fake_start(&f, script_die);
	run(&o, WORDS("--socket", f.server.path, "list"));
	assert_int_equal(WEXITSTATUS(o.status), EXIT_UNREACHABLE);
	assert_non_null(strstr(o.err, "closed the connection"));
	fake_join(&f);
}

static void script_list(struct fake *f)
{
	struct control_migration m[2] = {fake_migration("postcopy-active", 256 << 20),
	                                 fake_migration("completed", 0)};
	struct control_response r = {
	        .type = CONTROL_RESPONSE_LIST, .migrations = m, .n_migrations = 2};

	m[1].migration_id.bytes[0] = 0xab;
	fake_receive(f, CONTROL_REQUEST_LIST);
	r.id = f->request.id;
	fake_reply(f, &r);
}

static void test_list(void **state)
{
	struct fake f;
	struct output o;
	json_t *list;

	(void)state;
	fake_start(&f, script_list);
	run(&o, WORDS("--socket", f.server.path, "list"));
	fake_join(&f);
	assert_int_equal(o.status, 0);
	assert_non_null(strstr(o.out, FAKE_ID "  postcopy-active    75.0%"));
	assert_non_null(strstr(o.out, "ab3e4567-e89b-12d3-a456-426614174000  completed"));
	fake_start(&f, script_list);
	run(&o, WORDS("--socket", f.server.path, "list", "--json"));
	fake_join(&f);
	list = json_loads(o.out, 0, NULL);
	assert_non_null(list);
	assert_int_equal(json_array_size(list), 2);
	assert_string_equal(json_string_value(json_object_get(json_array_get(list, 1), "state")),
	                    "completed");
	json_decref(list);
}

static void script_show(struct fake *f)
{
	struct control_migration m = fake_migration("postcopy-active", 256 << 20);
	struct control_region region = {.name = "ram0",
	                                .gpa = {0x100000},
	                                .length_bytes = 1 << 30,
	                                .page_size_bytes = 4096,
	                                .backing = "memfd",
	                                .mode = "minor",
	                                .lane = 1};
	struct control_poisoned poisoned = {.region = "ram0",
	                                    .offset_bytes = 0x3000,
	                                    .gpa = {0x103000},
	                                    .lost_bytes = 4096,
	                                    .reason = "read-error",
	                                    .reporter = "src.example",
	                                    .time_us = UINT64_C(1700000000000000)};

	m.regions = &region;
	m.n_regions = 1;
	m.poisoned = &poisoned;
	m.n_poisoned = 1;
	m.latency_log2_us[5] = 700;
	fake_receive(f, CONTROL_REQUEST_GET);
	fake_migration_send(f, CONTROL_RESPONSE_MIGRATION, f->request.id, &m);
}

static void test_show(void **state)
{
	struct fake f;
	struct output o;
	json_t *m, *p;

	(void)state;
	fake_start(&f, script_show);
	run(&o, WORDS("--socket", f.server.path, "show", FAKE_ID));
	fake_join(&f);
	assert_int_equal(o.status, 0);
	assert_non_null(strstr(o.out, "src.example:7000 (src.example)"));
	assert_non_null(strstr(o.out, "p50 41 us, p99 87 us"));
	assert_non_null(strstr(o.out, "0x103000"));
	assert_non_null(strstr(o.out, "read-error"));
	fake_start(&f, script_show);
	run(&o, WORDS("--socket", f.server.path, "show", FAKE_ID, "--json"));
	fake_join(&f);
	m = json_loads(o.out, 0, NULL);
	assert_non_null(m);
	assert_string_equal(json_string_value(json_object_get(m, "migration_id")), FAKE_ID);
	assert_int_equal(json_integer_value(json_object_get(m, "memory_remaining")), 256 << 20);
	assert_int_equal(json_array_size(json_object_get(m, "latency_log2_us")), 6);
	p = json_array_get(json_object_get(m, "poisoned"), 0);
	assert_int_equal(json_integer_value(json_object_get(p, "offset")), 0x3000);
	json_decref(m);
}

static void probe_answer(struct fake *f, struct control_probe_result *results, size_t n)
{
	struct control_response r = {.type = CONTROL_RESPONSE_PROBE,
	                             .probe_results = results,
	                             .n_probe_results = n,
	                             .userfaultfd = "yes"};

	fake_receive(f, CONTROL_REQUEST_PROBE);
	r.id = f->request.id;
	fake_reply(f, &r);
}

static void script_probe_bad(struct fake *f)
{
	struct control_probe_result results[2] = {{.memory = "anonymous", .poison = "yes"},
	                                          {.memory = "memfd", .poison = "no: too old"}};

	probe_answer(f, results, 2);
}

static void script_probe_good(struct fake *f)
{
	struct control_probe_result result = {.memory = "any", .poison = "yes"};

	probe_answer(f, &result, 1);
}

static void test_probe_of_the_daemon(void **state)
{
	struct fake f;
	struct output o;

	(void)state;
	fake_start(&f, script_probe_bad);
	run(&o, WORDS("--socket", f.server.path, "probe", "--daemon"));
	fake_join(&f);
	assert_int_equal(WEXITSTATUS(o.status), EXIT_REFUSED); /* not for memfds */
	assert_non_null(strstr(o.out, "no: too old"));
	fake_start(&f, script_probe_good);
	run(&o, WORDS("--socket", f.server.path, "probe", "--daemon"));
	fake_join(&f);
	assert_int_equal(o.status, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_start),
	        cmocka_unit_test(test_refusal_exits_1),
	        cmocka_unit_test(test_denied_client_is_told),
	        cmocka_unit_test(test_no_daemon_exits_3),
	        cmocka_unit_test(test_list),
	        cmocka_unit_test(test_show),
	        cmocka_unit_test(test_probe_of_the_daemon),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
