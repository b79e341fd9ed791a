/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The attach sockets. Made by the daemon; its clients' protocols call back.
 *
 * Always holds: a client in the list is alive; one with a migration points to
 * one that has not reached a final state (the last on_change() unbinds it, and
 * one that is adopted for an ended migration is never bound).
 */
#include "daemon/attach_server.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <utlist.h>

#include "core/fdpass.h"
#include "core/log.h"
#include "daemon/migration_mapping.h"
#include "net/ipc.h"

struct attach_socket {
	struct attach_socket *next;
	struct attach_server *server;
	const struct attach_protocol *protocol;
	struct migration *migration; /* whose socket it is; NULL: everybody's */
	struct ipc_listener *listener;
};

struct attach_server {
	struct migration_table *table;
	struct migration_listener *listener;
	struct attach_socket *sockets;
	struct attach_client *clients;
	unsigned n_idle;
	const struct attach_protocol *protocols[ATTACH_PROTOCOLS_MAX];
};

static void socket_free(struct attach_server *s, struct attach_socket *socket)
{
	LL_DELETE(s->sockets, socket);
	ipc_listener_free(socket->listener);
	free(socket);
}

static void sockets_close(struct attach_server *s, const struct migration *m)
{
	struct attach_socket *socket, *next;

	LL_FOREACH_SAFE (s->sockets, socket, next)
		if (socket->migration == m)
			socket_free(s, socket);
}

static void on_change(const struct migration *m, void *user)
{
	struct attach_server *s = user;
	struct attach_client *c, *next;

	if (m->state != MIGRATION_SETUP)
		sockets_close(s, m);
	DL_FOREACH_SAFE (s->clients, c, next) {
		if (c->called_for == m && migration_state_final(m->state))
			c->called_for = NULL;
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
	LL_FOREACH_SAFE (s->sockets, socket, next_socket)
		socket_free(s, socket);
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
	else
		c->called_for = socket->migration;
}

static int socket_new(struct attach_server *s, const struct attach_protocol *protocol,
                      struct migration *m, const char *name, const char *path, mode_t mode,
                      struct error *err)
{
	struct attach_socket *socket = calloc(1, sizeof(*socket));
	int r;

	if (!socket)
		return error_set(err, -ENOMEM, "not enough memory");
	socket->server = s;
	socket->protocol = protocol;
	socket->migration = m;
	r = ipc_listen(migration_table_loop(s->table), name, path, mode, on_accept, socket,
	               &socket->listener, err);
	if (r < 0) {
		free(socket);
		return r;
	}
	LL_PREPEND(s->sockets, socket);
	attach_server_speak(s, protocol);
	return 0;
}

int attach_server_listen(struct attach_server *s, const struct attach_protocol *protocol,
                         const char *name, const char *path, mode_t mode, struct error *err)
{
	return socket_new(s, protocol, NULL, name, path, mode, err);
}

int attach_server_open(struct attach_server *s, const struct attach_protocol *protocol,
                       struct migration *m, const char *path, mode_t mode, struct error *err)
{
	return socket_new(s, protocol, m, m->id_text, path, mode, err);
}

void attach_server_speak(struct attach_server *s, const struct attach_protocol *protocol)
{
	size_t i = 0;

	while (i < ATTACH_PROTOCOLS_MAX && s->protocols[i] && s->protocols[i] != protocol)
		i++;
	assert(i < ATTACH_PROTOCOLS_MAX);
	s->protocols[i] = protocol;
}

static const struct attach_protocol *protocol_find(const struct attach_server *s, const char *name)
{
	for (size_t i = 0; i < ATTACH_PROTOCOLS_MAX && s->protocols[i]; i++)
		if (strcmp(s->protocols[i]->name, name) == 0)
			return s->protocols[i];
	return NULL;
}

int attach_server_adopt(struct attach_server *s, const char *protocol, int fd, struct migration *m,
                        uint32_t mapping)
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
	attach_client_bind(c, m, mapping);
	p->on_adopted(c, m);
	return 0;
}

struct migration_table *attach_server_table(const struct attach_server *s)
{
	return s->table;
}

void attach_client_bind(struct attach_client *client, struct migration *m, uint32_t mapping)
{
	client->migration = migration_state_final(m->state) ? NULL : m;
	client->mapping = mapping;
	if (!client->attached)
		client->server->n_idle--;
	client->attached = true;
}

void attach_client_gone(struct attach_client *client)
{
	struct migration *m = client->migration;

	client->migration = NULL; /* nobody is left to be told */
	if (m && client->mapping == ATTACH_CLIENT_VMM)
		migration_vmm_hung_up(m);
	else if (m)
		migration_mapping_hung_up(m, client->mapping);
	client_drop(client);
}
