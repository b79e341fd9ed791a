/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The status interface by libevent's evhttp. Made by the daemon.
 *
 * Always holds: nothing that comes in here changes a migration; headers, body
 * and time of a request are bounded, and so is the number of connections.
 */
#include "daemon/status_server.h"

#include <errno.h>
#include <event2/buffer.h>
#include <event2/http.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/clock.h"
#include "core/log.h"
#include "daemon/metrics.h"
#include "daemon/status_connections.h"
#include "daemon/status_json.h"
#include "net/activation.h"
#include "net/address.h"

#define HEADERS_BYTES_MAX 8192
#define BODY_BYTES_MAX 0 /* a GET has none */
#define REQUEST_TIMEOUT_S 10
#define METHODS_ALL                                                                                \
	(EVHTTP_REQ_GET | EVHTTP_REQ_POST | EVHTTP_REQ_HEAD | EVHTTP_REQ_PUT | EVHTTP_REQ_DELETE | \
	 EVHTTP_REQ_OPTIONS | EVHTTP_REQ_PATCH)

struct status_server {
	struct migration_table *table;
	struct evhttp *http;
	struct status_connections *connections;
	uint64_t started_us;
	char *path;
};

/* Takes buf's content or the reference to json. */
static void reply(struct evhttp_request *req, int status, const char *reason, const char *type,
                  struct evbuffer *buf)
{
	struct evkeyvalq *headers = evhttp_request_get_output_headers(req);

	evhttp_add_header(headers, "Content-Type", type);
	evhttp_add_header(headers, "Cache-Control", "no-store");
	evhttp_send_reply(req, status, reason, buf);
}

static void reply_json(struct evhttp_request *req, int status, const char *reason, json_t *json)
{
	struct evbuffer *buf = evbuffer_new();
	char *text = json ? json_dumps(json, JSON_INDENT(2)) : NULL;

	json_decref(json);
	if (!buf || !text) {
		evhttp_send_error(req, HTTP_INTERNAL, "not enough memory");
	} else {
		evbuffer_add_printf(buf, "%s\n", text);
		reply(req, status, reason, "application/json", buf);
	}
	free(text);
	if (buf)
		evbuffer_free(buf);
}

static void reply_error(struct evhttp_request *req, int status, const char *reason,
                        const char *text)
{
	reply_json(req, status, reason, status_json_error(status, text));
}

static void get_status(struct status_server *s, struct evhttp_request *req)
{
	reply_json(req, HTTP_OK, "OK", status_json_daemon(s->table, s->started_us));
}

static void get_migrations(struct status_server *s, struct evhttp_request *req)
{
	reply_json(req, HTTP_OK, "OK", status_json_migrations(s->table));
}

static void get_metrics(struct status_server *s, struct evhttp_request *req)
{
	struct evbuffer *buf = evbuffer_new();

	if (!buf || metrics_write(s->table, buf) < 0)
		reply_error(req, HTTP_INTERNAL, "Internal Server Error", "not enough memory");
	else
		reply(req, HTTP_OK, "OK", "text/plain; version=0.0.4; charset=utf-8", buf);
	if (buf)
		evbuffer_free(buf);
}

static void get_healthz(struct status_server *s, struct evhttp_request *req)
{
	struct evbuffer *buf = evbuffer_new();

	(void)s; /* that the main loop answers is the health */
	if (buf)
		evbuffer_add_printf(buf, "ok\n");
	reply(req, HTTP_OK, "OK", "text/plain; charset=utf-8", buf);
	if (buf)
		evbuffer_free(buf);
}

static const struct {
	const char *path;
	void (*get)(struct status_server *s, struct evhttp_request *req);
} pages[] = {
        {"/v1/status", get_status},
        {"/v1/migrations", get_migrations},
        {"/metrics", get_metrics},
        {"/healthz", get_healthz},
};

/* /v1/migrations/ID and /v1/migrations/ID/poison */
static void get_migration(struct status_server *s, struct evhttp_request *req, const char *rest)
{
	char text[UUID_TEXT_LEN] = "";
	const struct migration *m;
	struct uuid id;

	strncpy(text, rest, sizeof(text) - 1);
	if (uuid_parse(text, &id) < 0) {
		reply_error(req, HTTP_NOTFOUND, "Not Found",
		            "expected /v1/migrations/UUID or /v1/migrations/UUID/poison");
		return;
	}
	m = migration_table_find(s->table, &id);
	rest += strlen(text);
	if (!m)
		reply_error(req, HTTP_NOTFOUND, "Not Found", "unknown migration");
	else if (*rest == '\0')
		reply_json(req, HTTP_OK, "OK", status_json_migration(m));
	else if (strcmp(rest, "/poison") == 0)
		reply_json(req, HTTP_OK, "OK", status_json_poison(m));
	else
		reply_error(req, HTTP_NOTFOUND, "Not Found", "there is no such page");
}

