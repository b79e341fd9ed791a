/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where VMMs attach. The server accepts, counts and remembers clients; what
 * they say is an attach protocol's business, one file each (attach_*.c). To add
 * one: fill a struct attach_protocol, and give it a listening socket.
 */
#ifndef DAEMON_ATTACH_SERVER_H
#define DAEMON_ATTACH_SERVER_H

#include <sys/types.h>

#include "core/cleanup.h"
#include "core/error.h"
#include "daemon/migration_table.h"
#include "net/loop.h"

#define ATTACH_CLIENTS_IDLE_MAX 128 /* connections that have not attached */
#define ATTACH_PROTOCOLS_MAX 4
#define ATTACH_CLIENT_VMM UINT32_MAX

struct attach_server;
struct attach_client;

struct attach_protocol {
	const char *name;
	/*
	 * A connection came; fd (non-blocking) is owned from here on, also on
	 * failure. Returns a client whose first member is a struct attach_client.
	 */
	int (*client_new)(struct attach_server *server, int fd, struct attach_client **ret);
	void (*client_free)(struct attach_client *client);
	/* The client's migration has a new state or text. */
	void (*on_change)(struct attach_client *client, const struct migration *m);
	/*
	 * The client is a connection whose VMM attached to a daemon before this one: tell
	 * it the state, and that what it still waits for has to be asked again.
	 */
	void (*on_adopted)(struct attach_client *client, const struct migration *m);
};

struct attach_client {
	struct attach_server *server;
	const struct attach_protocol *protocol;
	struct migration *migration; /* NULL before the attach and after the end */
	uint32_t mapping; /* the id of a further mapping; ATTACH_CLIENT_VMM: it is the VMM */
	/* It came by this one's own socket; NULL: by one for all, or that migration has ended. */
	struct migration *called_for;
	bool attached; /* has attached once */
	struct attach_client *prev, *next;
};

int attach_server_new(struct migration_table *table, struct attach_server **ret);
struct attach_server *attach_server_free(struct attach_server *s); /* always NULL */
DEFINE_CLEANUP(struct attach_server, attach_server_free)

/* Connections may be adopted that speak this, besides those for which there is a socket. */
void attach_server_speak(struct attach_server *s, const struct attach_protocol *protocol);

/* Listen for clients of this protocol; several sockets are possible. */
int attach_server_listen(struct attach_server *s, const struct attach_protocol *protocol,
                         const char *name, const char *path, mode_t mode, struct error *err);

/*
 * A socket of its own for one migration: who calls there means that one. It is there
 * until a VMM has attached or the migration has ended.
 */
int attach_server_open(struct attach_server *s, const struct attach_protocol *protocol,
                       struct migration *m, const char *path, mode_t mode, struct error *err);

/*
 * A connection whose VMM attached to a daemon before this one: it gets the state,
 * marked restarted, and is then like any other. fd is owned, also on failure.
 * -ENOENT: nobody here speaks a protocol of this name.
 */
int attach_server_adopt(struct attach_server *s, const char *protocol, int fd, struct migration *m,
                        uint32_t mapping);

/* For the protocols. */
struct migration_table *attach_server_table(const struct attach_server *s);
/*
 * This client has the migration from here on, as its VMM or a further mapping; it gets
 * on_change(). Of one that has ended it has heard all.
 */
void attach_client_bind(struct attach_client *client, struct migration *m, uint32_t mapping);
/* The connection has ended: tells the migration, forgets and frees the client. */
void attach_client_gone(struct attach_client *client);

#endif
