/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The source's side of the test guest: fills its memory, exports it, freezes,
 * reports lost pages, and stays until the destination has everything.
 *
 * Until it freezes, every eighth page holds something else, and pages that are
 * lost hold garbage: whoever serves them shows up as wrong bytes.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/uffd_abi.h"
#include "support/guest.h"

#define OTHER_CONTENT UINT64_C(0xdeadbeef00000000)

static bool is_found_by_reading(const struct guest *g, size_t i)
{
	const struct poison_page *p = &g->plan->pages[i];
	enum guest_kind kind = g->regions[p->region].kind;

	return g->read_poison && !p->late && i % 2 == 0 &&
	       (kind == GUEST_ANONYMOUS || g->by_process);
}

static int poison_region_pages(const struct guest *g, int uffd, uint32_t region)
{
	const struct guest_region *r = &g->regions[region];

	for (size_t i = 0; i < g->plan->n_pages; i++) {
		const struct poison_page *p = &g->plan->pages[i];
		struct uffdio_poison poison = {0};

		if (p->region != region || !is_found_by_reading(g, i))
			continue;
		poison.range.start = (uintptr_t)r->address + p->page * PATTERN_PAGE;
		poison.range.len = PATTERN_PAGE;
		if (ioctl(uffd, UFFDIO_POISON, &poison) < 0)
			return -errno;
	}
	return 0;
}

/*
 * Lose pages for real, as far as the agent can tell: the poison marker makes
 * reading /proc/PID/mem fail with EIO, as a page with a memory error does. Not
 * registered afterwards, so untouched pages are ordinary zero pages again.
 */
static int poison_own_memory(const struct guest *g)
{
	struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_POISON};
	int uffd = postcopy_uffd_open(0), ret = 0;

	if (uffd < 0)
		return uffd;
	if (ioctl(uffd, UFFDIO_API, &api) < 0)
		ret = -errno;
	for (uint32_t i = 0; ret == 0 && i < g->n_regions; i++) {
		const struct guest_region *r = &g->regions[i];
		struct uffdio_register reg = {
		        .range = {(uintptr_t)r->address, r->length},
		        .mode = UFFDIO_REGISTER_MODE_MISSING,
		};

		if (r->kind != GUEST_ANONYMOUS && !g->by_process)
			continue;
		if (ioctl(uffd, UFFDIO_REGISTER, &reg) < 0)
			ret = -errno;
		else
			ret = poison_region_pages(g, uffd, i);
	}
	close(uffd);
	return ret;
}

/* Index in the plan of a page that is lost from the start, or SIZE_MAX. */
static size_t lost_index(const struct guest *g, const struct pattern_page *pp)
{
	for (size_t i = 0; i < g->plan->n_initial; i++)
		if (g->plan->pages[i].region == pp->region && g->plan->pages[i].page == pp->page)
			return i;
	return SIZE_MAX;
}

static bool changes_at_freeze(uint64_t page)
{
	return page % 8 == 3;
}

static void fill_page(const struct guest *g, uint64_t page, bool frozen)
{
	struct pattern_page pp = guest_pattern_page(g, page);
	size_t lost = lost_index(g, &pp);

	if (lost != SIZE_MAX && is_found_by_reading(g, lost))
		return;
	if (lost != SIZE_MAX || (changes_at_freeze(page) && !frozen))
		pp.seed ^= OTHER_CONTENT;
	else if (pattern_is_zero(&pp) && page % 2 == 0)
		return; /* a hole: never touched */
	pattern_fill(&pp, guest_page_address(g, page));
}

static void fill_all(const struct guest *g)
{
	for (uint64_t page = 0; page < g->n_pages; page++)
		fill_page(g, page, false);
}

static struct postcopy_range page_range(const struct guest *g, const struct poison_page *p)
{
	return (struct postcopy_range){
	        g->regions[p->region].gpa + p->page * PATTERN_PAGE,
	        PATTERN_PAGE,
	};
}

static int report_initial(struct guest *g)
{
	struct postcopy_range ranges[POSTCOPY_RANGES_MAX];
	char text[384];
	size_t n = 0;
	int ret;

	for (size_t i = 0; i < g->plan->n_initial && n < POSTCOPY_RANGES_MAX; i++)
		if (!g->hwpoison && !is_found_by_reading(g, i))
			ranges[n++] = page_range(g, &g->plan->pages[i]);
	if (n == 0)
		return 0;
	ret = postcopy_report_poison(g->handle, ranges, n, text, sizeof(text));
	if (ret < 0)
		fprintf(stderr, "testguest: report: %s: %s\n", strerror(-ret), text);
	else
		driven_event("reported", "%zu", n);
	return ret;
}

static void report_late(struct guest *g)
{
	for (size_t i = g->plan->n_initial; i < g->plan->n_pages; i++) {
		struct postcopy_range range = page_range(g, &g->plan->pages[i]);
		char text[384] = "";
		int ret = postcopy_report_poison(g->handle, &range, 1, text, sizeof(text));

		if (ret < 0)
			driven_event("late-error", "%s: %s", strerror(-ret), text);
		else
			driven_event("late-reported", "%#llx",
			             (unsigned long long)range.guest_physical_address);
	}
}

