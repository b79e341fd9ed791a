/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The host in the middle: a destination's guest that moves on while its own memory is
 * still on its way here. Called by guest_touch.c when all its threads stand still, which
 * is how this guest's vCPUs are stopped.
 *
 * Before, it writes some pages anew: what is right on the next host is this version, not
 * that of the first host.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "support/guest.h"

static void rewrite_pages(struct guest *g)
{
	g->rewritten = true;
	for (uint64_t page = 0; page < g->n_pages; page++) {
		struct pattern_page pp = guest_pattern_page(g, page);

		if (guest_is_rewritten(g, page))
			pattern_fill(&pp, guest_page_address(g, page));
	}
	driven_event("rewritten", "1");
}

static int export(struct guest *g)
{
	struct postcopy_region regions[GUEST_REGIONS_MAX];
	int ret;

	guest_regions_describe(g, regions);
	g->relay.inbound = g->handle;
	ret = driven_export(&g->relay, regions, g->n_regions, &g->relay_handle);
	if (ret < 0)
		return ret;
	driven_event("exported", "%llu", (unsigned long long)g->n_pages);
	ret = driven_freeze(g->relay_handle);
	if (ret == 0)
		driven_event("frozen", "1");
	return ret;
}

/* Both connections' states as they change. -errno when the export's has ended. */
static int show_states(struct guest *g, struct postcopy_status *ret)
{
	int changed = postcopy_process(g->relay_handle);
	struct postcopy_status inbound;

	postcopy_get_status(g->relay_handle, ret);
	if (changed > 0)
		driven_event("export-state", "%s %s", ret->name, ret->text);
	if (postcopy_process(g->handle) > 0) {
		postcopy_get_status(g->handle, &inbound);
		driven_event("inbound-state", "%s %s", inbound.name, inbound.text);
	}
	return changed < 0 ? changed : 0;
}

static void obey(struct guest *g, const char *word)
{
	if (!strcmp(word, "close-inbound"))
		driven_event("close-inbound", "%s", strerror(-postcopy_close(g->handle, 0)));
}

static int serve(struct guest *g)
{
	struct pollfd fds[3] = {
	        {.fd = STDIN_FILENO, .events = POLLIN},
	        {.fd = postcopy_fd(g->relay_handle), .events = POLLIN},
	        {.fd = postcopy_fd(g->handle), .events = POLLIN},
	};
	struct postcopy_status status;
	char line[64];
	int ret;

	for (;;) {
		ret = show_states(g, &status);
		if (ret < 0) {
			driven_event("gone", "%s", strerror(-ret));
			return GUEST_STATE;
		}
		if (status.final)
			return status.state == POSTCOPY_STATE_RELEASED ? GUEST_OK : GUEST_STATE;
		if (poll(fds, 3, -1) < 0 && errno != EINTR)
			return GUEST_USAGE;
		if (fds[2].revents & (POLLHUP | POLLERR))
			fds[2].fd = -1;
		if (fds[0].revents && fgets(line, sizeof(line), stdin))
			obey(g, strtok(line, " \n"));
		else if (fds[0].revents)
			fds[0].fd = -1;
	}
}

void guest_relay_run(struct guest *g)
{
	int status;

	g->relaying = true;
	rewrite_pages(g);
	status = export(g) < 0 ? GUEST_REFUSED : serve(g);
	/* The first host shall hear that all went well: its memory may go, too. */
	if (status == GUEST_OK)
		(void)postcopy_wait(g->handle, POSTCOPY_STATE_BIT(POSTCOPY_STATE_COMPLETED), -1);
	if (g->relay_handle)
		postcopy_close(g->relay_handle, POSTCOPY_CLOSE_FORCE);
	driven_event("exit", "%d", status);
	_exit(status); /* the other threads stand still, and have left the guest */
}
