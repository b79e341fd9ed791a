/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Promises of postcopy_list_poison() and postcopy_collapse(), with real memory
 * and real poison: a list comes whole, piece by piece; a collapse makes memory
 * huge, exactly the lost pages stay lost, every other byte is as it was, and
 * what the guest has discarded stays zeros; it can be waited for and stopped.
 */
#include "unit/client_fake.h"

#include <setjmp.h>
#include <signal.h>

#include "core/uffd_abi.h"

#define HUGE (UINT64_C(2) << 20)
#define N_HUGE 8
#define BYTES (N_HUGE * HUGE)
#define PAGES (BYTES / FAKE_PAGE)
#define DISCARDED (5 * 512 + 7) /* page: in a huge page without poison */
#define GPA (UINT64_C(1) << 32)

static bool skipped;

/* First and last page of a huge page, two in one, neighbours over a border. */
static const uint64_t lost_pages[] = {0, 1023, 2 * 512 + 3, 2 * 512 + 400, 4 * 512 - 1, 4 * 512};

struct guest {
	struct fake fake;
	int uffd;
	int memory_fd;
	uint8_t *reserved, *memory; /* memory is aligned to a huge page */
	uint64_t bytes;
	struct postcopy *handle;
};

static bool is_lost(uint64_t page)
{
	for (size_t i = 0; i < ARRAY_SIZE(lost_pages); i++)
		if (lost_pages[i] == page)
			return true;
	return false;
}

static void completed(struct fake *f)
{
	fake_receive(f, ATTACH_REQUEST_ATTACH);
	fake_ack(f, 0, "");
	fake_state(f, "completed", "", true);
}

static void list_real(struct fake *f)
{
	struct poison_range ranges[ARRAY_SIZE(lost_pages)];

	for (size_t i = 0; i < ARRAY_SIZE(lost_pages); i++)
		ranges[i] = (struct poison_range){{GPA + lost_pages[i] * FAKE_PAGE}, FAKE_PAGE};
	fake_receive(f, ATTACH_REQUEST_LIST_POISON);
	fake_list(f, ranges, ARRAY_SIZE(lost_pages), false);
}

static void script_collapse(struct fake *f)
{
	completed(f);
	list_real(f);
	list_real(f); /* the second collapse */
	fake_expect_close(f);
}

static void memory_map(struct guest *g, bool shared)
{
	g->reserved = mmap(NULL, g->bytes + HUGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_true(g->reserved != MAP_FAILED);
	g->memory = (uint8_t *)(((uintptr_t)g->reserved + HUGE - 1) & ~(uintptr_t)(HUGE - 1));
	g->memory_fd = shared ? memfd_create("guest", MFD_CLOEXEC) : -1;
	if (shared)
		assert_int_equal(ftruncate(g->memory_fd, (off_t)g->bytes), 0);
	g->memory = mmap(g->memory, g->bytes, PROT_READ | PROT_WRITE,
	                 MAP_FIXED | (shared ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS),
	                 g->memory_fd, 0);
	assert_true(g->memory != MAP_FAILED);
}

/* Attached, and in this state. -1: no userfaultfd. */
static int guest_attach_sized(struct guest *g, uint64_t bytes, bool shared,
                              void (*script)(struct fake *f), enum postcopy_state state)
{
	struct postcopy_region region = fake_region("ram", GPA, NULL, bytes / FAKE_PAGE);
	struct postcopy_attach_params params = {.token = fake_token,
	                                        .token_len = sizeof(fake_token),
	                                        .uffds = &g->uffd,
	                                        .n_uffds = 1,
	                                        .regions = &region,
	                                        .n_regions = 1,
	                                        .timeout_ms = 10000};

	memset(g, 0, sizeof(*g));
	g->uffd = postcopy_uffd_open(0);
	if (g->uffd < 0)
		return -1;
	g->bytes = bytes;
	memory_map(g, shared);
	fake_start(&g->fake, script);
	params.socket_path = g->fake.server.path;
	region.address = g->memory;
	region.backing = shared ? POSTCOPY_BACKING_MEMFD : POSTCOPY_BACKING_ANONYMOUS;
	assert_int_equal(postcopy_attach(&params, &g->handle, NULL, 0), 0);
	assert_int_equal(postcopy_wait(g->handle, POSTCOPY_STATE_BIT(state), 10000), 0);
	return 0;
}

static int guest_attach(struct guest *g, bool shared, void (*script)(struct fake *f),
                        enum postcopy_state state)
{
	return guest_attach_sized(g, BYTES, shared, script, state);
}

static void guest_end(struct guest *g)
{
	assert_int_equal(postcopy_close(g->handle, POSTCOPY_CLOSE_FORCE), 0);
	fake_join(&g->fake);
	munmap(g->reserved, g->bytes + HUGE);
	close(g->uffd);
	if (g->memory_fd >= 0)
		close(g->memory_fd);
}

static uint64_t word(uint64_t page)
{
	return page * UINT64_C(0x9e3779b97f4a7c15) + 1;
}

/* As a migration leaves it: every page placed or poisoned, then unregistered. -1: no poison here. */
static int memory_place(struct guest *g)
{
	static uint64_t content[512];
	struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_POISON};
	struct uffdio_register reg = {.range = {(uintptr_t)g->memory, BYTES},
	                              .mode = UFFDIO_REGISTER_MODE_MISSING};

	if (ioctl(g->uffd, UFFDIO_API, &api) < 0)
		return -1;
	assert_int_equal(ioctl(g->uffd, UFFDIO_REGISTER, &reg), 0);
	for (uint64_t page = 0; page < PAGES; page++) {
		struct uffdio_range range = {(uintptr_t)g->memory + page * FAKE_PAGE, FAKE_PAGE};
		struct uffdio_poison poison = {.range = range};
		struct uffdio_copy copy = {
		        .dst = range.start, .src = (uintptr_t)content, .len = FAKE_PAGE};

		content[0] = content[511] = word(page);
		if (is_lost(page))
			assert_int_equal(ioctl(g->uffd, UFFDIO_POISON, &poison), 0);
		else
			assert_int_equal(ioctl(g->uffd, UFFDIO_COPY, &copy), 0);
	}
	assert_int_equal(ioctl(g->uffd, UFFDIO_UNREGISTER, &reg.range), 0);
	return 0;
}

