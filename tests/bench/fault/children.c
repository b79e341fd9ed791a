/* SPDX-License-Identifier: Apache-2.0 */
/* Processes of the benchmark: floors, spinners, daemons. Called by main.c and the cases. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "bench.h"

uint64_t bench_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000U + (uint64_t)ts.tv_nsec;
}

pid_t bench_fork(struct bench *b)
{
	pid_t parent = getpid(), pid;

	if (b->n_children == BENCH_CHILDREN_MAX)
		return -EAGAIN;
	pid = fork();
	if (pid < 0)
		return -errno;
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != parent)
			_exit(1);
		return 0;
	}
	b->children[b->n_children++] = pid;
	return pid;
}

static void exec_logged(const struct bench *b, const char *name, const char *const argv[])
{
	char path[128];
	int in = open("/dev/null", O_RDONLY | O_CLOEXEC), out;

	snprintf(path, sizeof(path), "%s/%s.log", b->dir, name);
	out = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	if (in < 0 || out < 0 || dup2(in, 0) < 0 || dup2(out, 1) < 0 || dup2(out, 2) < 0)
		_exit(126);
	execv(argv[0], (char *const *)(const void *)argv);
	_exit(127);
}

int bench_spawn(struct bench *b, const char *name, const char *const argv[])
{
	pid_t pid = bench_fork(b);

	if (pid == 0)
		exec_logged(b, name, argv);
	return pid < 0 ? pid : 0;
}

int bench_run(struct bench *b, const char *name, const char *const argv[])
{
	pid_t pid = bench_fork(b);
	int status;

	if (pid < 0)
		return pid;
	if (pid == 0)
		exec_logged(b, name, argv);
	b->n_children--;
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return -errno;
	return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -ECHILD;
}

static void spin(size_t cpu)
{
	struct sched_param param = {0};
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set) < 0 ||
	    sched_setscheduler(0, SCHED_IDLE, &param) < 0)
		_exit(1);
	for (;;)
		__asm__ volatile("" ::: "memory");
}

int bench_start_spinners(struct bench *b)
{
	long n = sysconf(_SC_NPROCESSORS_ONLN);

	for (long cpu = 0; cpu < n && cpu < BENCH_CHILDREN_MAX - 32; cpu++) {
		pid_t pid = bench_fork(b);

		if (pid == 0)
			spin((size_t)cpu);
		if (pid < 0)
			return pid;
	}
	return 0;
}

void bench_end_children(struct bench *b)
{
	while (b->n_children) {
		pid_t pid = b->children[--b->n_children];

		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
	}
}

void bench_print_log(const struct bench *b, const char *name)
{
	char path[128], line[1024];
	FILE *file;

	snprintf(path, sizeof(path), "%s/%s.log", b->dir, name);
	file = fopen(path, "re");
	if (!file)
		return;
	fprintf(stderr, "--- %s\n", name);
	while (fgets(line, sizeof(line), file))
		fputs(line, stderr);
	fclose(file);
}
