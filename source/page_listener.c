/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Listens on all addresses that HOST:PORT means and makes a session of each
 * connection, as long as there are not too many whose peer is unknown.
 */
#include "source/page_listener.h"

#include <arpa/inet.h>
#include <errno.h>

#include "core/log.h"
#include "net/address.h"
#include "net/ipc.h"
#include "source/session.h"

#define LISTENERS_MAX 4
#define SESSIONS_MAX 1024 /* whatever the settings say */

struct page_listener {
	struct session_host host;
	struct tls_context *tls;
	struct ipc_listener *listeners[LISTENERS_MAX];
	size_t n_listeners;
	struct session *sessions[SESSIONS_MAX];
	unsigned n_sessions;
	unsigned max_sessions;
	bool full; /* said so */
	uint16_t port;
};

static void on_session_gone(struct session *s, void *user)
{
	struct page_listener *l = user;

	for (unsigned i = 0; i < l->n_sessions; i++) {
		if (l->sessions[i] == s) {
			l->sessions[i] = l->sessions[--l->n_sessions];
			l->full = false;
			return;
		}
	}
}

static void on_accept(int fd, void *user)
{
	struct page_listener *l = user;
	struct error err = {0};

	if (l->n_sessions >= l->max_sessions) {
		if (!l->full)
			log_warning("%u connections have not said who they are; closing new ones "
			            "(setting [listen] sessions)",
			            l->n_sessions);
		l->full = true;
		close(fd);
		return;
	}
	(void)address_tune(fd); /* of unknown effect only on speed */
	if (session_new(&l->host, fd, l->tls, &l->sessions[l->n_sessions], &err) < 0)
		log_error("cannot take a connection: %s, ignoring", err.text);
	else
		l->n_sessions++;
}

static uint16_t bound_port(int fd)
{
	struct sockaddr_storage addr = {0};
	socklen_t len = sizeof(addr);

	if (getsockname(fd, (struct sockaddr *)&addr, &len) < 0)
		return 0;
	if (addr.ss_family == AF_INET6)
		return ntohs(((struct sockaddr_in6 *)&addr)->sin6_port);
	return ntohs(((struct sockaddr_in *)&addr)->sin_port);
}

static int listen_one(struct page_listener *l, const struct addrinfo *ai, struct error *err)
{
	int fd = address_listen(ai, err);

	if (fd < 0)
		return fd;
	uint16_t port = bound_port(fd);
	int r = ipc_listener_new(l->host.loop, fd, on_accept, l, &l->listeners[l->n_listeners]);

	if (r < 0)
		return error_set_errno(err, r, "cannot listen");
	if (l->n_listeners++ == 0)
		l->port = port;
	return 0;
}

/* An address that cannot be had is an error only if none can. */
static int listen_all(struct page_listener *l, const char *address, struct error *err)
{
	struct addrinfo *list;
	int r = address_resolve(address, true, &list, err);

	if (r < 0)
		return r;
	for (const struct addrinfo *ai = list; ai && l->n_listeners < LISTENERS_MAX;
	     ai = ai->ai_next)
		r = listen_one(l, ai, err);
	freeaddrinfo(list);
	if (l->n_listeners > 0)
		return 0;
	(void)error_prefix(err, "cannot listen on %s", address);
	return r < 0 ? r : -EADDRNOTAVAIL;
}

int page_listener_new(struct loop *loop, const struct page_listener_options *options,
                      struct tls_context *tls, struct export_table *exports, struct links *links,
                      struct page_listener **ret, struct error *err)
{
	struct page_listener *l = calloc(1, sizeof(*l));

	if (!l)
		return error_set(err, -ENOMEM, "no memory for a listener");
	l->host = (struct session_host){
	        .loop = loop,
	        .exports = exports,
	        .links = links,
	        .socket_buffer_bytes = options->socket_buffer_bytes,
	        .on_gone = on_session_gone,
	        .user = l,
	};
	page_listener_set_limits(l, options->max_sessions, options->hello_timeout_us);
	l->tls = tls_context_ref(tls);
	int r = listen_all(l, options->address, err);

	if (r < 0) {
		page_listener_free(l);
		return r;
	}
	*ret = l;
	return 0;
}

struct page_listener *page_listener_free(struct page_listener *l)
{
	if (!l)
		return NULL;
	for (size_t i = 0; i < l->n_listeners; i++)
		ipc_listener_free(l->listeners[i]);
	for (unsigned i = 0; i < l->n_sessions; i++)
		session_free(l->sessions[i]);
	tls_context_unref(l->tls);
	free(l);
	return NULL;
}

void page_listener_set_tls(struct page_listener *l, struct tls_context *tls)
{
	tls_context_unref(l->tls);
	l->tls = tls_context_ref(tls);
}

void page_listener_set_limits(struct page_listener *l, unsigned max_sessions,
                              uint64_t hello_timeout_us)
{
	l->max_sessions = MIN(max_sessions, (unsigned)SESSIONS_MAX);
	l->host.hello_timeout_us = hello_timeout_us;
}

uint16_t page_listener_port(const struct page_listener *l)
{
	return l->port;
}
