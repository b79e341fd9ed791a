/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The control socket's connections: who may, one answer for each request in
 * order, watches. What the requests do is in control_requests.c.
 *
 * Always holds: nothing here waits; a client that is refused or breaks the
 * rules costs nobody else anything. A client whose request takes time is not read
 * until it has its answer, so that answers stay in order.
 */
#include "daemon/control_server.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "core/fdpass.h"
#include "core/log.h"
#include "core/message_ids.h"
#include "daemon/control_requests.h"
#include "daemon/control_watch.h"
#include "net/ipc.h"

/* More than the biggest request (4096 ranges to poison) takes. */
#define REQUEST_BYTES_MAX (256 * 1024)

struct control_client {
	struct control_server *server;
	struct ipc_connection *connection;
	struct error denied; /* code 0: access granted */
	struct control_watch *watches[CONTROL_WATCHES_MAX];
	unsigned n_watches;
	struct poison_request *poison; /* under way; NULL: none */
	uint64_t poison_id;            /* the client's number for it */
	struct control_client *prev, *next;
};

struct control_server {
	struct migration_table *table;
	struct ipc_listener *listener;
	struct control_client *clients;
	unsigned n_clients;
};

static void client_free(struct control_client *c)
{
	struct control_server *s = c->server;

	DL_DELETE(s->clients, c);
	s->n_clients--;
	for (unsigned i = 0; i < c->n_watches; i++)
		control_watch_free(c->watches[i]);
	migration_poison_forget(c->poison);
	ipc_connection_free(c->connection);
	free(c);
}

static int response_send(struct control_client *c, const struct control_response *response)
{
	_cleanup_free_ uint8_t *buf = NULL;
	size_t len;
	int r = control_response_encode(response, &buf, &len);

	if (r == 0 && len > FDPASS_MESSAGE_MAX)
		r = -EMSGSIZE;
	return r < 0 ? r : ipc_send(c->connection, buf, len);
}

/* An answer always comes: a big one that cannot be sent becomes an error. */
static void respond(struct control_client *c, struct control_response *response)
{
	int r = response_send(c, response);

	/* The list of poisoned pages is what may be too big: the newest come first. */
	while (r == -EMSGSIZE && response->type == CONTROL_RESPONSE_MIGRATION &&
	       response->migrations->n_poisoned > 0) {
		struct control_migration *m = response->migrations;

		m->n_poisoned /= 2;
		snprintf(response->text, sizeof(response->text),
		         "only the newest %zu poisoned pages are shown", m->n_poisoned);
		r = response_send(c, response);
	}
	if (r == 0 || r == -ENOTCONN)
		return;
	struct control_response plain = {.id = response->id, .error = -r};

	snprintf(plain.text, sizeof(plain.text), "the answer could not be sent: %s", strerror(-r));
	if (response_send(c, &plain) == 0)
		return;
	log_warning("control: pid %d does not read its answers: closing its connection",
	            (int)ipc_peer(c->connection)->pid);
	ipc_close_after_flush(c->connection);
}

static void respond_error(struct control_client *c, uint64_t id, const struct error *error)
{
	struct control_response response = {.id = id, .error = -error->code};

	snprintf(response.text, sizeof(response.text), "%s", error->text);
	respond(c, &response);
}

/* The answer to Watch comes before its first event. */
static void run_watch(struct control_client *c, const struct control_request *request)
{
	struct control_response response = {.id = request->id};
	struct error error = {0};
	int r;

	if (c->n_watches == CONTROL_WATCHES_MAX)
		r = error_set(&error, -EUSERS, "this connection has %d watches already",
		              CONTROL_WATCHES_MAX);
	else if (request->has_migration_id &&
	         !migration_table_find(c->server->table, &request->migration_id))
		r = control_unknown_migration(&request->migration_id, &error);
	else
		r = 0;
	if (r < 0) {
		respond_error(c, request->id, &error);
		return;
	}
	respond(c, &response);
	r = control_watch_new(c->server->table, c->connection, request, &c->watches[c->n_watches]);
	if (r == 0) {
		c->n_watches++;
		return;
	}
	log_warning("control: no memory for a watch: closing the connection");
	ipc_close_after_flush(c->connection);
}

/* why: it was refused, or empty. */
static void log_request(const struct control_client *c, const struct control_request *request,
                        const char *why)
{
	const struct ucred *peer = ipc_peer(c->connection);
	const char *name = control_request_type_name(request->type);
	bool changes = control_request_changes(request->type);
	char id_text[UUID_TEXT_LEN];

	uuid_format(&request->migration_id, id_text);
	log_event(changes ? LOG_INFO : LOG_DEBUG, changes ? MESSAGE_OPERATOR_REQUEST : NULL,
	          LOG_FIELDS({"MIGRATION_ID", request->has_migration_id ? id_text : NULL},
	                     {"REQUEST", name}, {"CLIENT_PID", LOG_U64((uint64_t)peer->pid)},
	                     {"CLIENT_UID", LOG_U64(peer->uid)}, {"REASON", why}),
	          "control: uid %u, pid %d: %s%s%s", (unsigned)peer->uid, (int)peer->pid, name,
	          *why ? " refused: " : "", why);
}

