/* SPDX-License-Identifier: Apache-2.0 */
/* The status interface over its UNIX socket: every page, bad requests, promtool's opinion. */
#include "daemon_fixture.h"
#include "support/proc_self.h"

#include <jansson.h>
#include <sys/socket.h>
#include <sys/wait.h>

/* Send these bytes, return all that comes back (malloc'd). */
static char *exchange(const struct fixture *f, const char *bytes, size_t len)
{
	int sock = connect_to(f->status);
	size_t size = 1 << 20, have = 0;
	char *answer = malloc(size);
	ssize_t n;

	assert_non_null(answer);
	(void)!send(sock, bytes, len, MSG_NOSIGNAL);
	shutdown(sock, SHUT_WR);
	while ((n = recv(sock, answer + have, size - have - 1, 0)) > 0)
		have += (size_t)n;
	answer[have] = '\0';
	close(sock);
	return answer;
}

/* Ask for a page; expect this status and return the body (malloc'd). */
static char *request(const struct fixture *f, const char *method, const char *path, int status)
{
	char text[512], *answer, *body;
	int n = snprintf(text, sizeof(text),
	                 "%s %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", method, path);

	answer = exchange(f, text, (size_t)n);
	if (strncmp(answer, "HTTP/1.1 ", 9) != 0 || atoi(answer + 9) != status)
		fail_msg("%s %s: expected %d, got %.200s", method, path, status, answer);
	body = strstr(answer, "\r\n\r\n");
	assert_non_null(body);
	body = strdup(body + 4);
	free(answer);
	return body;
}

static json_t *get_json(const struct fixture *f, const char *path, int status)
{
	json_error_t error;
	char *body = request(f, "GET", path, status);
	json_t *json = json_loads(body, 0, &error);

	if (!json)
		fail_msg("%s: %s: %s", path, error.text, body);
	free(body);
	return json;
}

/* Promise: each page is there and shows what is. */
static void test_pages(void **state)
{
	struct fixture *f = *state;
	static const char id[] = "10203040-5060-4000-0000-000000000001";
	char path[128], *body;
	json_t *json;

	start_migration(f, 1);
	json = get_json(f, "/v1/status", 200);
	assert_int_equal(json_integer_value(json_object_get(json, "migrations_live")), 1);
	json_decref(json);
	json = get_json(f, "/v1/migrations", 200);
	assert_int_equal(json_array_size(json_object_get(json, "migrations")), 1);
	json_decref(json);
	snprintf(path, sizeof(path), "/v1/migrations/%s", id);
	json = get_json(f, path, 200);
	assert_string_equal(json_string_value(json_object_get(json, "migration_id")), id);
	assert_string_equal(json_string_value(json_object_get(json, "state")), "setup");
	assert_string_equal(json_string_value(json_object_get(json, "peer")), "127.0.0.1:1");
	json_decref(json);
	snprintf(path, sizeof(path), "/v1/migrations/%s/poison", id);
	json = get_json(f, path, 200);
	assert_int_equal(json_array_size(json_object_get(json, "poisoned")), 0);
	json_decref(json);
	body = request(f, "GET", "/healthz", 200);
	assert_string_equal(body, "ok\n");
	free(body);
	body = request(f, "GET", "/metrics", 200);
	assert_non_null(strstr(body, "postcopyd_migrations{state=\"setup\"} 1\n"));
	assert_non_null(strstr(body, id));
	assert_null(strstr(body, TOKEN)); /* no secret is shown */
	free(body);
}

/* Promise: what is not there, and what would change something, is refused in JSON. */
static void test_refused(void **state)
{
	struct fixture *f = *state;
	static const char *const missing[] = {
	        "/nothing",
	        "/v1/migrations/xyz",
	        "/v1/migrations/",
	        "/v1/migrations/10203040-5060-4000-0000-000000000009",
	        "/v1/status/",
	        "//",
	        "/v1/migrations/10203040-5060-4000-0000-000000000001/other",
	        "/../../etc/passwd",
	        "/%2e%2e/x"};
	static const char *const methods[] = {"POST", "PUT", "DELETE", "OPTIONS", "PATCH"};

	start_migration(f, 1);
	for (size_t i = 0; i < ARRAY_SIZE(missing); i++) {
		json_t *json = get_json(f, missing[i], 404);

		assert_int_equal(json_integer_value(json_object_get(json, "status")), 404);
		assert_true(json_string_length(json_object_get(json, "error")) > 0);
		json_decref(json);
	}
	for (size_t i = 0; i < ARRAY_SIZE(methods); i++)
		free(request(f, methods[i], "/v1/migrations", 405));
	free(request(f, "HEAD", "/healthz", 200));
}

