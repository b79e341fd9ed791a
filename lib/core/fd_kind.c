/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What kind of descriptor a client sent, asked before anything is done with it.
 * Declared in core/fdpass.h.
 */
#include "core/fdpass.h"

#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

bool fd_is_userfaultfd(int fd)
{
	static const char wanted[] = "anon_inode:[userfaultfd]";
	char path[32];
	char target[sizeof(wanted)]; /* one more than the text: a longer one differs */

	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	ssize_t n = readlink(path, target, sizeof(target));

	return n == (ssize_t)sizeof(wanted) - 1 && memcmp(target, wanted, (size_t)n) == 0;
}

bool fd_is_memory_file(int fd)
{
	struct stat st;
	struct statfs fs;

	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || fstatfs(fd, &fs) < 0)
		return false;
	return fs.f_type == TMPFS_MAGIC || fs.f_type == HUGETLBFS_MAGIC;
}
