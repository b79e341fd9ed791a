/* SPDX-License-Identifier: Apache-2.0 */
/*
 * In QEMU: guest memory that goes to another process over a UNIX socket (vhost-user).
 * Called by interpose.c in QEMU's threads.
 *
 * Always holds: as long as memory is missing or lost, no process gets it that would not
 * ask us about it (back_end.c): in another mapping a missing page is a hole, which the
 * first touch fills with zeros, for the guest, too.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "client/qemu/qemu.h"
#include "core/cleanup.h"

#define LIBRARY_NAME "/libpostcopy-qemu.so"

/* The first message of a vhost-user front end: GET_FEATURES, version 1, no payload. */
static const uint32_t first_message[3] = {1, 1, 0};

static bool begins_vhost_user(const struct msghdr *msg)
{
	return msg->msg_iovlen == 1 && msg->msg_iov[0].iov_len == sizeof(first_message) &&
	       memcmp(msg->msg_iov[0].iov_base, first_message, sizeof(first_message)) == 0;
}

static bool carries_memory(const struct msghdr *msg)
{
	int fds[FDS_IN_MESSAGE_MAX];
	size_t n = message_fds(msg, fds);

	for (size_t i = 0; i < n; i++)
		if (memory_has_file(fds[i]))
			return true;
	return false;
}

static int peer_open(pid_t pid, const char *name, FILE **ret)
{
	char path[64];

	(void)snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, name);
	*ret = fopen(path, "re");
	return *ret ? 0 : -errno;
}

/* Is there a piece of the file, up to the delimiter, that the function takes? 0, 1 or -errno. */
static int peer_has(pid_t pid, const char *name, int delimiter, bool (*is)(const char *piece))
{
	_cleanup_free_ char *piece = NULL;
	size_t room = 0;
	bool found = false;
	FILE *f;
	int r = peer_open(pid, name, &f);

	if (r < 0)
		return r;
	while (!found && getdelim(&piece, &room, delimiter, f) > 0)
		found = is(piece);
	if (ferror(f))
		r = -EIO;
	(void)fclose(f);
	return r < 0 ? r : found;
}

static bool is_library(const char *line)
{
	return strstr(line, LIBRARY_NAME) != NULL;
}

static bool is_our_socket(const char *variable)
{
	size_t len = strlen(SOCKET_VARIABLE);
	const char *path = getenv(SOCKET_VARIABLE);

	return path && strncmp(variable, SOCKET_VARIABLE, len) == 0 && variable[len] == '=' &&
	       strcmp(variable + len + 1, path) == 0;
}

/* 0 if it would ask us. */
static int peer_check(int sock, struct error *err)
{
	struct ucred peer = {0};
	socklen_t len = sizeof(peer);
	int library, variable;

	if (getsockopt(sock, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0 || peer.pid <= 0)
		return error_set(err, -EPERM,
		                 "it cannot be seen which process has the other end of its socket "
		                 "(another PID namespace?): it must be seen to have "
		                 "libpostcopy-qemu.so");
	library = peer_has(peer.pid, "maps", '\n', is_library);
	variable = peer_has(peer.pid, "environ", '\0', is_our_socket);
	if (library < 0 || variable < 0)
		return error_set(err, -EPERM,
		                 "/proc/%d cannot be read (%s), so that its process cannot be seen "
		                 "to have libpostcopy-qemu.so: run it as QEMU's user",
		                 (int)peer.pid, strerror(library < 0 ? -library : -variable));
	if (library && variable)
		return 0;
	return error_set(err, -EPERM,
	                 "process %d would read zeros where memory has not come yet: start it with "
	                 "libpostcopy-qemu.so in LD_PRELOAD and the same " SOCKET_VARIABLE
	                 " as this QEMU (%s)",
	                 (int)peer.pid, library ? "it has the library" : "it has no such library");
}

bool vhost_user_may_send(int sock, const struct msghdr *msg)
{
	bool waits = atomic_load(&command_line.waits), carries;
	struct error err = {0};

	if (memory_is_whole())
		return true;
	carries = carries_memory(msg);
	if (!carries && !(waits && begins_vhost_user(msg)))
		return true;
	if (carries && waits)
		refuse("QEMU gives guest memory to another process before it has been attached");
	if (peer_check(sock, &err) == 0)
		return true;
	/* Before the guest is here a refusal costs nothing. */
	if (waits)
		refuse("vhost-user: %s", err.text);
	say("vhost-user: %s", err.text);
	return false;
}
