/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Promises of postcopyctl's command line: every option ends up in the request
 * it is meant for; what is wrong is named with its value, before any daemon is
 * asked; every command explains itself.
 */
#include "unit/ctl_fake.h"

#include <sys/stat.h>

#include "ctl/args.h"
#include "ctl/request.h"

static char token_path[] = "/tmp/postcopy-token-XXXXXX";

static int token_file_make(void **state)
{
	int fd = mkstemp(token_path);

	(void)state;
	if (fd < 0 || write(fd, "00112233445566778899aabbccddeeFF\n", 33) != 33)
		return -1;
	return close(fd);
}

static int token_file_remove(void **state)
{
	(void)state;
	return unlink(token_path);
}

static int parse(char **words, struct control_request *ret, struct error *err)
{
	struct invocation inv;
	int r = invocation_parse(words_count(words), words, &inv, err);

	return r < 0 ? r : request_from_invocation(&inv, ret, err);
}

static void test_start(void **state)
{
	struct control_request r = {0};
	struct error err = {0};

	(void)state;
	/* Operands and options in any order. */
	assert_int_equal(
	        parse(WORDS("start", "--source", "[fe80::1]:7000", FAKE_ID, "--peer", "src.example",
	                    "--token-file", token_path, "--lost-policy", "poison",
	                    "--lost-deadline=45s", "--bandwidth", "100M", "--stop-on-poison"),
	              &r, &err),
	        0);
	assert_int_equal(r.type, CONTROL_REQUEST_START);
	assert_true(r.has_migration_id);
	assert_int_equal(r.migration_id.bytes[0], 0x12);
	assert_string_equal(r.start.source, "[fe80::1]:7000");
	assert_string_equal(r.start.peer_identity, "src.example");
	assert_int_equal(r.start.token_len, 16);
	assert_int_equal(r.start.token[1], 0x11);
	assert_int_equal(r.start.token[15], 0xff);
	assert_int_equal(r.start.lost_policy, LOST_POLICY_POISON);
	assert_int_equal(r.start.lost_deadline_us, 45000000);
	assert_int_equal(r.start.bandwidth, 100 << 20);
	assert_true(r.start.stop_on_poison);
}

static void test_start_defaults(void **state)
{
	struct control_request r = {0};
	struct error err = {0};

	(void)state;
	assert_int_equal(parse(WORDS("start", FAKE_ID, "--source", "src:7000", "--peer", "p",
	                             "--token-file", token_path),
	                       &r, &err),
	                 0);
	assert_int_equal(r.start.lost_policy, LOST_POLICY_HOLD);
	assert_int_equal(r.start.lost_deadline_us, 0);
	assert_int_equal(r.start.bandwidth, 0);
	assert_false(r.start.stop_on_poison);
}

static void test_export_and_poison(void **state)
{
	struct control_request r = {0};
	struct error err = {0};

	(void)state;
	assert_int_equal(parse(WORDS("export", FAKE_ID, "ram0=0:0x7f0000000000:1G",
	                             "huge=4G:0x7f8000000000:4M:2M", "--pid", "4711", "--peer",
	                             "dst", "--token-file", token_path),
	                       &r, &err),
	                 0);
	assert_int_equal(r.type, CONTROL_REQUEST_EXPORT_PROCESS);
	assert_int_equal(r.export_process.pid, 4711);
	assert_int_equal(r.export_process.n_ranges, 2);
	assert_string_equal(r.export_process.ranges[0].name, "ram0");
	assert_int_equal(r.export_process.ranges[0].hva.addr, 0x7f0000000000);
	assert_int_equal(r.export_process.ranges[0].length_bytes, 1 << 30);
	assert_int_equal(r.export_process.ranges[0].page_size_bytes, 4096);
	assert_true(r.export_process.ranges[1].gpa.addr == UINT64_C(1) << 32);
	assert_int_equal(r.export_process.ranges[1].page_size_bytes, 2 << 20);
	control_request_free(&r);
	assert_int_equal(parse(WORDS("poison", FAKE_ID, "0x1000", "8K+0x2000"), &r, &err), 0);
	assert_int_equal(r.poison.n_ranges, 2);
	assert_int_equal(r.poison.ranges[0].length_bytes, 4096);
	assert_int_equal(r.poison.ranges[1].gpa.addr, 0x2000);
	assert_int_equal(r.poison.ranges[1].length_bytes, 0x2000);
	control_request_free(&r);
}