/* Promise: malformed and oversized requests end their connection only. */
static void test_malformed(void **state)
{
	struct fixture *f = *state;
	static const char *const bad[] = {
	        "\r\n\r\n",
	        "GET\r\n\r\n",
	        "GET / HTTP/9.9\r\n\r\n",
	        "\x16\x03\x01\x02\x03",
	        "GET /v1/status HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
	        "GET /v1/status HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
	        "GET /v1/status HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
	        "GET http://[ HTTP/1.1\r\n\r\n",
	        "BREW / HTTP/1.1\r\n\r\n"};
	size_t size = 1 << 20;
	char *big = malloc(size), *answer;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		answer = exchange(f, bad[i], strlen(bad[i]));
		assert_null(strstr(answer, "200 OK"));
		free(answer);
	}
	memset(big, 'a', size);
	memcpy(big, "GET /", 5);
	answer = exchange(f, big, size);
	assert_null(strstr(answer, "200 OK"));
	free(answer);
	memcpy(big, "GET /v1/status HTTP/1.1\r\nX: ", 28);
	answer = exchange(f, big, size);
	assert_null(strstr(answer, "200 OK"));
	free(answer);
	free(big);
	free(request(f, "GET", "/healthz", 200));
}

#define LIMIT 4
#define CROWD 300

static int setup_limited(void **state)
{
	return fixture_setup_with(state, "[sockets]\nstatus_connections = 4\n");
}

/* One more question on a connection that stays open. */
static void ask_on(int sock)
{
	static const char text[] = "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
	char answer[1024] = "";
	size_t have = 0;
	ssize_t n = 1;

	assert_int_equal(send(sock, text, sizeof(text) - 1, MSG_NOSIGNAL), sizeof(text) - 1);
	while (n > 0 && !strstr(answer, "ok\n")) {
		n = recv(sock, answer + have, sizeof(answer) - have - 1, 0);
		have += n > 0 ? (size_t)n : 0;
	}
	if (strncmp(answer, "HTTP/1.1 200 ", 13) != 0)
		fail_msg("got %s", answer);
}

/* The daemon has closed it: now, not when it was idle for too long. */
static bool is_closed(int sock)
{
	char byte;

	return recv(sock, &byte, 1, MSG_DONTWAIT) == 0;
}

/* Promise: with as many clients as may be, the newest is served and the oldest has to go. */
static void test_limit(void **state)
{
	struct fixture *f = *state;
	int socks[LIMIT + 2];

	for (size_t i = 0; i < LIMIT; i++)
		socks[i] = connect_to(f->status);
	ask_on(socks[0]);
	assert_false(is_closed(socks[0]));
	socks[LIMIT] = connect_to(f->status);
	ask_on(socks[LIMIT]);
	assert_true(is_closed(socks[0]));
	for (size_t i = 1; i <= LIMIT; i++)
		ask_on(socks[i]);
	/* One that ends itself makes room. */
	close(socks[2]);
	socks[LIMIT + 1] = connect_to(f->status);
	ask_on(socks[LIMIT + 1]);
	assert_false(is_closed(socks[1]));
	for (size_t i = 0; i < LIMIT + 2; i++)
		if (i != 2)
			close(socks[i]);
}

/* Promise: a crowd that says nothing, or never ends its request, takes no descriptors. */
static void test_crowd(void **state)
{
	struct fixture *f = *state;
	size_t before = proc_self_n_fds();
	int socks[CROWD];

	for (size_t i = 0; i < CROWD; i++) {
		socks[i] = connect_to(f->status);
		if (i % 3 == 1)
			(void)!send(socks[i], "GET /", 5, MSG_NOSIGNAL);
		if (i % 3 == 2)
			(void)!send(socks[i], "GET / HTTP/1.1\r\nX: ", 19, MSG_NOSIGNAL);
	}
	free(request(f, "GET", "/healthz", 200));
	assert_in_range(proc_self_n_fds(), before + CROWD, before + CROWD + LIMIT);
	start_migration(f, 1);
	for (size_t i = 0; i < CROWD; i++)
		close(socks[i]);
}

/* Promise: promtool has nothing to say about /metrics. */
static void test_promtool(void **state)
{
	struct fixture *f = *state;
	char *body;
	FILE *promtool;

	if (system("command -v promtool >/dev/null") != 0) {
		print_message("SKIP: promtool (package prometheus) is not installed\n");
		skip();
	}
	start_migration(f, 1);
	start_migration(f, 2);
	body = request(f, "GET", "/metrics", 200);
	promtool = popen("promtool check metrics 2>&1 | sed 's/^/promtool: /; $q 3'", "w");
	assert_non_null(promtool);
	assert_int_equal(fwrite(body, 1, strlen(body), promtool), strlen(body));
	/* sed ends with 3 if there was any line at all */
	assert_int_equal(WEXITSTATUS(pclose(promtool)), 0);
	free(body);
}

int main(void)
{
#define WITH_DAEMON(fn) cmocka_unit_test_setup_teardown(fn, fixture_setup, fixture_teardown)
	const struct CMUnitTest tests[] = {
	        WITH_DAEMON(test_pages),
	        WITH_DAEMON(test_refused),
	        WITH_DAEMON(test_malformed),
	        cmocka_unit_test_setup_teardown(test_limit, setup_limited, fixture_teardown),
	        cmocka_unit_test_setup_teardown(test_crowd, setup_limited, fixture_teardown),
	        WITH_DAEMON(test_promtool),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
