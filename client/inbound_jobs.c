/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pages of an inbound export that have to be fetched, and the workers that touch them.
 * Called by inbound.c's answering thread.
 *
 * A worker waits in the kernel for one page at a time, so there are several; they are
 * started when there is work. Always holds: a worker uses the export's handle only
 * while it is counted in n_calling, and nothing else that may go without it.
 */
#include <errno.h>
#include <stdlib.h>

#include "client/inbound.h"
#include "core/cleanup.h"
#include "core/thread.h"

#define WORKERS_MAX 16
#define WORKER_STACK_BYTES (256 * 1024)
#define JOB_BYTES (64 * WIRE_PAGE_SIZE)
#define JOB_PAGES_MAX 64 /* of the answer */
/* An agent that asks for more than that is none of ours. */
#define URGENT_JOBS_MAX (1024 * 1024)
#define BULK_JOBS_MAX 64 /* the stream asks again */

struct inbound_job {
	struct inbound_job *next;
	uint64_t gpa;
	uint64_t hva;
	uint64_t length_bytes;
	uint64_t page_size_bytes;
};

void inbound_jobs_init(struct inbound_jobs *jobs)
{
	*jobs = (struct inbound_jobs){.max_workers = WORKERS_MAX};
	jobs->urgent_tail = &jobs->urgent_head;
	jobs->bulk_tail = &jobs->bulk_head;
}

static void list_free(struct inbound_job *job)
{
	while (job) {
		struct inbound_job *next = job->next;

		free(job);
		job = next;
	}
}

void inbound_jobs_free(struct inbound_jobs *jobs)
{
	list_free(jobs->urgent_head);
	list_free(jobs->bulk_head);
}

void populated_add(struct populated_range *ranges, size_t *n, uint64_t gpa, uint64_t length_bytes,
                   enum page_fate fate)
{
	struct populated_range *last = *n ? &ranges[*n - 1] : NULL;

	if (last && last->fate == fate && last->range.gpa.addr + last->range.length_bytes == gpa)
		last->range.length_bytes += length_bytes;
	else
		ranges[(*n)++] = (struct populated_range){{{gpa}, length_bytes}, fate};
}

/* All at once, or, where something of it is lost, page by page. */
static size_t job_do(const struct inbound_job *job, struct populated_range *ret)
{
	enum page_fate fate = page_fetch(job->hva, job->length_bytes);
	size_t n = 0;

	if (fate == PAGE_FATE_HERE || job->length_bytes == job->page_size_bytes) {
		populated_add(ret, &n, job->gpa, job->length_bytes, fate);
		return n;
	}
	for (uint64_t at = 0; at < job->length_bytes; at += job->page_size_bytes)
		populated_add(ret, &n, job->gpa + at, job->page_size_bytes,
		              page_fetch(job->hva + at, job->page_size_bytes));
	return n;
}

static struct inbound_job *list_pop(struct inbound_job **head, struct inbound_job ***tail)
{
	struct inbound_job *job = *head;

	if (!job)
		return NULL;
	*head = job->next;
	if (!*head)
		*tail = head;
	return job;
}

/* Locked: the next one, entered among the running. NULL: there is none. */
static struct inbound_job *job_take(struct inbound_jobs *jobs)
{
	struct inbound_job *job = list_pop(&jobs->urgent_head, &jobs->urgent_tail);

	if (job) {
		jobs->n_urgent--;
	} else {
		job = list_pop(&jobs->bulk_head, &jobs->bulk_tail);
		if (!job)
			return NULL;
		jobs->n_bulk--;
	}
	job->next = jobs->running;
	jobs->running = job;
	return job;
}

static void job_end(struct inbound_jobs *jobs, struct inbound_job *job)
{
	struct inbound_job **at = &jobs->running;

	while (*at != job)
		at = &(*at)->next;
	*at = job->next;
	free(job);
}

/* With the lock held but for the work. */
static void work(struct inbound *in, struct inbound_job *job)
{
	struct populated_range ranges[JOB_PAGES_MAX];
	size_t n;

	pthread_mutex_unlock(&in->lock);
	n = job_do(job, ranges);
	pthread_mutex_lock(&in->lock);
	job_end(&in->jobs, job);
	if (in->stopped)
		return;
	in->jobs.n_calling++;
	pthread_mutex_unlock(&in->lock);
	(void)inbound_tell(in, 0, ranges, n, false); /* an agent that has gone asks again */
	pthread_mutex_lock(&in->lock);
	in->jobs.n_calling--;
	pthread_cond_broadcast(&in->changed);
}

