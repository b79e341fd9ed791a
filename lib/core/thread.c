/* SPDX-License-Identifier: Apache-2.0 */
/* Called by lib/net and the source agent. No state. */
#include "core/thread.h"

#include <signal.h>

int thread_create_quiet(pthread_t *ret, const pthread_attr_t *attr, void *(*fn)(void *), void *arg)
{
	sigset_t all, old;
	int r;

	/* Inherited, so there is no moment at which it has the caller's mask. */
	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, &old);
	r = -pthread_create(ret, attr, fn, arg);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return r;
}
