/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A piece of memory to read guest pages from: a memory file, or /proc/PID/mem
 * of the VMM. Only pread(): a page that is lost to a memory error gives EIO
 * here and no SIGBUS, and nothing of the guest is mapped into this process.
 */
#ifndef SOURCE_MEMORY_H
#define SOURCE_MEMORY_H

#include <stdbool.h>
#include <stdint.h>

#include "core/error.h"
#include "core/units.h"

#define MEMORY_READ_PAGES_MAX 64 /* the bits of *ret_lost */

enum memory_kind {
	MEMORY_FILE,    /* memfd, tmpfs, hugetlbfs or a regular file; offset in the file */
	MEMORY_PROCESS, /* /proc/PID/mem; the offset is the virtual address */
};

/* Does not own the descriptor. */
struct memory {
	int fd;
	enum memory_kind kind;
};

/* Look at a descriptor that a client sent. -EINVAL, -EACCES with a text for anything else. */
int memory_identify(int fd, struct memory *ret, struct error *err);

/*
 * Can length_bytes from off be read? A file must be large enough (-ERANGE); a
 * process must live (-ESRCH) and, where /proc/PID/maps may be read, have mapped
 * the whole range (-EFAULT).
 */
int memory_check_range(const struct memory *m, backing_off_t off, uint64_t length_bytes,
                       struct error *err);

/*
 * Read n_pages (1..MEMORY_READ_PAGES_MAX) wire pages from off into buf. Bit i
 * of *ret_lost is set when page i cannot be read any more: a memory error, or
 * beyond the end of a file that shrank; its bytes in buf mean nothing then.
 * -ESRCH when the process that had the memory is gone, another -errno when the
 * read failed for a reason that is not the pages'. Any thread.
 */
int memory_read(const struct memory *m, backing_off_t off, unsigned n_pages, uint8_t *buf,
                uint64_t *ret_lost);

/* False when it is sure that the process has gone; a file is always there. */
bool memory_alive(const struct memory *m, backing_off_t off);

/* Open /proc/PID/mem for reading. The fd or -errno with a text that says what is missing. */
int memory_open_process(int pid, struct error *err);

#endif
