/* SPDX-License-Identifier: Apache-2.0 */
/* libpostcopy's attach protocol: proto/attach.proto over net/ipc.h. */
#ifndef DAEMON_ATTACH_POSTCOPY_H
#define DAEMON_ATTACH_POSTCOPY_H

#include "daemon/attach_server.h"

extern const struct attach_protocol attach_protocol_postcopy;

#endif
