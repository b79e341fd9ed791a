/* SPDX-License-Identifier: Apache-2.0 */
/* bench-floor: command line. tests/bench/run starts one subcommand a measurement. */
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "floor/floor.h"

static const struct {
	const char *name;
	int (*run)(const struct floor_options *o);
} commands[] = {
        {"fault", floor_fault}, {"ping", floor_ping}, {"faults", floor_faults},
        {"pipe", floor_pipe},   {"copy", floor_copy}, {"spin", floor_spin},
        {"wan", floor_wan},     {"warm", floor_warm},
};

static const char usage_text[] =
        "usage: bench-floor COMMAND [options]\n"
        "  fault    a local fault that another process answers with UFFDIO_COPY\n"
        "  ping     TLS 1.3: 32 bytes there, 4232 back\n"
        "  faults   faults answered over TLS without daemon and protobuf\n"
        "  pipe     TLS one way\n"
        "  copy     the same, and what arrives is placed with UFFDIO_COPY\n"
        "  spin     a busy loop in SCHED_IDLE on one CPU\n"
        "  wan      join two network namespaces by a link with delay and loss, until it is killed\n"
        "  warm     touch so many bytes and give them back: free memory that the machine really "
        "has\n"
        "  --pki DIR --address A --server-netns PATH   of the TLS connections\n"
        "  --memory anon|memfd --samples N --threads N\n"
        "  --connections N --bytes N\n"
        "  --cpu N\n"
        "  --netns PATH --inside ADDRESS (each twice) --delay-us N --loss-permille N\n";

enum floor_option {
	OPT_PKI = 256,
	OPT_ADDRESS,
	OPT_SERVER_NETNS,
	OPT_MEMORY,
	OPT_SAMPLES,
	OPT_THREADS,
	OPT_CONNECTIONS,
	OPT_BYTES,
	OPT_CPU,
	OPT_NETNS,
	OPT_INSIDE,
	OPT_DELAY,
	OPT_LOSS,
};

static const struct option options[] = {
        {"pki", required_argument, NULL, OPT_PKI},
        {"address", required_argument, NULL, OPT_ADDRESS},
        {"server-netns", required_argument, NULL, OPT_SERVER_NETNS},
        {"memory", required_argument, NULL, OPT_MEMORY},
        {"samples", required_argument, NULL, OPT_SAMPLES},
        {"threads", required_argument, NULL, OPT_THREADS},
        {"connections", required_argument, NULL, OPT_CONNECTIONS},
        {"bytes", required_argument, NULL, OPT_BYTES},
        {"cpu", required_argument, NULL, OPT_CPU},
        {"netns", required_argument, NULL, OPT_NETNS},
        {"inside", required_argument, NULL, OPT_INSIDE},
        {"delay-us", required_argument, NULL, OPT_DELAY},
        {"loss-permille", required_argument, NULL, OPT_LOSS},
        {NULL, 0, NULL, 0},
};

#define CHILDREN_MAX 32

static pid_t children[CHILDREN_MAX];
static size_t n_children;

pid_t floor_fork(void)
{
	pid_t parent = getpid(), pid = n_children < CHILDREN_MAX ? fork() : -1;

	if (pid < 0)
		floor_die("fork");
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != parent)
			_exit(1);
		n_children = 0;
	} else {
		children[n_children++] = pid;
	}
	return pid;
}

/* Not by their parent's death alone: somebody must wait for them. */
static void end_children(void)
{
	while (n_children) {
		kill(children[--n_children], SIGKILL);
		waitpid(children[n_children], NULL, 0);
	}
}

void floor_die(const char *what)
{
	fprintf(stderr, "bench-floor: %s: %s\n", what, strerror(errno));
	_exit(1);
}

/* The first and the second time of an option that comes twice. */
static int take_pair(const char *pair[2])
{
	if (pair[0] && pair[1])
		return -1;
	pair[pair[0] ? 1 : 0] = optarg;
	return 0;
}

static int take_option(struct floor_options *o, int option)
{
	switch (option) {
	case OPT_PKI:
		return o->pki = optarg, 0;
	case OPT_ADDRESS:
		return o->address = optarg, 0;
	case OPT_SERVER_NETNS:
		return o->server_netns = optarg, 0;
	case OPT_MEMORY:
		o->memfd = !strcmp(optarg, "memfd");
		return o->memfd || !strcmp(optarg, "anon") ? 0 : -1;
	case OPT_SAMPLES:
		return (o->samples = strtoul(optarg, NULL, 0)) ? 0 : -1;
	case OPT_THREADS:
		return (o->threads = (unsigned)strtoul(optarg, NULL, 0)) ? 0 : -1;
	case OPT_CONNECTIONS:
		return (o->connections = (unsigned)strtoul(optarg, NULL, 0)) ? 0 : -1;
	case OPT_BYTES:
		return (o->bytes = strtoull(optarg, NULL, 0)) ? 0 : -1;
	case OPT_CPU:
		return o->cpu = atoi(optarg), 0;
	case OPT_NETNS:
		return take_pair(o->netns);
	case OPT_INSIDE:
		return take_pair(o->inside);
	case OPT_DELAY:
		return o->delay_us = (unsigned)strtoul(optarg, NULL, 0), 0;
	case OPT_LOSS:
		return o->loss_permille = (unsigned)strtoul(optarg, NULL, 0), 0;
	default:
		return -1;
	}
}

int main(int argc, char **argv)
{
	struct floor_options o = {
	        .address = "127.0.0.1",
	        .samples = 3000,
	        .threads = 1,
	        .connections = 1,
	        .bytes = UINT64_C(1) << 30,
	};
	int option;

	optind = 2;
	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1)
		if (take_option(&o, option) < 0)
			return fputs(usage_text, stderr), 2;
	signal(SIGPIPE, SIG_IGN);
	for (size_t i = 0; argc > 1 && optind == argc && i < sizeof(commands) / sizeof(*commands);
	     i++) {
		if (!strcmp(argv[1], commands[i].name)) {
			int status = commands[i].run(&o);

			end_children();
			return status;
		}
	}
	return fputs(usage_text, stderr), 2;
}
