/* SPDX-License-Identifier: Apache-2.0 */
/* What libpostcopy-qemu.so in QEMU's process is asked (client/qemu/command.c). */
#ifndef CTL_QEMU_MEMORY_H
#define CTL_QEMU_MEMORY_H

#include "ctl/json_stream.h"

struct qemu_memory {
	const char *name; /* for texts: which QEMU */
	const char *path;
	const sigset_t *signals; /* as a json_stream's */
};

/*
 * Send the request, which is taken over, and wait for its answer: each on a connection of
 * its own, so that an answer that comes too late is nobody else's. *ret (may be NULL) is a
 * new reference. What the library refuses has its own errno and text.
 */
int qemu_memory_call(const struct qemu_memory *m, json_t *request, uint64_t deadline_us,
                     json_t **ret, struct error *err);

#endif
