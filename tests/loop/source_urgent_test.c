/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Promises: nothing is served before the freeze; every page asked for comes
 * exactly once, as data, zero or poisoned, and a page that cannot be read is
 * never zeros; late poison reaches every urgent connection; a bad request ends
 * its own connection and says why.
 */
#include "loop/source_fixture.h"

#include <sys/wait.h>

#include "core/uffd_abi.h"
#include "core/uffd_open.h"

static void test_not_frozen(void **state)
{
	struct fixture *f = fixture_new(NULL);
	struct vmm v = vmm_export(f, 1, 8, false);
	struct destination *waits = destination_hello(f, 1, LINK_ROLE_URGENT, 1);
	struct destination *d = destination_hello(f, 1, LINK_ROLE_URGENT, 0);

	(void)state;
	destination_ask(d, 1, 0, 1);
	destination_expect_error(d, WIRE_ERROR_NOT_FROZEN, "PageRequest");
	destination_free(d);
	d = destination_hello(f, 1, LINK_ROLE_URGENT, 0);
	destination_complete(d);
	destination_expect_error(d, WIRE_ERROR_NOT_FROZEN, "Complete");
	destination_free(d);
	d = destination_hello(f, 1, LINK_ROLE_BULK, 0);
	destination_resume(d, 0, 8, 1, NULL, true);
	destination_expect_error(d, WIRE_ERROR_NOT_FROZEN, "Resume");
	destination_free(d);

	/* Who waits is told, and is served then. */
	assert_int_equal(vmm_freeze(&v), 0);
	assert_int_equal(vmm_freeze(&v), 0); /* twice is no error */
	destination_expect(waits, PAGE_MESSAGE_FROZEN);
	destination_expect_page(waits, 1, PAGE_KIND_DATA);
	vmm_wait_state(&v, "serving");
	destination_free(waits);
	close(v.sock);
	fixture_free(f);
}

static void test_kinds(void **state)
{
	struct fixture *f = fixture_new(NULL);
	struct vmm v = vmm_export(f, 1, 8, true);
	struct destination *d = destination_hello(f, 1, LINK_ROLE_URGENT, 0);

	(void)state;
	for (uint64_t page = 0; page < 8; page++)
		destination_expect_page(d, page, page % 4 == 3 ? PAGE_KIND_ZERO : PAGE_KIND_DATA);
	/* Again: the source keeps no account of what it has sent on request. */
	destination_expect_page(d, 0, PAGE_KIND_DATA);

	struct page_message ping = {.type = PAGE_MESSAGE_PING, .ping.cookie = 77};

	destination_send(d, &ping, NULL, 0);
	destination_expect(d, PAGE_MESSAGE_PONG);
	assert_int_equal(d->m.ping.cookie, 77);
	destination_free(d);
	close(v.sock);
	fixture_free(f);
}

/* Mark the message's pages as seen once more, and check their content. */
static uint64_t take_pages(const struct page_message *m, uint8_t *seen, uint64_t n_pages,
                           uint64_t poisoned)
{
	const uint8_t *bytes = m->pages.bytes;
	uint64_t n = 0;

	for (size_t i = 0; i < m->pages.runs.n_runs; i++) {
		const struct page_run *run = &m->pages.runs.runs[i];

		for (uint64_t page = run->first; page < run->first + run->count; page++, n++) {
			assert_true(page < n_pages);
			seen[page]++;
			if (page == poisoned)
				assert_int_equal(run->kind, PAGE_KIND_POISONED);
			else if (page % 4 == 3)
				assert_int_equal(run->kind, PAGE_KIND_ZERO);
			else
				assert_int_equal(run->kind, PAGE_KIND_DATA);
			if (run->kind != PAGE_KIND_DATA)
				continue;
			assert_page(bytes, page);
			bytes += PAGE;
		}
	}
	return n;
}

static void test_big_request_exactly_once(void **state)
{
	enum {
		PAGES = 2048,
		ASKED = 1024
	};
	struct fixture *f = fixture_new(NULL);
	struct vmm v = vmm_export(f, 1, PAGES, true);
	static uint8_t seen[PAGES];

	(void)state;
	assert_int_equal(vmm_report(&v, 100 * PAGE, PAGE, NULL), 0);
	struct destination *d = destination_hello(f, 1, LINK_ROLE_URGENT, 0);
	struct page_run runs[] = {{1000, 500, 0}, {0, 500, 0}, {2024, 24, 0}};

	destination_expect(d, PAGE_MESSAGE_POISON_NOTICE);
	memset(seen, 0, sizeof(seen));
	destination_ask_runs(d, 5, runs, ARRAY_SIZE(runs));
	for (uint64_t n = 0; n < ASKED;) {
		destination_expect(d, PAGE_MESSAGE_PAGES);
		assert_int_equal(d->m.pages.id, 5);
		n += take_pages(&d->m, seen, PAGES, 100);
	}
	for (uint64_t page = 0; page < PAGES; page++) {
		bool asked = (page >= 1000 && page < 1500) || page < 500 || page >= 2024;

		assert_int_equal(seen[page], asked);
	}
	destination_free(d);
	close(v.sock);
	fixture_free(f);
}

