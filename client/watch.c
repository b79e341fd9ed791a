/* SPDX-License-Identifier: Apache-2.0 */
/* Following a migration's or an export's state, and its end. Called by the VMM. */
#include <errno.h>
#include <unistd.h>

#include "client/internal.h"

int postcopy_get_status(struct postcopy *handle, struct postcopy_status *ret_status)
{
	pthread_mutex_lock(&handle->lock);
	*ret_status = handle->status;
	pthread_mutex_unlock(&handle->lock);
	return 0;
}

enum postcopy_state postcopy_get_state(struct postcopy *handle)
{
	enum postcopy_state state;

	pthread_mutex_lock(&handle->lock);
	state = handle->status.state;
	pthread_mutex_unlock(&handle->lock);
	return state;
}

static void waiter_remove(struct postcopy *h, struct waiter *w)
{
	struct waiter **at = &h->waiters;

	while (*at != w)
		at = &(*at)->next;
	*at = w->next;
}

int postcopy_wait(struct postcopy *handle, uint32_t states, int timeout_ms)
{
	uint64_t deadline_us = deadline_after_us(timeout_from_ms(timeout_ms));
	struct waiter w = {.states = states};
	int r = 0;

	if (states == 0)
		return -EINVAL;
	pthread_mutex_lock(&handle->lock);
	w.reached = (POSTCOPY_STATE_BIT(handle->status.state) & states) != 0;
	w.done = w.reached || handle->status.final;
	w.next = handle->waiters;
	handle->waiters = &w;
	r = link_wait(handle, &w.done, deadline_us);
	waiter_remove(handle, &w);
	pthread_mutex_unlock(&handle->lock);
	if (r == 0 && !w.reached)
		return -ECANCELED;
	return r;
}

int postcopy_fd(struct postcopy *handle)
{
	return handle->epoll_fd;
}

int postcopy_process(struct postcopy *handle)
{
	uint64_t count;
	ssize_t n = 0;
	int r;

	pthread_mutex_lock(&handle->lock);
	link_drain(handle);
	r = handle->untold;
	handle->untold = false;
	if (handle->broken)
		r = handle->broken; /* the descriptor stays readable: it is said each time */
	else
		n = read(handle->event_fd, &count, sizeof(count));
	(void)n;
	pthread_mutex_unlock(&handle->lock);
	return r;
}

/* Whether the guest would lose memory, or read zeros instead of it, by a close now. */
static bool guest_depends(const struct postcopy *h)
{
	enum postcopy_state state = h->status.state;

	if (!h->is_source)
		return state != POSTCOPY_STATE_COMPLETED;
	return !h->broken && (state == POSTCOPY_STATE_FROZEN || state == POSTCOPY_STATE_SERVING);
}

int postcopy_close(struct postcopy *handle, uint32_t flags)
{
	bool busy;

	if (flags & ~POSTCOPY_CLOSE_FORCE)
		return -EINVAL;
	if (!handle)
		return 0;
	if (!(flags & POSTCOPY_CLOSE_FORCE)) {
		pthread_mutex_lock(&handle->lock);
		link_drain(handle);
		busy = guest_depends(handle) || handle->exports;
		pthread_mutex_unlock(&handle->lock);
		if (busy)
			return -EBUSY;
	}
	link_free(handle);
	return 0;
}
