/* SPDX-License-Identifier: Apache-2.0 */
/* Access to the control socket. Called by the control server for each connection. */
#include "daemon/peer_access.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

/* The peer's supplementary groups; their number, 0 also when they cannot be told. */
static size_t peer_groups(int fd, gid_t **ret)
{
	socklen_t len = 0;
	gid_t *groups;

	if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, NULL, &len) == 0 || errno != ERANGE)
		return 0;
	groups = malloc(len);
	if (!groups)
		return 0;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups, &len) < 0) {
		free(groups);
		return 0;
	}
	*ret = groups;
	return len / sizeof(*groups);
}

int peer_access_check(int fd, const struct settings *settings, struct error *err)
{
	_cleanup_free_ gid_t *groups = NULL;
	struct ucred peer;
	socklen_t len = sizeof(peer);
	size_t n_groups;

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0)
		return error_set_errno(err, -errno, "cannot tell who is connected");
	if (peer.uid == 0 || peer.uid == geteuid() ||
	    id_list_contains(&settings->allowed_uids, peer.uid) ||
	    id_list_contains(&settings->allowed_gids, peer.gid))
		return 0;
	n_groups = peer_groups(fd, &groups);
	for (size_t i = 0; i < n_groups; i++)
		if (id_list_contains(&settings->allowed_gids, groups[i]))
			return 0;
	return error_set(
	        err, -EACCES,
	        "uid %u (gid %u, pid %d) may not control postcopyd: add the user to [sockets] "
	        "control_uids, or one of its groups to control_gids",
	        (unsigned)peer.uid, (unsigned)peer.gid, (int)peer.pid);
}