/* Requests that the destination does not read the answers of: bounded, and nothing is lost. */
static void test_back_pressure(void **state)
{
	enum {
		PAGES = 1024,
		REQUESTS = 40
	};
	struct fixture *f = fixture_new(NULL);
	struct vmm v = vmm_export(f, 1, PAGES, true);
	struct destination *d = destination_hello(f, 1, LINK_ROLE_URGENT, 0);
	static uint8_t seen[PAGES];

	(void)state;
	memset(seen, 0, sizeof(seen));
	for (unsigned i = 0; i < REQUESTS; i++)
		destination_ask(d, i + 1, 0, PAGES);
	for (uint64_t n = 0; n < (uint64_t)PAGES * REQUESTS;) {
		destination_expect(d, PAGE_MESSAGE_PAGES);
		n += take_pages(&d->m, seen, PAGES, UINT64_MAX);
	}
	for (uint64_t page = 0; page < PAGES; page++)
		assert_int_equal(seen[page], REQUESTS);
	destination_free(d);
	close(v.sock);
	fixture_free(f);
}

static void bad_request(struct fixture *f, const struct page_run *runs, size_t n,
                        enum wire_error_code code, const char *word)
{
	struct destination *d = destination_hello(f, 1, LINK_ROLE_URGENT, 0);

	destination_ask_runs(d, 1, runs, n);
	destination_expect_error(d, code, word);
	destination_free(d);
}

static void test_bad_requests(void **state)
{
	struct fixture *f = fixture_new(NULL);
	struct export_region r[] = {memfd_region("low", 0, 2048), memfd_region("high", 1 << 30, 8)};
	struct attach_request q = export_request(1, r, 2);
	int fds[] = {memory_new(0, 2048), memory_new(2048, 8)};
	struct vmm v = vmm_connect(f);

	(void)state;
	r[1].fd = 1;
	assert_int_equal(vmm_ask(&v, &q, fds, 2, NULL), 0);
	assert_int_equal(vmm_freeze(&v), 0);
	bad_request(f, &(struct page_run){2056, 1, 0}, 1, WIRE_ERROR_BAD_PAGE, "page 2056");
	bad_request(f, &(struct page_run){UINT64_C(1) << 51, 1, 0}, 1, WIRE_ERROR_BAD_PAGE,
	            "outside every region");
	bad_request(f, &(struct page_run){2047, 2, 0}, 1, WIRE_ERROR_BAD_PAGE, "region low");
	bad_request(f, &(struct page_run){2050, UINT32_MAX, 0}, 1, WIRE_ERROR_BAD_PAGE,
	            "region high");
	bad_request(f, &(struct page_run){0, 1025, 0}, 1, WIRE_ERROR_PROTOCOL, "1025 pages");

	struct destination *d = destination_hello(f, 1, LINK_ROLE_URGENT, 0);

	destination_resume(d, 0, 8, 1, NULL, true);
	destination_expect_error(d, WIRE_ERROR_PROTOCOL, "Resume does not belong");
	destination_free(d);
	d = destination_hello(f, 1, LINK_ROLE_URGENT, 0);
	destination_expect_page(d, 2048, PAGE_KIND_DATA);
	destination_free(d);
	close(fds[0]);
	close(fds[1]);
	close(v.sock);
	fixture_free(f);
}

static void expect_notice(struct destination *d, enum poison_reason reason, uint64_t first,
                          uint32_t count)
{
	destination_expect(d, PAGE_MESSAGE_POISON_NOTICE);
	assert_int_equal(d->m.poison_notice.reason, reason);
	assert_int_equal(d->m.poison_notice.runs.n_runs, 1);
	assert_int_equal(d->m.poison_notice.runs.runs[0].first, first);
	assert_int_equal(d->m.poison_notice.runs.runs[0].count, count);
}

