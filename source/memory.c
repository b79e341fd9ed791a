/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading guest memory. Called by the links' threads for every page that they
 * serve. A failed read never becomes zeros: what cannot be read is reported as
 * lost page by page, and the healthy neighbours are read on.
 */
#include "source/memory.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <unistd.h>

/* Repeats of a read for which the kernel lacked memory, before the caller hears of it. */
#define NO_MEMORY_RETRIES 100

/*
 * Errors that belong to the page: EIO from files and from /proc/PID/mem,
 * EHWPOISON from kernels that say it plainly, EFAULT where a fault failed.
 */
static bool error_is_lost_page(int error)
{
	return error == EIO || error == EHWPOISON || error == EFAULT;
}

struct read_state {
	uint64_t pos_bytes;
	uint64_t lost;
	unsigned retries;
};

/* The page at the position cannot be read: note it and go on after it. */
static void skip_lost_page(struct read_state *s)
{
	uint64_t page = s->pos_bytes >> WIRE_PAGE_SHIFT;

	s->lost |= UINT64_C(1) << page;
	s->pos_bytes = (page + 1) << WIRE_PAGE_SHIFT;
}

/* What a read of nothing or an error at the position means. 0: go on. */
static int read_failed(const struct memory *m, struct read_state *s, ssize_t n, int error)
{
	if (n == 0 && m->kind == MEMORY_PROCESS)
		return -ESRCH; /* the mm has no users any more */
	if (n == 0 || error_is_lost_page(error)) {
		skip_lost_page(s);
		return 0;
	}
	if (error == EINTR || error == EAGAIN)
		return 0;
	if (error == ENOMEM && s->retries++ < NO_MEMORY_RETRIES)
		return 0;
	return -error;
}

int memory_read(const struct memory *m, backing_off_t off, unsigned n_pages, uint8_t *buf,
                uint64_t *ret_lost)
{
	struct read_state s = {0};
	uint64_t total_bytes = (uint64_t)n_pages << WIRE_PAGE_SHIFT;

	while (s.pos_bytes < total_bytes) {
		ssize_t n = pread(m->fd, buf + s.pos_bytes, total_bytes - s.pos_bytes,
		                  (off_t)(off.off + s.pos_bytes));

		if (n > 0) {
			s.pos_bytes += (uint64_t)n;
			continue;
		}
		int r = read_failed(m, &s, n, n < 0 ? errno : 0);

		if (r < 0)
			return r;
	}
	*ret_lost = s.lost;
	return 0;
}

bool memory_alive(const struct memory *m, backing_off_t off)
{
	uint8_t byte;

	return m->kind == MEMORY_FILE || pread(m->fd, &byte, 1, (off_t)off.off) != 0;
}
