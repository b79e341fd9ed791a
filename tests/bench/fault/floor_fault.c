/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Floor 1: what a fault costs when another process on this host answers it at
 * once with UFFDIO_COPY. No page protocol, no network.
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "bench.h"
#include "core/uffd_abi.h"
#include "postcopy.h"
#include "support/pattern.h"

#define N_PAGES ((UINT64_C(512) << 20) / BENCH_PAGE)

static uint8_t *memory;
static uint64_t next_page;

static int answer(int uffd, const struct uffd_msg *msg, void *page)
{
	struct uffdio_copy copy = {
	        .dst = msg->arg.pagefault.address & ~(uint64_t)(BENCH_PAGE - 1),
	        .src = (uintptr_t)page,
	        .len = BENCH_PAGE,
	};

	return ioctl(uffd, UFFDIO_COPY, &copy);
}

static void resolver(int uffd)
{
	static uint8_t page[BENCH_PAGE] __attribute__((aligned(BENCH_PAGE)));
	struct pollfd pfd = {.fd = uffd, .events = POLLIN};
	struct uffd_msg msg;

	memset(page, 0x5a, sizeof(page));
	for (;;) {
		if (poll(&pfd, 1, -1) < 0)
			_exit(1);
		while (read(uffd, &msg, sizeof(msg)) == (ssize_t)sizeof(msg))
			if (msg.event == UFFD_EVENT_PAGEFAULT && answer(uffd, &msg, page) < 0)
				_exit(1);
	}
}

static int map_memory(const struct bench *b)
{
	int fd = b->memfd ? memfd_create("floor", MFD_CLOEXEC) : -1;
	int flags = b->memfd ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;

	if (b->memfd && (fd < 0 || ftruncate(fd, (off_t)(N_PAGES * BENCH_PAGE)) < 0))
		return -errno;
	memory = mmap(NULL, N_PAGES * BENCH_PAGE, PROT_READ | PROT_WRITE, flags, fd, 0);
	if (fd >= 0)
		close(fd);
	return memory == MAP_FAILED ? -errno : 0;
}

static int floor_fault_setup(struct bench *b)
{
	struct uffdio_api api = {.api = UFFD_API};
	struct uffdio_register reg = {.mode = UFFDIO_REGISTER_MODE_MISSING};
	int ret = map_memory(b), uffd;
	pid_t pid;

	if (ret < 0)
		return ret;
	uffd = postcopy_uffd_open(0);
	if (uffd < 0)
		return uffd;
	reg.range.start = (uintptr_t)memory;
	reg.range.len = N_PAGES * BENCH_PAGE;
	if (ioctl(uffd, UFFDIO_API, &api) < 0 || ioctl(uffd, UFFDIO_REGISTER, &reg) < 0)
		return -errno;
	/* This process keeps its copy, too: when the last one closes, missing pages become zeros. */
	pid = bench_fork(b);
	if (pid == 0)
		resolver(uffd);
	return pid < 0 ? pid : 0;
}

/* Every page once, far from the one before, as in the end-to-end case. */
static uint8_t *next_address(void)
{
	return memory + next_page++ * UINT64_C(0x9e3779b1) % N_PAGES * BENCH_PAGE;
}

static int floor_fault_round(struct bench *b, uint64_t *ret_ns)
{
	for (size_t i = 0; i < b->samples; i++) {
		volatile uint8_t *address = next_address();
		uint64_t start = bench_now_ns();

		(void)*address;
		ret_ns[i] = bench_now_ns() - start;
	}
	return 0;
}

const struct bench_case floor_fault = {"fault", "local fault, another process copies",
                                       floor_fault_setup, floor_fault_round};