static void route(struct status_server *s, struct evhttp_request *req, const char *path)
{
	static const char migrations[] = "/v1/migrations/";

	for (size_t i = 0; i < ARRAY_SIZE(pages); i++) {
		if (strcmp(path, pages[i].path) == 0) {
			pages[i].get(s, req);
			return;
		}
	}
	if (strncmp(path, migrations, sizeof(migrations) - 1) == 0)
		get_migration(s, req, path + sizeof(migrations) - 1);
	else
		reply_error(req, HTTP_NOTFOUND, "Not Found",
		            "there is /v1/status, /v1/migrations, /v1/migrations/UUID, "
		            "/v1/migrations/UUID/poison, /metrics, /healthz");
}

static void on_request(struct evhttp_request *req, void *user)
{
	enum evhttp_cmd_type method = evhttp_request_get_command(req);
	const struct evhttp_uri *uri = evhttp_request_get_evhttp_uri(req);
	const char *path = uri ? evhttp_uri_get_path(uri) : NULL;

	if (method != EVHTTP_REQ_GET && method != EVHTTP_REQ_HEAD) {
		evhttp_add_header(evhttp_request_get_output_headers(req), "Allow", "GET, HEAD");
		reply_error(req, HTTP_BADMETHOD, "Method Not Allowed",
		            "the status interface is read-only: use GET");
		return;
	}
	if (!path)
		reply_error(req, HTTP_BADREQUEST, "Bad Request", "the path is not a valid one");
	else
		route(user, req, path);
}

static struct bufferevent *on_accepted(struct event_base *base, void *user)
{
	struct status_server *s = user;
	const struct settings *settings = migration_table_settings(s->table);

	return status_connections_add(s->connections, base, settings->status_connections);
}

static int listen_unix(struct status_server *s, const char *path, mode_t mode, struct error *err)
{
	bool own;
	int fd = activation_listen("status", path, mode, &own, err);

	if (fd < 0)
		return fd;
	if (own)
		s->path = strdup(path);
	if ((own && !s->path) || evhttp_accept_socket(s->http, fd) < 0) {
		close(fd);
		return error_set(err, -ENOMEM, "not enough memory");
	}
	return 0;
}

static int listen_tcp(struct status_server *s, const char *address, struct error *err)
{
	struct addrinfo *ai;
	int fd, r = address_resolve(address, true, &ai, err);

	if (r < 0)
		return r;
	fd = address_listen(ai, err);
	freeaddrinfo(ai);
	if (fd < 0)
		return fd;
	if (evhttp_accept_socket(s->http, fd) < 0) {
		close(fd);
		return error_set(err, -ENOMEM, "not enough memory");
	}
	return 0;
}

int status_server_new(struct migration_table *table, const char *path, mode_t mode,
                      const char *tcp_address, struct status_server **ret, struct error *err)
{
	_cleanup_(cleanup_status_server_free) struct status_server *s = calloc(1, sizeof(*s));
	int r;

	if (!s)
		return error_set(err, -ENOMEM, "not enough memory");
	s->table = table;
	s->started_us = clock_realtime_us();
	s->http = evhttp_new(loop_base(migration_table_loop(table)));
	if (!s->http || status_connections_new(&s->connections) < 0)
		return error_set(err, -ENOMEM, "not enough memory");
	evhttp_set_bevcb(s->http, on_accepted, s);
	evhttp_set_max_headers_size(s->http, HEADERS_BYTES_MAX);
	evhttp_set_max_body_size(s->http, BODY_BYTES_MAX);
	evhttp_set_timeout(s->http, REQUEST_TIMEOUT_S);
	evhttp_set_allowed_methods(s->http, METHODS_ALL);
	evhttp_set_gencb(s->http, on_request, s);
	r = listen_unix(s, path, mode, err);
	if (r == 0 && tcp_address && *tcp_address)
		r = listen_tcp(s, tcp_address, err);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(s);
	return 0;
}

struct status_server *status_server_free(struct status_server *s)
{
	if (!s)
		return NULL;
	if (s->http)
		evhttp_free(s->http);
	status_connections_free(s->connections);
	if (s->path && *s->path != '@')
		unlink(s->path);
	free(s->path);
	free(s);
	return NULL;
}
