/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory of every kind under a real userfaultfd, for the tests of the fault
 * path: this process is guest and daemon at once. A touch that ends in SIGBUS
 * is a result, not the end of the test.
 */
#ifndef TESTS_UNIT_DAEMON_GUEST_MEMORY_H
#define TESTS_UNIT_DAEMON_GUEST_MEMORY_H

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/mount.h>

#include "core/cleanup.h"
#include "core/uffd_abi.h"
#include "core/uffd_open.h"
#include "core/units.h"
#include "daemon/uffd.h"

/* A test of larger huge pages defines it before. */
#ifndef HUGE_SHIFT
#define HUGE_SHIFT 21
#endif
#define HUGE_BYTES (UINT64_C(1) << HUGE_SHIFT)
#define TEST_SKIPPED 77

enum memory_kind {
	MEMORY_ANON,
	MEMORY_MEMFD,
	MEMORY_MEMFD_MINOR,
	MEMORY_HUGETLB,
	MEMORY_HUGETLB_MINOR,
	MEMORY_KINDS_
};

struct guest_memory {
	enum memory_kind kind;
	int uffd;
	int memfd; /* -1 for anonymous memory */
	uint8_t *base;
	uint64_t length_bytes;
	unsigned unit_shift;
	bool zeropage;
};

static inline bool memory_is_huge(enum memory_kind kind)
{
	return kind == MEMORY_HUGETLB || kind == MEMORY_HUGETLB_MINOR;
}

static inline bool memory_is_minor(enum memory_kind kind)
{
	return kind == MEMORY_MEMFD_MINOR || kind == MEMORY_HUGETLB_MINOR;
}

/* ---- touching ---- */

static _Thread_local sigjmp_buf touch_env;
static _Thread_local volatile sig_atomic_t touch_armed;
static _Thread_local volatile int touch_code; /* si_code of the last SIGBUS */

static inline void touch_on_sigbus(int signal_number, siginfo_t *info, void *context)
{
	(void)context;
	if (!touch_armed) {
		signal(signal_number, SIG_DFL);
		raise(signal_number);
		return;
	}
	touch_code = info->si_code;
	siglongjmp(touch_env, 1);
}

/* At every touch: cmocka installs a handler of its own for each test. */
static inline void touch_init(void)
{
	/* NODEFER: under TSan the jump out of the handler does not unblock the signal. */
	struct sigaction action = {.sa_sigaction = touch_on_sigbus,
	                           .sa_flags = SA_SIGINFO | SA_NODEFER};

	sigaction(SIGBUS, &action, NULL);
}

/* True and the byte there, or false: SIGBUS. Waits like a guest if the page is missing. */
__attribute__((no_sanitize("address", "thread"))) static inline bool touch_read(const uint8_t *at,
                                                                                uint8_t *ret)
{
	volatile bool healthy = false;

	touch_init();
	touch_armed = 1;
	if (sigsetjmp(touch_env, 1) == 0) {
		*ret = *(const volatile uint8_t *)at;
		healthy = true;
	}
	touch_armed = 0;
	return healthy;
}

__attribute__((no_sanitize("address", "thread"))) static inline bool touch_write(uint8_t *at,
                                                                                 uint8_t value)
{
	volatile bool healthy = false;

	touch_init();
	touch_armed = 1;
	if (sigsetjmp(touch_env, 1) == 0) {
		*(volatile uint8_t *)at = value;
		healthy = true;
	}
	touch_armed = 0;
	return healthy;
}

/* The SIGBUS of lost memory; BUS_ADRERR from a kernel without CONFIG_MEMORY_FAILURE. */
static inline bool touch_was_poison(void)
{
	return touch_code == BUS_MCEERR_AR || touch_code == BUS_ADRERR;
}

/* ---- huge pages ---- */

#if HUGE_SHIFT == 21
#define HUGE_DIR "/sys/kernel/mm/hugepages/hugepages-2048kB/"
#else
#define HUGE_DIR "/sys/kernel/mm/hugepages/hugepages-1048576kB/"
#endif

static inline long huge_number(const char *name)
{
	char path[128];
	long n = -1;
	FILE *f;

	snprintf(path, sizeof(path), HUGE_DIR "%s", name);
	f = fopen(path, "re");
	if (!f)
		return -1;
	if (fscanf(f, "%ld", &n) != 1)
		n = -1;
	fclose(f);
	return n;
}

static inline bool huge_set_total(long n)
{
	FILE *f = fopen(HUGE_DIR "nr_hugepages", "we");
	bool written;

	if (!f)
		return false;
	written = fprintf(f, "%ld\n", n) > 0;
	return fclose(f) == 0 && written;
}

static long huge_added; /* pages that this process put into the pool */
static int huge_lock = -1;

