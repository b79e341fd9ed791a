/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The destination's vCPUs: threads that touch missing pages, back to back or
 * at a pace, and time each. Called by destination.c. Always holds: a page that
 * was here before it was touched is no sample, and every page is checked.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "guest/guest.h"

/* No fault with an ioctl by another process is as fast; no touch of a present page as slow. */
#define HERE_ALREADY_NS 1500

struct toucher {
	struct touch *touch;
	struct latency latency;
	unsigned index;
	uint64_t here; /* pages that had come by themselves */
};

struct touch {
	const struct guest *guest;
	struct touch_plan plan;
	struct toucher *touchers;
	int done;    /* eventfd */
	int pagemap; /* of this process */
	atomic_uint running;
	atomic_bool stop;
	atomic_ullong wrong;
	_Atomic uint64_t next; /* of the walk over the guest's touchable units */
	uint64_t started_ns;
	_Atomic uint64_t ended_ns; /* of the last thread */
};

/* 4 KiB pages between two that are touched: a huge page faults as a whole. */
static uint64_t stride(const struct touch *t)
{
	return guest_page_size(t->guest) / BENCH_PAGE;
}

/*
 * Whether the page is mapped here. Between paced faults caches get cold, and a
 * touch of a page that is here can take as long as a quick fault: time alone
 * does not tell them apart then.
 */
static bool is_here(const struct touch *t, const uint8_t *address)
{
	uint64_t entry;

	return pread(t->pagemap, &entry, sizeof(entry),
	             (off_t)((uintptr_t)address / BENCH_PAGE * sizeof(entry))) == sizeof(entry) &&
	       entry >> 63;
}

/* Touch pages until one was missing: its nanoseconds, or 0 when none is left or it is time to stop. */
static uint64_t fault_once(struct toucher *self)
{
	struct touch *t = self->touch;
	uint64_t n = guest_n_pages(t->guest) * t->guest->hot_percent / 100 / stride(t), i;

	while (!atomic_load_explicit(&t->stop, memory_order_relaxed) &&
	       (i = atomic_fetch_add_explicit(&t->next, 1, memory_order_relaxed)) < n) {
		uint64_t page = content_walk(i, n) * stride(t);
		uint8_t *address = guest_page(t->guest, page);
		bool here = t->plan.pace_us && is_here(t, address);
		uint64_t start = bench_now_ns(), ns;

		(void)*(volatile uint8_t *)address;
		ns = bench_now_ns() - start;
		if (!guest_page_is_right(t->guest, page))
			atomic_fetch_add(&t->wrong, 1);
		if (!here && ns >= HERE_ALREADY_NS)
			return ns;
		self->here++;
	}
	return 0;
}

/* Wait until the next point of the pace; points that have passed are left out. */
static void keep_pace(uint64_t *next_ns, const struct touch_plan *plan)
{
	uint64_t now = bench_now_ns(), pace_ns = UINT64_C(1000) * plan->pace_us;
	struct timespec until;

	*next_ns += pace_ns;
	if (*next_ns < now)
		*next_ns = now + pace_ns - (now - *next_ns) % pace_ns;
	until = (struct timespec){(time_t)(*next_ns / 1000000000), (long)(*next_ns % 1000000000)};
	if (!plan->spin)
		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
	while (bench_now_ns() < *next_ns)
		;
}

static void *toucher_main(void *arg)
{
	struct toucher *self = arg;
	struct touch *t = self->touch;
	/* Spread over the pace, so that threads do not fault in step. */
	uint64_t next_ns =
	        bench_now_ns() + UINT64_C(1000) * t->plan.pace_us * self->index / t->plan.threads;
	uint64_t one = 1;

	while (self->latency.n < self->latency.max) {
		uint64_t ns;

		if (t->plan.pace_us)
			keep_pace(&next_ns, &t->plan);
		ns = fault_once(self);
		if (ns == 0)
			break;
		latency_add(&self->latency, ns);
	}
	atomic_store(&t->ended_ns, bench_now_ns());
	if (atomic_fetch_sub(&t->running, 1) == 1 && write(t->done, &one, sizeof(one)) < 0)
		abort();
	return NULL;
}

int touch_new(const struct guest *g, struct touch **ret)
{
	struct touch *t = calloc(1, sizeof(*t));

	if (!t)
		return -ENOMEM;
	t->guest = g;
	t->done = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	t->pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	if (t->done < 0 || t->pagemap < 0) {
		free(t);
		return -EMFILE;
	}
	*ret = t;
	return 0;
}

static int start_thread(struct toucher *self)
{
	pthread_attr_t attr;
	pthread_t thread;
	int ret;

	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	ret = pthread_create(&thread, &attr, toucher_main, self);
	pthread_attr_destroy(&attr);
	return -ret;
}

int touch_start(struct touch *t, const struct touch_plan *plan)
{
	if (t->touchers)
		return -EBUSY;
	t->plan = *plan;
	t->touchers = calloc(plan->threads, sizeof(*t->touchers));
	if (!t->touchers)
		return -ENOMEM;
	for (unsigned i = 0; i < plan->threads; i++) {
		t->touchers[i] = (struct toucher){.touch = t, .index = i};
		if (latency_init(&t->touchers[i].latency, plan->samples) < 0)
			return -ENOMEM;
	}
	atomic_store(&t->stop, false);
	atomic_store(&t->running, plan->threads);
	t->started_ns = bench_now_ns();
	for (unsigned i = 0; i < plan->threads; i++) {
		int ret = start_thread(&t->touchers[i]);

		if (ret < 0)
			return ret;
	}
	return 0;
}

int touch_fd(const struct touch *t)
{
	return t->done;
}

void touch_stop(struct touch *t)
{
	atomic_store(&t->stop, true);
}

void touch_report(struct touch *t)
{
	struct latency all;
	uint64_t here = 0, value;
	double seconds;
	char text[256];

	if (read(t->done, &value, sizeof(value)) < 0 ||
	    latency_init(&all, t->plan.samples * t->plan.threads) < 0)
		abort();
	seconds = (double)(atomic_load(&t->ended_ns) - t->started_ns) / 1e9;
	for (unsigned i = 0; i < t->plan.threads; i++) {
		latency_append(&all, &t->touchers[i].latency);
		here += t->touchers[i].here;
		latency_fini(&t->touchers[i].latency);
	}
	free(t->touchers);
	t->touchers = NULL;
	latency_format(&all, text, sizeof(text));
	driven_event("touched",
	             "{%s, \"seconds\": %.6f, \"rate\": %.1f, \"here\": %llu, \"wrong\": %llu}",
	             text, seconds, (double)all.n / seconds, (unsigned long long)here,
	             (unsigned long long)atomic_load(&t->wrong));
	latency_fini(&all);
}
