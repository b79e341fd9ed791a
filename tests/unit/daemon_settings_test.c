/* SPDX-License-Identifier: Apache-2.0 */
/* The settings: defaults, file, command line, and what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "daemon/settings.h"
#include "daemon/source_address.h"

static char path[] = "/tmp/postcopyd-settings-XXXXXX";

static int setup(void **state)
{
	int fd = mkstemp(path);

	(void)state;
	return fd < 0 ? -1 : close(fd);
}

static int teardown(void **state)
{
	(void)state;
	return unlink(path);
}

static int load(const char *text, const struct settings_overrides *overrides, struct settings **ret,
                struct error *err)
{
	FILE *file = fopen(path, "we");

	assert_non_null(file);
	fputs(text, file);
	assert_int_equal(fclose(file), 0);
	return settings_load(path, overrides, ret, err);
}

static struct settings *load_good(const char *text)
{
	struct settings *s = NULL;
	struct error error = {0};

	if (load(text, NULL, &s, &error) < 0)
		fail_msg("%s", error.text);
	return s;
}

/* Promise: without a file the documented defaults hold. */
static void test_defaults(void **state)
{
	struct settings *s;
	struct error error = {0};

	(void)state;
	assert_int_equal(settings_load(NULL, NULL, &s, &error), 0);
	assert_string_equal(s->control, "/run/postcopyd/control.sock");
	assert_string_equal(s->attach, "/run/postcopyd/attach.sock");
	assert_string_equal(s->status, "/run/postcopyd/status.sock");
	assert_int_equal(s->control_mode, 0660);
	assert_string_equal(s->status_tcp, "");
	assert_int_equal(s->status_connections, 64);
	assert_int_equal(s->bulk_nice, 19);
	assert_int_equal(s->urgent_rt_priority, 1);
	assert_int_equal(s->stream_window_bytes, 1 << 20);
	assert_int_equal(s->max, 64);
	assert_int_equal(s->reconnect_min_us, 100000);
	assert_int_equal(s->reconnect_max_us, 10000000);
	assert_int_equal(s->completion_timeout_us, 30000000);
	assert_int_equal(s->log_level, LOG_INFO);
	settings_free(s);
	assert_null(settings_free(NULL));
}

/* The example file with its options uncommented; malloc'd. */
static char *example_uncommented(void)
{
	static const char here[] = "tests/unit/daemon_settings_test.c";
	char example[512], line[256], *text = calloc(1, 65536);
	FILE *file;

	snprintf(example, sizeof(example), "%.*sconf/postcopyd.conf",
	         (int)(sizeof(__FILE__) - sizeof(here)), __FILE__);
	file = fopen(example, "re");
	assert_non_null(file);
	while (fgets(line, sizeof(line), file)) {
		bool option = line[0] == '#' && line[1] >= 'a' && line[1] <= 'z' &&
		              strstr(line, " =") == line + 1 + strcspn(line + 1, " ");

		strcat(text, option ? line + 1 : line);
	}
	assert_int_equal(fclose(file), 0);
	return text;
}

/* Promise: the example file shows the defaults, all of them. */
static void test_example(void **state)
{
	char *text = example_uncommented();
	struct settings *s = load_good(text), *d;
	struct error error = {0};

	(void)state;
	assert_int_equal(settings_load(NULL, NULL, &d, &error), 0);
	if (settings_check_reload(d, s, &error) < 0) /* all that is not reloadable */
		fail_msg("%s", error.text);
	assert_string_equal(s->certificate, d->certificate);
	assert_string_equal(s->key, d->key);
	assert_string_equal(s->ca, d->ca);
	assert_string_equal(s->control_uids, d->control_uids);
	assert_string_equal(s->control_gids, d->control_gids);
	assert_memory_equal(&s->urgent_cpus, &d->urgent_cpus, sizeof(s->urgent_cpus));
	assert_memory_equal(&s->bulk_cpus, &d->bulk_cpus, sizeof(s->bulk_cpus));
	assert_int_equal(s->urgent_rt_priority, d->urgent_rt_priority);
	assert_int_equal(s->bulk_nice, d->bulk_nice);
	assert_int_equal(s->stream_window_bytes, d->stream_window_bytes);
	assert_int_equal(s->status_connections, d->status_connections);
	assert_int_equal(s->max, d->max);
	assert_int_equal(s->reconnect_min_us, d->reconnect_min_us);
	assert_int_equal(s->reconnect_max_us, d->reconnect_max_us);
	assert_int_equal(s->completion_timeout_us, d->completion_timeout_us);
	assert_int_equal(s->log_level, d->log_level);
	for (const char *const *key = (const char *const[]){"stream_window", "status_tcp", "target",
	                                                    "control_gids", "max", NULL};
	     *key; key++)
		assert_non_null(strstr(text, *key));
	settings_free(s);
	settings_free(d);
	free(text);
}

/* Promise: the command line beats the file, the file beats the defaults. */
static void test_overrides(void **state)
{
	const struct settings_overrides overrides = {
	        .control = "/tmp/c", .key = "/tmp/k", .log_level = "debug"};
	struct settings *s;
	struct error error = {0};

	(void)state;
	assert_int_equal(load("[sockets]\ncontrol = /x\nattach = /y\n[log]\nlevel = error\n",
	                      &overrides, &s, &error),
	                 0);
	assert_string_equal(s->control, "/tmp/c");
	assert_string_equal(s->attach, "/y");
	assert_string_equal(s->key, "/tmp/k");
	assert_int_equal(s->log_level, LOG_DEBUG);
	settings_free(s);
}

