/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The destination's side of the test guest: maps its memory, hands it to
 * postcopyd, touches every page from several threads while it arrives, and
 * checks everything again when the migration has completed.
 *
 * Prints "name value" lines; exits non-zero when a single byte is wrong or a
 * page is lost or healthy that must not be.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "core/uffd_abi.h"
#include "support/guest.h"
#include "support/guest_touch.h"

static uint64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

/* As a VMM that does the handshake itself, like Firecracker. */
static int register_regions(const struct guest *g, const int *uffds)
{
	struct uffdio_api api;

	for (unsigned i = 0; i < g->n_uffds; i++) {
		api = (struct uffdio_api){.api = UFFD_API, .features = UFFD_FEATURE_POISON};
		if (g->events)
			api.features |= UFFD_FEATURE_EVENT_REMAP | UFFD_FEATURE_EVENT_UNMAP |
			                UFFD_FEATURE_EVENT_REMOVE;
		if (ioctl(uffds[i], UFFDIO_API, &api) < 0)
			return -errno;
	}
	for (size_t i = 0; i < g->n_regions; i++) {
		const struct guest_region *r = &g->regions[i];
		bool minor = r->kind == GUEST_MEMFD_MINOR || r->kind == GUEST_HUGETLB_MINOR;
		struct uffdio_register reg = {
		        .range = {(uintptr_t)r->address, r->length},
		        .mode = UFFDIO_REGISTER_MODE_MISSING |
		                (minor ? UFFDIO_REGISTER_MODE_MINOR : 0),
		};

		if (ioctl(uffds[i % g->n_uffds], UFFDIO_REGISTER, &reg) < 0)
			return -errno;
	}
	return 0;
}

static int open_uffds(const struct guest *g, int *ret_uffds)
{
	int ret = 0;

	for (unsigned i = 0; i < g->n_uffds && ret == 0; i++) {
		ret_uffds[i] = postcopy_uffd_open(0);
		if (ret_uffds[i] < 0)
			ret = ret_uffds[i];
	}
	if (ret == 0 && g->registered)
		ret = register_regions(g, ret_uffds);
	if (ret < 0)
		fprintf(stderr, "testguest: userfaultfd: %s\n", strerror(-ret));
	return ret;
}

static int attach(struct guest *g, const int *uffds)
{
	struct postcopy_region regions[GUEST_REGIONS_MAX];
	int ret;

	guest_regions_describe(g, regions);
	ret = driven_attach(&g->driven, regions, g->n_regions, uffds, g->n_uffds, &g->handle);
	if (ret == 0)
		driven_event("attached", "%llu", (unsigned long long)g->n_pages);
	return ret;
}

static int report_state(struct guest *g)
{
	struct postcopy_status status;

	postcopy_get_status(g->handle, &status);
	driven_event("state", "%s %s", status.name, status.text);
	return GUEST_STATE;
}

static int wait_for(struct guest *g, enum postcopy_state state)
{
	int ret = postcopy_wait(g->handle, POSTCOPY_STATE_BIT(state), -1);

	if (ret == 0)
		return driven_event("state", "%s", postcopy_strstate(state)), 0;
	return report_state(g);
}

/*
 * Wait until all threads have touched what they had to, or the migration has
 * ended badly. A daemon that dies ends nothing: its guest lives and waits.
 */
static int wait_for_touch(struct guest *g, struct guest_touch *touch)
{
	bool gone = false;

	while (!guest_touch_done(touch, 50)) {
		int ret = postcopy_wait(g->handle,
		                        POSTCOPY_STATE_BIT(POSTCOPY_STATE_FAILED) |
		                                POSTCOPY_STATE_BIT(POSTCOPY_STATE_CANCELLED),
		                        0);

		/* Completed is final, too: the threads find everything there. */
		if (ret == 0 && !g->relaying)
			return report_state(g);
		if (ret == -ECONNRESET && !gone) {
			driven_event("gone", "%s", strerror(-ret));
			gone = true;
		}
	}
	return 0;
}

static int run_threads(struct guest *g, struct guest_touch *touch)
{
	uint64_t started = now_ms();
	int ret;

	if (!g->eager && (ret = wait_for(g, POSTCOPY_STATE_POSTCOPY_ACTIVE)) != 0)
		return ret;
	if (guest_touch_start(touch) < 0)
		return GUEST_USAGE;
	ret = wait_for_touch(g, touch);
	if (ret == 0)
		driven_event("touch-ms", "%llu", (unsigned long long)(now_ms() - started));
	return ret;
}

int guest_destination_run(struct guest *g)
{
	int uffds[POSTCOPY_UFFDS_MAX], status;
	struct guest_touch *touch;

	if (open_uffds(g, uffds) < 0)
		return GUEST_SKIP;
	if (attach(g, uffds) < 0)
		return GUEST_REFUSED;
	if (guest_touch_new(g, &touch) < 0)
		return GUEST_USAGE;
	status = run_threads(g, touch);
	if (status == 0)
		status = wait_for(g, POSTCOPY_STATE_COMPLETED);
	/* Threads may still hang in faults that nobody will answer: leave at once. */
	if (status != 0)
		_exit(status);
	if (g->stay && getchar() == EOF) /* the driver's word, or its end */
		driven_event("alone", "%d", 0);
	/* Nothing stands between the memory and the guest any more. */
	for (unsigned i = 0; i < g->n_uffds; i++)
		close(uffds[i]);
	if (g->collapse && guest_collapse(g) < 0)
		return GUEST_REFUSED;
	if (postcopy_close(g->handle, 0) < 0)
		return GUEST_STATE;
	status = guest_touch_verify(touch) ? GUEST_WRONG : GUEST_OK;
	guest_touch_free(touch);
	driven_event("exit", "%d", status);
	return status;
}