/* The pool is the host's: one test at a time, or they take each other's pages. */
static inline void huge_lock_take(void)
{
	if (huge_lock >= 0)
		return;
	huge_lock = open(HUGE_DIR, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (huge_lock >= 0)
		flock(huge_lock, LOCK_EX);
}

/* Have that many free huge pages; false when this host cannot give them. */
static inline bool huge_reserve(long wanted)
{
	long total, free_pages;

	huge_lock_take();
	total = huge_number("nr_hugepages");
	free_pages = huge_number("free_hugepages");
	if (total < 0 || free_pages < 0)
		return false;
	free_pages -= huge_number("resv_hugepages");
	if (free_pages >= wanted)
		return true;
	if (!huge_set_total(total + wanted - free_pages))
		return false;
	huge_added += huge_number("nr_hugepages") - total;
	return huge_number("free_hugepages") - huge_number("resv_hugepages") >= wanted;
}

static inline void huge_give_back(void)
{
	if (huge_added > 0)
		huge_set_total(huge_number("nr_hugepages") - huge_added);
	huge_added = 0;
	close_fd(&huge_lock);
}

/*
 * A file of length_bytes in a hugetlbfs of its own that has room for room_bytes:
 * it runs out of huge pages, and nobody else's pool is emptied. -1 where
 * mounting is not permitted.
 */
static inline int small_hugetlbfs_file(uint64_t room_bytes, uint64_t length_bytes)
{
	char dir[] = "/tmp/postcopyd-test-XXXXXX", path[64], options[64];
	int fd = -1;

	if (!mkdtemp(dir))
		return -1;
	snprintf(options, sizeof(options), "pagesize=2M,size=%llu", (unsigned long long)room_bytes);
	if (mount("none", dir, "hugetlbfs", 0, options) == 0) {
		snprintf(path, sizeof(path), "%s/guest", dir);
		fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
		umount2(dir, MNT_DETACH);
	}
	rmdir(dir);
	if (fd >= 0 && ftruncate(fd, (off_t)length_bytes) < 0)
		close_fd(&fd);
	return fd;
}

/* Take and give back the huge page number n of the file. */
static inline bool huge_use_one(int file, uint64_t n)
{
	return fallocate(file, 0, (off_t)(n << HUGE_SHIFT), (off_t)HUGE_BYTES) == 0;
}

static inline bool huge_give_one(int file, uint64_t n)
{
	return fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)(n << HUGE_SHIFT),
	                 (off_t)HUGE_BYTES) == 0;
}

/* ---- memory ---- */

static inline bool uffd_permitted(void)
{
	int fd = uffd_open();

	if (fd < 0) {
		printf("skipped: no userfaultfd: %s; run as root, or allow access to %s\n",
		       strerror(-fd), UFFD_DEVICE_PATH);
		return false;
	}
	close(fd);
	return true;
}

static inline bool poison_permitted(void)
{
	uint64_t features;
	int fd = uffd_open();
	bool known = fd >= 0 && uffd_negotiate(fd, UFFD_FEATURE_POISON, &features) == 0;

	close_fd(&fd);
	if (!known)
		printf("skipped: this kernel has no UFFDIO_POISON\n");
	return known;
}

static inline void *memory_map(enum memory_kind kind, uint64_t bytes, int *ret_memfd)
{
	bool huge = memory_is_huge(kind);

	*ret_memfd = -1;
	if (kind == MEMORY_ANON)
		return mmap(NULL, bytes, PROT_READ | PROT_WRITE,
		            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	*ret_memfd =
	        memfd_create("guest", MFD_CLOEXEC | (huge ? MFD_HUGETLB | HUGE_SHIFT << 26 : 0));
	if (*ret_memfd < 0 || ftruncate(*ret_memfd, (off_t)bytes) < 0)
		return MAP_FAILED;
	return mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, *ret_memfd, 0);
}

/*
 * n_units of memory, registered with a uffd of its own that has the given
 * features on. 0 or -errno.
 */
static inline int guest_memory_new(enum memory_kind kind, uint64_t n_units, uint64_t features,
                                   struct guest_memory *m)
{
	uint64_t available, ioctls;
	int rc;

	*m = (struct guest_memory){.kind = kind, .memfd = -1};
	m->unit_shift = memory_is_huge(kind) ? HUGE_SHIFT : WIRE_PAGE_SHIFT;
	m->length_bytes = n_units << m->unit_shift;
	m->uffd = uffd_open();
	if (m->uffd < 0)
		return m->uffd;
	rc = uffd_negotiate(m->uffd, features, &available);
	if (rc < 0)
		return rc;
	m->base = memory_map(kind, m->length_bytes, &m->memfd);
	if (m->base == MAP_FAILED)
		return -errno;
	/* Pages of their own: no transparent huge page may cover two units. */
	if (!memory_is_huge(kind))
		madvise(m->base, m->length_bytes, MADV_NOHUGEPAGE);
	rc = uffd_register(m->uffd, (hva_t){(uintptr_t)m->base}, m->length_bytes,
	                   memory_is_minor(kind), &ioctls, NULL);
	m->zeropage = ioctls & (UINT64_C(1) << _UFFDIO_ZEROPAGE);
	return rc;
}

static inline void guest_memory_free(struct guest_memory *m)
{
	close_fd(&m->uffd); /* first: nobody is to wait for an event any more */
	if (m->base && m->base != MAP_FAILED)
		munmap(m->base, m->length_bytes);
	m->base = NULL;
	close_fd(&m->memfd);
}

static inline uint8_t *guest_memory_at(const struct guest_memory *m, uint64_t unit)
{
	return m->base + (unit << m->unit_shift);
}

static inline hva_t guest_memory_hva(const struct guest_memory *m, uint64_t unit)
{
	return (hva_t){(uintptr_t)guest_memory_at(m, unit)};
}

#endif
