/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bench-fault: how much our fault costs above what it must cost. Sets the three
 * cases up, then runs them round by round, interleaved.
 */
#include <getopt.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench.h"

#define GOAL 1.5

static struct bench bench = {.rounds = 9, .samples = 3000, .cpu = 0};

static const struct bench_case *const cases[BENCH_CASES] = {&floor_fault, &floor_tls, &end_to_end};

static const char usage_text[] =
        "usage: bench-fault [options]\n"
        "  --rounds N          interleaved rounds, at least 7 (default 9)\n"
        "  --samples N         of each case in a round (default 3000)\n"
        "  --memory anon|memfd of the faulting process (default anon)\n"
        "  --cpu N|any         all processes on one CPU (default 0), or where the kernel likes\n"
        "  --quick             7 rounds of 1000\n"
        "  --json              one line for a machine\n"
        "  --check [RATIO]     exit status 1 if the p50 ratio is above (default 1.5)\n";

static const struct option options[] = {
        {"rounds", required_argument, NULL, 'r'}, {"samples", required_argument, NULL, 's'},
        {"memory", required_argument, NULL, 'm'}, {"cpu", required_argument, NULL, 'c'},
        {"quick", no_argument, NULL, 'q'},        {"json", no_argument, NULL, 'j'},
        {"check", optional_argument, NULL, 'k'},  {NULL, 0, NULL, 0},
};

static int take_option(int option)
{
	switch (option) {
	case 'r':
		bench.rounds = strtoul(optarg, NULL, 0);
		return 0;
	case 's':
		bench.samples = strtoul(optarg, NULL, 0);
		return 0;
	case 'm':
		bench.memfd = !strcmp(optarg, "memfd");
		return bench.memfd || !strcmp(optarg, "anon") ? 0 : -1;
	case 'c':
		bench.cpu = strcmp(optarg, "any") ? atoi(optarg) : -1;
		return 0;
	case 'q':
		bench.rounds = 7;
		bench.samples = 1000;
		return 0;
	case 'j':
		bench.json = true;
		return 0;
	case 'k':
		bench.limit = optarg ? atof(optarg) : GOAL;
		return 0;
	default:
		return -1;
	}
}

static void clean_up(void)
{
	bench_end_children(&bench);
	if (bench.dir[0]) {
		pid_t pid = fork();

		if (pid == 0)
			execlp("rm", "rm", "-rf", bench.dir, (char *)NULL);
		if (pid > 0)
			waitpid(pid, NULL, 0);
	}
}

static void on_signal(int sig)
{
	(void)sig;
	clean_up(); /* nothing in it that a handler may not call */
	_exit(1);
}

static int set_up(void)
{
	char pki[96];
	cpu_set_t set;
	int ret = 0;

	strcpy(bench.dir, "/tmp/postcopy-bench-XXXXXX");
	if (!mkdtemp(bench.dir))
		return -1;
	ret = bench_start_spinners(&bench);
	if (ret == 0 && bench.cpu >= 0) {
		CPU_ZERO(&set);
		CPU_SET((size_t)bench.cpu, &set);
		ret = sched_setaffinity(0, sizeof(set), &set);
	}
	snprintf(pki, sizeof(pki), "%s/pki", bench.dir);
	ret = ret ? ret
	          : bench_run(&bench, "pki", (const char *const[]){"/bin/sh", MAKE_PKI, pki, NULL});
	if (ret)
		bench_print_log(&bench, "pki");
	for (size_t c = 0; c < BENCH_CASES && ret == 0; c++) {
		ret = cases[c]->setup(&bench);
		if (ret)
			fprintf(stderr, "bench-fault: %s: %s\n", cases[c]->name, strerror(-ret));
	}
	return ret;
}

static int run_rounds(uint64_t *samples[BENCH_CASES])
{
	for (size_t r = 0; r < bench.rounds; r++) {
		for (size_t i = 0; i < BENCH_CASES; i++) {
			/* Another order each round: nobody always runs after the same neighbour. */
			size_t c = (i + r) % BENCH_CASES;
			int ret = cases[c]->round(&bench, samples[c] + r * bench.samples);

			if (ret < 0)
				return fprintf(stderr, "bench-fault: %s: %s\n", cases[c]->name,
				               strerror(-ret)),
				       ret;
		}
	}
	return 0;
}

int main(int argc, char **argv)
{
	uint64_t *samples[BENCH_CASES];
	double ratio;
	int option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1)
		if (take_option(option) < 0)
			return fputs(usage_text, stderr), 2;
	if (bench.rounds < 7 || bench.samples < 100 || optind != argc)
		return fputs(usage_text, stderr), 2;
	for (size_t c = 0; c < BENCH_CASES; c++)
		if (!(samples[c] = calloc(bench.rounds * bench.samples, sizeof(uint64_t))))
			return 2;
	atexit(clean_up);
	signal(SIGINT, on_signal);
	signal(SIGTERM, on_signal);
	if (set_up() || run_rounds(samples))
		return 2;
	ratio = bench_report(&bench, cases, samples);
	if (!bench.json)
		printf("%s: p50 ratio %.2f, goal at most %.2f\n",
		       ratio <= (bench.limit > 0 ? bench.limit : GOAL) ? "good" : "missed", ratio,
		       bench.limit > 0 ? bench.limit : GOAL);
	return bench.limit > 0 && ratio > bench.limit;
}
