/* SPDX-License-Identifier: Apache-2.0 */
/* CPUs as operators write them: "0,2-3". */
#ifndef CORE_CPU_LIST_H
#define CORE_CPU_LIST_H

#include <sched.h>
#include <stdbool.h>

#include "core/error.h"

struct cpu_list {
	cpu_set_t cpus;
	bool given; /* false: any CPU */
};

/*
 * "" is any CPU. Whether the CPUs exist is known when a thread is put there.
 * -EINVAL, and *ret is left, where it is malformed or beyond CPU_SETSIZE.
 */
int cpu_list_parse(const char *text, struct cpu_list *ret, struct error *err);

#endif
