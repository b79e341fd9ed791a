/* SPDX-License-Identifier: Apache-2.0 */
/* Who may use a local socket, by SO_PEERCRED. */
#ifndef SOURCE_PEER_RULE_H
#define SOURCE_PEER_RULE_H

#include <stddef.h>
#include <sys/socket.h>
#include <sys/types.h>

#include "core/error.h"

#define PEER_RULE_IDS_MAX 64

struct peer_rule {
	uid_t uids[PEER_RULE_IDS_MAX];
	size_t n_uids;
	gid_t gids[PEER_RULE_IDS_MAX];
	size_t n_gids;
};

/* Names or numbers, separated by spaces or commas. -EINVAL with a text. */
int peer_rule_parse(const char *uids, const char *gids, struct peer_rule *ret, struct error *err);

/*
 * With both lists empty, whoever the socket's mode lets in. Otherwise root, the
 * daemon's own user, and those listed (groups: also supplementary ones). -EACCES
 * with a text. fd is the connection.
 */
int peer_rule_check(const struct peer_rule *rule, int fd, struct ucred *ret_peer,
                    struct error *err);

#endif
