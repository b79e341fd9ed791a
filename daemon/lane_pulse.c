/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Role: whether a lane works. The main thread pings both threads through their order
 * queues, as it would tell them anything else, and looks whether the uffd's events
 * are read. A thread whose counters move is busy, however long one order takes it:
 * poisoning all that a lost source had, or waiting for memory.
 */
#include "daemon/lane_private.h"

#include <errno.h>
#include <poll.h>

static uint64_t activity(const struct stats *s)
{
	uint64_t sum = 0;

#define X(name) sum += atomic_load_explicit(&s->name, memory_order_relaxed);
	STATS_COUNTERS(X)
#undef X
	return sum;
}

static bool ping_outstanding(const struct lane_thread *t)
{
	return atomic_load(&t->pulse.n_pongs) != t->pulse.n_pings;
}

static void thread_ping(struct lane_thread *t, const struct stats *stats, uint64_t now_us)
{
	struct lane_pulse *p = &t->pulse;
	uint64_t active = activity(stats);

	if (!ping_outstanding(t)) {
		p->n_pings++;
		p->since_us = now_us;
		order_post(t, order_new(ORDER_PING, 0));
	} else if (active != p->activity) {
		p->since_us = now_us;
	}
	p->activity = active;
}

void lane_pong(struct lane_thread *t)
{
	atomic_fetch_add(&t->pulse.n_pongs, 1);
}

static bool uffd_readable(const struct lane *lane)
{
	struct pollfd p = {.fd = lane->uffd, .events = POLLIN};

	return poll(&p, 1, 0) == 1 && p.revents & POLLIN;
}

/* A busy urgent thread reads later; whether it is too busy, its ping tells. */
static void uffd_look(struct lane *lane, bool expected, uint64_t now_us)
{
	uint64_t n_reads = atomic_load_explicit(&lane->n_reads, memory_order_relaxed);

	bool waits = expected && n_reads == lane->n_reads_seen &&
	             !ping_outstanding(&lane->urgent) && uffd_readable(lane);

	if (waits && !lane->uffd_waits)
		lane->uffd_since_us = now_us;
	lane->uffd_waits = waits;
	lane->n_reads_seen = n_reads;
}

void lane_ping(struct lane *lane, bool uffd_expected, uint64_t now_us)
{
	uffd_look(lane, uffd_expected, now_us);
	thread_ping(&lane->urgent, &lane->urgent_stats, now_us);
	thread_ping(&lane->bulk, &lane->bulk_stats, now_us);
}

static bool thread_stands(const struct lane_thread *t, uint64_t now_us, uint64_t allowed_us)
{
	return ping_outstanding(t) && now_us - t->pulse.since_us >= allowed_us;
}

static int look(const struct lane *lane, uint64_t now_us, uint64_t allowed_us, struct error *err)
{
	const char *what = NULL;

	if (thread_stands(&lane->urgent, now_us, allowed_us))
		what = "the thread that answers faults does not react";
	else if (thread_stands(&lane->bulk, now_us, allowed_us))
		what = "the thread of the background stream does not react";
	else if (lane->uffd_waits && now_us - lane->uffd_since_us >= allowed_us)
		what = "faults wait in its userfaultfd, and nobody reads them";
	if (!what)
		return 0;
	return error_set(err, -ETIMEDOUT, "%s for %.1f s", what, (double)allowed_us / 1e6);
}

enum lane_pulse_result lane_alive(struct lane *lane, uint64_t now_us, uint64_t allowed_us,
                                  struct error *err)
{
	bool stood = lane->stands;

	lane->stands = look(lane, now_us, allowed_us, err) < 0;
	if (!lane->stands)
		return LANE_WORKS;
	return stood ? LANE_STANDS_STILL : LANE_STANDS;
}
