/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the service manager passed. service.c begins and ends it; in between
 * whoever listens takes its socket, and whoever kept descriptors in the FD store
 * takes these.
 *
 * Always holds: an entry's descriptor is open and nobody else's until it is
 * taken, and -1 from then on.
 */
#include "net/activation.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <systemd/sd-daemon.h>

#include "core/cleanup.h"
#include "core/fdpass.h"
#include "core/log.h"

struct activated {
	char *name;
	int fd;
};

static struct {
	struct activated *entries;
	size_t n;
} passed;

int activation_begin(struct error *err)
{
	_cleanup_free_ char **names = NULL; /* the strings go to the entries */
	int n = sd_listen_fds_with_names(1, &names);

	if (n < 0)
		return error_set_errno(err, n,
		                       "cannot make out which descriptors the service manager "
		                       "passed (LISTEN_FDS, LISTEN_FDNAMES)");
	if (n == 0)
		return 0;
	passed.entries = calloc((size_t)n, sizeof(*passed.entries));
	if (!passed.entries) {
		for (int i = 0; i < n; i++)
			free(names[i]);
		return error_set(err, -ENOMEM, "not enough memory");
	}
	passed.n = (size_t)n;
	for (int i = 0; i < n; i++)
		passed.entries[i] = (struct activated){names[i], SD_LISTEN_FDS_START + i};
	return 0;
}

void activation_end(void)
{
	for (size_t i = 0; i < passed.n; i++) {
		struct activated *a = &passed.entries[i];

		if (a->fd >= 0)
			log_warning("the service manager passed descriptor %d as \"%s\", which "
			            "nobody here asked for; leaving it open and ignoring it",
			            a->fd, a->name);
		free(a->name);
	}
	free(passed.entries);
	passed.entries = NULL;
	passed.n = 0;
}

struct activated *activation_next(const struct activated *previous)
{
	size_t i = previous ? (size_t)(previous - passed.entries) + 1 : 0;

	for (; i < passed.n; i++)
		if (passed.entries[i].fd >= 0)
			return &passed.entries[i];
	return NULL;
}

const char *activated_name(const struct activated *a)
{
	return a->name;
}

int activated_fd(const struct activated *a)
{
	return a->fd;
}

int activated_take(struct activated *a)
{
	return TAKE_FD(a->fd);
}

static struct activated *find(const char *name)
{
	for (struct activated *a = activation_next(NULL); a; a = activation_next(a))
		if (strcmp(a->name, name) == 0)
			return a;
	return NULL;
}

static int socket_option(int fd, int option)
{
	socklen_t len = sizeof(int);
	int value;

	return getsockopt(fd, SOL_SOCKET, option, &value, &len) == 0 ? value : -1;
}

static int listener_check(const struct activated *a, struct error *err)
{
	int family = socket_option(a->fd, SO_DOMAIN);
	int type = socket_option(a->fd, SO_TYPE);
	bool listening = socket_option(a->fd, SO_ACCEPTCONN) == 1;

	if (family == AF_UNIX && type == SOCK_STREAM && listening)
		return 0;
	if (family < 0)
		return error_set(err, -EINVAL,
		                 "the service manager passed \"%s\" (descriptor %d), which is no "
		                 "socket: expected a listening UNIX stream socket, as "
		                 "ListenStream=/PATH in a .socket unit makes it",
		                 a->name, a->fd);
	return error_set(err, -EINVAL,
	                 "the service manager passed \"%s\" (descriptor %d), a%s socket of family "
	                 "%d, type %d: expected a listening UNIX stream socket, as "
	                 "ListenStream=/PATH with Accept=no in a .socket unit makes it",
	                 a->name, a->fd, listening ? " listening" : " not listening", family, type);
}

int activation_take_listener(const char *name, struct error *err)
{
	struct activated *a = find(name);
	int flags, r;

	if (!a)
		return -ENOENT;
	r = listener_check(a, err);
	if (r < 0)
		return r;
	flags = fcntl(a->fd, F_GETFL);
	if (flags < 0 || fcntl(a->fd, F_SETFL, flags | O_NONBLOCK) < 0)
		return error_set_errno(err, -errno, "make socket \"%s\" non-blocking", name);
	return activated_take(a);
}

static void log_passed(const char *name, int fd)
{
	struct sockaddr_un sun = {0};
	socklen_t len = sizeof(sun);
	const char *path = sun.sun_path;

	if (getsockname(fd, (struct sockaddr *)&sun, &len) < 0 ||
	    len <= offsetof(struct sockaddr_un, sun_path))
		log_info("socket \"%s\" comes from the service manager", name);
	else
		log_info("socket \"%s\" comes from the service manager: %s%.*s", name,
		         *path ? "" : "@",
		         (int)(len - offsetof(struct sockaddr_un, sun_path) - !*path),
		         *path ? path : path + 1);
}

int activation_listen(const char *name, const char *path, mode_t mode, bool *ret_own,
                      struct error *err)
{
	int fd = activation_take_listener(name, err);
	bool own = fd == -ENOENT;

	if (own)
		fd = unix_listen(path, mode, err);
	else if (fd >= 0)
		log_passed(name, fd);
	if (fd >= 0)
		*ret_own = own;
	return fd;
}
