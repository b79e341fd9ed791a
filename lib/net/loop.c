/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The event loop and its mailbox. Every thread of the daemons that waits for
 * anything runs one of these.
 *
 * The base has no locks: only its own thread touches it. Other threads append
 * to the mailbox (a list under a mutex) and write an eventfd. What always
 * holds: a list that is not empty has the eventfd signalled, or the handler
 * that will signal it again is running.
 */
#include "net/loop.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define LOOP_PRIORITIES 4
#define POSTS_PER_TURN 256

struct post {
	struct post *next;
	loop_fn fn;
	void *arg;
};

struct loop {
	struct event_base *base;
	struct event *mailbox_event;
	int wake_fd;
	atomic_bool stopping;
	pthread_mutex_t lock; /* head and tail */
	struct post *head;
	struct post **tail;
};

static _Thread_local struct loop *running_loop;

static void loop_wake(struct loop *l)
{
	uint64_t one = 1;

	/* Fails only when the counter is about to overflow: then it is signalled anyway. */
	if (write(l->wake_fd, &one, sizeof(one)) < 0)
		return;
}

static struct post *mailbox_pop(struct loop *l)
{
	struct post *p;

	pthread_mutex_lock(&l->lock);
	p = l->head;
	if (p) {
		l->head = p->next;
		if (!l->head)
			l->tail = &l->head;
	}
	pthread_mutex_unlock(&l->lock);
	return p;
}

static bool mailbox_is_empty(struct loop *l)
{
	bool empty;

	pthread_mutex_lock(&l->lock);
	empty = !l->head;
	pthread_mutex_unlock(&l->lock);
	return empty;
}

static void on_mailbox(evutil_socket_t fd, short what, void *arg)
{
	struct loop *l = arg;
	struct post *p;
	uint64_t count;

	(void)what;
	if (read(fd, &count, sizeof(count)) < 0)
		count = 0;
	for (int n = 0; n < POSTS_PER_TURN && !atomic_load(&l->stopping); n++) {
		p = mailbox_pop(l);
		if (!p)
			break;
		p->fn(p->arg);
		free(p);
	}
	if (atomic_load(&l->stopping))
		event_base_loopbreak(l->base);
	if (!mailbox_is_empty(l))
		loop_wake(l);
}

/* A base that is never entered by two threads: no locks, whatever evthread_*() was called. */
static struct event_base *base_new(void)
{
	struct event_config *config = event_config_new();
	struct event_base *base;

	if (!config)
		return NULL;
	event_config_set_flag(config, EVENT_BASE_FLAG_NOLOCK);
	event_config_set_flag(config, EVENT_BASE_FLAG_IGNORE_ENV);
	event_config_avoid_method(config, "select");
	event_config_avoid_method(config, "poll");
	base = event_base_new_with_config(config);
	event_config_free(config);
	if (base && event_base_priority_init(base, LOOP_PRIORITIES) < 0) {
		event_base_free(base);
		return NULL;
	}
	return base;
}

int loop_new(struct loop **ret)
{
	struct loop *l = calloc(1, sizeof(*l));

	if (!l)
		return -ENOMEM;
	pthread_mutex_init(&l->lock, NULL);
	l->tail = &l->head;
	l->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (l->wake_fd < 0) {
		int r = -errno;

		loop_free(l);
		return r;
	}
	l->base = base_new();
	if (l->base)
		l->mailbox_event =
		        event_new(l->base, l->wake_fd, EV_READ | EV_PERSIST, on_mailbox, l);
	if (!l->mailbox_event || event_priority_set(l->mailbox_event, 0) < 0 ||
	    event_add(l->mailbox_event, NULL) < 0) {
		loop_free(l);
		return -ENOMEM;
	}
	*ret = l;
	return 0;
}

void loop_run_posted(struct loop *l)
{
	struct post *p;

	while ((p = mailbox_pop(l))) {
		p->fn(p->arg);
		free(p);
	}
}

struct loop *loop_free(struct loop *l)
{
	struct post *p;

	if (!l)
		return NULL;
	while ((p = mailbox_pop(l)))
		free(p);
	if (l->mailbox_event)
		event_free(l->mailbox_event);
	if (l->base)
		event_base_free(l->base);
	close_fd(&l->wake_fd);
	pthread_mutex_destroy(&l->lock);
	free(l);
	return NULL;
}

struct event_base *loop_base(struct loop *l)
{
	return l->base;
}

int loop_run(struct loop *l)
{
	struct loop *outer = running_loop;
	int r;

	running_loop = l;
	r = event_base_loop(l->base, EVLOOP_NO_EXIT_ON_EMPTY);
	running_loop = outer;
	atomic_store(&l->stopping, false);
	return r < 0 ? -EIO : 0;
}

void loop_stop(struct loop *l)
{
	atomic_store(&l->stopping, true);
	if (running_loop == l)
		event_base_loopbreak(l->base);
	loop_wake(l);
}

int loop_post(struct loop *l, loop_fn fn, void *arg)
{
	struct post *p = malloc(sizeof(*p));
	bool was_empty;

	if (!p)
		return -ENOMEM;
	*p = (struct post){.fn = fn, .arg = arg};
	pthread_mutex_lock(&l->lock);
	was_empty = !l->head;
	*l->tail = p;
	l->tail = &p->next;
	pthread_mutex_unlock(&l->lock);
	if (was_empty)
		loop_wake(l);
	return 0;
}
