/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The fault benchmark: three things measured in one run, round by round, so
 * that whatever the machine does meets all of them alike.
 */
#ifndef BENCH_FAULT_BENCH_H
#define BENCH_FAULT_BENCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define BENCH_CHILDREN_MAX 512
#define BENCH_PAGE 4096U

struct bench {
	size_t rounds;
	size_t samples; /* a round */
	bool memfd;     /* memory of the faulting process; else anonymous */
	int cpu;        /* everything but the spinners runs on it; -1: anywhere */
	bool json;
	double limit; /* of the ratio, for --check; 0: only tell */
	char dir[64]; /* private: keys, sockets, logs */
	pid_t children[BENCH_CHILDREN_MAX];
	size_t n_children;
	size_t dropped; /* samples of pages that the stream had brought already */
};

/* One of the three. Set up once, then called in each round. */
struct bench_case {
	const char *name;
	const char *what;
	int (*setup)(struct bench *b);
	/* Fill ret_ns with b->samples latencies. 0 or -errno. */
	int (*round)(struct bench *b, uint64_t *ret_ns);
};

extern const struct bench_case floor_fault; /* another process answers with UFFDIO_COPY at once */
extern const struct bench_case floor_tls;   /* 32 bytes there, 4232 bytes back over TLS 1.3 */
extern const struct bench_case end_to_end;  /* the real programs */

uint64_t bench_now_ns(void);

/* children.c: all end with the benchmark. */
/* As fork(); the child also dies with its parent. */
pid_t bench_fork(struct bench *b);
/* Run a program; its output goes to DIR/NAME.log. stdin: /dev/null. */
int bench_spawn(struct bench *b, const char *name, const char *const argv[]);
/* The same, and wait for its end: 0 if it succeeded. */
int bench_run(struct bench *b, const char *name, const char *const argv[]);
/* One busy loop a CPU in SCHED_IDLE: no CPU halts, so no wake-up waits for the hypervisor. */
int bench_start_spinners(struct bench *b);
void bench_end_children(struct bench *b);
void bench_print_log(const struct bench *b, const char *name);

/* report.c */
#define BENCH_CASES 3
struct bench_result {
	double p50_us, p99_us; /* medians over the rounds */
};
/* samples[c][r * b->samples ..]: sorts them. Returns the ratio end to end / (fault + ping) at p50. */
double bench_report(const struct bench *b, const struct bench_case *const cases[BENCH_CASES],
                    uint64_t *samples[BENCH_CASES]);

#endif
