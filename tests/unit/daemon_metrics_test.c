/* SPDX-License-Identifier: Apache-2.0 */
/* The Prometheus text: form, escaping, totals that never decrease, promtool's opinion. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <event2/buffer.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

#include "daemon/metrics.h"
#include "daemon/migration_table.h"

struct bed {
	struct loop *loop;
	struct settings *settings;
	struct migration_table *table;
};

static int setup(void **state)
{
	struct bed *bed = calloc(1, sizeof(*bed));
	struct error error = {0};

	log_set_level(LOG_CRIT);
	assert_int_equal(loop_new(&bed->loop), 0);
	assert_int_equal(settings_load(NULL, NULL, &bed->settings, &error), 0);
	assert_int_equal(migration_table_new(bed->loop, bed->settings, NULL, &bed->table), 0);
	*state = bed;
	return 0;
}

static int teardown(void **state)
{
	struct bed *bed = *state;

	migration_table_free(bed->table);
	settings_free(bed->settings);
	loop_free(bed->loop);
	free(bed);
	return 0;
}

static struct migration *start(struct bed *bed, uint8_t id)
{
	static const uint8_t token[16];
	const struct migration_params params = {
	        .id = {{id}},
	        .source = "127.0.0.1:1",
	        .peer_identity = "source.example",
	        .token = token,
	        .token_len = sizeof(token),
	        .lost_policy = LOST_POLICY_HOLD,
	};
	struct migration *m;
	struct error error = {0};

	if (migration_table_start(bed->table, &params, &m, &error) < 0)
		fail_msg("%s", error.text);
	return m;
}

static void cancel(struct migration *m)
{
	struct error error = {0};

	if (migration_cancel(m, true, &error) < 0)
		fail_msg("%s", error.text);
}

static char *metrics(const struct bed *bed)
{
	struct evbuffer *buf = evbuffer_new();
	size_t len;
	char *text;

	assert_int_equal(metrics_write(bed->table, buf), 0);
	len = evbuffer_get_length(buf);
	text = calloc(1, len + 1);
	evbuffer_remove(buf, text, len);
	evbuffer_free(buf);
	return text;
}

static void expect_line(const char *text, const char *line)
{
	if (!strstr(text, line))
		fail_msg("no line \"%s\" in\n%s", line, text);
}

/* Promise: a label's value cannot break out of its quotes, whatever a peer is called. */
static void test_escape(void **state)
{
	char buf[16];

	(void)state;
	assert_string_equal(metrics_escape("plain", buf, sizeof(buf)), "plain");
	assert_string_equal(metrics_escape("a\"b\\c\nd", buf, sizeof(buf)), "a\\\"b\\\\c\\nd");
	assert_string_equal(metrics_escape("a\r\x01z", buf, sizeof(buf)), "a??z");
	/* Cut, but never in the middle of an escape. */
	assert_string_equal(metrics_escape("aaaaaaaaaaaaaa\"", buf, sizeof(buf)), "aaaaaaaaaaaaaa");
	assert_string_equal(metrics_escape("aaaaaaaaaaaaa\"b", buf, sizeof(buf)),
	                    "aaaaaaaaaaaaa\\\"");
}

/* Promise: series of a migration exist while it is live; the totals stay when it ends. */
static void test_totals(void **state)
{
	struct bed *bed = *state;
	struct migration *m = start(bed, 1);
	char *text;

	start(bed, 2);
	text = metrics(bed);
	expect_line(text, "\npostcopyd_migrations{state=\"setup\"} 2\n");
	expect_line(text, "\npostcopyd_migrations_started_total 2\n");
	expect_line(text,
	            "{migration=\"01000000-0000-0000-0000-000000000000\",state=\"setup\"} 1\n");
	free(text);
	cancel(m);
	text = metrics(bed);
	expect_line(text, "\npostcopyd_migrations{state=\"setup\"} 1\n");
	expect_line(text, "\npostcopyd_migrations_started_total 2\n");
	expect_line(text, "\npostcopyd_migration_state_entries_total{state=\"cancelled\"} 1\n");
	assert_null(strstr(text, "01000000-0000-0000-0000-000000000000"));
	expect_line(text, "02000000-0000-0000-0000-000000000000");
	free(text);
}

/* Promise: each series follows the HELP and TYPE of its own metric, and none comes twice. */
static void test_form(void **state)
{
	struct bed *bed = *state;
	char *text, *line, *save = NULL, name[128] = "", type[32] = "";

	start(bed, 1);
	text = metrics(bed);
	for (line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		if (sscanf(line, "# HELP %127s", name) == 1)
			continue;
		if (sscanf(line, "# TYPE %*s %31s", type) == 1) {
			assert_memory_equal(line + 7, name, strlen(name));
			if (strcmp(type, "counter") == 0)
				assert_string_equal(name + strlen(name) - 6, "_total");
			continue;
		}
		if (strncmp(line, name, strlen(name)) != 0)
			fail_msg("\"%s\" under %s", line, name);
	}
	free(text);
}

static int promtool_run(const char *text)
{
	/* 0: not a word from promtool; sed ends with 3 when there is a line. */
	FILE *pipe = popen("promtool check metrics 2>&1 | sed 's/^/promtool: /; $q 3'", "w");

	assert_non_null(pipe);
	fwrite(text, 1, strlen(text), pipe);
	return WEXITSTATUS(pclose(pipe));
}

/* Promise: promtool check metrics accepts all of it without a warning. */
static void test_promtool(void **state)
{
	struct bed *bed = *state;
	char *text;

	if (system("command -v promtool >/dev/null") != 0) {
		print_message("SKIP: promtool (package prometheus) is not installed\n");
		skip();
	}
	start(bed, 1);
	start(bed, 2);
	text = metrics(bed);
	assert_int_equal(promtool_run(text), 0);
	free(text);
	assert_int_equal(promtool_run("# TYPE x counter\nx 1\n"), 3); /* it does complain */
}

int main(void)
{
#define WITH_TABLE(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_escape),
	        WITH_TABLE(test_totals),
	        WITH_TABLE(test_form),
	        WITH_TABLE(test_promtool),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