static void *worker_main(void *arg)
{
	struct inbound *in = arg;

	pthread_mutex_lock(&in->lock);
	while (!in->stopped) {
		struct inbound_job *job = job_take(&in->jobs);

		if (job) {
			work(in, job);
			continue;
		}
		in->jobs.n_idle++;
		pthread_cond_wait(&in->changed, &in->lock);
		in->jobs.n_idle--;
	}
	pthread_mutex_unlock(&in->lock);
	inbound_unref(in);
	return NULL;
}

/* Locked. Without another worker those that are there do it, later. */
static void worker_start(struct inbound *in)
{
	struct inbound_jobs *jobs = &in->jobs;
	pthread_attr_t attr;
	pthread_t thread;

	if (jobs->n_urgent + jobs->n_bulk <= jobs->n_idle || jobs->n_workers >= jobs->max_workers)
		return;
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, WORKER_STACK_BYTES);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	in->refs++;
	if (thread_create_quiet(&thread, &attr, worker_main, in) == 0)
		jobs->n_workers++;
	else
		in->refs--;
	pthread_attr_destroy(&attr);
}

static int job_add(struct inbound *in, const struct inbound_job *what, bool urgent)
{
	struct inbound_jobs *jobs = &in->jobs;
	struct inbound_job *job;

	if (urgent ? jobs->n_urgent >= URGENT_JOBS_MAX : jobs->n_bulk >= BULK_JOBS_MAX)
		return -E2BIG;
	job = malloc(sizeof(*job));
	if (!job)
		return -ENOMEM;
	*job = *what;
	job->next = NULL;
	if (urgent) {
		*jobs->urgent_tail = job;
		jobs->urgent_tail = &job->next;
		jobs->n_urgent++;
	} else {
		*jobs->bulk_tail = job;
		jobs->bulk_tail = &job->next;
		jobs->n_bulk++;
	}
	worker_start(in);
	return 0;
}

int inbound_jobs_add(struct inbound *in, const struct inbound_region *r, uint64_t gpa,
                     uint64_t length_bytes, bool urgent)
{
	/* Whole pages of the mapping, and a worker each for pieces that fit its answer. */
	uint64_t mask = r->page_size_bytes - 1, piece = MAX(JOB_BYTES, r->page_size_bytes);
	uint64_t at = (gpa - r->gpa) & ~mask, end = (gpa - r->gpa + length_bytes + mask) & ~mask;
	int code = 0;

	pthread_mutex_lock(&in->lock);
	for (; at < end && code == 0; at += piece) {
		struct inbound_job job = {
		        .gpa = r->gpa + at,
		        .hva = r->hva + at,
		        .length_bytes = MIN(piece, end - at),
		        .page_size_bytes = r->page_size_bytes,
		};

		code = job_add(in, &job, urgent);
	}
	pthread_cond_broadcast(&in->changed);
	pthread_mutex_unlock(&in->lock);
	return code;
}

static size_t list_length(const struct inbound_job *job)
{
	size_t n = 0;

	for (; job; job = job->next)
		n++;
	return n;
}

static struct poison_range *list_copy(const struct inbound_job *job, struct poison_range *to)
{
	for (; job; job = job->next)
		*to++ = (struct poison_range){{job->gpa}, job->length_bytes};
	return to;
}

int inbound_jobs_give_up(struct inbound *in, struct poison_range **ret, size_t *ret_n)
{
	struct inbound_jobs *jobs = &in->jobs;
	struct poison_range *ranges;
	size_t n;

	pthread_mutex_lock(&in->lock);
	n = list_length(jobs->running) + jobs->n_urgent;
	ranges = calloc(n + 1, sizeof(*ranges));
	if (ranges) {
		(void)list_copy(jobs->urgent_head, list_copy(jobs->running, ranges));
		list_free(jobs->urgent_head);
		jobs->urgent_head = NULL;
		jobs->urgent_tail = &jobs->urgent_head;
		jobs->n_urgent = 0;
		jobs->max_workers = jobs->n_workers + WORKERS_MAX;
	}
	pthread_mutex_unlock(&in->lock);
	if (!ranges)
		return -ENOMEM;
	*ret = ranges;
	*ret_n = n;
	return 0;
}
