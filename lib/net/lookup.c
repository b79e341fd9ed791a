/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A name's look-up on a detached thread: getaddrinfo() knows every way by which
 * this host finds names (nsswitch), and cannot be interrupted. Called by the
 * lanes.
 *
 * Always holds: the object belongs to both, who asked and the thread; whoever
 * leaves last frees it. A thread that was forgotten touches nothing else, so it
 * may outlive everything, and ends with the resolver's own timeout.
 */
#include "net/lookup.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/thread.h"
#include "net/address.h"

/* getaddrinfo() keeps its packets on the stack; modules of nsswitch take more. */
#define STACK_BYTES (512UL * 1024)

struct lookup {
	pthread_mutex_t lock;
	unsigned refs;
	lookup_fn fn; /* NULL: nobody wants to know any more */
	void *user;
	char address[ADDRESS_TEXT_MAX];
};

/* Locked. */
static void unref_and_unlock(struct lookup *l)
{
	bool last = --l->refs == 0;

	pthread_mutex_unlock(&l->lock);
	if (!last)
		return;
	pthread_mutex_destroy(&l->lock);
	free(l);
}

static void *lookup_main(void *arg)
{
	struct lookup *l = arg;
	struct addrinfo *list = NULL;
	struct error err = {0};

	pthread_setname_np(pthread_self(), "lookup");
	if (address_resolve(l->address, false, &list, &err) < 0)
		list = NULL;
	pthread_mutex_lock(&l->lock);
	if (l->fn)
		l->fn(list, &err, l->user);
	else if (list)
		freeaddrinfo(list);
	unref_and_unlock(l);
	return NULL;
}

static int thread_start(struct lookup *l)
{
	pthread_attr_t attr;
	pthread_t thread;
	int r = -pthread_attr_init(&attr);

	if (r < 0)
		return r;
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&attr, STACK_BYTES);
	r = thread_create_quiet(&thread, &attr, lookup_main, l);
	pthread_attr_destroy(&attr);
	return r;
}

int lookup_start(const char *address, lookup_fn fn, void *user, struct lookup **ret,
                 struct error *err)
{
	struct lookup *l = calloc(1, sizeof(*l));
	int r;

	if (!l)
		return error_set(err, -ENOMEM, "not enough memory to look up %s", address);
	pthread_mutex_init(&l->lock, NULL);
	l->refs = 2;
	l->fn = fn;
	l->user = user;
	snprintf(l->address, sizeof(l->address), "%s", address);
	r = thread_start(l);
	if (r < 0) {
		pthread_mutex_destroy(&l->lock);
		free(l);
		return error_set_errno(err, r, "cannot start a thread to look up %s", address);
	}
	*ret = l;
	return 0;
}

struct lookup *lookup_cancel(struct lookup *l)
{
	if (!l)
		return NULL;
	pthread_mutex_lock(&l->lock);
	l->fn = NULL;
	unref_and_unlock(l);
	return NULL;
}
