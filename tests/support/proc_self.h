/* SPDX-License-Identifier: Apache-2.0 */
/* What this process has open, and which threads: so that a test sees what leaks. */
#ifndef SUPPORT_PROC_SELF_H
#define SUPPORT_PROC_SELF_H

#include <dirent.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdlib.h>
#include <unistd.h>

/* Entries of a folder as "/proc/self/fd": only good to compare with another count. */
static inline size_t proc_self_count(const char *path)
{
	/*
	 * Not opendir(): ThreadSanitizer does not see it open its descriptor, and has once
	 * reported closedir() as a race with the last user of the same number. If anyone
	 * still used that number, it would report this as well.
	 */
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	size_t n = 0;

	if (!dir)
		abort();
	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

static inline size_t proc_self_n_fds(void)
{
	return proc_self_count("/proc/self/fd");
}

static inline size_t proc_self_n_threads(void)
{
	return proc_self_count("/proc/self/task");
}

#endif
