/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The control socket: who may connect, bytes to requests and responses to
 * bytes. Requests are answered in the order in which they come.
 */
#include "source/control_server.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <utlist.h>

#include "core/log.h"
#include "core/message_ids.h"
#include "source/control_connection.h"

#define CLIENTS_MAX 64

struct control_server {
	struct loop *loop;
	struct ipc_listener *listener;
	struct access_list access;
	struct export_table *exports;
	struct control_client *clients;
	unsigned n_clients;
};

/* The server is found by its list: a client does not need to know it otherwise. */
struct client_entry {
	struct control_client client;
	struct control_server *server;
};

static void client_release(struct client_entry *entry)
{
	struct control_server *s = entry->server;

	DL_DELETE(s->clients, &entry->client);
	s->n_clients--;
	control_watch_end(&entry->client);
	ipc_connection_free(entry->client.ipc);
	free(entry);
}

void control_client_send(struct control_client *c, const struct control_response *response)
{
	_cleanup_free_ uint8_t *buf = NULL;
	size_t len;
	int r = control_response_encode(response, &buf, &len);

	if (r == 0)
		r = ipc_send(c->ipc, buf, len);
	if (r < 0 && r != -ENOTCONN) {
		log_warning("control client pid %d does not take its messages: %s; closing it",
		            (int)c->peer.pid, strerror(-r));
		ipc_close_after_flush(c->ipc);
	}
}

static void send_error(struct control_client *c, uint64_t id, int error, const char *text)
{
	struct control_response response = {.id = id, .error = -error};

	(void)snprintf(response.text, sizeof(response.text), "%s", text);
	control_client_send(c, &response);
}

static int on_message(struct ipc_connection *ipc, const uint8_t *buf, size_t len, int *fds,
                      size_t n_fds, struct error *err, void *user)
{
	struct client_entry *entry = user;
	struct control_request q = {0};
	struct error why = {0};
	int r = control_request_decode(buf, len, &q, &why);

	(void)err;
	entry->client.fds = fds; /* what is left is closed by the caller */
	entry->client.n_fds = n_fds;
	if (r < 0) {
		send_error(&entry->client, q.id, r, why.text);
		ipc_close_after_flush(ipc);
		return 0;
	}
	control_client_request(&entry->client, &q);
	control_request_free(&q);
	explicit_bzero(&q, sizeof(q));
	return 0;
}

static void on_closed(struct ipc_connection *ipc, const struct error *err, void *user)
{
	struct client_entry *entry = user;

	(void)ipc;
	if (err->code)
		log_info("control client pid %d: %s", (int)entry->client.peer.pid, err->text);
	client_release(entry);
}

static struct client_entry *client_new(struct control_server *s, int fd, const struct ucred *peer)
{
	static const struct ipc_callbacks callbacks = {.on_message = on_message,
	                                               .on_closed = on_closed};
	struct client_entry *entry = calloc(1, sizeof(*entry));

	if (!entry) {
		close(fd);
		return NULL;
	}
	entry->server = s;
	entry->client.exports = s->exports;
	entry->client.loop = s->loop;
	entry->client.peer = *peer;
	if (ipc_connection_new(s->loop, fd, FDPASS_MESSAGE_MAX, &callbacks, entry,
	                       &entry->client.ipc) < 0) {
		free(entry);
		return NULL;
	}
	DL_APPEND(s->clients, &entry->client);
	s->n_clients++;
	return entry;
}

static void on_accept(int fd, void *user)
{
	struct control_server *s = user;
	struct error err = {0};
	struct ucred peer = {0};
	int r = access_list_check(&s->access, fd, &peer, &err);

	if (r == 0 && s->n_clients >= CLIENTS_MAX)
		r = error_set(&err, -EBUSY, "%u control clients are connected already",
		              s->n_clients);
	struct client_entry *entry = client_new(s, fd, &peer);

	if (!entry) {
		log_error("not enough memory for a control client, ignoring");
		return;
	}
	if (r < 0) {
		log_event(LOG_WARNING, MESSAGE_ACCESS_DENIED,
		          LOG_FIELDS({"SOCKET", "control"},
		                     {"CLIENT_PID", LOG_U64((uint64_t)peer.pid)},
		                     {"CLIENT_UID", LOG_U64(peer.uid)}, {"REASON", err.text}),
		          "control socket: %s", err.text);
		send_error(&entry->client, 0, r, err.text);
		ipc_close_after_flush(entry->client.ipc);
	}
}

static void on_export_changed(struct export *e, void *user)
{
	struct control_server *s = user;
	struct control_client *c;

	DL_FOREACH (s->clients, c)
		control_watch_changed(c, e);
}

int control_server_new(struct loop *loop, const char *path, mode_t mode,
                       const struct access_list *access, struct export_table *exports,
                       struct control_server **ret, struct error *err)
{
	struct control_server *s = calloc(1, sizeof(*s));
	int r;

	if (!s)
		return error_set(err, -ENOMEM, "no memory for the control socket");
	s->loop = loop;
	s->access = *access;
	s->exports = exports;
	r = ipc_listen(loop, "control", path, mode, on_accept, s, &s->listener, err);
	if (r < 0) {
		control_server_free(s);
		return r;
	}
	export_table_observe(exports, on_export_changed, s);
	*ret = s;
	return 0;
}

struct control_server *control_server_free(struct control_server *s)
{
	if (!s)
		return NULL;
	ipc_listener_free(s->listener);
	while (s->clients)
		client_release(CONTAINER_OF(s->clients, struct client_entry, client));
	free(s);
	return NULL;
}

void control_server_set_access(struct control_server *s, const struct access_list *access)
{
	s->access = *access;
}