static sigjmp_buf bus_jump;

static void on_sigbus(int sig)
{
	(void)sig;
	siglongjmp(bus_jump, 1);
}

static bool raises_sigbus(const uint8_t *page)
{
	if (sigsetjmp(bus_jump, 1))
		return true;
	(void)*(volatile const uint8_t *)page;
	return false;
}

static void memory_check(const struct guest *g)
{
	for (uint64_t page = 0; page < PAGES; page++) {
		const uint8_t *p = g->memory + page * FAKE_PAGE;
		const uint64_t *words = (const uint64_t *)(const void *)p;
		bool lost = raises_sigbus(p);

		if (lost != is_lost(page))
			fail_msg("page %llu is %s", (unsigned long long)page,
			         lost ? "lost" : "not lost any more");
		if (!lost && (words[0] != (page == DISCARDED ? 0 : word(page)) ||
		              words[511] != words[0] || words[100] != 0))
			fail_msg("page %llu is wrong", (unsigned long long)page);
	}
}

/* Bytes of the guest's memory that are mapped by huge pages. */
static uint64_t huge_bytes(const struct guest *g)
{
	uint64_t start, end, kib, sum = 0;
	FILE *f = fopen("/proc/self/smaps", "re");
	bool ours = false;
	char line[512];

	assert_non_null(f);
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%lx-%lx %*c", &start, &end) == 2)
			ours = start >= (uintptr_t)g->memory && end <= (uintptr_t)g->memory + BYTES;
		else if (ours && (sscanf(line, "AnonHugePages: %lu", &kib) == 1 ||
		                  sscanf(line, "ShmemPmdMapped: %lu", &kib) == 1))
			sum += kib << 10;
	}
	(void)fclose(f);
	return sum;
}

static struct postcopy_collapse_progress collapse(struct postcopy *h)
{
	struct postcopy_collapse_progress p;
	char text[384] = "";

	if (postcopy_collapse(h, text, sizeof(text)) == -ENOTSUP) {
		print_message("%s\n", text);
		return (struct postcopy_collapse_progress){.last_errno = ENOTSUP};
	}
	assert_string_equal(text, "");
	assert_int_equal(postcopy_collapse_wait(h, 60000), 0);
	assert_int_equal(postcopy_collapse_progress(h, &p), 0);
	assert_true(p.done && !p.running);
	assert_int_equal(p.bytes_total, BYTES);
	assert_int_equal(p.bytes_collapsed + p.bytes_skipped_poison + p.bytes_unsuitable +
	                         p.bytes_failed,
	                 p.bytes_total);
	return p;
}

