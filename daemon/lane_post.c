/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Role: how a lane's threads and the main thread talk: events go up, orders go
 * down and across, both as functions posted to the receiver's loop. Nothing is
 * dropped for want of memory: a lane that cannot tell what happened would
 * strand its guest, so the daemon ends instead and recovers from its state.
 */
#include "daemon/lane_private.h"

#include <stdlib.h>

struct posted_event {
	struct lane_handle *handle;
	uint64_t generation; /* 0: of no connection, never dropped */
	struct lane_event event;
};

void lane_handle_unref(struct lane_handle *h)
{
	if (atomic_fetch_sub(&h->references, 1) == 1)
		free(h);
}

static void deliver_event(void *arg)
{
	struct posted_event *p = arg;
	struct lane *lane = p->handle->lane;

	if (lane && p->event.type == LANE_EVENT_POISONED)
		atomic_store(&lane->poisoned_pending, false);
	if (lane && (p->generation == 0 || p->generation == atomic_load(&lane->generation)))
		lane->on_event(lane, &p->event, lane->user);
	lane_handle_unref(p->handle);
	free(p);
}

void lane_post_event(struct lane *lane, uint64_t generation, const struct lane_event *event)
{
	struct posted_event *p = malloc(sizeof(*p));

	if (!p)
		abort(); /* a state change that nobody hears of would strand the guest */
	*p = (struct posted_event){
	        .handle = lane->handle, .generation = generation, .event = *event};
	atomic_fetch_add(&lane->handle->references, 1);
	if (loop_post(lane->main_loop, deliver_event, p) < 0)
		abort();
}

void lane_post_warning(struct lane *lane, const struct error *err)
{
	struct lane_event e = {.type = LANE_EVENT_WARNING, .error = *err};

	lane_post_event(lane, 0, &e);
}

static struct order *order_pop(struct lane_thread *t)
{
	struct order *o;

	pthread_mutex_lock(&t->lock);
	o = t->orders;
	if (o) {
		t->orders = o->next;
		if (!t->orders)
			t->orders_tail = &t->orders;
	}
	pthread_mutex_unlock(&t->lock);
	return o;
}

static void order_free(struct order *o)
{
	if (o->kind == ORDER_CONNECT_URGENT || o->kind == ORDER_CONNECT_BULK)
		if (o->resolved)
			freeaddrinfo(o->resolved);
	free(o);
}

static void run_order(void *arg)
{
	struct lane_thread *t = arg;
	struct order *o = order_pop(t);

	if (!o)
		return;
	t->take_order(t->lane, o);
	order_free(o);
}

struct order *order_new(enum order_kind kind, uint64_t generation)
{
	struct order *o = calloc(1, sizeof(*o));

	if (!o)
		abort(); /* see post_event() */
	o->kind = kind;
	o->generation = generation;
	return o;
}

void order_post(struct lane_thread *t, struct order *o)
{
	pthread_mutex_lock(&t->lock);
	*t->orders_tail = o;
	t->orders_tail = &o->next;
	pthread_mutex_unlock(&t->lock);
	if (loop_post(t->loop, run_order, t) < 0)
		abort();
}

void orders_free(struct lane_thread *t)
{
	struct order *o;

	while ((o = order_pop(t)))
		order_free(o);
}
