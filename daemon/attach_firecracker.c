/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Firecracker's attach protocol. Called by the attach server.
 *
 * It sends one JSON message and with it one userfaultfd, on which it has registered its
 * memory already; there is no answer. Whether the socket stays open afterwards depends
 * on the version (since v1.12 it does), so its end says no more than that the process
 * may have ended. There is no id: the socket is the migration's own.
 *
 * What is refused is told to the operator only, in the migration's state and in the
 * journal, and the next call is awaited: that Firecracker's guest waits at its first page,
 * for it holds the userfaultfd itself.
 */
#include "daemon/attach_firecracker.h"

#include <errno.h>
#include <event2/event.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/fdpass.h"
#include "core/log.h"
#include "core/message_ids.h"
#include "daemon/firecracker_message.h"
#include "daemon/migration_parts.h"
#include "net/ipc.h"

#define MESSAGE_BYTES_MAX ((size_t)256 * 1024) /* twice what 512 regions take */
#define READ_BYTES ((size_t)16 * 1024)
#define READS_PER_TURN 16
#define WAIT_S 10 /* for the whole message; it is written at once */

struct firecracker_client {
	struct attach_client client; /* first: see attach_server.h */
	int fd;
	int uffd;
	struct ucred peer;
	struct event *read_event;
	struct event *timer;
	char *text;
	size_t len;
};

static struct firecracker_client *firecracker_client(struct attach_client *c)
{
	return CONTAINER_OF(c, struct firecracker_client, client);
}

static void log_refused(const struct firecracker_client *f, const char *why)
{
	struct migration *m = f->client.called_for;

	log_event(LOG_WARNING, MESSAGE_ATTACH_REFUSED,
	          LOG_FIELDS({"MIGRATION_ID", m ? m->id_text : NULL},
	                     {"VMM_PID", LOG_U64((uint64_t)f->peer.pid)}, {"REASON", why}),
	          "attach: Firecracker (pid %d) refused: %s", (int)f->peer.pid, why);
	if (m && m->state == MIGRATION_SETUP)
		migration_set_text(m, LOG_WARNING, NULL,
		                   "refused what pid %d has handed over: %s; stop that VMM, for "
		                   "its guest waits; waiting for another",
		                   (int)f->peer.pid, why);
}

/* The client is gone afterwards. */
static void refuse(struct firecracker_client *f, const char *why)
{
	log_refused(f, why);
	attach_client_gone(&f->client);
}

static int check_caller(const struct firecracker_client *f, struct error *err)
{
	const struct migration *m = f->client.called_for;

	if (!m)
		return error_set(err, -ENOKEY, "the migration it called for has ended");
	if (f->uffd < 0)
		return error_set(err, -EINVAL, "no userfaultfd came with the message");
	if (migration_table_draining(attach_server_table(f->client.server)))
		return error_set(err, -ESHUTDOWN, "postcopyd is stopping and takes no new guest");
	if (m->state != MIGRATION_SETUP)
		return error_set(
		        err, -EBUSY,
		        "two attaches for one migration: %s was attached by pid %d already",
		        m->id_text, (int)m->vmm_pid);
	return 0;
}

static int attach(struct firecracker_client *f, const struct attach_region *regions, size_t n,
                  struct error *err)
{
	struct migration *m = f->client.called_for;
	struct attach_memory memory = {
	        .regions = regions,
	        .n_regions = n,
	        .n_uffds = 1,
	        .fds = &f->uffd,
	        .n_fds = 1,
	        .protocol = attach_protocol_firecracker.name,
	        .connection_fd = f->fd,
	};
	int r = check_caller(f, err);

	if (r == 0)
		r = migration_attach(m, &memory, f->peer.pid, socket_peer_pidfd(f->fd, f->peer.pid),
		                     err);
	if (r == 0)
		attach_client_bind(&f->client, m, ATTACH_CLIENT_VMM);
	return r;
}

/* The message may be whole. False: the client is gone. */
static bool take_message(struct firecracker_client *f)
{
	struct attach_region *regions = NULL;
	struct error error = {0};
	size_t n = 0;
	int r = firecracker_message_decode(f->text, f->len, &regions, &n, &error);

	if (r == -EAGAIN && f->len < MESSAGE_BYTES_MAX)
		return true;
	if (r == -EAGAIN)
		r = error_set(&error, -EMSGSIZE, "its message is not whole after %zu bytes",
		              MESSAGE_BYTES_MAX);
	else if (r < 0)
		error_prefix(&error, "its message");
	if (r == 0)
		r = attach(f, regions, n, &error);
	free(regions);
	if (r < 0) {
		refuse(f, error.text);
		return false;
	}
	evtimer_del(f->timer);
	free(TAKE_PTR(f->text));
	migration_connect(f->client.migration);
	return true;
}