static void test_other_commands(void **state)
{
	struct control_request r = {0};
	struct error err = {0};

	(void)state;
	assert_int_equal(parse(WORDS("cancel", FAKE_ID, "--force"), &r, &err), 0);
	assert_true(r.type == CONTROL_REQUEST_CANCEL && r.cancel.force);
	assert_int_equal(parse(WORDS("recover", FAKE_ID), &r, &err), 0);
	assert_true(r.type == CONTROL_REQUEST_RECOVER && r.recover.source[0] == '\0');
	assert_int_equal(parse(WORDS("recover", FAKE_ID, "--source", "other:7001"), &r, &err), 0);
	assert_string_equal(r.recover.source, "other:7001");
	assert_int_equal(parse(WORDS("set-limits", FAKE_ID, "--bandwidth", "0"), &r, &err), 0);
	assert_true(r.type == CONTROL_REQUEST_SET_LIMITS && r.set_limits.bandwidth == 0);
	assert_int_equal(parse(WORDS("watch", "--interval", "250ms"), &r, &err), 0);
	assert_true(r.type == CONTROL_REQUEST_WATCH && !r.has_migration_id);
	assert_int_equal(r.watch.interval_us, 250000);
	assert_int_equal(parse(WORDS("freeze", FAKE_ID), &r, &err), 0);
	assert_int_equal(r.type, CONTROL_REQUEST_FREEZE);
}

static void test_socket_choice(void **state)
{
	struct invocation inv;
	char **words = WORDS("--socket", "/a", "list");

	(void)state;
	unsetenv("POSTCOPY_SOCKET");
	assert_int_equal(invocation_parse(4, words, &inv, NULL), 0);
	assert_string_equal(inv.socket_path, "/a");
	assert_int_equal(invocation_parse(4, WORDS("list", "--socket", "/b"), &inv, NULL), 0);
	assert_string_equal(inv.socket_path, "/b");
	assert_int_equal(invocation_parse(2, WORDS("list"), &inv, NULL), 0);
	assert_string_equal(inv.socket_path, "/run/postcopyd/control.sock");
	assert_int_equal(invocation_parse(3, WORDS("freeze", FAKE_ID), &inv, NULL), 0);
	assert_string_equal(inv.socket_path, "/run/postcopy-sourced/control.sock");
	setenv("POSTCOPY_SOCKET", "/c", 1);
	assert_int_equal(invocation_parse(2, WORDS("list"), &inv, NULL), 0);
	assert_string_equal(inv.socket_path, "/c");
	unsetenv("POSTCOPY_SOCKET");
}

#define START_WITH(...)                                                                       \
	WORDS("start", FAKE_ID, "--source", "s:1", "--peer", "p", "--token-file", token_path, \
	      __VA_ARGS__)
#define EXPORT_WITH(...)                                                                  \
	WORDS("export", FAKE_ID, "--pid", "1", "--peer", "p", "--token-file", token_path, \
	      __VA_ARGS__)

static void test_wrong_command_lines(void **state)
{
	const struct {
		char **words;
		const char *text; /* part of what is said */
	} cases[] = {
	        {WORDS("lits"), "no command lits"},
	        {WORDS("list", "--jsn"), "--jsn"},
	        {WORDS("--jsn"), "--jsn"},
	        {WORDS("list", "extra"), "1 operands"},
	        {WORDS("show"), "0 operands"},
	        {WORDS("show", "not-an-id"), "\"not-an-id\""},
	        {WORDS("show", FAKE_ID, "--socket"), "--socket"},
	        {WORDS("start", FAKE_ID), "--source"},
	        {WORDS("start", FAKE_ID, "--source", "s:1"), "--peer"},
	        {WORDS("start", FAKE_ID, "--source", "s:1", "--peer", "p"), "--token-file"},
	        {START_WITH("--source", "nowhere"), "nowhere"},
	        {START_WITH("--source", "host:70000"), "host:70000"},
	        {START_WITH("--source", "fe80::1:7000"), "fe80::1:7000"},
	        {START_WITH("--source", ":7000"), ":7000"},
	        {START_WITH("--lost-policy", "zeros"), "zeros"},
	        {START_WITH("--lost-deadline", "30s"), "hold"},
	        {START_WITH("--lost-policy", "kill", "--lost-deadline", "soon"), "soon"},
	        {START_WITH("--bandwidth", "fast"), "fast"},
	        {START_WITH("--peer", ""), "0 bytes"},
	        {START_WITH("--token-file", "/nonexistent"), "/nonexistent"},
	        {WORDS("set-limits", FAKE_ID), "--bandwidth"},
	        {WORDS("watch", "--interval", "often"), "often"},
	        {WORDS("poison", FAKE_ID, "0x800"), "0x800"},
	        {WORDS("poison", FAKE_ID, "0x1000+0"), "length is 0"},
	        {WORDS("poison", FAKE_ID, "0x1000+12"), "0xc"},
	        {WORDS("poison", FAKE_ID, "0xzz"), "0xzz"},
	        {WORDS("poison", FAKE_ID, "0xfffffffffffff000+8K"), "wraps"},
	        {EXPORT_WITH("ram0"), "\"ram0\""},
	        {EXPORT_WITH("=0:0:4K"), "NAME"},
	        {EXPORT_WITH("r=0:4K"), "NAME"},
	        {EXPORT_WITH("r=0:4K:4K:4K:4K"), "NAME"},
	        {EXPORT_WITH("r=0:0x1000:4K:5000"), "5000"},
	        {EXPORT_WITH("r=0:0x1000:4K:2M"), "2097152"},
	        {EXPORT_WITH("r=0:0x1000:4K", "--pid", "0"), "--pid 0"},
	        {EXPORT_WITH("r=0:0x1000:4K", "--pid", "12x"), "12x"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct control_request r = {0};
		struct error err = {0};

		if (parse(cases[i].words, &r, &err) >= 0)
			fail_msg("case %zu was taken", i);
		if (!strstr(err.text, cases[i].text))
			fail_msg("case %zu: \"%s\" does not say \"%s\"", i, err.text,
			         cases[i].text);
	}
}

static void test_token_files(void **state)
{
	static const struct {
		const char *content;
		const char *text;
	} wrong[] = {
	        {"", "0 digits"},
	        {"00112233445566778899aabbccddee\n", "30 digits"},
	        {"00112233445566778899aabbccddeef", "31 digits"},
	        {"00112233445566778899aabbccddeegg", "byte 30"},
	        {"00112233445566778899aabbccddee f\n", "byte 30"},
	};
	char path[] = "/tmp/postcopy-token-XXXXXX";
	uint8_t token[TOKEN_BYTES_MAX];
	int fd = mkstemp(path);
	bool exposed;
	size_t len;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
		struct error err = {0};

		assert_int_equal(ftruncate(fd, 0), 0);
		assert_int_equal(pwrite(fd, wrong[i].content, strlen(wrong[i].content), 0),
		                 strlen(wrong[i].content));
		assert_int_equal(args_token_file(path, token, &len, &exposed, &err), -EINVAL);
		assert_non_null(strstr(err.text, wrong[i].text));
	}
	assert_int_equal(ftruncate(fd, 0), 0);
	for (int i = 0; i < 70; i++)
		assert_int_equal(write(fd, "ab", 2), 2);
	assert_int_equal(args_token_file(path, token, &len, &exposed, NULL), -EINVAL);
	assert_int_equal(ftruncate(fd, 128), 0);
	assert_int_equal(args_token_file(path, token, &len, &exposed, NULL), 0);
	assert_int_equal(len, 64);
	assert_false(exposed);
	assert_int_equal(fchmod(fd, 0644), 0);
	assert_int_equal(args_token_file(path, token, &len, &exposed, NULL), 0);
	assert_true(exposed);
	close(fd);
	unlink(path);
}