static void test_poison_early_and_late(void **state)
{
	struct fixture *f = fixture_new(NULL);
	struct vmm v = vmm_export(f, 1, 64, false);
	struct attach_reply reply;

	(void)state;
	/* Widened to whole pages; pages 4 and 5. */
	assert_int_equal(vmm_report(&v, 5 * PAGE - 1, 2, NULL), 0);
	assert_int_equal(vmm_report(&v, 63 * PAGE, 2 * PAGE, &reply), ERANGE);
	assert_non_null(strstr(reply.text, "0x40000"));
	assert_int_equal(vmm_report(&v, UINT64_MAX - 4095, 2 * PAGE, &reply), EINVAL);

	struct destination *a = destination_hello(f, 1, LINK_ROLE_URGENT, 0);

	assert_int_equal(a->m.hello_ack.poisoned_pages, 2);
	expect_notice(a, POISON_REASON_REPORTED, 4, 2);

	struct destination *b = destination_hello(f, 1, LINK_ROLE_URGENT, 1);

	expect_notice(b, POISON_REASON_REPORTED, 4, 2);
	assert_int_equal(vmm_freeze(&v), 0);
	destination_expect(a, PAGE_MESSAGE_FROZEN);
	destination_expect(b, PAGE_MESSAGE_FROZEN);
	destination_expect_page(a, 4, PAGE_KIND_POISONED);
	destination_expect_page(a, 6, PAGE_KIND_DATA);
	/* Late, with one page that was known: only the news is told, to everybody. */
	assert_int_equal(vmm_report(&v, 5 * PAGE, 2 * PAGE, NULL), 0);
	expect_notice(a, POISON_REASON_REPORTED, 6, 1);
	expect_notice(b, POISON_REASON_REPORTED, 6, 1);
	destination_expect_page(b, 6, PAGE_KIND_POISONED);
	destination_expect_page(b, 8, PAGE_KIND_DATA);

	struct control_request q = {.id = 4,
	                            .type = CONTROL_REQUEST_GET,
	                            .has_migration_id = true,
	                            .migration_id = test_id(1)};
	struct control_response response;

	assert_int_equal(operator_ask(f, &q, &response), 0);
	assert_int_equal(response.migrations[0].n_poisoned, 1);
	assert_int_equal(response.migrations[0].lost_bytes, 3 * PAGE);
	assert_string_equal(response.migrations[0].poisoned[0].region, "ram");
	assert_int_equal(response.migrations[0].poisoned[0].gpa.addr, 4 * PAGE);
	control_response_free(&response);
	destination_free(a);
	destination_free(b);
	close(v.sock);
	fixture_free(f);
}

/* A file that shrank cannot be read any more beyond its end: lost, not zeros. */
static void test_read_error_is_poison(void **state)
{
	struct fixture *f = fixture_new(NULL);
	struct export_region r = memfd_region("ram", 0, 64);
	struct attach_request q = export_request(1, &r, 1);
	int fd = memory_new(0, 64);
	struct vmm v = vmm_connect(f);

	(void)state;
	assert_int_equal(vmm_ask(&v, &q, &fd, 1, NULL), 0);
	assert_int_equal(vmm_freeze(&v), 0);
	assert_int_equal(ftruncate(fd, 60 * PAGE), 0);

	struct destination *a = destination_hello(f, 1, LINK_ROLE_URGENT, 0);
	struct destination *b = destination_hello(f, 1, LINK_ROLE_URGENT, 1);

	destination_expect_page(a, 58, PAGE_KIND_DATA);
	destination_expect_page(a, 61, PAGE_KIND_POISONED);
	expect_notice(a, POISON_REASON_READ_ERROR, 61, 1);
	expect_notice(b, POISON_REASON_READ_ERROR, 61, 1);
	/* It stays lost, although the file has grown again (with zeros). */
	assert_int_equal(ftruncate(fd, 64 * PAGE), 0);
	destination_expect_page(b, 61, PAGE_KIND_POISONED);
	destination_free(a);
	destination_free(b);
	close(fd);
	close(v.sock);
	fixture_free(f);
}

struct child {
	pid_t pid;
	int mem;
	uint64_t address;
};

/* A process with 16 pages of memory, of which number 5 is poisoned if uffd is possible. */
static struct child child_new(bool *ret_poisoned)
{
	struct child c;
	struct {
		uint64_t address;
		bool poisoned;
	} told;
	int fds[2];