/* One read, with at most one descriptor in the whole message. 0: more; 1: nothing now. */
static int receive(struct firecracker_client *f, struct error *err)
{
	int fds[2] = {-1, -1};
	size_t n_fds = 0;
	ssize_t n =
	        fdpass_recv(f->fd, f->text + f->len, MIN(READ_BYTES, MESSAGE_BYTES_MAX - f->len),
	                    fds, 2, &n_fds, MSG_DONTWAIT);

	if (n == -EAGAIN || n == -EINTR)
		return 1;
	if (n_fds > 0 && f->uffd < 0)
		f->uffd = TAKE_FD(fds[0]);
	for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
		if (fds[i] >= 0)
			n = -E2BIG;
	close_fd(&fds[0]);
	close_fd(&fds[1]);
	if (n == -E2BIG)
		return error_set(err, -E2BIG,
		                 "more than one descriptor came: expected the userfaultfd alone");
	if (n == 0)
		return error_set(err, -ECONNRESET,
		                 "it hung up before its message was whole, after %zu bytes",
		                 f->len);
	if (n < 0)
		return error_set_errno(err, (int)n, "cannot read its message");
	f->len += (size_t)n;
	return 0;
}

static void read_message(struct firecracker_client *f)
{
	for (int i = 0; i < READS_PER_TURN; i++) {
		struct error error = {0};
		int r = receive(f, &error);

		if (r > 0)
			return;
		if (r < 0) {
			refuse(f, error.text);
			return;
		}
		if (!take_message(f) || f->client.attached)
			return;
	}
}

/* Nothing comes any more but the end. */
static void watch_end(struct firecracker_client *f)
{
	char bytes[256];
	size_t n_fds = 0;
	ssize_t n = fdpass_recv(f->fd, bytes, sizeof(bytes), NULL, 0, &n_fds, MSG_DONTWAIT);

	if (n > 0 || n == -EAGAIN || n == -EINTR || n == -E2BIG)
		return;
	attach_client_gone(&f->client);
}

static void on_readable(evutil_socket_t fd, short what, void *user)
{
	struct firecracker_client *f = user;

	(void)fd;
	(void)what;
	if (f->client.attached)
		watch_end(f);
	else
		read_message(f);
}

static void on_timeout(evutil_socket_t fd, short what, void *user)
{
	(void)fd;
	(void)what;
	refuse(user, "its message was not whole in time");
}

static void client_free(struct attach_client *client)
{
	struct firecracker_client *f = firecracker_client(client);

	if (f->read_event)
		event_free(f->read_event);
	if (f->timer)
		event_free(f->timer);
	close_fd(&f->uffd);
	close_fd(&f->fd);
	free(f->text);
	free(f);
}

static int client_start(struct firecracker_client *f, struct loop *loop)
{
	const struct timeval wait = {.tv_sec = WAIT_S};
	socklen_t len = sizeof(f->peer);

	f->text = malloc(MESSAGE_BYTES_MAX);
	f->read_event = event_new(loop_base(loop), f->fd, EV_READ | EV_PERSIST, on_readable, f);
	f->timer = evtimer_new(loop_base(loop), on_timeout, f);
	if (!f->text || !f->read_event || !f->timer)
		return -ENOMEM;
	if (getsockopt(f->fd, SOL_SOCKET, SO_PEERCRED, &f->peer, &len) < 0)
		return -errno;
	return event_add(f->read_event, NULL) < 0 || evtimer_add(f->timer, &wait) < 0 ? -ENOMEM : 0;
}

static int client_new(struct attach_server *server, int fd, struct attach_client **ret)
{
	struct firecracker_client *f = calloc(1, sizeof(*f));
	int r;

	if (!f) {
		close(fd);
		return -ENOMEM;
	}
	f->fd = fd;
	f->uffd = -1;
	r = client_start(f, migration_table_loop(attach_server_table(server)));
	if (r < 0) {
		client_free(&f->client);
		return r;
	}
	*ret = &f->client;
	return 0;
}

/* It listens to nobody. */
static void on_change(struct attach_client *client, const struct migration *m)
{
	(void)client;
	(void)m;
}

/* It had sent its message to the daemon before this one. */
static void on_adopted(struct attach_client *client, const struct migration *m)
{
	(void)m;
	evtimer_del(firecracker_client(client)->timer);
}

const struct attach_protocol attach_protocol_firecracker = {
        .name = "firecracker",
        .client_new = client_new,
        .client_free = client_free,
        .on_change = on_change,
        .on_adopted = on_adopted,
};