static void poison_survives(bool shared)
{
	struct sigaction action = {.sa_handler = on_sigbus};
	struct postcopy_collapse_progress p;
	struct guest g;

	sigaction(SIGBUS, &action, NULL); /* here: cmocka has its own around each test */
	if (guest_attach(&g, shared, script_collapse, POSTCOPY_STATE_COMPLETED) < 0 ||
	    memory_place(&g) < 0) {
		print_message("no userfaultfd with UFFDIO_POISON\n");
		skipped = true;
		skip();
	}
	assert_int_equal(madvise(g.memory + DISCARDED * FAKE_PAGE, FAKE_PAGE,
	                         shared ? MADV_REMOVE : MADV_DONTNEED),
	                 0);
	memory_check(&g);
	p = collapse(g.handle);
	if (p.last_errno == ENOTSUP) {
		skipped = true;
		skip();
	}
	memory_check(&g);
	assert_int_equal(p.bytes_skipped_poison, 5 * HUGE);
	assert_int_equal(p.bytes_unsuitable, 0);
	/* All of it, unless the machine has no free huge page: no reason to fail. */
	assert_int_equal(p.bytes_collapsed + p.bytes_failed, 3 * HUGE);
	assert_int_equal(huge_bytes(&g), p.bytes_collapsed);
	/* Once more: what is huge counts as done, and nothing changes. */
	assert_true(collapse(g.handle).bytes_collapsed >= p.bytes_collapsed);
	memory_check(&g);
	guest_end(&g);
}

static void test_anonymous(void **state)
{
	(void)state;
	poison_survives(false);
}

static void test_memfd(void **state)
{
	(void)state;
	poison_survives(true);
}

static void script_stop(struct fake *f)
{
	completed(f);
	fake_receive(f, ATTACH_REQUEST_LIST_POISON);
	sem_post(&f->at);
	fake_wait_go(f);
	fake_list(f, NULL, 0, false);
	fake_receive(f, ATTACH_REQUEST_LIST_POISON);
	fake_list(f, NULL, 0, false);
	fake_expect_close(f);
}

static void *stop_main(void *arg)
{
	struct guest *g = arg;

	while (sem_wait(&g->fake.at) < 0)
		;
	sem_post(&g->fake.go);
	postcopy_collapse_stop(g->handle);
	return NULL;
}

/* Promise: an early end is an end: waits return, and a handle can be closed in the middle. */
static void test_stop(void **state)
{
	struct postcopy_collapse_progress p;
	pthread_t thread;
	struct guest g;
	int r;

	(void)state;
	if (guest_attach(&g, false, script_stop, POSTCOPY_STATE_COMPLETED) < 0) {
		skipped = true;
		skip();
	}
	assert_int_equal(postcopy_collapse_wait(g.handle, -1), -ENOENT);
	assert_int_equal(postcopy_collapse_stop(g.handle), 0);
	assert_int_equal(pthread_create(&thread, NULL, stop_main, &g), 0);
	r = postcopy_collapse(g.handle, NULL, 0);
	if (r == -ENOTSUP) {
		pthread_cancel(thread);
		skipped = true;
		skip();
	}
	assert_int_equal(r, 0);
	assert_int_equal(postcopy_collapse_wait(g.handle, -1), 0);
	pthread_join(thread, NULL);
	postcopy_collapse_progress(g.handle, &p);
	assert_false(p.running);
	memset(g.memory, 1, BYTES);
	assert_int_equal(postcopy_collapse(g.handle, NULL, 0), 0);
	guest_end(&g);
}

static void script_refuse(struct fake *f)
{
	completed(f);
	fake_receive(f, ATTACH_REQUEST_LIST_POISON);
	fake_ack(f, ENOMEM, "not enough memory for the list of lost pages");
	fake_receive(f, ATTACH_REQUEST_LIST_POISON);
	fake_ack(f, 0, ""); /* no list: never to be taken for "nothing is lost" */
	fake_receive(f, ATTACH_REQUEST_LIST_POISON);
	shutdown(f->server.sock, SHUT_RDWR);
}