/* Later kernels (6.12) tell who injects a failure at once, by a signal. */
static void on_injected(int sig)
{
	(void)sig;
}

/* After the last write: nobody here may touch these pages, or the rest of a huge page, again. */
static int fail_memory(const struct guest *g)
{
	(void)signal(SIGBUS, on_injected);
	for (size_t i = 0; i < g->plan->n_initial; i++) {
		const struct poison_page *p = &g->plan->pages[i];
		int ret = driven_page_fail(g->regions[p->region].address + p->page * PATTERN_PAGE);

		if (ret < 0) {
			fprintf(stderr, "testguest: MADV_HWPOISON: %s\n", strerror(-ret));
			return ret;
		}
	}
	driven_event("hwpoisoned", "%zu", g->plan->n_initial);
	return 0;
}

static int freeze(struct guest *g)
{
	int ret;

	for (uint64_t page = 0; page < g->n_pages; page++)
		if (changes_at_freeze(page))
			fill_page(g, page, true);
	if (g->hwpoison && (ret = fail_memory(g)) < 0)
		return ret;
	ret = driven_freeze(g->handle);
	if (ret == 0)
		driven_event("frozen", "1");
	return ret;
}

static int withdraw(struct guest *g, int force)
{
	char text[384] = "";
	int ret = postcopy_withdraw(g->handle, force, text, sizeof(text));

	driven_event("withdraw", "%s: %s", ret < 0 ? strerror(-ret) : "done", text);
	return 0;
}

/* One word from stdin. Negative: cannot go on; 1: leave. */
static int obey(struct guest *g, const char *word)
{
	if (!strcmp(word, "freeze"))
		return freeze(g);
	if (!strcmp(word, "late"))
		report_late(g);
	else if (!strcmp(word, "withdraw"))
		return withdraw(g, 0);
	else if (!strcmp(word, "withdraw-force"))
		return withdraw(g, 1);
	else if (!strcmp(word, "quit"))
		return 1;
	return 0;
}

static int obey_stdin(struct guest *g, struct pollfd *pfd)
{
	char buf[256], *save = NULL;
	ssize_t n = read(STDIN_FILENO, buf, sizeof(buf) - 1);

	if (n <= 0) {
		pfd->fd = -1; /* nobody will say anything any more: wait for the agent */
		return 0;
	}
	buf[n] = '\0';
	for (char *word = strtok_r(buf, " \n", &save); word; word = strtok_r(NULL, " \n", &save)) {
		int ret = obey(g, word);

		if (ret)
			return ret;
	}
	return 0;
}

/* 1 when the export has ended, and how in *ret_status. */
static int show_state(struct guest *g, int *ret_status)
{
	struct postcopy_status status;
	int ret = postcopy_process(g->handle);

	if (ret < 0) {
		driven_event("gone", "%s", strerror(-ret));
		*ret_status = GUEST_STATE;
		return 1;
	}
	postcopy_get_status(g->handle, &status);
	if (ret > 0)
		driven_event("state", "%s %s", status.name, status.text);
	if (!status.final)
		return 0;
	*ret_status = status.state == POSTCOPY_STATE_RELEASED ? GUEST_OK : GUEST_STATE;
	return 1;
}

static int serve(struct guest *g)
{
	struct pollfd fds[2] = {
	        {.fd = STDIN_FILENO, .events = POLLIN},
	        {.fd = postcopy_fd(g->handle), .events = POLLIN},
	};
	int status = GUEST_OK, ret;

	for (;;) {
		if (show_state(g, &status))
			return status;
		if (poll(fds, 2, -1) < 0 && errno != EINTR)
			return GUEST_USAGE;
		if (!fds[0].revents)
			continue;
		ret = obey_stdin(g, &fds[0]);
		if (ret)
			return ret < 0 ? GUEST_REFUSED : GUEST_OK;
	}
}

static int export(struct guest *g)
{
	struct postcopy_region regions[GUEST_REGIONS_MAX];
	int ret;

	guest_regions_describe(g, regions);
	ret = driven_export(&g->driven, regions, g->n_regions, &g->handle);
	if (ret == 0)
		driven_event("exported", "%llu", (unsigned long long)g->n_pages);
	return ret;
}

int guest_source_run(struct guest *g)
{
	int status;

	if (g->read_poison && poison_own_memory(g) < 0) {
		fprintf(stderr,
		        "testguest: this kernel cannot poison own pages; all are reported\n");
		g->read_poison = false;
	}
	fill_all(g);
	if (export(g) < 0 || report_initial(g) < 0 || (g->auto_freeze && freeze(g) < 0))
		return GUEST_REFUSED;
	status = serve(g);
	postcopy_close(g->handle, POSTCOPY_CLOSE_FORCE);
	driven_event("exit", "%d", status);
	return status;
}
