/* SPDX-License-Identifier: Apache-2.0 */
/* Called by the floors that fault. */
#include "floor/memory.h"

#include <errno.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/uffd_abi.h"
#include "postcopy.h"

#define BATCH 16

static uint8_t *map(const struct floor_options *o, uint64_t bytes)
{
	int fd = o->memfd ? memfd_create("floor", MFD_CLOEXEC) : -1;
	int flags = o->memfd ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
	uint8_t *address;

	if (o->memfd && (fd < 0 || ftruncate(fd, (off_t)bytes) < 0))
		floor_die("memfd");
	address = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags, fd, 0);
	if (address == MAP_FAILED)
		floor_die("mmap");
	if (fd >= 0)
		close(fd);
	return address;
}

struct memory memory_new(const struct floor_options *o, uint64_t bytes)
{
	struct uffdio_api api = {.api = UFFD_API};
	struct uffdio_register reg = {.mode = UFFDIO_REGISTER_MODE_MISSING};
	struct memory m = {map(o, bytes), bytes / BENCH_PAGE, postcopy_uffd_open(0)};

	reg.range.start = (uintptr_t)m.address;
	reg.range.len = bytes;
	if (m.uffd < 0) {
		errno = -m.uffd;
		floor_die("userfaultfd");
	}
	if (ioctl(m.uffd, UFFDIO_API, &api) < 0 || ioctl(m.uffd, UFFDIO_REGISTER, &reg) < 0)
		floor_die("UFFDIO_REGISTER");
	return m;
}

int memory_copy(const struct memory *m, uint64_t page, const void *data, size_t n_pages)
{
	struct uffdio_copy copy = {
	        .dst = (uintptr_t)m->address + page * BENCH_PAGE,
	        .src = (uintptr_t)data,
	        .len = n_pages * BENCH_PAGE,
	};

	return ioctl(m->uffd, UFFDIO_COPY, &copy) < 0 ? -errno : 0;
}

size_t memory_read_faults(const struct memory *m, uint64_t *ret_pages, size_t max)
{
	struct uffd_msg msgs[BATCH];
	ssize_t len = read(m->uffd, msgs, sizeof(msgs[0]) * (max < BATCH ? max : BATCH));
	size_t n = 0;

	for (ssize_t i = 0; i < len / (ssize_t)sizeof(msgs[0]); i++)
		if (msgs[i].event == UFFD_EVENT_PAGEFAULT)
			ret_pages[n++] = (msgs[i].arg.pagefault.address - (uintptr_t)m->address) /
			                 BENCH_PAGE;
	return n;
}
