/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The attach sockets. Made by the daemon; its clients' protocols call back.
 *
 * Always holds: a client in the list is alive; one with a migration points to
 * one that has not reached a final state (the last on_change() unbinds it, and
 * one that is adopted for an ended migration is never bound).
 */
#include "daemon/attach_server.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <utlist.h>

#include "core/fdpass.h"
#include "core/log.h"
#include "net/ipc.h"

struct attach_socket {
	struct attach_socket *next;
	struct attach_server *server;
	const struct attach_protocol *protocol;
	struct ipc_listener *listener;
};

struct attach_server {
	struct migration_table *table;
	struct migration_listener *listener;
	struct attach_socket *sockets;
	struct attach_client *clients;
	unsigned n_idle;
};

static void on_change(const struct migration *m, void *user)
{
	struct attach_server *s = user;
	struct attach_client *c, *next;

	DL_FOREACH_SAFE (s->clients, c, next) {
		if (c->migration != m)
			continue;
		if (migration_state_final(m->state))
			c->migration = NULL;
		c->protocol->on_change(c, m);
	}
}

int attach_server_new(struct migration_table *table, struct attach_server **ret)
{
	_cleanup_(cleanup_attach_server_free) struct attach_server *s = calloc(1, sizeof(*s));
	int r;

	if (!s)
		return -ENOMEM;
	s->table = table;
	r = migration_table_listen(table, on_change, s, &s->listener);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(s);
	return 0;
}

static void client_drop(struct attach_client *c)
{
	struct attach_server *s = c->server;

	DL_DELETE(s->clients, c);
	if (!c->attached)
		s->n_idle--;
	c->protocol->client_free(c);
}

struct attach_server *attach_server_free(struct attach_server *s)
{
	struct attach_client *c, *next_client;
	struct attach_socket *socket, *next_socket;

	if (!s)
		return NULL;
	LL_FOREACH_SAFE (s->sockets, socket, next_socket) {
		ipc_listener_free(socket->listener);
		free(socket);
	}
	DL_FOREACH_SAFE (s->clients, c, next_client) {
		client_drop(c);
	}
	migration_table_unlisten(s->table, s->listener);
	free(s);
	return NULL;
}

static int client_add(struct attach_server *s, const struct attach_protocol *protocol, int fd,
                      struct attach_client **ret)
{
	struct attach_client *c;
	int r = protocol->client_new(s, fd, &c);

	if (r < 0)
		return r;
	c->server = s;
	c->protocol = protocol;
	DL_APPEND(s->clients, c);
	s->n_idle++;
	*ret = c;
	return 0;
}

static void on_accept(int fd, void *user)
{
	struct attach_socket *socket = user;
	struct attach_server *s = socket->server;
	struct attach_client *c;

	if (s->n_idle >= ATTACH_CLIENTS_IDLE_MAX) {
		close(fd);
		log_warning("attach: %d connections wait without attaching; ignoring another one",
		            ATTACH_CLIENTS_IDLE_MAX);
		return;
	}
	if (client_add(s, socket->protocol, fd, &c) < 0)
		log_warning("attach: no memory for a connection; ignoring it");
}

int attach_server_listen(struct attach_server *s, const struct attach_protocol *protocol,
                         const char *name, const char *path, mode_t mode, struct error *err)
{
	struct attach_socket *socket = calloc(1, sizeof(*socket));
	int r;

	if (!socket)
		return error_set(err, -ENOMEM, "not enough memory");
	socket->server = s;
	socket->protocol = protocol;
	r = ipc_listen(migration_table_loop(s->table), name, path, mode, on_accept, socket,
	               &socket->listener, err);
	if (r < 0) {
		free(socket);
		return r;
	}
	LL_PREPEND(s->sockets, socket);
	return 0;
}

static const struct attach_protocol *protocol_find(const struct attach_server *s, const char *name)
{
	const struct attach_socket *socket;

	LL_FOREACH (s->sockets, socket)
		if (strcmp(socket->protocol->name, name) == 0)
			return socket->protocol;
	return NULL;
}

int attach_server_adopt(struct attach_server *s, const char *protocol, int fd, struct migration *m)
{
	const struct attach_protocol *p = protocol_find(s, protocol);
	struct attach_client *c;
	int r = p ? 0 : -ENOENT;

	if (r == 0 && fcntl(fd, F_SETFL, O_NONBLOCK) < 0)
		r = -errno;
	if (r < 0) {
		close(fd);
		return r;
	}
	r = client_add(s, p, fd, &c);
	if (r < 0)
		return r;
	attach_client_bind(c, m);
	if (migration_state_final(m->state))
		c->migration = NULL;
	p->on_adopted(c, m);
	return 0;
}

struct migration_table *attach_server_table(const struct attach_server *s)
{
	return s->table;
}

void attach_client_bind(struct attach_client *client, struct migration *m)
{
	client->migration = m;
	if (!client->attached)
		client->server->n_idle--;
	client->attached = true;
}

void attach_client_gone(struct attach_client *client)
{
	struct migration *m = client->migration;

	client->migration = NULL; /* nobody is left to be told */
	if (m)
		migration_vmm_hung_up(m);
	client_drop(client);
}
