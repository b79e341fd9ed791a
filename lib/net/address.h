/* SPDX-License-Identifier: Apache-2.0 */
/* HOST:PORT: parse, connect without blocking, listen. */
#ifndef NET_ADDRESS_H
#define NET_ADDRESS_H

#include <netdb.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/error.h"

#define ADDRESS_TEXT_MAX 272

/*
 * Resolve "HOST:PORT", "[V6]:PORT" into a list for freeaddrinfo(). Blocks for
 * a name that needs DNS: not on a thread that serves faults. -EINVAL, -EHOSTUNREACH.
 */
int address_resolve(const char *text, bool passive, struct addrinfo **ret, struct error *err);

/* Start a non-blocking TCP connect (TCP_NODELAY, keepalive, TCP_USER_TIMEOUT). Returns the fd or -errno. */
int address_connect(const struct addrinfo *ai, struct error *err);

/* Listen on TCP (SO_REUSEADDR), non-blocking. Returns the fd or -errno. */
int address_listen(const struct addrinfo *ai, struct error *err);

/* Options of an accepted or connecting TCP socket: see address_connect(). */
int address_tune(int fd);

/* "HOST:PORT" of the peer, "?" if it cannot be told. buf of ADDRESS_TEXT_MAX. */
const char *address_format_peer(int fd, char buf[ADDRESS_TEXT_MAX]);

#endif
