/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guest on the source: filled, exported, and frozen when stdin says
 * "freeze"; before that it may be told "random READS".
 */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "guest/guest.h"

static int export(struct guest *g)
{
	struct postcopy_region regions[GUEST_REGIONS_MAX];
	int ret;

	guest_memory_describe(g, regions);
	ret = driven_export(&g->driven, regions, g->n_regions, &g->handle);
	if (ret == 0)
		driven_event("exported", "%llu", (unsigned long long)guest_n_pages(g));
	return ret;
}

static int freeze(struct guest *g)
{
	int ret = driven_freeze(g->handle);

	if (ret == 0)
		driven_event("frozen", "%llu", (unsigned long long)bench_now_ns());
	return ret;
}

/* Until the destination has everything, or stdin ends. */
static int serve(struct guest *g)
{
	struct pollfd fds[2] = {{.fd = STDIN_FILENO, .events = POLLIN},
	                        {.fd = postcopy_fd(g->handle), .events = POLLIN}};
	struct postcopy_status status;
	char line[64];
	ssize_t n;

	for (;;) {
		if (postcopy_process(g->handle) < 0)
			return 1;
		postcopy_get_status(g->handle, &status);
		if (status.final) {
			driven_event("state", "%s", status.name);
			return status.state == POSTCOPY_STATE_RELEASED ? 0 : 1;
		}
		if (poll(fds, 2, -1) < 0)
			return 1;
		if (!fds[0].revents)
			continue;
		n = read(STDIN_FILENO, line, sizeof(line) - 1);
		if (n <= 0)
			return 0;
		line[n] = '\0';
		if (strncmp(line, "freeze", 6) == 0 && freeze(g) < 0)
			return 1;
		if (strncmp(line, "random ", 7) == 0)
			huge_random(g, strtoull(line + 7, NULL, 0));
	}
}

int guest_source_run(struct guest *g)
{
	int status;

	guest_memory_fill(g);
	if (g->huge)
		huge_make(g);
	if (export(g) < 0)
		return 1;
	status = serve(g);
	postcopy_close(g->handle, POSTCOPY_CLOSE_FORCE);
	return status;
}
