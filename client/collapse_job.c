/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Role: see the header. Made on the VMM's thread, run on collapse.c's.
 *
 * Always holds: only what collapse_plan.c gives out is collapsed, or loses its
 * MADV_NOHUGEPAGE, so no poisoned page is ever inside. Poison does not come to a
 * completed migration any more (the kernel looks after memory that fails here).
 */
#include "client/collapse_job.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "core/cleanup.h"
#include "core/clock.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 /* Linux 6.1 */
#endif

/* Times to look at a huge page that cannot be collapsed now (a page in it is in use). */
#define PASSES 4
#define PAUSE_US 100000 /* between passes */
/* A poisoned huge page between two runs of a memfd makes this many more mappings. */
#define MAPPINGS_PER_RUN 2
#define MAPPINGS_SHARE 8 /* of vm.max_map_count one part may be used */
#define MAX_MAP_COUNT_USUAL 65530

/* A number from a file of the kernel's, or otherwise. */
static uint64_t kernel_number(const char *path, uint64_t otherwise)
{
	unsigned long long value = 0;
	FILE *f = fopen(path, "re");

	if (!f)
		return otherwise;
	if (fscanf(f, "%llu", &value) != 1)
		value = otherwise;
	(void)fclose(f);
	return value;
}

/* Of nothing: the kernel then tells only whether it knows the advice. */
static bool kernel_can_collapse(void)
{
	return madvise(NULL, 0, MADV_COLLAPSE) == 0;
}

static uint64_t huge_page_bytes(void)
{
	uint64_t bytes = kernel_number("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size", 0);

	return is_power_of_two(bytes) && bytes > WIRE_PAGE_SIZE ? bytes : 0;
}

struct collapse_job *collapse_job_free(struct collapse_job *job)
{
	if (!job)
		return NULL;
	collapse_plan_free(&job->plan);
	free(job->left);
	free(job);
	return NULL;
}

/* Wait a little; true when the thread shall end. */
static bool stopped(struct collapse *c, uint64_t pause_us)
{
	uint64_t deadline_us = deadline_after_us(pause_us);
	bool stop;

	pthread_mutex_lock(&c->lock);
	while (!c->stop && pause_us > 0 && clock_monotonic_us() < deadline_us)
		condition_wait(&c->changed, &c->lock, deadline_us);
	stop = c->stop;
	pthread_mutex_unlock(&c->lock);
	return stop;
}

/* What became of so many bytes: 0, or why not. */
static void account(struct collapse *c, uint64_t bytes, int error)
{
	struct postcopy_collapse_progress *p = &c->progress;

	pthread_mutex_lock(&c->lock);
	if (error == 0)
		p->bytes_collapsed += bytes;
	else if (error == EINVAL)
		p->bytes_unsuitable += bytes;
	else
		p->bytes_failed += bytes;
	if (error != 0)
		p->last_errno = error;
	pthread_mutex_unlock(&c->lock);
}

/*
 * Let a run of shared memory be huge. In one call for all of it, so that the
 * mapping is split only where a lost page is.
 */
static int run_lift(struct collapse_job *job, const struct collapse_run *run)
{
	if (!run->shared)
		return 0;
	if (job->runs_lifted == job->runs_lifted_max)
		return ENOMEM;
	if (madvise((void *)(uintptr_t)run->hva, (size_t)run->bytes, MADV_HUGEPAGE) < 0)
		return errno;
	job->runs_lifted++;
	return 0;
}

/* True when there is something left to try again. */
static bool huge_page_try(struct collapse_job *job, uint64_t hva, uint8_t *left, bool last_pass)
{
	uint64_t bytes = job->plan.huge_bytes;
	int error = madvise((void *)(uintptr_t)hva, (size_t)bytes, MADV_COLLAPSE) < 0 ? errno : 0;

	if (error == EAGAIN && !last_pass)
		return true;
	*left = 0;
	account(job->c, bytes, error);
	return false;
}

/* One run; how many huge pages are to be tried again. */
static size_t run_pass(struct collapse_job *job, const struct collapse_run *run, uint8_t *left,
                       int pass)
{
	size_t n = (size_t)(run->bytes / job->plan.huge_bytes), again = 0;
	int error = pass == 0 ? run_lift(job, run) : 0;

	if (error != 0) {
		for (size_t i = 0; i < n; i++)
			left[i] = 0;
		account(job->c, run->bytes, error);
		return 0;
	}
	for (size_t i = 0; i < n; i++) {
		if (!left[i])
			continue;
		if (stopped(job->c, 0))
			return n;
		again += huge_page_try(job, run->hva + i * job->plan.huge_bytes, &left[i],
		                       pass == PASSES - 1);
	}
	return again;
}

static size_t all_pass(struct collapse_job *job, int pass)
{
	uint8_t *left = job->left;
	size_t again = 0;

	for (size_t i = 0; i < job->plan.n_runs; i++) {
		const struct collapse_run *run = &job->plan.runs[i];

		if (stopped(job->c, 0))
			return again + 1;
		again += run_pass(job, run, left, pass);
		left += run->bytes / job->plan.huge_bytes;
	}
	return again;
}

bool collapse_job_run(struct collapse_job *job)
{
	size_t again = 1;

	for (int pass = 0; again > 0 && pass < PASSES; pass++) {
		if (stopped(job->c, pass > 0 ? PAUSE_US : 0))
			return false;
		again = all_pass(job, pass);
	}
	return again == 0;
}

int collapse_job_new(struct postcopy *h, struct collapse_job **ret, struct error *err)
{
	_cleanup_free_ struct poison_range *poison = NULL;
	uint64_t huge_bytes = huge_page_bytes();
	struct collapse_job *job;
	size_t n_poison, n_left = 0;
	int r;

	if (huge_bytes == 0 || !kernel_can_collapse())
		return error_set(err, -ENOTSUP,
		                 "this kernel cannot collapse pages into huge ones: MADV_COLLAPSE "
		                 "needs Linux 6.1 or later with transparent huge pages");
	r = poison_list_get(h, &poison, &n_poison, err);
	if (r < 0)
		return r;
	job = calloc(1, sizeof(*job));
	r = job ? collapse_plan_make(h->regions, h->n_regions, poison, n_poison, huge_bytes,
	                             &job->plan)
	        : -ENOMEM;
	if (r == 0) {
		n_left = (size_t)(job->plan.total_bytes / huge_bytes);
		job->left = malloc(n_left + 1);
		r = job->left ? 0 : -ENOMEM;
	}
	if (r < 0) {
		collapse_job_free(job);
		return error_set(err, r, "not enough memory to plan a collapse");
	}
	for (size_t i = 0; i < n_left; i++)
		job->left[i] = 1;
	job->c = &h->collapse;
	job->runs_lifted_max =
	        (size_t)(kernel_number("/proc/sys/vm/max_map_count", MAX_MAP_COUNT_USUAL) /
	                 MAPPINGS_SHARE / MAPPINGS_PER_RUN);
	*ret = job;
	return 0;
}
