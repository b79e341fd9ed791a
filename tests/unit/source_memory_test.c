/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Promises: a page that the kernel cannot give is reported as lost, its healthy
 * neighbours are read; a process that has gone is told apart from a lost page;
 * nothing that is not memory is accepted.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/uffd_abi.h"
#include "core/uffd_open.h"
#include "source/memory.h"

#define PAGE WIRE_PAGE_SIZE
#define BIT(n) (UINT64_C(1) << (n))

static uint8_t buf[MEMORY_READ_PAGES_MAX * PAGE];

static void assert_filled(unsigned page, uint8_t value)
{
	for (size_t i = 0; i < PAGE; i++)
		assert_int_equal(buf[page * PAGE + i], value);
}

static int make_memfd(unsigned n_pages)
{
	int fd = memfd_create("memory", MFD_CLOEXEC);
	uint8_t page[PAGE];

	assert_int_equal(ftruncate(fd, (off_t)(n_pages * PAGE)), 0);
	for (unsigned i = 0; i < n_pages; i++) {
		memset(page, (int)i + 1, PAGE);
		assert_int_equal(pwrite(fd, page, PAGE, (off_t)(i * PAGE)), PAGE);
	}
	return fd;
}

static void test_file(void **state)
{
	int fd = make_memfd(64);
	struct memory m;
	struct error err = {0};
	uint64_t lost = 99;

	(void)state;
	assert_int_equal(memory_identify(fd, &m, &err), 0);
	assert_int_equal(m.kind, MEMORY_FILE);
	assert_int_equal(memory_check_range(&m, (backing_off_t){0}, 64 * PAGE, &err), 0);
	assert_int_equal(memory_check_range(&m, (backing_off_t){PAGE}, 64 * PAGE, &err), -ERANGE);
	assert_int_equal(memory_check_range(&m, (backing_off_t){UINT64_MAX}, PAGE, &err), -ERANGE);
	assert_int_equal(memory_read(&m, (backing_off_t){0}, 64, buf, &lost), 0);
	assert_int_equal(lost, 0);
	assert_filled(0, 1);
	assert_filled(63, 64);

	/* It shrinks, to the middle of page 61. */
	assert_int_equal(ftruncate(fd, 61 * PAGE + 100), 0);
	assert_int_equal(memory_read(&m, (backing_off_t){0}, 64, buf, &lost), 0);
	assert_int_equal(lost, BIT(61) | BIT(62) | BIT(63));
	assert_filled(60, 61);
	assert_int_equal(memory_read(&m, (backing_off_t){63 * PAGE}, 1, buf, &lost), 0);
	assert_int_equal(lost, BIT(0));
	close(fd);
}

/* Real EIO: /proc/self/mem over an anonymous page that UFFDIO_POISON has poisoned. */
static void test_poisoned_page(void **state)
{
	uint8_t *map =
	        mmap(NULL, 8 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int uffd = uffd_open();
	uint64_t features, lost, start = (uint64_t)(uintptr_t)map;
	struct uffdio_register reg = {.range = {start, 8 * PAGE},
	                              .mode = UFFDIO_REGISTER_MODE_MISSING};
	struct memory m;
	struct error err = {0};

	(void)state;
	for (unsigned i = 0; i < 8; i++)
		if (i != 2 && i != 3 && i != 7)
			memset(map + i * PAGE, (int)i + 1, PAGE);
	if (uffd < 0 || uffd_negotiate(uffd, UFFD_FEATURE_POISON, &features) < 0) {
		print_message("no userfaultfd with UFFDIO_POISON here\n");
		close(uffd);
		skip();
	}
	assert_int_equal(ioctl(uffd, UFFDIO_REGISTER, &reg), 0);
	struct uffdio_poison poison = {.range = {start + 2 * PAGE, 2 * PAGE}};

	assert_int_equal(ioctl(uffd, UFFDIO_POISON, &poison), 0);
	poison = (struct uffdio_poison){.range = {start + 7 * PAGE, PAGE}};
	assert_int_equal(ioctl(uffd, UFFDIO_POISON, &poison), 0);
	assert_int_equal(ioctl(uffd, UFFDIO_UNREGISTER, &reg.range), 0);

	int fd = open("/proc/self/mem", O_RDONLY | O_CLOEXEC);

	assert_int_equal(memory_identify(fd, &m, &err), 0);
	assert_int_equal(m.kind, MEMORY_PROCESS);
	assert_int_equal(memory_check_range(&m, (backing_off_t){start}, 8 * PAGE, &err), 0);
	assert_int_equal(memory_read(&m, (backing_off_t){start}, 8, buf, &lost), 0);
	assert_int_equal(lost, BIT(2) | BIT(3) | BIT(7));
	assert_filled(1, 2);
	assert_filled(4, 5);
	assert_filled(6, 7);
	close(fd);
	close(uffd);
	munmap(map, 8 * PAGE);
}

static void test_process_goes(void **state)
{
	uint8_t *map =
	        mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	backing_off_t off = {(uint64_t)(uintptr_t)map};
	struct memory m;
	struct error err = {0};
	uint64_t lost = 0;

	(void)state;
	memset(map, 7, 2 * PAGE);
	pid_t pid = fork();

	if (pid == 0)
		for (;;)
			pause();
	int fd = memory_open_process(pid, &err);

	assert_true(fd >= 0);
	assert_int_equal(memory_identify(fd, &m, &err), 0);
	assert_int_equal(memory_check_range(&m, off, 2 * PAGE, &err), 0);
	assert_int_equal(memory_check_range(&m, (backing_off_t){PAGE}, PAGE, &err), -EFAULT);
	assert_true(memory_alive(&m, off));
	assert_int_equal(memory_read(&m, off, 2, buf, &lost), 0);
	assert_int_equal(lost, 0);
	assert_filled(1, 7);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	assert_int_equal(memory_read(&m, off, 2, buf, &lost), -ESRCH);
	assert_false(memory_alive(&m, off));
	assert_int_equal(memory_check_range(&m, off, 2 * PAGE, &err), -ESRCH);
	assert_int_equal(memory_open_process(pid, &err), -ESRCH);
	close(fd);
	munmap(map, 2 * PAGE);
}

static void refuse(int fd, int error)
{
	struct memory m;
	struct error err = {0};

	assert_true(fd >= 0);
	assert_int_equal(memory_identify(fd, &m, &err), error);
	close(fd);
}

static void test_not_memory(void **state)
{
	int fds[2];

	(void)state;
	assert_int_equal(pipe(fds), 0);
	refuse(fds[0], -EINVAL);
	close(fds[1]);
	refuse(open("/", O_RDONLY | O_CLOEXEC), -EINVAL);
	refuse(open("/dev/zero", O_RDONLY | O_CLOEXEC), -EINVAL);
	refuse(open("/proc/self/maps", O_RDONLY | O_CLOEXEC), -EINVAL);
	refuse(open("/proc/self/mem", O_WRONLY | O_CLOEXEC), -EACCES);
	refuse(open("/proc/self/exe", O_PATH | O_CLOEXEC), -EACCES);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_file),
	        cmocka_unit_test(test_poisoned_page),
	        cmocka_unit_test(test_process_goes),
	        cmocka_unit_test(test_not_memory),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
