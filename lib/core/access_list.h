/* SPDX-License-Identifier: Apache-2.0 */
/* Who may use a UNIX socket: users and groups from the settings, and the peer they are held against. */
#ifndef CORE_ACCESS_LIST_H
#define CORE_ACCESS_LIST_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

#include "core/error.h"

#define ACCESS_LIST_IDS_MAX 64

struct id_list {
	unsigned n_ids;
	uint32_t ids[ACCESS_LIST_IDS_MAX];
};

struct access_list {
	const char
	        *socket; /* its name in [sockets], a literal: its lists are NAME_uids, NAME_gids */
	bool open;       /* for whoever the socket's mode lets in */
	struct id_list uids;
	struct id_list gids;
};

/*
 * Names or numbers, separated by blanks or commas. Asks NSS, which may block:
 * for start and reload only. Never open: that is for the caller to say.
 * -EINVAL with a text that names the option.
 */
int access_list_parse(const char *socket, const char *uids, const char *gids,
                      struct access_list *ret, struct error *err);

bool access_list_is_empty(const struct access_list *list);
bool id_list_contains(const struct id_list *list, uint32_t id);

/*
 * By SO_PEERCRED and SO_PEERGROUPS of the connection fd: root, the daemon's own
 * user, and those listed. -EACCES with a text for the peer, which *ret_peer
 * tells also then.
 */
int access_list_check(const struct access_list *list, int fd, struct ucred *ret_peer,
                      struct error *err);

#endif
