/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Access to the daemons' sockets. Lists are made with the settings; connections
 * are checked as they come, before anything is read from them.
 */
#include "core/access_list.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/cleanup.h"

/* A number, or a name by the look-up of its kind. */
static int id_parse(const char *word, bool group, uint32_t *ret)
{
	char *end;
	unsigned long long number;

	errno = 0;
	number = strtoull(word, &end, 10);
	if (*word >= '0' && *word <= '9' && !*end && errno == 0 && number < UINT32_MAX) {
		*ret = (uint32_t)number;
		return 0;
	}
	const struct group *g = group ? getgrnam(word) : NULL;
	const struct passwd *p = group ? NULL : getpwnam(word);

	if (!g && !p)
		return -ENOENT;
	*ret = g ? g->gr_gid : p->pw_uid;
	return 0;
}

static int id_list_parse(const char *socket, const char *text, bool group, struct id_list *ret,
                         struct error *err)
{
	const char *what = group ? "group" : "user";
	const char *kind = group ? "gids" : "uids";
	_cleanup_free_ char *copy = strdup(text);
	char *next = NULL;

	if (!copy)
		return error_set(err, -ENOMEM, "not enough memory");
	for (char *word = strtok_r(copy, " ,\t", &next); word;
	     word = strtok_r(NULL, " ,\t", &next)) {
		if (ret->n_ids == ACCESS_LIST_IDS_MAX)
			return error_set(err, -EINVAL, "[sockets] %s_%s: expected at most %d %ss",
			                 socket, kind, ACCESS_LIST_IDS_MAX, what);
		if (id_parse(word, group, &ret->ids[ret->n_ids]) < 0)
			return error_set(err, -EINVAL,
			                 "[sockets] %s_%s: expected %s names or numbers, but there "
			                 "is no %s \"%.64s\"",
			                 socket, kind, what, what, word);
		ret->n_ids++;
	}
	return 0;
}

int access_list_parse(const char *socket, const char *uids, const char *gids,
                      struct access_list *ret, struct error *err)
{
	struct access_list list = {.socket = socket};
	int r = id_list_parse(socket, uids, false, &list.uids, err);

	if (r == 0)
		r = id_list_parse(socket, gids, true, &list.gids, err);
	if (r == 0)
		*ret = list;
	return r;
}

bool access_list_is_empty(const struct access_list *list)
{
	return list->uids.n_ids == 0 && list->gids.n_ids == 0;
}

bool id_list_contains(const struct id_list *list, uint32_t id)
{
	for (unsigned i = 0; i < list->n_ids; i++)
		if (list->ids[i] == id)
			return true;
	return false;
}

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

static bool groups_match(const struct id_list *gids, int fd, gid_t primary)
{
	_cleanup_free_ gid_t *groups = NULL;
	size_t n_groups;

	if (gids->n_ids == 0)
		return false;
	if (id_list_contains(gids, primary))
		return true;
	n_groups = peer_groups(fd, &groups);
	for (size_t i = 0; i < n_groups; i++)
		if (id_list_contains(gids, groups[i]))
			return true;
	return false;
}

int access_list_check(const struct access_list *list, int fd, struct ucred *ret_peer,
                      struct error *err)
{
	struct ucred peer;
	socklen_t len = sizeof(peer);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0)
		return error_set_errno(err, -errno, "cannot tell who is connected");
	*ret_peer = peer;
	if (list->open || peer.uid == 0 || peer.uid == geteuid() ||
	    id_list_contains(&list->uids, peer.uid) || groups_match(&list->gids, fd, peer.gid))
		return 0;
	return error_set(err, -EACCES,
	                 "uid %u (gid %u, pid %d) may not use the %s socket: add the user to "
	                 "[sockets] %s_uids, or one of its groups to %s_gids",
	                 (unsigned)peer.uid, (unsigned)peer.gid, (int)peer.pid, list->socket,
	                 list->socket, list->socket);
}
