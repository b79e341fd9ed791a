/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a client handed over to be exported: is it memory, is it large enough,
 * can it be read? Called once an export, on the main loop, before anything of
 * it is trusted. Declared in source/memory.h.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "core/cleanup.h"
#include "core/fdpass.h"
#include "source/memory.h"

#define LINK_MAX_BYTES 128

/* Where the descriptor points, as /proc tells it; "?" if it does not. */
static void fd_target(int fd, char ret[LINK_MAX_BYTES])
{
	char path[32];

	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	ssize_t n = readlink(path, ret, LINK_MAX_BYTES - 1);

	if (n < 0)
		n = snprintf(ret, LINK_MAX_BYTES, "?");
	ret[n] = '\0';
}

/* "NUMBER/" of the path before end, e.g. of ".../proc/42/mem" before "/mem". 0: no number. */
static int number_before(const char *target, const char *end)
{
	const char *at = end;
	int n = 0;

	while (at > target && at[-1] >= '0' && at[-1] <= '9')
		at--;
	return at > target && at[-1] == '/' && sscanf(at, "%d/", &n) == 1 ? n : 0;
}

/*
 * The pid in ".../PID/mem" or ".../PID/task/TID/mem", 0 for any other text. What
 * stands before differs with the VMM's mount namespace and root; that it is
 * procfs is checked apart.
 */
static int target_pid(const char *target)
{
	const char *end = strrchr(target, '/'), *tid;

	if (!end || strcmp(end, "/mem") != 0 || number_before(target, end) <= 0)
		return 0;
	for (tid = end; tid > target && tid[-1] != '/';)
		tid--;
	if (tid - target >= 6 && strncmp(tid - 6, "/task/", 6) == 0)
		end = tid - 6;
	return number_before(target, end);
}

static bool fd_is_process_memory(int fd, const char *target)
{
	struct statfs fs;

	return fstatfs(fd, &fs) == 0 && fs.f_type == PROC_SUPER_MAGIC && target_pid(target) > 0;
}

static bool fd_is_regular(int fd)
{
	struct stat st;
	struct statfs fs;

	/* Files of /proc and /sys call themselves regular too. */
	return fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && fstatfs(fd, &fs) == 0 &&
	       fs.f_type != PROC_SUPER_MAGIC && fs.f_type != SYSFS_MAGIC;
}

int memory_identify(int fd, struct memory *ret, struct error *err)
{
	char target[LINK_MAX_BYTES];
	int flags = fcntl(fd, F_GETFL);

	fd_target(fd, target);
	if (flags < 0)
		return error_set_errno(err, -errno, "descriptor %s", target);
	if ((flags & O_ACCMODE) == O_WRONLY || (flags & O_PATH))
		return error_set(
		        err, -EACCES,
		        "descriptor %s is not open for reading: open it O_RDONLY or O_RDWR",
		        target);
	if (fd_is_process_memory(fd, target)) {
		*ret = (struct memory){fd, MEMORY_PROCESS};
		return 0;
	}
	if (!fd_is_memory_file(fd) && !fd_is_regular(fd))
		return error_set(
		        err, -EINVAL,
		        "descriptor %s is neither a memory file (memfd, tmpfs, hugetlbfs), "
		        "a regular file nor /proc/PID/mem",
		        target);
	*ret = (struct memory){fd, MEMORY_FILE};
	return 0;
}

static int check_file(int fd, backing_off_t off, uint64_t length_bytes, struct error *err)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return error_set_errno(err, -errno, "cannot ask for the memory file's size");
	if ((uint64_t)st.st_size < off.off || (uint64_t)st.st_size - off.off < length_bytes)
		return error_set(err, -ERANGE,
		                 "the memory file has %" PRIu64 " bytes, but offset %" PRIu64
		                 " + length %" PRIu64 " are needed",
		                 (uint64_t)st.st_size, off.off, length_bytes);
	return 0;
}

/* Walk the maps, which are sorted, and follow the range through them. */
static int check_maps(FILE *maps, int pid, uint64_t start, uint64_t length_bytes, struct error *err)
{
	uint64_t covered = start, end = start + length_bytes;
	_cleanup_free_ char *line = NULL;
	size_t line_size = 0;

	while (covered < end && getline(&line, &line_size, maps) >= 0) {
		uint64_t from, to;
		char mode[5];

		if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s", &from, &to, mode) != 3)
			continue;
		if (to <= covered)
			continue;
		if (from > covered || mode[0] != 'r')
			break;
		covered = to;
	}
	if (covered < end)
		return error_set(err, -EFAULT,
		                 "process %d has nothing readable mapped at 0x%" PRIx64
		                 ", which is in 0x%" PRIx64 " + %" PRIu64 " bytes",
		                 pid, covered, start, length_bytes);
	return 0;
}

static int check_process(const struct memory *m, backing_off_t off, uint64_t length_bytes,
                         struct error *err)
{
	char target[LINK_MAX_BYTES], path[48];

	fd_target(m->fd, target);
	int pid = target_pid(target);

	if (!memory_alive(m, off))
		return error_set(err, -ESRCH, "process %d, whose memory this is, has gone", pid);
	(void)snprintf(path, sizeof(path), "/proc/%d/maps", pid);
	FILE *maps = fopen(path, "re");

	if (!maps)
		return 0; /* no right to look: whoever opened the memory had it */
	int r = check_maps(maps, pid, off.off, length_bytes, err);

	(void)fclose(maps);
	return r;
}

int memory_check_range(const struct memory *m, backing_off_t off, uint64_t length_bytes,
                       struct error *err)
{
	if (off.off > INT64_MAX || length_bytes > INT64_MAX - off.off)
		return error_set(err, -ERANGE,
		                 "offset %" PRIu64 " + length %" PRIu64 " is beyond any file",
		                 off.off, length_bytes);
	if (m->kind == MEMORY_FILE)
		return check_file(m->fd, off, length_bytes, err);
	return check_process(m, off, length_bytes, err);
}

int memory_open_process(int pid, struct error *err)
{
	char path[32];

	(void)snprintf(path, sizeof(path), "/proc/%d/mem", pid);
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd >= 0)
		return fd;
	if (errno == EACCES || errno == EPERM)
		return error_set(
		        err, -EACCES,
		        "may not read the memory of process %d: run postcopy-sourced as the "
		        "user of that process or with CAP_SYS_PTRACE",
		        pid);
	if (errno == ENOENT)
		return error_set(err, -ESRCH, "there is no process %d", pid);
	return error_set_errno(err, -errno, "cannot open %s", path);
}
