/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tries what the kernel does with poison: in a child, which reports its facts
 * through a pipe and may die of anything. Called by the probe command and by
 * tests; words are probe_words.c's.
 */
#include "ctl/probe.h"

#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/cleanup.h"
#include "core/uffd_abi.h"
#include "core/uffd_open.h"

#define SMALL_PAGE 4096
#define HUGE_PAGE (2 * 1024 * 1024)
/* A kernel that took the poison but lets the access wait: the child ends itself. */
#define CHILD_SECONDS_MAX 5

#ifndef MFD_HUGE_2MB
#define MFD_HUGE_2MB (21U << 26)
#endif

static sigjmp_buf bus_return;
static volatile sig_atomic_t bus_code, bus_lsb;

static void bus_handler(int signal_number, siginfo_t *info, void *context)
{
	(void)signal_number;
	(void)context;
	bus_code = info->si_code;
	bus_lsb = info->si_code == BUS_MCEERR_AR ? info->si_addr_lsb : 0;
	siglongjmp(bus_return, 1);
}

/* Two small pages or a huge one. MAP_FAILED and errno. */
static void *scratch_map(enum probe_memory memory, size_t *ret_len)
{
	_cleanup_close_ int fd = -1;
	void *p;

	*ret_len = memory == PROBE_HUGETLB ? HUGE_PAGE : 2 * SMALL_PAGE;
	if (memory == PROBE_ANONYMOUS)
		return mmap(NULL, *ret_len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
		            0);
	fd = memfd_create("postcopyctl-probe",
	                  MFD_CLOEXEC | (memory == PROBE_HUGETLB ? MFD_HUGETLB | MFD_HUGE_2MB : 0));
	if (fd < 0 || ftruncate(fd, (off_t)*ret_len) < 0)
		return MAP_FAILED;
	p = mmap(NULL, *ret_len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	return p;
}

/* A userfaultfd that has what the kernel has of poison, over the mapping; or -errno. */
static int scratch_register(void *p, size_t len, bool *ret_advertised)
{
	_cleanup_close_ int uffd = -1;
	struct uffdio_register reg = {.range = {.start = (uintptr_t)p, .len = len},
	                              .mode = UFFDIO_REGISTER_MODE_MISSING};
	uint64_t features;
	int r = uffd_features(&features);

	if (r < 0)
		return r;
	*ret_advertised = (features & UFFD_FEATURE_POISON) != 0;
	/* Features are settled once for each descriptor, so asking for this one takes another. */
	uffd = uffd_open();
	if (uffd < 0)
		return uffd;
	r = uffd_negotiate(uffd, *ret_advertised ? UFFD_FEATURE_POISON : 0, &features);
	if (r < 0)
		return r;
	if (ioctl(uffd, UFFDIO_REGISTER, &reg) < 0)
		return -errno;
	return TAKE_FD(uffd);
}

static void access_try(const void *p, struct probe_facts *facts)
{
	struct sigaction action = {.sa_sigaction = bus_handler, .sa_flags = SA_SIGINFO};

	sigaction(SIGBUS, &action, NULL);
	if (sigsetjmp(bus_return, 1) == 0) {
		(void)*(const volatile char *)p;
		return;
	}
	facts->sigbus = true;
	facts->sigbus_code = bus_code;
	facts->sigbus_lsb = bus_lsb;
}

static void poison_try(int uffd, void *p, size_t page, struct probe_facts *facts)
{
	struct uffdio_poison poison = {.range = {.start = (uintptr_t)p, .len = page}};
	struct uffdio_copy copy = {.dst = (uintptr_t)p, .len = page};
	void *data;

	if (ioctl(uffd, UFFDIO_POISON, &poison) < 0) {
		facts->poison_error = errno;
		return;
	}
	access_try(p, facts);
	data = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	copy.src = (uintptr_t)data;
	if (data == MAP_FAILED || ioctl(uffd, UFFDIO_COPY, &copy) < 0)
		facts->copy_error = errno;
}

static void child_run(enum probe_memory memory, struct probe_facts *facts)
{
	size_t len;
	void *p = scratch_map(memory, &len);
	int uffd;

	if (p == MAP_FAILED) {
		facts->map_error = errno;
		return;
	}
	uffd = scratch_register(p, len, &facts->advertised);
	if (uffd < 0) {
		facts->uffd_error = -uffd;
		return;
	}
	poison_try(uffd, p, memory == PROBE_HUGETLB ? HUGE_PAGE : SMALL_PAGE, facts);
	close(uffd);
}

/* The facts, or by which signal the child died without any. */
static void child_collect(pid_t child, int pipe_fd, struct probe_facts *ret)
{
	struct probe_facts facts = {0};
	ssize_t n;
	int status = 0;

	do {
		n = read(pipe_fd, &facts, sizeof(facts));
	} while (n < 0 && errno == EINTR);
	while (waitpid(child, &status, 0) < 0 && errno == EINTR)
		;
	if (n != (ssize_t)sizeof(facts)) {
		memset(&facts, 0, sizeof(facts));
		facts.signal = WIFSIGNALED(status) ? WTERMSIG(status) : SIGABRT;
	}
	*ret = facts;
}

void probe_memory_try(enum probe_memory memory, struct probe_facts *ret)
{
	struct probe_facts facts = {0};
	int fds[2];
	pid_t child;

	*ret = facts;
	if (pipe2(fds, O_CLOEXEC) < 0) {
		ret->map_error = errno;
		return;
	}
	child = fork();
	if (child == 0) {
		alarm(CHILD_SECONDS_MAX);
		child_run(memory, &facts);
		_exit(write(fds[1], &facts, sizeof(facts)) == (ssize_t)sizeof(facts) ? 0 : 1);
	}
	close(fds[1]);
	if (child < 0)
		ret->map_error = errno;
	else
		child_collect(child, fds[0], ret);
	close(fds[0]);
}

/* 0 or an errno; the descriptor is not kept. */
static int open_error(int fd)
{
	if (fd < 0)
		return -fd;
	close(fd);
	return 0;
}

static const char *user_name(char *buf, size_t buf_len)
{
	const struct passwd *pw = getpwuid(geteuid());

	snprintf(buf, buf_len, "%s", pw ? pw->pw_name : "");
	if (!pw)
		snprintf(buf, buf_len, "%u", (unsigned)geteuid());
	return buf;
}

static bool works(const struct probe_facts *f)
{
	return !f->map_error && !f->uffd_error && !f->signal && !f->poison_error && f->sigbus;
}

void probe_run_all(struct probe_report *ret)
{
	struct utsname kernel = {0};
	char user[64];

	memset(ret, 0, sizeof(*ret));
	uname(&kernel);
	probe_describe_permission(open_error(uffd_open_device()), open_error(uffd_open_syscall()),
	                          user_name(user, sizeof(user)), ret);
	ret->poison_works = true;
	for (int memory = PROBE_ANONYMOUS; memory <= PROBE_HUGETLB; memory++) {
		struct probe_facts facts;

		probe_memory_try((enum probe_memory)memory, &facts);
		probe_describe((enum probe_memory)memory, &facts, kernel.release,
		               &ret->results[ret->n_results++]);
		if (memory != PROBE_HUGETLB && !works(&facts))
			ret->poison_works = false;
	}
}
