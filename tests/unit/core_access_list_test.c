/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who may use the daemons' sockets. The peers are children of other users that
 * really connect, which takes root: skipped otherwise.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <grp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/access_list.h"
#include "core/cleanup.h"
#include "core/fdpass.h"

#define PEER_UID 4244
#define PEER_GID 4243
#define PEER_GROUP 4242 /* a supplementary one */

static struct access_list list_of(const char *uids, const char *gids)
{
	struct access_list list;
	struct error error = {0};

	if (access_list_parse("control", uids, gids, &list, &error) < 0)
		fail_msg("%s", error.text);
	return list;
}

/* Promise: names and numbers in one list, by blanks or commas; nothing is open by itself. */
static void test_parse(void **state)
{
	struct access_list list = list_of("root, 7\t8", "0 4294967294");

	(void)state;
	assert_int_equal(list.uids.n_ids, 3);
	assert_true(id_list_contains(&list.uids, 0));
	assert_true(id_list_contains(&list.uids, 8));
	assert_false(id_list_contains(&list.uids, 9));
	assert_true(id_list_contains(&list.gids, 4294967294));
	assert_false(access_list_is_empty(&list));
	list = list_of("", " , ");
	assert_true(access_list_is_empty(&list));
	assert_false(list.open);
}

/* Promise: a bad list names its option and word, and leaves the result as it was. */
static void test_bad(void **state)
{
	static const struct {
		const char *uids, *gids, *expected;
	} bad[] = {
	        {"nosuchuser", "", "[sockets] control_uids: expected user names or numbers"},
	        {"", "12x", "no group \"12x\""},
	        {"4294967295", "", "no user \"4294967295\""},
	        {"-1", "", "no user \"-1\""},
	};
	struct access_list list = {.open = true};
	char many[ACCESS_LIST_IDS_MAX * 2 + 3];
	struct error error = {0};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		assert_int_equal(
		        access_list_parse("control", bad[i].uids, bad[i].gids, &list, &error),
		        -EINVAL);
		if (!strstr(error.text, bad[i].expected))
			fail_msg("%s", error.text);
	}
	for (size_t i = 0; i < sizeof(many) - 1; i++)
		many[i] = i % 2 ? ' ' : '1';
	many[sizeof(many) - 1] = '\0';
	assert_int_equal(access_list_parse("control", "", many, &list, &error), -EINVAL);
	assert_non_null(strstr(error.text, "control_gids: expected at most 64 groups"));
	assert_true(list.open);
}

/* In the child: becomes the peer, connects, stays until the other side has closed. */
static void peer_run(const char *path)
{
	const gid_t group = PEER_GROUP;
	char c;
	int fd;

	if (setgroups(1, &group) < 0 || setgid(PEER_GID) < 0 || setuid(PEER_UID) < 0)
		_exit(1);
	fd = unix_connect(path, NULL);
	_exit(fd >= 0 && read(fd, &c, 1) == 0 ? 0 : 1);
}

/* What the list says of a connection of PEER_UID. */
static int peer_check(const struct access_list *list, struct ucred *ret_peer, struct error *err)
{
	char path[64];
	int listener, fd, status, r;
	pid_t child;

	snprintf(path, sizeof(path), "@postcopy-access-%d", (int)getpid());
	listener = unix_listen(path, 0600, err);
	assert_true(listener >= 0);
	child = fork();
	if (child == 0)
		peer_run(path);
	struct pollfd p = {.fd = listener, .events = POLLIN};

	assert_int_equal(poll(&p, 1, 10000), 1);
	fd = accept(listener, NULL, NULL);
	assert_true(fd >= 0);
	r = access_list_check(list, fd, ret_peer, err);
	close(fd);
	close(listener);
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	return r;
}

/* Promise: users, their primary and their supplementary groups are let in. */
static void test_allowed(void **state)
{
	const struct access_list lists[] = {
	        list_of("4244", ""),
	        list_of("", "4243"),
	        list_of("", "1 4242"),
	        {.socket = "control", .open = true},
	};
	struct error error = {0};
	struct ucred peer;

	(void)state;
	if (geteuid() != 0)
		skip();
	for (size_t i = 0; i < ARRAY_SIZE(lists); i++)
		if (peer_check(&lists[i], &peer, &error) < 0)
			fail_msg("list %zu: %s", i, error.text);
}

/* Promise: everybody else is refused, and told which option would let him in. */
static void test_refused(void **state)
{
	const struct access_list lists[] = {list_of("", ""), list_of("4243 4242", "4244")};
	struct ucred peer = {0};

	(void)state;
	if (geteuid() != 0)
		skip();
	for (size_t i = 0; i < ARRAY_SIZE(lists); i++) {
		struct error error = {0};

		assert_int_equal(peer_check(&lists[i], &peer, &error), -EACCES);
		assert_int_equal(peer.uid, PEER_UID);
		assert_non_null(strstr(error.text, "uid 4244"));
		assert_non_null(strstr(error.text, "control_uids"));
	}
}

/* Promise: the daemon's own user needs no list. */
static void test_own_user(void **state)
{
	struct access_list list = list_of("", "");
	struct error error = {0};
	struct ucred peer;
	int pair[2];

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	assert_int_equal(access_list_check(&list, pair[0], &peer, &error), 0);
	assert_int_equal(peer.uid, geteuid());
	close(pair[0]);
	close(pair[1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_parse),    cmocka_unit_test(test_bad),
	        cmocka_unit_test(test_allowed),  cmocka_unit_test(test_refused),
	        cmocka_unit_test(test_own_user),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
