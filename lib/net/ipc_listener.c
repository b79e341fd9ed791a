/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Accepting connections, local or TCP, for the daemons' sockets.
 *
 * When the process or the system is out of descriptors or memory the listener
 * pauses instead of spinning on a socket that stays readable; the callers wait
 * in the backlog.
 */
#include <errno.h>
#include <event2/event_struct.h>
#include <stdlib.h>
#include <string.h>

#include "core/log.h"
#include "net/activation.h"
#include "net/ipc.h"

#define ACCEPTS_PER_TURN 16
#define PAUSE_US 100000
#define LISTENER_PRIORITY 2

struct ipc_listener {
	int fd;
	char *path; /* of the socket file, to be removed; NULL: none */
	ipc_accept_fn on_accept;
	void *user;
	struct event accept_event;
	struct event resume_event;
	bool in_handler;
	bool freed;
	bool paused; /* since the last connection was accepted: logged once */
};

static bool is_shortage(int error)
{
	return error == EMFILE || error == ENFILE || error == ENOBUFS || error == ENOMEM;
}

static void listener_pause(struct ipc_listener *l, int error)
{
	static const struct timeval tv = {.tv_usec = PAUSE_US};

	if (!l->paused)
		log_warning("cannot accept connections: %s; retrying every 100 ms",
		            strerror(error));
	l->paused = true;
	event_del(&l->accept_event);
	event_add(&l->resume_event, &tv);
}

static void listener_accept(struct ipc_listener *l)
{
	for (int budget = ACCEPTS_PER_TURN; budget > 0 && !l->freed; budget--) {
		int fd = accept4(l->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

		if (fd >= 0) {
			l->paused = false;
			l->on_accept(fd, l->user);
			continue;
		}
		if (is_shortage(errno))
			listener_pause(l, errno);
		if (is_shortage(errno) || errno == EAGAIN)
			return;
		/* Others concern one connection that is gone already (ECONNABORTED and so on). */
	}
}

static void listener_release(struct ipc_listener *l)
{
	close_fd(&l->fd);
	if (l->path)
		unlink(l->path);
	free(l->path);
	free(l);
}

static void on_acceptable(evutil_socket_t fd, short what, void *arg)
{
	struct ipc_listener *l = arg;

	(void)fd;
	(void)what;
	l->in_handler = true;
	listener_accept(l);
	l->in_handler = false;
	if (l->freed)
		listener_release(l);
}

static void on_resume(evutil_socket_t fd, short what, void *arg)
{
	struct ipc_listener *l = arg;

	(void)fd;
	(void)what;
	event_add(&l->accept_event, NULL);
}

int ipc_listener_new(struct loop *loop, int fd, ipc_accept_fn on_accept, void *user,
                     struct ipc_listener **ret)
{
	struct ipc_listener *l = calloc(1, sizeof(*l));

	if (!l) {
		close(fd);
		return -ENOMEM;
	}
	*l = (struct ipc_listener){.fd = fd, .on_accept = on_accept, .user = user};
	event_assign(&l->accept_event, loop_base(loop), fd, EV_READ | EV_PERSIST, on_acceptable, l);
	event_assign(&l->resume_event, loop_base(loop), -1, 0, on_resume, l);
	event_priority_set(&l->accept_event, LISTENER_PRIORITY);
	event_priority_set(&l->resume_event, LISTENER_PRIORITY);
	if (event_add(&l->accept_event, NULL) < 0) {
		listener_release(l);
		return -ENOMEM;
	}
	*ret = l;
	return 0;
}

int ipc_listen(struct loop *loop, const char *name, const char *path, mode_t mode,
               ipc_accept_fn on_accept, void *user, struct ipc_listener **ret, struct error *err)
{
	_cleanup_free_ char *file = strdup(path);
	struct ipc_listener *l;
	bool own;
	int fd, r;

	if (!file)
		return error_set(err, -ENOMEM, "not enough memory");
	fd = activation_listen(name, path, mode, &own, err);
	if (fd < 0)
		return fd;
	r = ipc_listener_new(loop, fd, on_accept, user, &l);
	if (r < 0)
		return error_set_errno(err, r, "cannot listen on %s", path);
	if (own && *path != '@')
		l->path = TAKE_PTR(file);
	*ret = l;
	return 0;
}

struct ipc_listener *ipc_listener_free(struct ipc_listener *l)
{
	if (!l)
		return NULL;
	event_del(&l->accept_event);
	event_del(&l->resume_event);
	l->freed = true;
	if (!l->in_handler)
		listener_release(l);
	return NULL;
}
