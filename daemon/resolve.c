/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Role: place pages into the VMM's memory. Called by placement.c from the
 * urgent and bulk threads. No state; each call is one loop over one ioctl.
 */
#include "daemon/resolve.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/cleanup.h"
#include "core/uffd_abi.h"

static const char *const outcome_names[] = {
        [RESOLVE_DONE] = "done",         [RESOLVE_ALREADY] = "already mapped",
        [RESOLVE_RETRY] = "retry",       [RESOLVE_GONE] = "process gone",
        [RESOLVE_UNMAPPED] = "unmapped", [RESOLVE_NO_MEMORY] = "no memory",
        [RESOLVE_FATAL] = "fatal",
};
static_assert(ARRAY_SIZE(outcome_names) == RESOLVE_OUTCOMES_, "a name an outcome");

const char *resolve_outcome_name(enum resolve_outcome o)
{
	return (unsigned)o < RESOLVE_OUTCOMES_ ? outcome_names[o] : "invalid";
}

static enum resolve_outcome outcome_of(int err)
{
	switch (err) {
	case 0:
		return RESOLVE_DONE;
	case EEXIST:
		return RESOLVE_ALREADY;
	case EAGAIN:
		return RESOLVE_RETRY;
	case ESRCH:
		return RESOLVE_GONE;
	case ENOENT:
		return RESOLVE_UNMAPPED;
	case ENOMEM:
	case ENOSPC:
		return RESOLVE_NO_MEMORY;
	default:
		return RESOLVE_FATAL;
	}
}

/*
 * One ioctl on dst + done .. dst + len. Returns its errno (0: success) and in
 * *ret_bytes what it did: the kernel writes the bytes done, or -errno, to the
 * last field.
 */
typedef int (*range_ioctl_fn)(int uffd, uint64_t dst, uint64_t len, const uint8_t *src,
                              int64_t *ret_bytes);

static int copy_once(int uffd, uint64_t dst, uint64_t len, const uint8_t *src, int64_t *ret_bytes)
{
	struct uffdio_copy arg = {.dst = dst, .src = (uintptr_t)src, .len = len};
	int err = ioctl(uffd, UFFDIO_COPY, &arg) < 0 ? errno : 0;

	*ret_bytes = arg.copy;
	return err;
}

static int zeropage_once(int uffd, uint64_t dst, uint64_t len, const uint8_t *src,
                         int64_t *ret_bytes)
{
	struct uffdio_zeropage arg = {.range = {.start = dst, .len = len}};
	int err = ioctl(uffd, UFFDIO_ZEROPAGE, &arg) < 0 ? errno : 0;

	(void)src;
	*ret_bytes = arg.zeropage;
	return err;
}

static int continue_once(int uffd, uint64_t dst, uint64_t len, const uint8_t *src,
                         int64_t *ret_bytes)
{
	struct uffdio_continue arg = {.range = {.start = dst, .len = len}};
	int err = ioctl(uffd, UFFDIO_CONTINUE, &arg) < 0 ? errno : 0;

	(void)src;
	*ret_bytes = arg.mapped;
	return err;
}

static int poison_once(int uffd, uint64_t dst, uint64_t len, const uint8_t *src, int64_t *ret_bytes)
{
	struct uffdio_poison arg = {.range = {.start = dst, .len = len}};
	int err = ioctl(uffd, UFFDIO_POISON, &arg) < 0 ? errno : 0;

	(void)src;
	*ret_bytes = arg.updated;
	return err;
}

/*
 * The kernel looks whether the mapping is being changed, and only then for the mapping: one
 * that is moved in between seems to be unmapped (mfill_atomic(), seen on 6.18). The move's
 * event cannot have been read since, for whoever reads it waits for our caller, or is our
 * caller; so, asked once more, the kernel says EAGAIN. What is really gone is gone twice.
 */
