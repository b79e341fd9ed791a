/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the daemon says: answers to requests and changes of state. Called by
 * link.c's reader with the handle's lock held.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "client/inbound.h"
#include "client/internal.h"
#include "core/cleanup.h"

static const struct {
	enum postcopy_state state;
	const char *name;
} state_names[] = {
        {POSTCOPY_STATE_SETUP, "setup"},
        {POSTCOPY_STATE_ACTIVE, "active"},
        {POSTCOPY_STATE_POSTCOPY_ACTIVE, "postcopy-active"},
        {POSTCOPY_STATE_POSTCOPY_PAUSED, "postcopy-paused"},
        {POSTCOPY_STATE_POSTCOPY_RECOVER, "postcopy-recover"},
        {POSTCOPY_STATE_COMPLETED, "completed"},
        {POSTCOPY_STATE_FAILED, "failed"},
        {POSTCOPY_STATE_CANCELLED, "cancelled"},
        {POSTCOPY_STATE_EXPORTED, "exported"},
        {POSTCOPY_STATE_FROZEN, "frozen"},
        {POSTCOPY_STATE_SERVING, "serving"},
        {POSTCOPY_STATE_RELEASED, "released"},
        {POSTCOPY_STATE_WITHDRAWN, "withdrawn"},
};

_Static_assert(POSTCOPY_STATE_WITHDRAWN < 32, "states no longer fit a 32-bit mask");
_Static_assert(ATTACH_STATE_MAX <= sizeof(((struct postcopy_status *)0)->name),
               "a state's name does not fit the public struct");
_Static_assert(WIRE_ERROR_TEXT_MAX <= POSTCOPY_TEXT_MAX,
               "a state's text does not fit the public struct");

const char *postcopy_strstate(enum postcopy_state state)
{
	for (size_t i = 0; i < ARRAY_SIZE(state_names); i++)
		if (state_names[i].state == state)
			return state_names[i].name;
	return "unknown";
}

enum postcopy_state state_parse(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(state_names); i++)
		if (strcmp(state_names[i].name, name) == 0)
			return state_names[i].state;
	return POSTCOPY_STATE_UNKNOWN;
}

/* Make the caller's event loop look at us. */
static void change_announce(struct postcopy *h)
{
	uint64_t one = 1;
	ssize_t n;

	h->untold = true;
	/* Fails only when the counter is full: then it is readable anyway. */
	n = write(h->event_fd, &one, sizeof(one));
	(void)n;
	for (struct inbound *in = h->exports; in; in = in->next)
		inbound_notice(in);
	pthread_cond_broadcast(&h->changed);
}

void connection_break(struct postcopy *h, int reason)
{
	if (h->broken)
		return;
	h->broken = reason;
	h->status.connected = 0;
	shutdown(h->sock, SHUT_RDWR);
	change_announce(h);
}

void state_enter(struct postcopy *h, const char *name, const char *text, bool final)
{
	enum postcopy_state state = state_parse(name);
	uint32_t bit = POSTCOPY_STATE_BIT(state);

	h->status.state = state;
	h->status.final = final || (bit & POSTCOPY_STATES_FINAL) != 0;
	snprintf(h->status.name, sizeof(h->status.name), "%s", name);
	snprintf(h->status.text, sizeof(h->status.text), "%s", text);
	for (struct waiter *w = h->waiters; w; w = w->next) {
		if (w->states & bit)
			w->reached = true;
		if (w->reached || h->status.final)
			w->done = true;
	}
	change_announce(h);
}

/* -EPROTO for a number that is no errno, or success without the list: that is none. */
static int ack_verdict(const struct pending *p, const struct attach_reply *reply)
{
	if (reply->error > 0 && reply->error < 4096)
		return -reply->error;
	return reply->error == 0 && !p->list ? 0 : -EPROTO;
}

static void pending_pop(struct postcopy *h)
{
	struct pending *p = h->pending_head;

	h->pending_head = p->next;
	if (!p->next)
		h->pending_tail = &h->pending_head;
	p->next = NULL; /* it may be queued again */
}

/*
 * An Ack or a list, for the oldest request. One with another's number answers a
 * request that was sent again: dropped. Daemons before the numbers answer with 0.
 */
static int answer_dispatch(struct postcopy *h, const struct attach_reply *reply)
{
	struct pending *p = h->pending_head;
	bool is_list = reply->type == ATTACH_REPLY_POISON_LIST;

	if (reply->id != 0 && (!p || p->id != reply->id))
		return 0;
	if (!p || (is_list && !p->list))
		return -EPROTO; /* an answer that nobody asked for */
	pending_pop(h);
	if (p->abandoned) { /* p->list, too: its caller has returned */
		free(p);
		return 0;
	}
	if (is_list)
		*p->list = *reply;
	else
		p->error = ack_verdict(p, reply);
	snprintf(p->text, sizeof(p->text), "%s", reply->text);
	p->done = true;
	pthread_cond_broadcast(&h->changed);
	return 0;
}

/*
 * Another daemon has taken the connection over. It knows that the Attach or Export
 * was accepted, for it would not have come otherwise; whatever else has no answer
 * is for its caller to send again: this thread holds h->lock, and could not send.
 */
static void requests_lost(struct postcopy *h)
{
	while (h->pending_head) {
		struct pending *p = h->pending_head;

		pending_pop(h);
		p->done = true;
		p->lost = !p->begins;
		if (p->abandoned)
			free(p);
	}
	pthread_cond_broadcast(&h->changed);
}

int reply_dispatch(struct postcopy *h, const uint8_t *body, size_t len)
{
	struct attach_reply reply;

	if (attach_reply_decode(body, len, &reply, NULL) < 0)
		return -EPROTO;
	if (reply.type == ATTACH_REPLY_ACK || reply.type == ATTACH_REPLY_POISON_LIST)
		return answer_dispatch(h, &reply);
	if (reply.type == ATTACH_REPLY_POPULATE)
		return h->inbound ? inbound_asked(h->inbound, &reply) : -EPROTO;
	if (reply.type == ATTACH_REPLY_STATE && reply.restarted) {
		requests_lost(h);
		if (h->inbound)
			inbound_list_due(h->inbound);
	}
	/* After the final state there is none: a late message cannot revive it. */
	if (reply.type == ATTACH_REPLY_STATE && !h->status.final)
		state_enter(h, reply.state, reply.text, reply.final);
	return 0;
}
