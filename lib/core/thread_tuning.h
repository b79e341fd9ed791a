/* SPDX-License-Identifier: Apache-2.0 */
/* Scheduling class and CPUs of the calling thread. What is not permitted is reported, not fatal. */
#ifndef CORE_THREAD_TUNING_H
#define CORE_THREAD_TUNING_H

#include "core/cpu_list.h"
#include "core/error.h"

/*
 * SCHED_FIFO with this priority (0: leave as it is). -EPERM with a text that
 * tells what grants it.
 */
int thread_set_realtime(unsigned priority, struct error *err);

/* Nice value of this thread alone (Linux). */
int thread_set_nice(int nice_value, struct error *err);

/* -EINVAL with a text where none of them exists. */
int thread_set_cpus(const struct cpu_list *list, struct error *err);

#endif
