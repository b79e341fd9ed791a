/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Make an urgent thread fast and a bulk thread modest. Called once by each, as it
 * starts: the lanes of the daemon, the links of the source, and the collapse of libpostcopy.
 */
#include "core/thread_tuning.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

int thread_set_realtime(unsigned priority, struct error *err)
{
	struct sched_param param = {.sched_priority = (int)priority};
	int rc;

	if (priority == 0)
		return 0;
	rc = pthread_setschedparam(pthread_self(), SCHED_FIFO, &param);
	if (rc != 0)
		return error_set_errno(
		        err, -rc,
		        "urgent thread: no SCHED_FIFO priority %u (LimitRTPRIO= in the "
		        "unit grants it); going on without",
		        priority);
	return 0;
}

int thread_set_nice(int nice_value, struct error *err)
{
	/* On Linux a thread's id is a valid 'who': only this thread changes. */
	if (nice_value != 0 && setpriority(PRIO_PROCESS, (id_t)gettid(), nice_value) < 0)
		return error_set_errno(
		        err, -errno, "bulk thread: no nice value %d; going on without", nice_value);
	return 0;
}

int thread_set_cpus(const struct cpu_list *list, struct error *err)
{
	if (!list->given)
		return 0;
	if (pthread_setaffinity_np(pthread_self(), sizeof(list->cpus), &list->cpus) != 0)
		return error_set_errno(err, -EINVAL,
		                       "none of a thread's CPUs is there; going on without");
	return 0;
}
