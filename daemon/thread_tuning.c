/* SPDX-License-Identifier: Apache-2.0 */
/* Role: make a lane's urgent thread fast and its bulk thread modest. Called once as each starts. */
#include "daemon/thread_tuning.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
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

/* One "N" or "N-M" into set; returns where it ended, NULL if malformed. */
static const char *parse_range(const char *text, cpu_set_t *set)
{
	char *end;
	unsigned long first = strtoul(text, &end, 10), last = first;

	if (end == text)
		return NULL;
	if (*end == '-') {
		text = end + 1;
		last = strtoul(text, &end, 10);
		if (end == text)
			return NULL;
	}
	if (last < first || last >= CPU_SETSIZE)
		return NULL;
	for (unsigned long cpu = first; cpu <= last; cpu++)
		CPU_SET(cpu, set);
	return end;
}

int thread_set_cpus(const char *cpus, struct error *err)
{
	const char *at = cpus;
	cpu_set_t set;

	if (!cpus || cpus[0] == '\0')
		return 0;
	CPU_ZERO(&set);
	do {
		at = parse_range(at, &set);
		if (!at || (*at != ',' && *at != '\0'))
			return error_set(err, -EINVAL,
			                 "CPU list \"%s\": expected for instance 0,2-3", cpus);
	} while (*at++ == ',');
	if (pthread_setaffinity_np(pthread_self(), sizeof(set), &set) != 0)
		return error_set_errno(err, -EINVAL, "CPUs \"%s\"; going on without", cpus);
	return 0;
}
