/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guest on the destination: attached, and then whatever stdin says:
 *   touch THREADS SAMPLES PACE_US sleep|spin
 *                                   fault; prints "touched {...}" at the end
 *   stop                            end the touching
 *   verify                          check every page; prints "wrong N"
 *   random READS                    read words here and there; prints "random {...}"
 *   collapse                        make huge pages; prints "collapsed {...}"
 * Prints "state NAME NANOSECONDS" (CLOCK_MONOTONIC) for each state. The
 * touching ends with the migration. The program ends with stdin.
 */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "guest/guest.h"

static int attach(struct guest *g)
{
	struct postcopy_region regions[GUEST_REGIONS_MAX];
	int ret;

	for (unsigned i = 0; i < g->n_uffds; i++) {
		g->uffds[i] = postcopy_uffd_open(0);
		if (g->uffds[i] < 0)
			return fprintf(stderr, "bench-guest: userfaultfd: %s\n",
			               strerror(-g->uffds[i])),
			       -1;
	}
	guest_memory_describe(g, regions);
	ret = driven_attach(&g->driven, regions, g->n_regions, g->uffds, g->n_uffds, &g->handle);
	if (ret == 0)
		driven_event("attached", "%llu", (unsigned long long)bench_now_ns());
	return ret;
}

static int take_state(struct guest *g, struct touch *touch)
{
	struct postcopy_status status;
	int ret = postcopy_process(g->handle);

	if (ret < 0)
		return fprintf(stderr, "bench-guest: the daemon has gone\n"), ret;
	postcopy_get_status(g->handle, &status);
	if (ret > 0)
		driven_event("state", "%s %llu %s", status.name, (unsigned long long)bench_now_ns(),
		             status.text);
	if (status.final)
		touch_stop(touch);
	return 0;
}

static void verify(const struct guest *g)
{
	uint64_t wrong = 0;

	for (uint64_t page = 0; page < guest_n_pages(g); page++)
		wrong += !guest_page_is_right(g, page);
	driven_event("wrong", "%llu", (unsigned long long)wrong);
}

static size_t split(char *line, char *words[], size_t max)
{
	char *save = NULL;
	size_t n = 0;

	for (char *word = strtok_r(line, " \n", &save); word && n < max;
	     word = strtok_r(NULL, " \n", &save))
		words[n++] = word;
	return n;
}

static int obey(const struct guest *g, struct touch *touch, char *line)
{
	char *words[5];
	size_t n = split(line, words, 5);

	if (n == 5 && !strcmp(words[0], "touch")) {
		struct touch_plan plan = {
		        (unsigned)strtoul(words[1], NULL, 0), strtoul(words[2], NULL, 0),
		        (unsigned)strtoul(words[3], NULL, 0), !strcmp(words[4], "spin")};

		if (plan.threads && plan.samples)
			return touch_start(touch, &plan);
	} else if (n == 1 && !strcmp(words[0], "stop")) {
		return touch_stop(touch), 0;
	} else if (n == 1 && !strcmp(words[0], "verify")) {
		return verify(g), 0;
	} else if (n == 2 && !strcmp(words[0], "random")) {
		return huge_random(g, strtoull(words[1], NULL, 0)), 0;
	} else if (n == 1 && !strcmp(words[0], "collapse")) {
		return huge_collapse(g);
	}
	return fprintf(stderr, "bench-guest: cannot do this: %s\n", n ? words[0] : ""), -1;
}

static int run(struct guest *g, struct touch *touch)
{
	struct pollfd fds[3] = {{.fd = STDIN_FILENO, .events = POLLIN},
	                        {.fd = postcopy_fd(g->handle), .events = POLLIN},
	                        {.fd = touch_fd(touch), .events = POLLIN}};
	char line[256];

	for (;;) {
		ssize_t n;

		if (take_state(g, touch) < 0 || poll(fds, 3, -1) < 0)
			return 1;
		if (fds[2].revents)
			touch_report(touch);
		if (!fds[0].revents)
			continue;
		/* The driver waits for the answer to each line before it sends another. */
		n = read(STDIN_FILENO, line, sizeof(line) - 1);
		if (n <= 0)
			return 0;
		line[n] = '\0';
		if (obey(g, touch, line) < 0)
			return 1;
	}
}

int guest_destination_run(struct guest *g)
{
	struct touch *touch;
	int status;

	if (touch_new(g, &touch) < 0 || attach(g) < 0)
		return 1;
	status = run(g, touch);
	/* Threads may hang in faults that nobody will answer: leave at once. */
	_exit(status);
}