static void test_usage_exits_2(void **state)
{
	struct output o;

	(void)state;
	run(&o, WORDS("show", "x"));
	assert_int_equal(WEXITSTATUS(o.status), EXIT_USAGE);
	assert_string_equal(o.out, "");
	assert_non_null(strstr(o.err, "postcopyctl: \"x\" is not a migration ID"));
}

static void test_help(void **state)
{
	struct output o;
	char *line, *save = NULL;
	int commands = 0;

	(void)state;
	run(&o, WORDS("--help"));
	assert_int_equal(o.status, 0);
	/* Each command that the overview names has a help text of its own. */
	for (line = strtok_r(o.out, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		struct output one;
		char name[16];

		if (strncmp(line, "  ", 2) != 0 || sscanf(line, "%15s", name) != 1)
			continue;
		run(&one, WORDS(name, "--help"));
		assert_int_equal(one.status, 0);
		assert_non_null(strstr(one.out, name));
		assert_non_null(strstr(one.out, "--help"));
		commands++;
	}
	assert_int_equal(commands, 15);
}

static void test_token_and_new_id(void **state)
{
	char dir[] = "/tmp/postcopy-XXXXXX", path[64];
	uint8_t token[TOKEN_BYTES_MAX];
	struct output o;
	struct uuid id;
	struct stat st;
	size_t len;
	bool exposed;

	(void)state;
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/token", dir);
	run(&o, WORDS("token", path));
	assert_int_equal(o.status, 0);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	assert_int_equal(args_token_file(path, token, &len, &exposed, NULL), 0);
	assert_int_equal(len, 32);
	/* A second one does not overwrite a token that may be in use. */
	run(&o, WORDS("token", path));
	assert_int_equal(WEXITSTATUS(o.status), EXIT_REFUSED);
	assert_non_null(strstr(o.err, path));
	unlink(path);
	rmdir(dir);
	run(&o, WORDS("new-id"));
	o.out[strcspn(o.out, "\n")] = '\0';
	assert_int_equal(uuid_parse(o.out, &id), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_start),
	        cmocka_unit_test(test_start_defaults),
	        cmocka_unit_test(test_export_and_poison),
	        cmocka_unit_test(test_other_commands),
	        cmocka_unit_test(test_socket_choice),
	        cmocka_unit_test(test_wrong_command_lines),
	        cmocka_unit_test(test_token_files),
	        cmocka_unit_test(test_usage_exits_2),
	        cmocka_unit_test(test_help),
	        cmocka_unit_test(test_token_and_new_id),
	};

	return cmocka_run_group_tests(tests, token_file_make, token_file_remove);
}
