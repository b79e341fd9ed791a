/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bench-floor: what the real programs are compared with. Each subcommand
 * measures one thing that no implementation can avoid, with as little code
 * around it as works, and prints one JSON object.
 */
#ifndef BENCH_FLOOR_FLOOR_H
#define BENCH_FLOOR_FLOOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/content.h"
#include "common/latency.h"

#define FLOOR_WARMUP 200 /* samples that are not counted */

struct floor_options {
	const char *pki;          /* directory of make-pki.sh */
	const char *address;      /* of the TLS server */
	const char *server_netns; /* NULL: ours */
	bool memfd;               /* memory of the faulting process; else anonymous */
	size_t samples;           /* a thread */
	unsigned threads;
	unsigned connections;
	uint64_t bytes;
	int cpu;               /* spin */
	const char *netns[2];  /* wan: where the two ends are */
	const char *inside[2]; /* wan: their addresses, with the prefix length */
	unsigned delay_us;     /* wan: each way */
	unsigned loss_permille;
};

/* The subcommands: exit status. */
int floor_fault(const struct floor_options *o);  /* another process answers with COPY at once */
int floor_ping(const struct floor_options *o);   /* 32 bytes there, 4232 back, TLS 1.3 */
int floor_faults(const struct floor_options *o); /* faults over TLS, without daemon and protobuf */
int floor_pipe(const struct floor_options *o);   /* TLS one way */
int floor_copy(const struct floor_options *o);   /* the same, and each byte placed by COPY */
int floor_spin(const struct floor_options *o);   /* keep a CPU from halting */
int floor_wan(const struct floor_options *o);    /* a link with delay and loss */
int floor_warm(const struct floor_options *o);   /* free memory that is really there */

/* Forked; the child dies with its parent. Ends the program where fork() fails. */
pid_t floor_fork(void);
/* Say why and end the program. */
void floor_die(const char *what) __attribute__((noreturn));

#endif