/* Promise: who cannot learn what is poisoned collapses nothing. */
static void test_no_list_no_collapse(void **state)
{
	struct postcopy_collapse_progress p;
	char text[384] = "";
	struct guest g;

	(void)state;
	if (guest_attach(&g, false, script_refuse, POSTCOPY_STATE_COMPLETED) < 0) {
		skipped = true;
		skip();
	}
	if (postcopy_collapse(g.handle, text, sizeof(text)) == -ENOTSUP) {
		skipped = true;
		skip();
	}
	assert_non_null(strstr(text, "list of lost pages"));
	assert_int_equal(postcopy_collapse(g.handle, text, sizeof(text)), -EPROTO);
	assert_int_equal(postcopy_collapse(g.handle, text, sizeof(text)), -ECONNRESET);
	assert_int_equal(postcopy_collapse(g.handle, text, sizeof(text)), -ENOTCONN);
	postcopy_collapse_progress(g.handle, &p);
	assert_true(!p.running && !p.done && p.bytes_total == 0);
	guest_end(&g);
}

static void script_incomplete(struct fake *f)
{
	fake_receive(f, ATTACH_REQUEST_ATTACH);
	fake_ack(f, 0, "");
	fake_state(f, "postcopy-active", "", false);
	fake_expect_close(f);
}

static void script_export(struct fake *f)
{
	fake_receive(f, ATTACH_REQUEST_EXPORT);
	fake_ack(f, 0, "");
	fake_expect_close(f);
}

/* Promise: neither a migration that goes on nor an export is collapsed, or has a list. */
static void test_not_now(void **state)
{
	uint8_t *memory = fake_memory(1, NULL);
	struct postcopy_region region = fake_region("ram", 0, memory, 1);
	struct postcopy_export_params params = {.token = fake_token,
	                                        .token_len = sizeof(fake_token),
	                                        .peer_identity = "dst.example",
	                                        .regions = &region,
	                                        .n_regions = 1};
	struct postcopy *h;
	struct fake fake;
	char text[384] = "";
	size_t n = 77;

	(void)state;
	fake_start(&fake, script_export);
	params.socket_path = fake.server.path;
	assert_int_equal(postcopy_export(&params, &h, NULL, 0), 0);
	assert_int_equal(postcopy_collapse(h, text, sizeof(text)), -EINVAL);
	assert_int_equal(postcopy_list_poison(h, NULL, 0, &n, text, sizeof(text)), -EINVAL);
	assert_int_equal(n, 77);
	assert_int_equal(postcopy_close(h, POSTCOPY_CLOSE_FORCE), 0);
	fake_join(&fake);
	munmap(memory, FAKE_PAGE);
}

static void test_too_early(void **state)
{
	char text[384] = "";
	struct guest g;

	(void)state;
	if (guest_attach(&g, false, script_incomplete, POSTCOPY_STATE_POSTCOPY_ACTIVE) < 0) {
		skipped = true;
		skip();
	}
	assert_int_equal(postcopy_collapse(g.handle, text, sizeof(text)), -EBUSY);
	assert_non_null(strstr(text, "postcopy-active, not completed"));
	guest_end(&g);
}

#define MANY 300

static void script_long_list(struct fake *f)
{
	struct poison_range ranges[POISON_LIST_MAX];
	uint64_t i = 0;

	completed(f);
	for (size_t piece = 0; piece < 3; piece++) {
		size_t n = 0;

		fake_receive(f, ATTACH_REQUEST_LIST_POISON);
		FAKE_CHECK(f, f->request.list_poison.from.addr ==
		                      (i ? GPA + (i * 2 - 1) * FAKE_PAGE : 0));
		for (; n < POISON_LIST_MAX && i < MANY; i++)
			ranges[n++] = (struct poison_range){{GPA + i * 2 * FAKE_PAGE}, FAKE_PAGE};
		fake_list(f, ranges, n, i < MANY);
	}
	/* The next question: a daemon that sends the same piece for ever. */
	fake_receive(f, ATTACH_REQUEST_LIST_POISON);
	fake_list(f, ranges, 1, true);
	fake_receive(f, ATTACH_REQUEST_LIST_POISON);
	fake_list(f, ranges, 1, true);
	fake_expect_close(f);
}

static void test_long_list(void **state)
{
	struct postcopy_range ranges[MANY];
	char text[384] = "";
	struct guest g;
	size_t n = 0;

	(void)state;
	if (guest_attach(&g, false, script_long_list, POSTCOPY_STATE_COMPLETED) < 0) {
		skipped = true;
		skip();
	}
	memset(ranges, 0, sizeof(ranges));
	assert_int_equal(postcopy_list_poison(g.handle, ranges, MANY - 1, &n, NULL, 0), 0);
	assert_int_equal(n, MANY);
	for (uint64_t i = 0; i < MANY - 1; i++) {
		assert_int_equal(ranges[i].guest_physical_address, GPA + i * 2 * FAKE_PAGE);
		assert_int_equal(ranges[i].length, FAKE_PAGE);
	}
	assert_int_equal(ranges[MANY - 1].length, 0);
	assert_int_equal(postcopy_list_poison(g.handle, ranges, MANY, &n, text, sizeof(text)),
	                 -EPROTO);
	assert_non_null(strstr(text, "not in order"));
	guest_end(&g);
}

