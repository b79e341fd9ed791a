/* SPDX-License-Identifier: Apache-2.0 */
/*
 * File descriptors and length-prefixed messages over UNIX stream sockets.
 *
 * A message is u32 length (little endian) and that many bytes; descriptors go
 * with its first byte (SCM_RIGHTS). Used as it is by the blocking clients
 * (libpostcopy, postcopyctl); the daemons' non-blocking side is net/ipc.h.
 */
#ifndef CORE_FDPASS_H
#define CORE_FDPASS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "core/error.h"

#define FDPASS_FDS_MAX 64          /* in one message */
#define FDPASS_MESSAGE_MAX 1048576 /* bytes (1 MiB), without the prefix */

/*
 * One sendmsg() with the given descriptors, flags as for sendmsg() (MSG_NOSIGNAL
 * is added). Returns the bytes sent or -errno.
 */
ssize_t fdpass_send(int sock, const void *buf, size_t len, const int *fds, size_t n_fds, int flags);

/*
 * One recvmsg(). Up to max_fds descriptors, all close-on-exec, are stored in
 * fds and belong to the caller; any that do not fit are closed and the call
 * fails with -E2BIG. Returns bytes received (0: end of stream) or -errno.
 */
ssize_t fdpass_recv(int sock, void *buf, size_t len, int *fds, size_t max_fds, size_t *ret_n_fds,
                    int flags);

/* Send one whole length-prefixed message, blocking. 0 or -errno. */
int fdpass_send_message(int sock, const void *buf, size_t len, const int *fds, size_t n_fds);

/*
 * Receive one whole length-prefixed message, waiting at most timeout_us
 * (UINT64_MAX: for ever). *ret_buf is malloc()ed. -ETIMEDOUT, -ECONNRESET when
 * the stream ends, -EMSGSIZE above FDPASS_MESSAGE_MAX. fds may be NULL when
 * none are expected: any that come are closed.
 */
int fdpass_recv_message(int sock, uint8_t **ret_buf, size_t *ret_len, int *fds, size_t max_fds,
                        size_t *ret_n_fds, uint64_t timeout_us);

/* Connect to a UNIX stream socket; a path that starts with '@' is abstract. Returns the fd or -errno. */
int unix_connect(const char *path, struct error *err);

/*
 * Listen on a UNIX stream socket. An old socket file that nobody listens on is
 * replaced; -EADDRINUSE if somebody does. Returns a non-blocking fd.
 */
int unix_listen(const char *path, mode_t mode, struct error *err);

/* True if fd is a userfaultfd ("anon_inode:[userfaultfd]" in /proc/self/fd). */
bool fd_is_userfaultfd(int fd);

/* True if fd is a regular file on tmpfs or hugetlbfs: a memfd or a file of these. */
bool fd_is_memory_file(int fd);

#endif
