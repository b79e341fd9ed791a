/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Firecracker as a client: snapshot/load with a memory backend of type Uffd, whose path
 * is the socket that was made for the migration.
 */
#ifndef DAEMON_ATTACH_FIRECRACKER_H
#define DAEMON_ATTACH_FIRECRACKER_H

#include "daemon/attach_server.h"

extern const struct attach_protocol attach_protocol_firecracker;

#endif
