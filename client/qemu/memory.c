/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guest's memory: every mapping that QEMU makes of a memory backend. Called
 * from interpose.c (QEMU's threads) and guest.c (ours).
 *
 * On a destination each is registered with the one userfaultfd before QEMU has
 * the address, so that a touch waits for the page, from the very first. Nobody
 * reads that userfaultfd before the attach.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/magic.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "client/qemu/qemu.h"
#include "core/cleanup.h"
#include "core/fdpass.h"
#include "core/uffd_abi.h"
#include "core/uffd_open.h"
#include "core/units.h"

/* What QEMU calls its memfds, and its files in a directory. */
#define MEMFD_LINK "/memfd:memory-backend-memfd"
#define FILE_IN_DIRECTORY "/qemu_back_mem."

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct mapping mappings[BACKENDS_MAX]; /* address NULL: not mapped (any more) */
static bool mapped_once[BACKENDS_MAX];
static int uffd = -1;
static atomic_bool whole; /* of a destination: all its pages are here, and none is lost */

/* The file's name as the kernel tells it. */
static bool fd_link(int fd, char *buf, size_t size)
{
	char path[32];
	ssize_t n;

	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	n = readlink(path, buf, size - 1);
	buf[n > 0 ? n : 0] = '\0';
	return n > 0;
}

/* Is this the file of a memory-backend-file with that mem-path? */
static bool file_is_at(int fd, const char *link, const char *path)
{
	char directory[PATH_MAX];
	struct stat at, of;

	if (stat(path, &at) < 0 || fstat(fd, &of) < 0)
		return false;
	if (!S_ISDIR(at.st_mode))
		return at.st_dev == of.st_dev && at.st_ino == of.st_ino;
	return realpath(path, directory) && strncmp(link, directory, strlen(directory)) == 0 &&
	       strncmp(link + strlen(directory), FILE_IN_DIRECTORY, strlen(FILE_IN_DIRECTORY)) == 0;
}

/*
 * The backend whose file this is. QEMU makes its backends in the order of the
 * command line: of several that look alike it is the first that is not mapped yet.
 * -1: none; *ret_is_memory tells whether it is memory of the guest all the same.
 */
static int backend_find(int fd, bool *ret_is_memory)
{
	char link[PATH_MAX];

	*ret_is_memory = false;
	if (!fd_link(fd, link, sizeof(link)))
		return -1;
	*ret_is_memory = strncmp(link, MEMFD_LINK, strlen(MEMFD_LINK)) == 0;
	for (size_t i = 0; i < command_line.n_backends; i++) {
		const struct backend *b = &command_line.backends[i];

		if (!mapped_once[i] &&
		    (b->is_file ? file_is_at(fd, link, b->path) : *ret_is_memory))
			return (int)i;
	}
	return -1;
}

static bool overlaps(const struct mapping *m, const void *address, size_t length)
{
	uintptr_t a = (uintptr_t)m->address, b = (uintptr_t)address;

	return m->address && a < b + length && b < a + m->length_bytes;
}

/* With the features that this kernel has of those that postcopyd uses. */
static int uffd_make(int *ret)
{
	_cleanup_close_ int fd = -1;
	uint64_t features;
	int r = uffd_features(&features);

	if (r < 0)
		return r;
	fd = postcopy_uffd_open(0);
	if (fd < 0)
		return fd;
	r = uffd_negotiate(fd,
	                   features & (UFFD_FEATURE_POISON | UFFD_FEATURE_EVENT_REMOVE |
	                               UFFD_FEATURE_EVENT_REMAP | UFFD_FEATURE_MISSING_SHMEM |
	                               UFFD_FEATURE_MISSING_HUGETLBFS),
	                   &features);
	if (r < 0)
		return r;
	*ret = TAKE_FD(fd);
	return 0;
}

static void uffd_refuse(int r)
{
	if (r == -EPERM || r == -EACCES)
		refuse("no userfaultfd for this user (%s): give it access to /dev/userfaultfd, or "
		       "set sysctl vm.unprivileged_userfaultfd=1, or give QEMU CAP_SYS_PTRACE; "
		       "`postcopyctl probe` tells which",
		       strerror(-r));
	else if (r == -ENOSYS || r == -ENOENT)
		refuse("this kernel has no userfaultfd (CONFIG_USERFAULTFD)");
	else
		refuse("cannot open a userfaultfd: %s", strerror(-r));
}

/* From now on a touch of a missing page waits. */
static void mapping_register(const struct mapping *m)
{
	struct uffdio_register reg = {
	        .range = {.start = (uintptr_t)m->address, .len = m->length_bytes},
	        .mode = UFFDIO_REGISTER_MODE_MISSING,
	};
	int r = uffd < 0 ? uffd_make(&uffd) : 0;

	if (r < 0)
		uffd_refuse(r);
	else if (ioctl(uffd, UFFDIO_REGISTER, &reg) < 0)
		refuse("memory backend %s: cannot register %" PRIu64 " bytes with userfaultfd: %s",
		       m->name, m->length_bytes, strerror(errno));
}

/* What is there before the source has sent it is stale. */
static int mapping_check_empty(const struct mapping *m, struct error *err)
{
	struct stat st;

	if (fstat(m->fd, &st) < 0)
		return error_set_errno(err, -errno, "memory backend %s: fstat", m->name);
	if (st.st_blocks == 0)
		return 0;
	return error_set(err, -ENOTEMPTY,
	                 "memory backend %s has %" PRIu64 " KiB in it already, which the source's "
	                 "memory would not replace: start QEMU again, with a new or empty file and "
	                 "without preallocation",
	                 m->name, (uint64_t)st.st_blocks / 2);
}

static int mapping_fill(struct mapping *m, int fd)
{
	struct statfs fs;

	if (!fd_is_memory_file(fd)) {
		refuse("memory backend %s: its file is neither on tmpfs nor on hugetlbfs, where "
		       "userfaultfd works; use mem-path=/dev/shm/NAME, or memory-backend-memfd",
		       m->name);
		return -EINVAL;
	}
	if (fstatfs(fd, &fs) < 0)
		return -errno;
	m->is_hugetlb = fs.f_type == HUGETLBFS_MAGIC;
	m->page_size_bytes = m->is_hugetlb ? (uint64_t)fs.f_bsize : WIRE_PAGE_SIZE;
	m->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	return m->fd < 0 ? -errno : 0;
}

/* QEMU's first mapping of a backend. */
static void backend_mapped(size_t i, struct mapping *m, int fd)
{
	struct error err = {0};
	int r;

	strcpy(m->name, command_line.backends[i].id);
	mapped_once[i] = true;
	r = mapping_fill(m, fd);
	if (r < 0) {
		refuse("memory backend %s: %s", m->name, strerror(-r));
		return;
	}
	if (atomic_load(&command_line.waits)) {
		if (mapping_check_empty(m, &err) < 0)
			refuse("%s", err.text);
		mapping_register(m);
	}
	mappings[i] = *m;
}

/* With the lock held. True: there is something new. */
static bool mapped_locked(struct mapping *m, bool is_shared, int fd)
{
	bool is_memory;
	int i;

	/* A page of known memory that QEMU maps anew, as after a memory error. */
	for (size_t k = 0; k < command_line.n_backends; k++)
		if (overlaps(&mappings[k], m->address, m->length_bytes))
			return false;
	i = backend_find(fd, &is_memory);
	if (i < 0 && !is_memory)
		return false;
	if (!is_shared)
		refuse("QEMU maps memory backend %s privately: say share=on",
		       i < 0 ? "(unknown)" : command_line.backends[i].id);
	else if (i < 0)
		refuse("QEMU has mapped a memory backend that is not on its command line "
		       "(object-add, or a file given to -readconfig): name it there");
	else
		backend_mapped((size_t)i, m, fd);
	return true;
}

void memory_mapped(void *address, size_t length, int prot, int flags, int fd, off_t offset)
{
	struct mapping m = {.address = address,
	                    .length_bytes = length,
	                    .offset_bytes = (uint64_t)offset,
	                    .fd = -1};
	int type = flags & MAP_TYPE;
	bool is_new;

	if (fd < 0 || !(prot & PROT_WRITE))
		return;
	pthread_mutex_lock(&lock);
	is_new = mapped_locked(&m, type == MAP_SHARED || type == MAP_SHARED_VALIDATE, fd);
	pthread_mutex_unlock(&lock);
	if (is_new)
		server_start();
}

/* Memory that is unplugged. Only what is unmapped as a whole is QEMU's doing. */
void memory_unmapped(void *address, size_t length)
{
	pthread_mutex_lock(&lock);
	for (size_t i = 0; i < command_line.n_backends; i++) {
		struct mapping *m = &mappings[i];
		uintptr_t start = (uintptr_t)m->address, from = (uintptr_t)address;

		if (!m->address || from > start || from + length < start + m->length_bytes)
			continue;
		close_fd(&m->fd);
		m->address = NULL;
	}
	pthread_mutex_unlock(&lock);
}

bool memory_is_at(const void *address, size_t length)
{
	bool found = false;

	pthread_mutex_lock(&lock);
	for (size_t i = 0; i < command_line.n_backends; i++)
		found = found || overlaps(&mappings[i], address, length);
	pthread_mutex_unlock(&lock);
	return found;
}

void memory_arrived(bool lost_some)
{
	pthread_mutex_lock(&lock);
	close_fd(&uffd);
	pthread_mutex_unlock(&lock);
	atomic_store(&whole, !lost_some);
}

bool memory_is_whole(void)
{
	return !command_line.incoming || atomic_load(&whole);
}

bool memory_has_file(int fd)
{
	struct stat of, st;
	bool found = false;

	if (fstat(fd, &of) < 0 || !S_ISREG(of.st_mode))
		return false;
	pthread_mutex_lock(&lock);
	for (size_t i = 0; i < command_line.n_backends && !found; i++)
		found = mappings[i].address && fstat(mappings[i].fd, &st) == 0 &&
		        st.st_dev == of.st_dev && st.st_ino == of.st_ino;
	pthread_mutex_unlock(&lock);
	return found;
}

/* Addresses that both hosts agree about: one backend after the other. */
static void addresses_assign(struct mapping *m, size_t n)
{
	uint64_t next = 0;

	for (size_t i = 0; i < n; i++) {
		m[i].gpa = align_up(next, m[i].page_size_bytes);
		next = m[i].gpa + m[i].length_bytes;
	}
}

int memory_copy(struct mapping *ret, size_t *ret_n, struct error *err)
{
	size_t n = 0;
	int r = refusal_check(err);

	if (r < 0)
		return r;
	pthread_mutex_lock(&lock);
	for (size_t i = 0; i < command_line.n_backends; i++) {
		if (mappings[i].address)
			ret[n++] = mappings[i];
		else if (!mapped_once[i])
			r = error_set(err, -EAGAIN,
			              "QEMU has not mapped memory backend %s yet: ask again when "
			              "its monitor answers",
			              command_line.backends[i].id);
	}
	pthread_mutex_unlock(&lock);
	if (r == 0 && n == 0)
		r = error_set(err, -ENOENT, "QEMU has mapped no memory backend");
	if (r < 0)
		return r;
	addresses_assign(ret, n);
	*ret_n = n;
	return 0;
}

int memory_check_empty(const struct mapping *m, size_t n, struct error *err)
{
	int r = 0;

	for (size_t i = 0; i < n && r == 0; i++)
		r = mapping_check_empty(&m[i], err);
	return r;
}

int memory_uffd(void)
{
	int fd;

	pthread_mutex_lock(&lock);
	fd = uffd;
	pthread_mutex_unlock(&lock);
	return fd;
}
