/* SPDX-License-Identifier: Apache-2.0 */
/* Scheduling class and CPUs of the calling thread. What is not permitted is reported, not fatal. */
#ifndef DAEMON_THREAD_TUNING_H
#define DAEMON_THREAD_TUNING_H

#include "core/error.h"

/*
 * SCHED_FIFO with this priority (0: leave as it is). -EPERM with a text that
 * tells what grants it.
 */
int thread_set_realtime(unsigned priority, struct error *err);

/* Nice value of this thread alone (Linux). */
int thread_set_nice(int nice_value, struct error *err);

/* "0,2-3"; NULL or "" leaves it. -EINVAL with a text. */
int thread_set_cpus(const char *cpus, struct error *err);

#endif
