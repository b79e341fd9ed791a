/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The disk, block by block, again and again: read a block, check it against the
 * generation of the pass before, write the next one. Past the page cache, and
 * each time through another buffer, so that the device itself reads and writes
 * memory that may not be here yet.
 */
#include "guest.h"
#include "pattern.h"
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define BLOCK_BYTES (64 * 1024)
#define BLOCK_WORDS (BLOCK_BYTES / 8)
#define BUFFERS 128
#define PAUSE_NS 5000000 /* the walkers want the CPUs, too */

static int disk_fd;
static uint64_t n_blocks;
static uint8_t *buffers;
static struct guest_counts counts;

static void block_renew(uint64_t block, uint64_t generation)
{
	void *buffer = buffers + (counted(&counts.n_right) % BUFFERS) * BLOCK_BYTES;
	struct pattern expected = {GUEST_DISK, block, generation - 1};
	struct pattern next = {GUEST_DISK, block, generation};
	off_t at = (off_t)(block * BLOCK_BYTES);
	size_t right;

	if (pread(disk_fd, buffer, BLOCK_BYTES, at) != BLOCK_BYTES)
		guest_wrong(GUEST_DISK, "disk block %llu cannot be read: %m",
		            (unsigned long long)block);
	right = pattern_renew(buffer, BLOCK_WORDS, &expected, &next);
	if (right < BLOCK_WORDS)
		pattern_wrong("disk block", buffer, BLOCK_WORDS, right, &expected);
	if (pwrite(disk_fd, buffer, BLOCK_BYTES, at) != BLOCK_BYTES)
		guest_wrong(GUEST_DISK, "disk block %llu cannot be written: %m",
		            (unsigned long long)block);
	count(&counts.n_right, 1);
}

static noreturn void *disk_run(void *unused)
{
	struct timespec pause = {.tv_nsec = PAUSE_NS};

	(void)unused;
	for (uint64_t generation = 1;; generation++) {
		for (uint64_t block = 0; block < n_blocks; block++) {
			block_renew(block, generation);
			nanosleep(&pause, NULL);
		}
		count(&counts.n_passes, 1);
	}
}

void disk_start(const char *device)
{
	uint64_t size_bytes;

	disk_fd = open(device, O_RDWR | O_DIRECT | O_CLOEXEC);
	if (disk_fd < 0 || ioctl(disk_fd, BLKGETSIZE64, &size_bytes))
		guest_broken(device);
	n_blocks = size_bytes / BLOCK_BYTES;
	buffers = mmap(NULL, (size_t)BUFFERS * BLOCK_BYTES, PROT_READ | PROT_WRITE,
	               MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (buffers == MAP_FAILED)
		guest_broken("disk buffers");
	guest_thread(disk_run, NULL, -1, false);
}

void disk_counts(struct guest_counts *ret_counts)
{
	ret_counts->n_passes = counted(&counts.n_passes);
	ret_counts->n_right = counted(&counts.n_right);
}