	assert_int_equal(pipe(fds), 0);
	c.pid = fork();
	if (c.pid == 0) {
		uint8_t *m = mmap(NULL, 16 * PAGE, PROT_READ | PROT_WRITE,
		                  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		int uffd = uffd_open();
		uint64_t features;

		for (unsigned i = 0; i < 16; i++)
			if (i != 5)
				page_fill(m + i * PAGE, i);
		told.address = (uint64_t)(uintptr_t)m;
		told.poisoned =
		        uffd >= 0 && uffd_negotiate(uffd, UFFD_FEATURE_POISON, &features) == 0;
		if (told.poisoned) {
			struct uffdio_register reg = {.range = {told.address, 16 * PAGE},
			                              .mode = UFFDIO_REGISTER_MODE_MISSING};
			struct uffdio_poison poison = {.range = {told.address + 5 * PAGE, PAGE}};

			told.poisoned = ioctl(uffd, UFFDIO_REGISTER, &reg) == 0 &&
			                ioctl(uffd, UFFDIO_POISON, &poison) == 0 &&
			                ioctl(uffd, UFFDIO_UNREGISTER, &reg.range) == 0;
		}
		if (write(fds[1], &told, sizeof(told)) != sizeof(told))
			_exit(1);
		for (;;)
			pause();
	}
	assert_int_equal(read(fds[0], &told, sizeof(told)), sizeof(told));
	close(fds[0]);
	close(fds[1]);

	char path[32];

	(void)snprintf(path, sizeof(path), "/proc/%d/mem", (int)c.pid);
	c.mem = open(path, O_RDONLY | O_CLOEXEC);
	c.address = told.address;
	*ret_poisoned = told.poisoned;
	return c;
}

/* Anonymous memory of another process, by its pid; its death is an error, never zeros. */
static void test_process_memory(void **state)
{
	struct fixture *f = fixture_new(NULL);
	bool poisoned;
	struct child c = child_new(&poisoned);
	struct process_range range = {.name = "ram",
	                              .hva = {c.address},
	                              .length_bytes = 16 * PAGE,
	                              .page_size_bytes = PAGE};
	struct control_request q = {.id = 1,
	                            .type = CONTROL_REQUEST_EXPORT_PROCESS,
	                            .has_migration_id = true,
	                            .migration_id = test_id(1)};
	struct control_response response;

	(void)state;
	memcpy(q.export_process.token, token, sizeof(token));
	q.export_process.token_len = sizeof(token);
	(void)snprintf(q.export_process.peer_identity, sizeof(q.export_process.peer_identity), "%s",
	               PKI_DESTINATION_DNS);
	q.export_process.pid = c.pid;
	q.export_process.ranges = &range;
	q.export_process.n_ranges = 1;
	/* An address that is not mapped is a mistake, not 16 lost pages. */
	range.hva.addr = 4096;
	assert_int_equal(operator_ask(f, &q, &response), EFAULT);
	assert_non_null(strstr(response.text, "region ram"));
	control_response_free(&response);
	range.hva.addr = c.address;
	assert_int_equal(operator_ask(f, &q, &response), 0);
	control_response_free(&response);
	q = (struct control_request){.id = 2,
	                             .type = CONTROL_REQUEST_FREEZE,
	                             .has_migration_id = true,
	                             .migration_id = test_id(1)};
	assert_int_equal(operator_ask(f, &q, &response), 0);
	control_response_free(&response);

	struct destination *d = destination_hello(f, 1, LINK_ROLE_URGENT, 0);

	destination_expect_page(d, 4, PAGE_KIND_DATA);
	destination_expect_page(d, 6, PAGE_KIND_DATA);
	destination_expect_page(d, 7, PAGE_KIND_ZERO);
	if (poisoned) {
		destination_expect_page(d, 5, PAGE_KIND_POISONED);
		expect_notice(d, POISON_REASON_READ_ERROR, 5, 1);
	}
	kill(c.pid, SIGKILL);
	waitpid(c.pid, NULL, 0);
	destination_ask(d, 9, 8, 1);
	destination_expect_error(d, WIRE_ERROR_SOURCE_GONE, "has gone");
	destination_free(d);
	q.type = CONTROL_REQUEST_GET;
	assert_int_equal(operator_ask(f, &q, &response), 0);
	assert_string_equal(response.migrations[0].state, "failed");
	assert_int_equal(response.migrations[0].lost_bytes, poisoned ? PAGE : 0);
	control_response_free(&response);
	close(c.mem);
	fixture_free(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_not_frozen),
	        cmocka_unit_test(test_kinds),
	        cmocka_unit_test(test_big_request_exactly_once),
	        cmocka_unit_test(test_back_pressure),
	        cmocka_unit_test(test_bad_requests),
	        cmocka_unit_test(test_poison_early_and_late),
	        cmocka_unit_test(test_read_error_is_poison),
	        cmocka_unit_test(test_process_memory),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