static void on_poisoned(const struct error *error, void *user)
{
	struct control_client *c = user;
	struct control_response response = {.id = c->poison_id};

	c->poison = NULL;
	if (error->code < 0)
		respond_error(c, c->poison_id, error);
	else
		respond(c, &response);
	ipc_resume(c->connection);
}

static void run_poison(struct control_client *c, const struct control_request *request)
{
	struct error error = {0};
	int r = control_request_poison(c->server->table, request, on_poisoned, c, &c->poison,
	                               &error);

	log_request(c, request, error.text);
	if (r < 0) {
		respond_error(c, request->id, &error);
		return;
	}
	c->poison_id = request->id;
	ipc_pause(c->connection);
}

static void run_request(struct control_client *c, const struct control_request *request)
{
	struct control_response response = {0};
	struct error error = {0};
	int r;

	if (request->type == CONTROL_REQUEST_WATCH) {
		run_watch(c, request);
		return;
	}
	if (request->type == CONTROL_REQUEST_POISON) {
		run_poison(c, request);
		return;
	}
	r = control_request_run(c->server->table, request, &response, &error);
	log_request(c, request, error.text);
	if (r < 0) {
		respond_error(c, request->id, &error);
		return;
	}
	response.id = request->id;
	respond(c, &response);
	control_response_free(&response);
}

static int on_message(struct ipc_connection *connection, const uint8_t *buf, size_t len, int *fds,
                      size_t n_fds, struct error *err, void *user)
{
	struct control_client *c = user;
	struct control_request request = {0};
	struct error error = {0};

	(void)fds;
	(void)n_fds;
	(void)err;
	if (control_request_decode(buf, len, &request, &error) < 0) {
		/* The id may be wrong, too: the client cannot go on from here. */
		respond_error(c, request.id, &error);
		ipc_close_after_flush(connection);
		return 0;
	}
	if (c->denied.code < 0)
		respond_error(c, request.id, &c->denied);
	else
		run_request(c, &request);
	control_request_free(&request);
	return 0;
}

static void on_closed(struct ipc_connection *connection, const struct error *err, void *user)
{
	if (err->code < 0)
		log_info("control: connection of pid %d: %s", (int)ipc_peer(connection)->pid,
		         err->text);
	client_free(user);
}

static void on_accept(int fd, void *user)
{
	static const struct ipc_callbacks callbacks = {on_message, on_closed};
	struct control_server *s = user;
	const struct access_list *access = &migration_table_settings(s->table)->control_access;
	struct control_client *c;
	struct ucred peer = {0};

	if (s->n_clients >= CONTROL_CLIENTS_MAX) {
		close(fd);
		log_warning("control: %d connections already; ignoring another one",
		            CONTROL_CLIENTS_MAX);
		return;
	}
	c = calloc(1, sizeof(*c));
	if (!c) {
		close(fd);
		return;
	}
	c->server = s;
	if (access_list_check(access, fd, &peer, &c->denied) < 0)
		log_event(LOG_WARNING, MESSAGE_ACCESS_DENIED,
		          LOG_FIELDS({"SOCKET", "control"},
		                     {"CLIENT_PID", LOG_U64((uint64_t)peer.pid)},
		                     {"CLIENT_UID", LOG_U64(peer.uid)}, {"REASON", c->denied.text}),
		          "control: %s", c->denied.text);
	if (ipc_connection_new(migration_table_loop(s->table), fd, REQUEST_BYTES_MAX, &callbacks, c,
	                       &c->connection) < 0) {
		free(c);
		return;
	}
	DL_APPEND(s->clients, c);
	s->n_clients++;
}

int control_server_new(struct migration_table *table, const char *path, mode_t mode,
                       struct control_server **ret, struct error *err)
{
	_cleanup_(cleanup_control_server_free) struct control_server *s = calloc(1, sizeof(*s));
	int r;

	if (!s)
		return error_set(err, -ENOMEM, "not enough memory");
	s->table = table;
	r = ipc_listen(migration_table_loop(table), "control", path, mode, on_accept, s,
	               &s->listener, err);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(s);
	return 0;
}

struct control_server *control_server_free(struct control_server *s)
{
	struct control_client *c, *next;

	if (!s)
		return NULL;
	ipc_listener_free(s->listener);
	DL_FOREACH_SAFE (s->clients, c, next) {
		client_free(c);
	}
	free(s);
	return NULL;
}
