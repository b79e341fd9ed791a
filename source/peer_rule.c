/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who may use the export and control sockets. Called for each new connection,
 * before anything is read from it.
 */
#include "source/peer_rule.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/cleanup.h"

/* A number, or a name by the given look-up. */
static int parse_id(const char *word, bool group, id_t *ret, struct error *err)
{
	char *end;
	unsigned long number;

	errno = 0;
	number = strtoul(word, &end, 10);
	if (*word >= '0' && *word <= '9' && !*end && errno == 0 && number < (id_t)-1) {
		*ret = (id_t)number;
		return 0;
	}
	const struct group *g = group ? getgrnam(word) : NULL;
	const struct passwd *p = group ? NULL : getpwnam(word);

	if (!g && !p)
		return error_set(err, -EINVAL, "there is no %s \"%.64s\"", group ? "group" : "user",
		                 word);
	*ret = g ? g->gr_gid : p->pw_uid;
	return 0;
}

static int parse_list(const char *text, bool group, id_t *ids, size_t *n, struct error *err)
{
	_cleanup_free_ char *copy = strdup(text);
	char *next = NULL;

	if (!copy)
		return error_set(err, -ENOMEM, "not enough memory");
	*n = 0;
	for (char *w = strtok_r(copy, ", \t", &next); w; w = strtok_r(NULL, ", \t", &next)) {
		if (*n == PEER_RULE_IDS_MAX)
			return error_set(err, -EINVAL, "expected at most %d names",
			                 PEER_RULE_IDS_MAX);
		int r = parse_id(w, group, &ids[*n], err);

		if (r < 0)
			return r;
		(*n)++;
	}
	return 0;
}

int peer_rule_parse(const char *uids, const char *gids, struct peer_rule *ret, struct error *err)
{
	struct peer_rule rule = {0};
	int r = parse_list(uids, false, rule.uids, &rule.n_uids, err);

	if (r == 0)
		r = parse_list(gids, true, rule.gids, &rule.n_gids, err);
	if (r == 0)
		*ret = rule;
	return r;
}

static bool list_has(const id_t *ids, size_t n, id_t id)
{
	for (size_t i = 0; i < n; i++)
		if (ids[i] == id)
			return true;
	return false;
}

static bool groups_match(const struct peer_rule *rule, int fd, gid_t primary)
{
	gid_t groups[1024];
	socklen_t len = sizeof(groups);

	if (list_has(rule->gids, rule->n_gids, primary))
		return true;
	if (rule->n_gids == 0 || getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups, &len) < 0)
		return false;
	for (size_t i = 0; i < len / sizeof(*groups); i++)
		if (list_has(rule->gids, rule->n_gids, groups[i]))
			return true;
	return false;
}

int peer_rule_check(const struct peer_rule *rule, int fd, struct ucred *ret_peer, struct error *err)
{
	struct ucred peer;
	socklen_t len = sizeof(peer);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0)
		return error_set_errno(err, -errno, "cannot tell who is connected");
	*ret_peer = peer;
	if ((rule->n_uids == 0 && rule->n_gids == 0) || peer.uid == 0 || peer.uid == geteuid() ||
	    list_has(rule->uids, rule->n_uids, peer.uid) || groups_match(rule, fd, peer.gid))
		return 0;
	return error_set(err, -EACCES,
	                 "uid %u (gid %u, pid %d) may not use this socket: add the user or one of "
	                 "its groups to [sockets] in the settings",
	                 (unsigned)peer.uid, (unsigned)peer.gid, (int)peer.pid);
}
