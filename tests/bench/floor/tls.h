/* SPDX-License-Identifier: Apache-2.0 */
/* TLS 1.3 with certificates on both sides over loopback or a given address, raw OpenSSL. */
#ifndef BENCH_FLOOR_TLS_H
#define BENCH_FLOOR_TLS_H

#include <netinet/in.h>
#include <openssl/ssl.h>

#include "floor/floor.h"

/* A listening socket, in the server's network namespace. */
int tls_listen(const struct floor_options *o, struct sockaddr_in *ret_address);

/* Blocking connections, after the handshake. All end the program on failure. */
SSL *tls_accept(const struct floor_options *o, int listener);
SSL *tls_connect(const struct floor_options *o, const struct sockaddr_in *address);

/* 0, or -EIO when the peer has gone. */
int tls_read_exactly(SSL *ssl, void *buf, size_t len);
int tls_write_all(SSL *ssl, const void *buf, size_t len);

#endif
