/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Huge pages back after a migration: the thread that does it, and its control.
 * Called by the VMM; the handle's end stops it.
 *
 * Always holds: at most one thread a handle, and it has ended before the handle
 * goes.
 */
#include <errno.h>
#include <sched.h>

#include "client/collapse_job.h"
#include "core/clock.h"
#include "core/thread.h"
#include "core/thread_tuning.h"

/*
 * As khugepaged: nice 19, but not SCHED_IDLE, for it holds the lock of the
 * process's memory at times, and a guest that takes all CPUs would wait for it
 * in its next page fault. A caller in a real-time class must not give it that.
 */
static void priority_lower(void)
{
	const struct sched_param none = {.sched_priority = 0};
	struct error err;

	if (sched_getscheduler(0) != SCHED_OTHER)
		(void)sched_setscheduler(0, SCHED_OTHER, &none);
	(void)thread_set_nice(19, &err);
}

static void *collapse_main(void *arg)
{
	struct collapse_job *job = arg;
	struct collapse *c = job->c;
	bool done;

	priority_lower();
	done = collapse_job_run(job);
	collapse_job_free(job);
	pthread_mutex_lock(&c->lock);
	c->running = false;
	c->progress.running = 0;
	c->progress.done = done;
	pthread_cond_broadcast(&c->changed);
	pthread_mutex_unlock(&c->lock);
	return NULL;
}

/* Take the one place of a collapse. The thread before, if any, has ended. */
static int place_take(struct collapse *c, struct error *err)
{
	int r = 0;

	pthread_mutex_lock(&c->lock);
	if (c->running) {
		r = error_set(err, -EBUSY, "a collapse is running already");
	} else {
		if (c->joinable)
			pthread_join(c->thread, NULL); /* it needs the lock no more */
		c->joinable = false;
		c->stop = false;
		c->started = true;
		c->running = true;
		c->progress = (struct postcopy_collapse_progress){.running = 1};
	}
	pthread_mutex_unlock(&c->lock);
	return r;
}

static int thread_start(struct collapse *c, struct collapse_job *job, struct error *err)
{
	int r;

	pthread_mutex_lock(&c->lock);
	c->progress.bytes_total = job->plan.total_bytes;
	c->progress.bytes_skipped_poison = job->plan.poison_bytes;
	r = thread_create_quiet(&c->thread, NULL, collapse_main, job);
	c->joinable = r == 0;
	pthread_mutex_unlock(&c->lock);
	if (r < 0)
		error_set_errno(err, r, "cannot start a thread");
	return r;
}

static void place_give_back(struct collapse *c)
{
	pthread_mutex_lock(&c->lock);
	c->running = false;
	c->progress = (struct postcopy_collapse_progress){0};
	pthread_cond_broadcast(&c->changed);
	pthread_mutex_unlock(&c->lock);
}

static int state_check(struct postcopy *h, struct error *err)
{
	int r = 0;

	if (h->is_source)
		return error_set(err, -EINVAL, "the handle is of an export, not of a destination");
	pthread_mutex_lock(&h->lock);
	link_drain(h);
	if (h->status.state != POSTCOPY_STATE_COMPLETED)
		r = error_set(err, -EBUSY, "the migration is %s, not completed: memory is missing",
		              h->status.name);
	pthread_mutex_unlock(&h->lock);
	return r;
}

static int collapse_begin(struct postcopy *h, struct error *err)
{
	struct collapse_job *job = NULL;
	int r = state_check(h, err);

	if (r == 0)
		r = place_take(&h->collapse, err);
	if (r < 0)
		return r;
	r = collapse_job_new(h, &job, err);
	if (r == 0)
		r = thread_start(&h->collapse, job, err);
	if (r < 0) {
		collapse_job_free(job);
		place_give_back(&h->collapse);
	}
	return r;
}

int postcopy_collapse(struct postcopy *handle, char *error_text, size_t error_size)
{
	struct error err = {0};

	return error_give(collapse_begin(handle, &err), &err, error_text, error_size);
}

int postcopy_collapse_progress(struct postcopy *handle,
                               struct postcopy_collapse_progress *ret_progress)
{
	pthread_mutex_lock(&handle->collapse.lock);
	*ret_progress = handle->collapse.progress;
	pthread_mutex_unlock(&handle->collapse.lock);
	return 0;
}

/* With the lock held. */
static int end_await(struct collapse *c, uint64_t deadline_us)
{
	while (c->running) {
		if (clock_monotonic_us() >= deadline_us)
			return -ETIMEDOUT;
		condition_wait(&c->changed, &c->lock, deadline_us);
	}
	return 0;
}

int postcopy_collapse_wait(struct postcopy *handle, int timeout_ms)
{
	uint64_t deadline_us = deadline_after_us(timeout_from_ms(timeout_ms));
	struct collapse *c = &handle->collapse;
	int r;

	pthread_mutex_lock(&c->lock);
	r = c->started ? end_await(c, deadline_us) : -ENOENT;
	pthread_mutex_unlock(&c->lock);
	return r;
}

static void stop_and_wait(struct collapse *c)
{
	pthread_mutex_lock(&c->lock);
	c->stop = true;
	pthread_cond_broadcast(&c->changed);
	(void)end_await(c, UINT64_MAX);
	pthread_mutex_unlock(&c->lock);
}

int postcopy_collapse_stop(struct postcopy *handle)
{
	stop_and_wait(&handle->collapse);
	return 0;
}

void collapse_init(struct collapse *c)
{
	pthread_mutex_init(&c->lock, NULL);
	condition_init(&c->changed);
}

void collapse_fini(struct collapse *c)
{
	stop_and_wait(c);
	if (c->joinable)
		pthread_join(c->thread, NULL);
	pthread_cond_destroy(&c->changed);
	pthread_mutex_destroy(&c->lock);
}