static int range_once(range_ioctl_fn once, int uffd, uint64_t dst, uint64_t len, const uint8_t *src,
                      int64_t *ret_bytes)
{
	int err = once(uffd, dst, len, src, ret_bytes);

	return err == ENOENT ? once(uffd, dst, len, src, ret_bytes) : err;
}

static struct resolve_result range_loop(range_ioctl_fn once, int uffd, hva_t dst,
                                        uint64_t len_bytes, const uint8_t *src)
{
	struct resolve_result r = {.outcome = RESOLVE_DONE};

	while (r.done_bytes < len_bytes) {
		int64_t bytes = 0;
		int err = range_once(once, uffd, dst.addr + r.done_bytes, len_bytes - r.done_bytes,
		                     src ? src + r.done_bytes : NULL, &bytes);

		if (bytes > 0)
			r.done_bytes += (uint64_t)bytes;
		if (err == 0 && r.done_bytes >= len_bytes)
			break;
		/* A partial success is EAGAIN with bytes > 0; the next round tells why. */
		if (bytes > 0 && (err == EAGAIN || err == 0)) {
			r.retries++;
			continue;
		}
		r.error = err ? err : EIO;
		r.outcome = outcome_of(r.error);
		break;
	}
	return r;
}

struct resolve_result resolve_copy(int uffd, hva_t dst, uint64_t len_bytes, const void *src)
{
	return range_loop(copy_once, uffd, dst, len_bytes, src);
}

struct resolve_result resolve_zeropage(int uffd, hva_t dst, uint64_t len_bytes)
{
	return range_loop(zeropage_once, uffd, dst, len_bytes, NULL);
}

struct resolve_result resolve_continue(int uffd, hva_t dst, uint64_t len_bytes)
{
	return range_loop(continue_once, uffd, dst, len_bytes, NULL);
}

struct resolve_result resolve_poison(int uffd, hva_t dst, uint64_t len_bytes)
{
	return range_loop(poison_once, uffd, dst, len_bytes, NULL);
}

struct resolve_result resolve_write(int memory_fd, backing_off_t offset, uint64_t len_bytes,
                                    const void *src)
{
	static const uint8_t zeros[64 * 1024];
	struct resolve_result r = {.outcome = RESOLVE_DONE};

	while (r.done_bytes < len_bytes) {
		uint64_t left = len_bytes - r.done_bytes;
		const void *from = src ? (const uint8_t *)src + r.done_bytes : zeros;
		ssize_t n = pwrite(memory_fd, from, src ? left : MIN(left, sizeof(zeros)),
		                   (off_t)(offset.off + r.done_bytes));

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0) {
			r.error = n < 0 ? errno : EIO;
			r.outcome = outcome_of(r.error);
			break;
		}
		r.done_bytes += (uint64_t)n;
	}
	return r;
}

struct resolve_result resolve_write_hugetlb(int memory_fd, backing_off_t offset, uint64_t len_bytes,
                                            const void *src)
{
	_cleanup_close_ int self = open("/proc/self/mem", O_RDWR | O_CLOEXEC);
	struct resolve_result r = {.outcome = RESOLVE_FATAL};
	void *at;

	if (self < 0) {
		r.error = errno;
		return r;
	}
	/* Without a reservation: the VMM's mapping has made it. */
	at = mmap(NULL, len_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, memory_fd,
	          (off_t)offset.off);
	if (at == MAP_FAILED) {
		r.error = errno;
		return r;
	}
	r = resolve_write(self, (backing_off_t){(uintptr_t)at}, len_bytes, src);
	if (r.error == EIO)
		r.outcome = RESOLVE_NO_MEMORY;
	munmap(at, len_bytes);
	return r;
}

void resolve_wake(int uffd, hva_t start, uint64_t len_bytes)
{
	struct uffdio_range range = {.start = start.addr, .len = len_bytes};

	/* Cannot fail on a range that was registered; for a dead VMM nobody waits. */
	(void)ioctl(uffd, UFFDIO_WAKE, &range);
}
