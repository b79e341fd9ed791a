/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The BIO between a TLS session and its socket: never SIGPIPE, and no recv()
 * when the last one showed that the socket is empty.
 */
#ifndef NET_TLS_SOCKET_H
#define NET_TLS_SOCKET_H

#include <openssl/ssl.h>
#include <stdbool.h>

/* Put ssl on the non-blocking socket fd, which stays the caller's. 0 or -ENOMEM. */
int tls_socket_attach(SSL *ssl, int fd);

/* The loop says that there may be something to read (again). */
void tls_socket_arm(SSL *ssl);

/*
 * Whether more records follow at once: the kernel then sends nothing yet that is
 * less than a full segment, so the peer is woken once. The last one must say no.
 */
void tls_socket_more(SSL *ssl, bool more);

/* The positive errno of the last recv() or send() that failed, 0 if none did. */
int tls_socket_errno(SSL *ssl);

#endif
