/* SPDX-License-Identifier: Apache-2.0 */
/* Who is at the other end of a UNIX socket, and may he control the daemon? */
#ifndef DAEMON_PEER_ACCESS_H
#define DAEMON_PEER_ACCESS_H

#include "core/error.h"
#include "daemon/settings.h"

/*
 * By SO_PEERCRED and SO_PEERGROUPS: root, the daemon's own user, and the users
 * and groups of the settings. -EACCES with a text for the peer.
 */
int peer_access_check(int fd, const struct settings *settings, struct error *err);

#endif
