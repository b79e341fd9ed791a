/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What this kernel and this user can do, found by trying: scratch mappings,
 * real ioctls and real accesses, each kind of memory in a child of its own, so
 * that nothing that goes wrong there is felt here.
 */
#ifndef CTL_PROBE_H
#define CTL_PROBE_H

#include <stdbool.h>
#include <stddef.h>

#include "wire/control_message.h"

#define PROBE_RESULTS_MAX 3

/* The three kinds of memory, in the order of the results. */
enum probe_memory {
	PROBE_ANONYMOUS,
	PROBE_MEMFD,
	PROBE_HUGETLB,
};

struct probe_report {
	struct control_probe_result results[PROBE_RESULTS_MAX];
	size_t n_results;
	char userfaultfd[WIRE_ERROR_TEXT_MAX];
	char remedy[WIRE_ERROR_TEXT_MAX];
	bool poison_works; /* for anonymous memory and memfds */
};

/* What a child found out about one kind of memory; all errors are errnos. */
struct probe_facts {
	int map_error;   /* no such memory to be had */
	int uffd_error;  /* no userfaultfd, or not for this memory */
	bool advertised; /* UFFD_FEATURE_POISON */
	int poison_error;
	bool sigbus; /* the access to the poisoned page raised it */
	int sigbus_code;
	int sigbus_lsb;
	int copy_error; /* of UFFDIO_COPY over the poison */
	int signal;     /* that ended the child; 0 */
};

void probe_run_all(struct probe_report *ret);

/* Try one kind of memory. */
void probe_memory_try(enum probe_memory memory, struct probe_facts *ret);

/* Facts into words, with the remedy; pure. release is the kernel's name (uname -r). */
void probe_describe(enum probe_memory memory, const struct probe_facts *facts, const char *release,
                    struct control_probe_result *ret);

/* The two ways to a userfaultfd: 0 or an errno each; user is who lacks access. Pure. */
void probe_describe_permission(int device_error, int syscall_error, const char *user,
                               struct probe_report *ret);

#endif