/* What the guest's memory is made of, in /proc/self/maps. */
static uint64_t n_mappings(const struct guest *g)
{
	FILE *f = fopen("/proc/self/maps", "re");
	uint64_t start, n = 0;
	char line[512];

	assert_non_null(f);
	while (fgets(line, sizeof(line), f))
		n += sscanf(line, "%lx-", &start) == 1 && start >= (uintptr_t)g->memory &&
		     start < (uintptr_t)g->memory + g->bytes;
	(void)fclose(f);
	return n;
}

static uint64_t max_map_count(void)
{
	FILE *f = fopen("/proc/sys/vm/max_map_count", "re");
	unsigned long n = 0;

	assert_non_null(f);
	assert_int_equal(fscanf(f, "%lu", &n), 1);
	(void)fclose(f);
	return n;
}

static uint64_t n_scattered; /* every second huge page has lost its first page */

static void script_scattered(struct fake *f)
{
	struct poison_range ranges[POISON_LIST_MAX];

	completed(f);
	for (uint64_t i = 0; i < n_scattered;) {
		size_t n = 0;

		fake_receive(f, ATTACH_REQUEST_LIST_POISON);
		for (; n < POISON_LIST_MAX && i < n_scattered; i++)
			ranges[n++] = (struct poison_range){{GPA + i * 2 * HUGE}, FAKE_PAGE};
		fake_list(f, ranges, n, i < n_scattered);
	}
	fake_expect_close(f);
}

/* Promise: poison that is scattered all over a memfd does not eat up the VMM's mappings. */
static void test_mappings_are_bounded(void **state)
{
	uint64_t limit = max_map_count(), before, used;
	struct postcopy_collapse_progress p;
	struct guest g;

	(void)state;
	n_scattered = limit / 16 + 100;
	if (limit < 1000 || limit > 1100000) {
		print_message("vm.max_map_count is %lu: too many mappings to try\n", limit);
		skipped = true;
		skip();
	}
	if (guest_attach_sized(&g, n_scattered * 2 * HUGE, true, script_scattered,
	                       POSTCOPY_STATE_COMPLETED) < 0) {
		skipped = true;
		skip();
	}
	before = n_mappings(&g);
	if (postcopy_collapse(g.handle, NULL, 0) == -ENOTSUP) {
		skipped = true;
		skip();
	}
	assert_int_equal(postcopy_collapse_wait(g.handle, -1), 0);
	used = n_mappings(&g) - before;
	assert_true(used > limit / 10 && used <= limit / 8);
	postcopy_collapse_progress(g.handle, &p);
	assert_int_equal(p.last_errno, ENOMEM);
	assert_int_equal(p.bytes_failed, (n_scattered - limit / 16) * HUGE);
	guest_end(&g);
}

static void script_unasked(struct fake *f)
{
	completed(f);
	fake_list(f, NULL, 0, false);
	fake_expect_close(f);
}

static void test_unasked_list(void **state)
{
	struct pollfd p = {.events = POLLIN};
	struct guest g;
	int r;

	(void)state;
	if (guest_attach(&g, false, script_unasked, POSTCOPY_STATE_COMPLETED) < 0) {
		skipped = true;
		skip();
	}
	p.fd = postcopy_fd(g.handle);
	do {
		assert_int_equal(poll(&p, 1, 10000), 1);
		r = postcopy_process(g.handle);
	} while (r >= 0);
	assert_int_equal(r, -EPROTO);
	guest_end(&g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_anonymous),
	        cmocka_unit_test(test_memfd),
	        cmocka_unit_test(test_stop),
	        cmocka_unit_test(test_no_list_no_collapse),
	        cmocka_unit_test(test_not_now),
	        cmocka_unit_test(test_too_early),
	        cmocka_unit_test(test_mappings_are_bounded),
	        cmocka_unit_test(test_long_list),
	        cmocka_unit_test(test_unasked_list),
	};
	int failed = cmocka_run_group_tests(tests, NULL, NULL);

	return failed ? failed : skipped ? 77 : 0;
}