/* Promise: a bad value is refused with its option's name and what was expected. */
static void test_bad(void **state)
{
	static const struct {
		const char *text;
		const char *expected;
	} bad[] = {
	        {"[lanes]\nbulk_nice = 20\n", "bulk_nice: expected 0 to 19"},
	        {"[lanes]\nurgent_rt_priority = 100\n", "urgent_rt_priority: expected 0 to 99"},
	        {"[lanes]\nurgent_cpus = 3-1\n", "urgent_cpus: expected CPUs"},
	        {"[lanes]\nbulk_cpus = 1,\n", "bulk_cpus: expected CPUs"},
	        {"[lanes]\nbulk_cpus = a\n", "bulk_cpus: expected CPUs"},
	        {"[lanes]\nstream_window = 1\n", "stream_window: expected 4K"},
	        {"[migrations]\nmax = 0\n", "max: expected 1 to 256"},
	        {"[migrations]\nmax = 257\n", "max: expected 1 to 256"},
	        {"[migrations]\nreconnect_min = 0\n", "reconnect_min: expected"},
	        {"[migrations]\nreconnect_max = 10ms\n", "reconnect_max: expected"},
	        {"[migrations]\ncompletion_timeout = 25h\n", "completion_timeout: expected"},
	        {"[sockets]\ncontrol = /a\nstatus = /a\n", "expected different paths"},
	        {"[sockets]\nattach =\n", "expected a path"},
	        {"[sockets]\nstatus_tcp = 0.0.0.0:80\n", "expected a loopback address"},
	        {"[sockets]\nstatus_tcp = [::]:80\n", "expected a loopback address"},
	        {"[sockets]\nstatus_tcp = example.org:80\n", "expected a loopback address"},
	        {"[sockets]\nstatus_tcp = 127.0.0.1\n", "there is no port"},
	        {"[sockets]\nstatus_connections = 0\n", "status_connections: expected 1 to 1024"},
	        {"[sockets]\nstatus_connections = 1025\n", "status_connections: expected 1 to"},
	        {"[sockets]\ncontrol_uids = no-such-user-here\n", "there is no user"},
	        {"[sockets]\ncontrol_gids = 12x\n", "there is no group"},
	        {"[sockets]\ncontrol_uids = 4294967295\n", "there is no user"},
	        {"[log]\ntarget = syslog\n", "expected auto, journal or stderr"},
	        {"[log]\nlevel = loud\n", "expected error, warning"},
	        {"[nothing]\nx = 1\n", "nothing"},
	        {"[tls]\ncertificates = x\n", "certificates"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct settings *s = NULL;
		struct error error = {0};

		assert_int_equal(load(bad[i].text, NULL, &s, &error), -EINVAL);
		assert_null(s);
		if (!strstr(error.text, bad[i].expected) || !strstr(error.text, path))
			fail_msg("%s: %s", bad[i].text, error.text);
	}
}

/* Promise: good values at the edges are taken. */
static void test_good(void **state)
{
	struct settings *s =
	        load_good("[sockets]\nstatus_tcp = [::1]:9090\ncontrol_uids = root, 7\n"
	                  "control_gids = 0 4294967294\n[lanes]\nurgent_cpus = 0,2-3\n");

	(void)state;
	assert_int_equal(s->control_access.uids.n_ids, 2);
	assert_true(id_list_contains(&s->control_access.uids, 0));
	assert_true(id_list_contains(&s->control_access.uids, 7));
	assert_false(id_list_contains(&s->control_access.uids, 1));
	assert_true(id_list_contains(&s->control_access.gids, 4294967294));
	settings_free(s);
}

/* Promise: a reload may change limits and keys, but not where we listen. */
static void test_reload(void **state)
{
	struct settings *old = load_good(""), *new = load_good("[migrations]\nmax = 3\n");
	struct error error = {0};

	(void)state;
	assert_int_equal(settings_check_reload(old, new, &error), 0);
	settings_free(new);
	new = load_good("[sockets]\ncontrol = /elsewhere\n");
	assert_int_equal(settings_check_reload(old, new, &error), -EINVAL);
	assert_non_null(strstr(error.text, "[sockets] control has changed: that needs a restart"));
	settings_free(new);
	settings_free(old);
}

/* Promise: addresses are judged by their syntax alone; nothing here asks DNS. */
static void test_address(void **state)
{
	static const char *const good[] = {"host:1",     "host.example.org:65535", "10.0.0.1:7000",
	                                   "[::1]:7000", "[fe80::1%eth0]:7000",    "a_b-c:80"};
	static const char *const bad[] = {
	        "",       "host",    ":80",        "host:",       "host:0",   "host:x", "host:+80",
	        "::1:80", "[::1:80", "[::1]80",    "[x]:80",      "h ost:80", "-h:80",  ".h:80",
	        "h/x:80", "[]:80",   "host:65536", "host:080000", "[::1]:"};
	struct error error = {0};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(good); i++)
		if (source_address_check(good[i], &error) < 0)
			fail_msg("%s", error.text);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		if (source_address_check(bad[i], &error) != -EINVAL)
			fail_msg("%s was taken", bad[i]);
	char longest[512];

	memset(longest, 'a', sizeof(longest));
	strcpy(longest + 300, ":80");
	assert_int_equal(source_address_check(longest, &error), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_defaults),  cmocka_unit_test(test_example),
	        cmocka_unit_test(test_overrides), cmocka_unit_test(test_bad),
	        cmocka_unit_test(test_good),      cmocka_unit_test(test_reload),
	        cmocka_unit_test(test_address),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
