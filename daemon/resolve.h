/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Resolve: the ioctls that answer a fault, and the one place where their errno
 * values get a meaning. Works on address ranges; who may place what is the
 * page map's business.
 *
 * Every function works through the range as far as it gets, sets *ret_done to
 * the bytes that are placed, and tells what stopped it there. EAGAIN after a
 * partial success is gone on from here; the caller sees only the outcome.
 */
#ifndef DAEMON_RESOLVE_H
#define DAEMON_RESOLVE_H

#include <stdint.h>

#include "core/units.h"

enum resolve_outcome {
	RESOLVE_DONE,     /* the whole range */
	RESOLVE_ALREADY,  /* something is mapped at start + *ret_done (EEXIST); nobody was woken */
	RESOLVE_RETRY,    /* the mapping is changing (EAGAIN): read the uffd's events, then again */
	RESOLVE_GONE,     /* the process has exited (ESRCH) */
	RESOLVE_UNMAPPED, /* not mapped or not registered with this uffd any more (ENOENT) */
	RESOLVE_NO_MEMORY, /* ENOMEM, ENOSPC: no page, no huge page, or a cgroup limit */
	RESOLVE_FATAL,     /* *ret_errno tells: our own bug, or a file that cannot be written */
	RESOLVE_OUTCOMES_
};

const char *resolve_outcome_name(enum resolve_outcome o);

struct resolve_result {
	enum resolve_outcome outcome;
	uint64_t done_bytes;
	int error;        /* the errno behind anything but DONE */
	unsigned retries; /* ioctls repeated within */
};

/* UFFDIO_COPY: len bytes from src (any alignment). Waiting threads are woken. */
struct resolve_result resolve_copy(int uffd, hva_t dst, uint64_t len_bytes, const void *src);

/* UFFDIO_ZEROPAGE. */
struct resolve_result resolve_zeropage(int uffd, hva_t dst, uint64_t len_bytes);

/* UFFDIO_CONTINUE: map what is in the page cache. */
struct resolve_result resolve_continue(int uffd, hva_t dst, uint64_t len_bytes);

/* UFFDIO_POISON (Linux 6.6, or the series in kernel-patches/). */
struct resolve_result resolve_poison(int uffd, hva_t dst, uint64_t len_bytes);

/*
 * Write to the memory file behind a MINOR mapping, before resolve_continue().
 * src NULL writes zeros.
 */
struct resolve_result resolve_write(int memory_fd, backing_off_t offset, uint64_t len_bytes,
                                    const void *src);

/*
 * The same for hugetlbfs, which knows no write(): whole huge pages, through a mapping of
 * this process that nothing but the kernel touches. Where it gets no page (none is
 * free, or the VMM has shortened its file) this is RESOLVE_NO_MEMORY, not SIGBUS.
 */
struct resolve_result resolve_write_hugetlb(int memory_fd, backing_off_t offset, uint64_t len_bytes,
                                            const void *src);

/* UFFDIO_WAKE: the threads that wait there fault again. Works for a dead process too. */
void resolve_wake(int uffd, hva_t start, uint64_t len_bytes);

#endif
