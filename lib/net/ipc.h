/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A daemon's side of a local UNIX socket: length-prefixed messages with
 * descriptors, non-blocking, bounded, on a loop. The blocking side is
 * core/fdpass.h.
 */
#ifndef NET_IPC_H
#define NET_IPC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>

#include "core/cleanup.h"
#include "core/error.h"
#include "core/fdpass.h"
#include "net/loop.h"

struct ipc_connection;

struct ipc_callbacks {
	/*
	 * One whole message and the descriptors that came with it; those that
	 * the callback does not take (set to -1) are closed after it. 0, or
	 * -errno with err filled to close the connection with that error.
	 */
	int (*on_message)(struct ipc_connection *c, const uint8_t *buf, size_t len, int *fds,
	                  size_t n_fds, struct error *err, void *user);
	/* The peer hung up (err->code 0) or broke the rules. Free it here or later. */
	void (*on_closed)(struct ipc_connection *c, const struct error *err, void *user);
};

/* Take fd (owned, also on failure). max_message_bytes at most FDPASS_MESSAGE_MAX. */
int ipc_connection_new(struct loop *loop, int fd, size_t max_message_bytes,
                       const struct ipc_callbacks *callbacks, void *user,
                       struct ipc_connection **ret);
/* Always NULL; safe from within callbacks. */
struct ipc_connection *ipc_connection_free(struct ipc_connection *c);

/* Queue a message. -ENOBUFS when the peer has not read 4 MiB of earlier ones. */
int ipc_send(struct ipc_connection *c, const void *buf, size_t len);
size_t ipc_queued(const struct ipc_connection *c);

/*
 * Take no message until ipc_resume(); what the peer sends waits in the socket, and so does
 * its end.
 */
void ipc_pause(struct ipc_connection *c);
void ipc_resume(struct ipc_connection *c);

/* Send what is queued, then close; on_closed follows. */
void ipc_close_after_flush(struct ipc_connection *c);

/* Borrowed; -1 when it has ended. */
int ipc_fd(const struct ipc_connection *c);

/* SO_PEERCRED, taken when the connection was made. */
const struct ucred *ipc_peer(const struct ipc_connection *c);

/*
 * A pidfd of the peer process (SO_PEERPIDFD where the kernel has it, else
 * pidfd_open()), or -errno. The caller's.
 */
int ipc_peer_pidfd(const struct ipc_connection *c);
/* The same of any connected UNIX socket, whose peer's pid is known. */
int socket_peer_pidfd(int sock, pid_t pid);

struct ipc_listener;
typedef void (*ipc_accept_fn)(int fd, void *user); /* fd is non-blocking and the callee's */

/* Accept on a listening fd (owned). Survives EMFILE by pausing 100 ms. */
int ipc_listener_new(struct loop *loop, int fd, ipc_accept_fn on_accept, void *user,
                     struct ipc_listener **ret);
/*
 * The same on the UNIX socket that the service manager passed under this name, or
 * else on one of our own, see activation_listen(); that one's file is removed at the end.
 */
int ipc_listen(struct loop *loop, const char *name, const char *path, mode_t mode,
               ipc_accept_fn on_accept, void *user, struct ipc_listener **ret, struct error *err);
struct ipc_listener *ipc_listener_free(struct ipc_listener *l); /* always NULL */

#endif
