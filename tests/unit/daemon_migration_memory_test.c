/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Promises: a memory file that a VMM hands over twice is one, for the service
 * manager's FD store takes no open file twice, and a restarted daemon would miss the
 * other; regions speak of the file that is left; files that differ stay apart; indices
 * that make no sense harm nothing.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "daemon/migration_memory.h"

#define N_FILES 5

struct bed {
	int fds[1 + N_FILES];
	struct attach_region regions[N_FILES];
	struct attach_memory memory;
};

static int file_new(void)
{
	int fd = memfd_create("memory", MFD_CLOEXEC);

	assert_true(fd >= 0);
	return fd;
}

static int again(int fd)
{
	int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);

	assert_true(copy >= 0);
	return copy;
}

/* The same file, open for reading only. */
static int reader_of(int fd)
{
	char path[64];
	int reader;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	reader = open(path, O_RDONLY | O_CLOEXEC);
	assert_true(reader >= 0);
	return reader;
}

/* One userfaultfd (any descriptor will do) and the files, a region each. */
static void bed_fill(struct bed *b)
{
	*b = (struct bed){.fds = {file_new()}};
	b->memory = (struct attach_memory){
	        .regions = b->regions,
	        .n_regions = N_FILES,
	        .n_uffds = 1,
	        .fds = b->fds,
	        .n_fds = 1 + N_FILES,
	};
	for (uint32_t i = 0; i < N_FILES; i++)
		b->regions[i] = (struct attach_region){.has_fd = true, .fd = i};
}

static void bed_clear(struct bed *b)
{
	for (size_t i = 0; i < ARRAY_SIZE(b->fds); i++)
		close_fd(&b->fds[i]);
}

static void twice_is_once(void **state)
{
	struct bed b;
	int first, second, third;

	(void)state;
	bed_fill(&b);
	b.fds[1] = first = file_new();
	b.fds[2] = again(first);
	b.fds[3] = second = file_new();
	b.fds[4] = again(second);
	b.fds[5] = third = reader_of(first);
	migration_memory_unite_files(&b.memory, b.regions);
	assert_int_equal(b.memory.n_fds, 1 + 3);
	assert_int_equal(b.fds[1], first);
	assert_int_equal(b.fds[2], second);
	assert_int_equal(b.fds[3], third);
	assert_int_equal(b.fds[4], -1);
	assert_int_equal(b.fds[5], -1);
	assert_int_equal(b.regions[0].fd, 0);
	assert_int_equal(b.regions[1].fd, 0);
	assert_int_equal(b.regions[2].fd, 1);
	assert_int_equal(b.regions[3].fd, 1);
	assert_int_equal(b.regions[4].fd, 2);
	assert_int_equal(migration_memory_count_files(b.regions, N_FILES), 3);
	bed_clear(&b);
}

static void others_stay(void **state)
{
	struct bed b;

	(void)state;
	bed_fill(&b);
	for (size_t i = 1; i <= N_FILES; i++)
		b.fds[i] = file_new();
	migration_memory_unite_files(&b.memory, b.regions);
	assert_int_equal(b.memory.n_fds, 1 + N_FILES);
	for (uint32_t i = 0; i < N_FILES; i++)
		assert_int_equal(b.regions[i].fd, i);
	bed_clear(&b);
}

/* What is wrong is left to the checks that follow. */
static void nonsense_is_kept(void **state)
{
	struct bed b;

	(void)state;
	bed_fill(&b);
	b.fds[1] = file_new();
	for (size_t i = 2; i <= N_FILES; i++)
		b.fds[i] = again(b.fds[1]);
	b.regions[3].fd = 4711;
	b.regions[4].has_fd = false;
	migration_memory_unite_files(&b.memory, b.regions);
	assert_int_equal(b.memory.n_fds, 2);
	assert_int_equal(b.regions[3].fd, 4711);
	assert_int_equal(b.regions[4].fd, 4);
	bed_clear(&b);

	bed_fill(&b);
	b.memory.n_fds = 1;
	b.memory.n_uffds = 3;
	migration_memory_unite_files(&b.memory, b.regions);
	assert_int_equal(b.memory.n_fds, 1);
	b.memory.n_fds = 0;
	migration_memory_unite_files(&b.memory, b.regions);
	assert_int_equal(b.memory.n_fds, 0);
	bed_clear(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(twice_is_once),
	        cmocka_unit_test(others_stay),
	        cmocka_unit_test(nonsense_is_kept),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
