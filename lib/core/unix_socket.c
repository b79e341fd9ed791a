/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Connecting to and listening on UNIX stream sockets, for the daemons' control,
 * attach and status sockets and for their clients. Declared in core/fdpass.h.
 */
#include "core/fdpass.h"

#include "core/cleanup.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

struct unix_address {
	struct sockaddr_un sun;
	socklen_t len;
	bool abstract; /* a name in the network namespace, no file */
};

static int address_fill(const char *path, struct unix_address *ret, struct error *err)
{
	struct unix_address address = {.sun.sun_family = AF_UNIX, .abstract = path[0] == '@'};
	size_t len = strlen(path);

	if (len == 0)
		return error_set(err, -EINVAL, "the path of a UNIX socket is empty");
	if (len >= sizeof(address.sun.sun_path))
		return error_set(err, -ENAMETOOLONG,
		                 "%s: %zu characters are too long for a UNIX socket, at most %zu",
		                 path, len, sizeof(address.sun.sun_path) - 1);
	memcpy(address.sun.sun_path, path, len);
	if (address.abstract)
		address.sun.sun_path[0] = '\0';
	/* A path ends with a NUL; an abstract name is as long as it is. */
	address.len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len +
	                          (address.abstract ? 0 : 1));
	*ret = address;
	return 0;
}

static int connect_address(const struct unix_address *address, int type_flags)
{
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | type_flags, 0);

	if (fd < 0)
		return -errno;
	while (connect(fd, (const struct sockaddr *)&address->sun, address->len) < 0)
		if (errno != EINTR)
			return -errno;
	return TAKE_FD(fd);
}

int unix_connect(const char *path, struct error *err)
{
	struct unix_address address = {0};
	int r = address_fill(path, &address, err);

	if (r < 0)
		return r;
	r = connect_address(&address, 0);
	if (r < 0)
		return error_set_errno(err, r, "cannot connect to %s", path);
	return r;
}

/* Remove the file of a socket that nobody listens on; anything else stays. */
static int remove_stale(const char *path, const struct unix_address *address, struct error *err)
{
	struct stat st;

	if (lstat(path, &st) < 0)
		return error_set_errno(err, -errno, "cannot look at %s", path);
	if (!S_ISSOCK(st.st_mode))
		return error_set(err, -EADDRINUSE,
		                 "%s exists and is not a socket: remove it or choose another path",
		                 path);
	int fd = connect_address(address, SOCK_NONBLOCK);

	if (fd >= 0)
		close(fd);
	if (fd != -ECONNREFUSED) /* a full queue or missing permission: alive all the same */
		return error_set(err, -EADDRINUSE,
		                 "another process listens on %s: stop it or choose another path",
		                 path);
	if (unlink(path) < 0)
		return error_set_errno(err, -errno, "cannot remove the old socket %s", path);
	return 0;
}

static int bind_address(int fd, const char *path, const struct unix_address *address,
                        struct error *err)
{
	for (bool again = false;; again = true) {
		if (bind(fd, (const struct sockaddr *)&address->sun, address->len) == 0)
			return 0;
		if (errno != EADDRINUSE || address->abstract || again)
			return error_set_errno(err, -errno, "cannot listen on %s", path);
		int r = remove_stale(path, address, err);

		if (r < 0)
			return r;
	}
}

int unix_listen(const char *path, mode_t mode, struct error *err)
{
	struct unix_address address = {0};
	int r = address_fill(path, &address, err);

	if (r < 0)
		return r;
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return error_set_errno(err, -errno, "cannot create a UNIX socket");
	r = bind_address(fd, path, &address, err);
	if (r < 0)
		return r;
	/* Nobody can connect before listen(): the mode is in force from the start. */
	if ((!address.abstract && chmod(path, mode) < 0) || listen(fd, SOMAXCONN) < 0) {
		r = -errno;
		if (!address.abstract)
			(void)unlink(path);
		return error_set_errno(err, r, "cannot listen on %s", path);
	}
	return TAKE_FD(fd);
}
