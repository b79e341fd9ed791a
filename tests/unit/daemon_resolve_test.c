/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Promises of daemon/resolve.h, asked of the real kernel: every answer to a
 * fault does what it says, and every errno gets the outcome that the callers
 * rely on, with the exact number of bytes that were placed before it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "core/fdpass.h"
#include "daemon/resolve.h"
#include "daemon_guest_memory.h"

#define PAGE WIRE_PAGE_SIZE
#define UNITS 8

static uint8_t source[UNITS * WIRE_PAGE_SIZE + 16] __attribute__((aligned(4096)));
static bool has_poison;

static void source_fill(void)
{
	for (size_t i = 0; i < sizeof(source); i++)
		source[i] = (uint8_t)(i * 7 + i / PAGE + 1);
}

static void memory_new(enum memory_kind kind, uint64_t features, struct guest_memory *m)
{
	assert_int_equal(guest_memory_new(kind, UNITS, features, m), 0);
}

static void assert_result(struct resolve_result r, enum resolve_outcome outcome, uint64_t done,
                          int error)
{
	assert_string_equal(resolve_outcome_name(r.outcome), resolve_outcome_name(outcome));
	assert_int_equal(r.done_bytes, done);
	assert_int_equal(r.error, error);
}

static void assert_bytes(const struct guest_memory *m, uint64_t first, uint64_t n,
                         const uint8_t *want)
{
	assert_memory_equal(guest_memory_at(m, first), want, n * PAGE);
}

/* ---- done ---- */

/* Page bytes lie in a message wherever they lie: no alignment is asked for. */
static void copies_from_any_alignment(void **state)
{
	(void)state;
	for (int kind = MEMORY_ANON; kind <= MEMORY_MEMFD; kind++) {
		struct guest_memory m;

		memory_new(kind, 0, &m);
		assert_result(resolve_copy(m.uffd, guest_memory_hva(&m, 0), 3 * PAGE, source + 1),
		              RESOLVE_DONE, 3 * PAGE, 0);
		assert_result(resolve_copy(m.uffd, guest_memory_hva(&m, 3), 5 * PAGE, source + 13),
		              RESOLVE_DONE, 5 * PAGE, 0);
		assert_bytes(&m, 0, 3, source + 1);
		assert_bytes(&m, 3, 5, source + 13);
		guest_memory_free(&m);
	}
}

static void zero_pages_read_as_zeros(void **state)
{
	static const uint8_t zeros[UNITS * PAGE];

	(void)state;
	for (int kind = MEMORY_ANON; kind <= MEMORY_MEMFD; kind++) {
		struct guest_memory m;

		memory_new(kind, 0, &m);
		assert_true(m.zeropage);
		assert_result(resolve_zeropage(m.uffd, guest_memory_hva(&m, 0), m.length_bytes),
		              RESOLVE_DONE, m.length_bytes, 0);
		assert_bytes(&m, 0, UNITS, zeros);
		guest_memory_free(&m);
	}
}

static void writes_and_continues(void **state)
{
	static const uint8_t zeros[PAGE];
	struct guest_memory m;
	uint8_t byte;

	(void)state;
	memory_new(MEMORY_MEMFD_MINOR, 0, &m);
	assert_result(resolve_write(m.memfd, (backing_off_t){PAGE}, 4 * PAGE, source + 3),
	              RESOLVE_DONE, 4 * PAGE, 0);
	assert_result(resolve_write(m.memfd, (backing_off_t){2 * PAGE}, PAGE, NULL), RESOLVE_DONE,
	              PAGE, 0);
	assert_result(resolve_continue(m.uffd, guest_memory_hva(&m, 1), 4 * PAGE), RESOLVE_DONE,
	              4 * PAGE, 0);
	assert_bytes(&m, 1, 1, source + 3);
	assert_bytes(&m, 2, 1, zeros);
	assert_bytes(&m, 3, 2, source + 3 + 2 * PAGE);
	/* Nothing in the page cache there: not a page to map. */
	assert_result(resolve_continue(m.uffd, guest_memory_hva(&m, 5), PAGE), RESOLVE_FATAL, 0,
	              EFAULT);
	assert_result(resolve_copy(m.uffd, guest_memory_hva(&m, 5), PAGE, source), RESOLVE_DONE,
	              PAGE, 0);
	assert_true(touch_read(guest_memory_at(&m, 5), &byte));
	assert_int_equal(byte, source[0]);
	guest_memory_free(&m);
}

static void huge_pages_are_copied_whole(void **state)
{
	struct guest_memory m;
	uint8_t *huge;
	int rc;

	(void)state;
	if (!huge_reserve(2)) {
		printf("skipped: no two free 2 MiB huge pages here\n");
		skip();
	}
	rc = guest_memory_new(MEMORY_HUGETLB, 2, 0, &m);
	assert_int_equal(rc, 0);
	assert_false(m.zeropage);
	huge = malloc(2 * HUGE_BYTES);
	memset(huge, 0xab, 2 * HUGE_BYTES);
	assert_result(resolve_copy(m.uffd, guest_memory_hva(&m, 0), 2 * HUGE_BYTES, huge),
	              RESOLVE_DONE, 2 * HUGE_BYTES, 0);
	assert_memory_equal(m.base, huge, 2 * HUGE_BYTES);
	assert_result(resolve_copy(m.uffd, guest_memory_hva(&m, 1), HUGE_BYTES, huge),
	              RESOLVE_ALREADY, 0, EEXIST);
	free(huge);
	guest_memory_free(&m);
	huge_give_back();
}

/* ---- poison ---- */

static void need_poison(void)
{
	if (!has_poison)
		skip();
}

static void poison_gives_sigbus(void **state)
{
	(void)state;
	need_poison();
	for (int kind = MEMORY_ANON; kind <= MEMORY_MEMFD_MINOR; kind++) {
		struct guest_memory m;
		uint8_t byte = 0;

		memory_new(kind, UFFD_FEATURE_POISON, &m);
		assert_result(resolve_poison(m.uffd, guest_memory_hva(&m, 2), 3 * PAGE),
		              RESOLVE_DONE, 3 * PAGE, 0);
		for (uint64_t unit = 2; unit < 5; unit++) {
			touch_code = 0;
			assert_false(touch_read(guest_memory_at(&m, unit), &byte));
			assert_true(touch_was_poison());
			assert_false(touch_write(guest_memory_at(&m, unit) + PAGE - 1, 1));
		}
		/* The neighbours are healthy. */
		assert_result(resolve_zeropage(m.uffd, guest_memory_hva(&m, 1), PAGE), RESOLVE_DONE,
		              PAGE, 0);
		assert_result(resolve_zeropage(m.uffd, guest_memory_hva(&m, 5), PAGE), RESOLVE_DONE,
		              PAGE, 0);
		assert_true(touch_read(guest_memory_at(&m, 2) - 1, &byte));
		assert_true(touch_read(guest_memory_at(&m, 5), &byte));
		guest_memory_free(&m);
	}
}

static void poison_kills_a_process_that_does_not_care(void **state)
{
	struct guest_memory m;
	int status = 0;
	pid_t child;

	(void)state;
	need_poison();
	memory_new(MEMORY_ANON, UFFD_FEATURE_POISON, &m);
	assert_result(resolve_poison(m.uffd, guest_memory_hva(&m, 0), PAGE), RESOLVE_DONE, PAGE, 0);
	child = fork(); /* anonymous memory keeps its markers over fork */
	if (child == 0) {
		signal(SIGBUS, SIG_DFL);
		_exit(*(volatile uint8_t *)m.base);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFSIGNALED(status));
	assert_int_equal(WTERMSIG(status), SIGBUS);
	guest_memory_free(&m);
}

static void poison_refuses_what_is_mapped(void **state)
{
	struct guest_memory m;
	uint8_t byte = 0;

	(void)state;
	need_poison();
	memory_new(MEMORY_ANON, UFFD_FEATURE_POISON, &m);
	assert_result(resolve_copy(m.uffd, guest_memory_hva(&m, 2), PAGE, source), RESOLVE_DONE,
	              PAGE, 0);
	assert_result(resolve_poison(m.uffd, guest_memory_hva(&m, 2), PAGE), RESOLVE_ALREADY, 0,
	              EEXIST);
	assert_result(resolve_poison(m.uffd, guest_memory_hva(&m, 0), 4 * PAGE), RESOLVE_ALREADY,
	              2 * PAGE, EEXIST);
	assert_true(touch_read(guest_memory_at(&m, 2), &byte));
	assert_int_equal(byte, source[0]);
	assert_false(touch_read(guest_memory_at(&m, 0), &byte));
	assert_false(touch_read(guest_memory_at(&m, 1), &byte));
	/* Over its own marker, too; and no zero page gets over it. */
	assert_result(resolve_poison(m.uffd, guest_memory_hva(&m, 0), PAGE), RESOLVE_ALREADY, 0,
	              EEXIST);
	assert_result(resolve_zeropage(m.uffd, guest_memory_hva(&m, 0), PAGE), RESOLVE_ALREADY, 0,
	              EEXIST);
	guest_memory_free(&m);
}

/*
 * Why claims are needed at all. Should a kernel come that refuses, the page map
 * still does no harm; then this test says so.
 */
static void a_copy_would_overwrite_poison(void **state)
{
	struct guest_memory m;
	uint8_t byte = 0;

	(void)state;
	need_poison();
	memory_new(MEMORY_ANON, UFFD_FEATURE_POISON, &m);
	resolve_poison(m.uffd, guest_memory_hva(&m, 0), PAGE);
	assert_result(resolve_copy(m.uffd, guest_memory_hva(&m, 0), PAGE, source), RESOLVE_DONE,
	              PAGE, 0);
	assert_true(touch_read(m.base, &byte));
	guest_memory_free(&m);
}

/* ---- what stops a range ---- */

static void stops_at_what_is_mapped(void **state)
{
	(void)state;
	for (int kind = MEMORY_ANON; kind <= MEMORY_MEMFD; kind++) {
		struct guest_memory m;

		memory_new(kind, 0, &m);
		assert_result(
		        resolve_copy(m.uffd, guest_memory_hva(&m, 5), PAGE, source + 5 * PAGE),
		        RESOLVE_DONE, PAGE, 0);
		assert_result(resolve_copy(m.uffd, guest_memory_hva(&m, 0), 8 * PAGE, source),
		              RESOLVE_ALREADY, 5 * PAGE, EEXIST);
		assert_result(
		        resolve_copy(m.uffd, guest_memory_hva(&m, 6), 2 * PAGE, source + 6 * PAGE),
		        RESOLVE_DONE, 2 * PAGE, 0);
		assert_bytes(&m, 0, 8, source);
		assert_result(resolve_zeropage(m.uffd, guest_memory_hva(&m, 0), PAGE),
		              RESOLVE_ALREADY, 0, EEXIST);
		guest_memory_free(&m);
	}
}

static void continue_stops_at_what_is_mapped(void **state)
{
	struct guest_memory m;

	(void)state;
	memory_new(MEMORY_MEMFD_MINOR, 0, &m);
	resolve_write(m.memfd, (backing_off_t){0}, 8 * PAGE, source);
	assert_result(resolve_continue(m.uffd, guest_memory_hva(&m, 3), PAGE), RESOLVE_DONE, PAGE,
	              0);
	assert_result(resolve_continue(m.uffd, guest_memory_hva(&m, 0), 8 * PAGE), RESOLVE_ALREADY,
	              3 * PAGE, EEXIST);
	guest_memory_free(&m);
}

static void unregistered_memory_is_unmapped(void **state)
{
	struct guest_memory m;
	void *other = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	hva_t there = {(uintptr_t)other};

	(void)state;
	memory_new(MEMORY_ANON, has_poison ? UFFD_FEATURE_POISON : 0, &m);
	assert_result(resolve_copy(m.uffd, there, PAGE, source), RESOLVE_UNMAPPED, 0, ENOENT);
	assert_result(resolve_zeropage(m.uffd, there, PAGE), RESOLVE_UNMAPPED, 0, ENOENT);
	if (has_poison)
		assert_result(resolve_poison(m.uffd, there, PAGE), RESOLVE_UNMAPPED, 0, ENOENT);
	/* A hole in a range that was registered as a whole. */
	munmap(guest_memory_at(&m, 3), PAGE);
	assert_result(resolve_copy(m.uffd, guest_memory_hva(&m, 3), PAGE, source), RESOLVE_UNMAPPED,
	              0, ENOENT);
	assert_result(resolve_copy(m.uffd, guest_memory_hva(&m, 0), 3 * PAGE, source), RESOLVE_DONE,
	              3 * PAGE, 0);
	munmap(other, PAGE);
	guest_memory_free(&m);
}

static void bad_requests_are_fatal(void **state)
{
	struct guest_memory m;
	hva_t first;

	(void)state;
	memory_new(MEMORY_MEMFD, 0, &m);
	first = guest_memory_hva(&m, 0);
	assert_result(resolve_copy(m.uffd, first, 100, source), RESOLVE_FATAL, 0, EINVAL);
	assert_result(resolve_copy(m.uffd, (hva_t){first.addr + 1}, PAGE, source), RESOLVE_FATAL, 0,
	              EINVAL);
	assert_result(resolve_copy(m.uffd, first, PAGE, NULL), RESOLVE_FATAL, 0, EFAULT);
	/* The end of the file was cut off: no page can be there. */
	assert_int_equal(ftruncate(m.memfd, 4 * PAGE), 0);
	assert_result(resolve_copy(m.uffd, guest_memory_hva(&m, 4), PAGE, source), RESOLVE_FATAL, 0,
	              EFAULT);
	assert_result(resolve_copy(-1, first, PAGE, source), RESOLVE_FATAL, 0, EBADF);
	guest_memory_free(&m);
}

static void files_that_cannot_be_written_are_fatal(void **state)
{
	_cleanup_close_ int sealed = memfd_create("sealed", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	_cleanup_close_ int full = open("/dev/full", O_WRONLY | O_CLOEXEC);

	(void)state;
	assert_int_equal(ftruncate(sealed, 2 * PAGE), 0);
	assert_int_equal(fcntl(sealed, F_ADD_SEALS, F_SEAL_WRITE), 0);
	assert_result(resolve_write(sealed, (backing_off_t){0}, PAGE, source), RESOLVE_FATAL, 0,
	              EPERM);
	assert_result(resolve_write(-1, (backing_off_t){0}, PAGE, source), RESOLVE_FATAL, 0, EBADF);
	/* Out of space may pass: worth another try. */
	assert_result(resolve_write(full, (backing_off_t){0}, PAGE, NULL), RESOLVE_NO_MEMORY, 0,
	              ENOSPC);
}

/* ---- a mapping that changes ---- */

struct discard {
	uint8_t *at;
	int rc;
};

static void *discard_main(void *arg)
{
	struct discard *d = arg;

	d->rc = madvise(d->at, PAGE, MADV_DONTNEED);
	return NULL;
}

static void a_changing_mapping_is_retried(void **state)
{
	struct guest_memory m;
	struct discard discard;
	struct uffd_msg msg;
	struct pollfd poll_uffd;
	pthread_t thread;

	(void)state;
	memory_new(MEMORY_ANON, UFFD_FEATURE_EVENT_REMOVE | (has_poison ? UFFD_FEATURE_POISON : 0),
	           &m);
	discard = (struct discard){.at = guest_memory_at(&m, 6), .rc = -1};
	assert_int_equal(pthread_create(&thread, NULL, discard_main, &discard), 0);
	poll_uffd = (struct pollfd){.fd = m.uffd, .events = POLLIN};
	assert_int_equal(poll(&poll_uffd, 1, 10000), 1);
	/* The event lies there unread: nothing can be placed, anywhere. */
	assert_result(resolve_copy(m.uffd, guest_memory_hva(&m, 0), 2 * PAGE, source),
	              RESOLVE_RETRY, 0, EAGAIN);
	assert_result(resolve_zeropage(m.uffd, guest_memory_hva(&m, 0), PAGE), RESOLVE_RETRY, 0,
	              EAGAIN);
	if (has_poison)
		assert_result(resolve_poison(m.uffd, guest_memory_hva(&m, 0), PAGE), RESOLVE_RETRY,
		              0, EAGAIN);
	assert_int_equal(uffd_read(m.uffd, &msg, 1), 1);
	assert_int_equal(msg.event, UFFD_EVENT_REMOVE);
	assert_int_equal(msg.arg.remove.start, guest_memory_hva(&m, 6).addr);
	pthread_join(thread, NULL);
	assert_int_equal(discard.rc, 0);
	assert_result(resolve_copy(m.uffd, guest_memory_hva(&m, 0), 2 * PAGE, source), RESOLVE_DONE,
	              2 * PAGE, 0);
	guest_memory_free(&m);
}

/* ---- a process that is gone ---- */

struct remote {
	uint64_t base;
	int uffd;
};

/* In the child: memory and uffd of its own, handed to the parent; then wait to be killed. */
static void remote_main(int sock)
{
	struct guest_memory m;

	if (guest_memory_new(MEMORY_ANON, UNITS, 0, &m) < 0)
		_exit(1);
	if (fdpass_send(sock, &m.base, sizeof(m.base), &m.uffd, 1, 0) != sizeof(m.base))
		_exit(1);
	for (;;)
		pause();
}

static void a_dead_process_is_gone(void **state)
{
	int socks[2], uffd = -1, status;
	hva_t base = {0};
	size_t n_fds = 0;
	pid_t child;

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, socks), 0);
	child = fork();
	if (child == 0)
		remote_main(socks[1]);
	close(socks[1]);
	assert_int_equal(fdpass_recv(socks[0], &base.addr, 8, &uffd, 1, &n_fds, 0), 8);
	assert_int_equal(n_fds, 1);
	assert_result(resolve_copy(uffd, base, 2 * PAGE, source), RESOLVE_DONE, 2 * PAGE, 0);
	kill(child, SIGKILL);
	assert_int_equal(waitpid(child, &status, 0), child);
	base.addr += 2 * PAGE;
	assert_result(resolve_copy(uffd, base, PAGE, source), RESOLVE_GONE, 0, ESRCH);
	assert_result(resolve_zeropage(uffd, base, PAGE), RESOLVE_GONE, 0, ESRCH);
	if (has_poison)
		assert_result(resolve_poison(uffd, base, PAGE), RESOLVE_GONE, 0, ESRCH);
	resolve_wake(uffd, base, PAGE); /* harmless */
	close(uffd);
	close(socks[0]);
}

/* ---- no memory ---- */

/*
 * The kernel says ENOMEM only on paper: 6.18 answers EEXIST to a huge page that
 * it cannot allocate. What callers rely on is how CONTINUE tells the two apart.
 */
static void no_free_huge_page_can_be_told_from_a_mapped_one(void **state)
{
	struct guest_memory m;
	_cleanup_close_ int file = -1;
	struct resolve_result r;
	uint64_t ioctls;
	uint8_t *base, *huge;
	hva_t at;

	(void)state;
	file = huge_reserve(1) ? small_hugetlbfs_file(HUGE_BYTES, 2 * HUGE_BYTES) : -1;
	if (file < 0) {
		printf("skipped: no 2 MiB huge page, or hugetlbfs cannot be mounted here\n");
		skip();
	}
	memory_new(MEMORY_ANON, 0, &m);
	base = mmap(NULL, 2 * HUGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, file,
	            0);
	assert_ptr_not_equal(base, MAP_FAILED);
	at.addr = (uintptr_t)base;
	assert_int_equal(uffd_register(m.uffd, at, 2 * HUGE_BYTES, false, &ioctls, NULL), 0);
	/*
	 * Touched: for a source that is not there the kernel takes another huge
	 * page for a moment.
	 */
	huge = malloc(HUGE_BYTES);
	memset(huge, 1, HUGE_BYTES);
	assert_true(huge_use_one(file, 1));
	r = resolve_copy(m.uffd, at, HUGE_BYTES, huge);
	assert_true(r.outcome == (r.error == ENOMEM ? RESOLVE_NO_MEMORY : RESOLVE_ALREADY));
	assert_int_equal(r.done_bytes, 0);
	assert_result(resolve_continue(m.uffd, at, HUGE_BYTES), RESOLVE_FATAL, 0, EFAULT);
	assert_true(huge_give_one(file, 1));
	assert_result(resolve_copy(m.uffd, at, HUGE_BYTES, huge), RESOLVE_DONE, HUGE_BYTES, 0);
	assert_result(resolve_copy(m.uffd, at, HUGE_BYTES, huge), RESOLVE_ALREADY, 0, EEXIST);
	assert_result(resolve_continue(m.uffd, at, HUGE_BYTES), RESOLVE_ALREADY, 0, EEXIST);
	free(huge);
	munmap(base, 2 * HUGE_BYTES);
	guest_memory_free(&m);
	close_fd(&file); /* its page goes back first */
	huge_give_back();
}

/* ---- wake ---- */

static void *read_main(void *arg)
{
	const struct guest_memory *m = arg;
	uint8_t byte = 0;

	return touch_read(m->base, &byte) ? (void *)(uintptr_t)byte : NULL;
}

/* A woken thread whose page is still missing faults again: nothing is lost by a wake. */
static void a_woken_thread_faults_again(void **state)
{
	struct guest_memory m;
	struct pollfd poll_uffd;
	struct uffd_msg msg;
	pthread_t thread;
	void *byte;

	(void)state;
	memory_new(MEMORY_ANON, 0, &m);
	assert_int_equal(pthread_create(&thread, NULL, read_main, &m), 0);
	poll_uffd = (struct pollfd){.fd = m.uffd, .events = POLLIN};
	for (int i = 0; i < 3; i++) {
		assert_int_equal(poll(&poll_uffd, 1, 10000), 1);
		assert_int_equal(uffd_read(m.uffd, &msg, 1), 1);
		assert_int_equal(msg.event, UFFD_EVENT_PAGEFAULT);
		assert_int_equal(uffd_read(m.uffd, &msg, 1), -EAGAIN);
		resolve_wake(m.uffd, guest_memory_hva(&m, 0), PAGE);
	}
	assert_result(resolve_copy(m.uffd, guest_memory_hva(&m, 0), PAGE, source), RESOLVE_DONE,
	              PAGE, 0);
	pthread_join(thread, &byte);
	assert_int_equal((uintptr_t)byte, source[0]);
	guest_memory_free(&m);
}

static void outcomes_have_names(void **state)
{
	(void)state;
	assert_string_equal(resolve_outcome_name(RESOLVE_DONE), "done");
	assert_string_equal(resolve_outcome_name(RESOLVE_FATAL), "fatal");
	assert_string_equal(resolve_outcome_name(RESOLVE_OUTCOMES_), "invalid");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(copies_from_any_alignment),
	        cmocka_unit_test(zero_pages_read_as_zeros),
	        cmocka_unit_test(writes_and_continues),
	        cmocka_unit_test(huge_pages_are_copied_whole),
	        cmocka_unit_test(poison_gives_sigbus),
	        cmocka_unit_test(poison_kills_a_process_that_does_not_care),
	        cmocka_unit_test(poison_refuses_what_is_mapped),
	        cmocka_unit_test(a_copy_would_overwrite_poison),
	        cmocka_unit_test(stops_at_what_is_mapped),
	        cmocka_unit_test(continue_stops_at_what_is_mapped),
	        cmocka_unit_test(unregistered_memory_is_unmapped),
	        cmocka_unit_test(bad_requests_are_fatal),
	        cmocka_unit_test(files_that_cannot_be_written_are_fatal),
	        cmocka_unit_test(a_changing_mapping_is_retried),
	        cmocka_unit_test(a_dead_process_is_gone),
	        cmocka_unit_test(no_free_huge_page_can_be_told_from_a_mapped_one),
	        cmocka_unit_test(a_woken_thread_faults_again),
	        cmocka_unit_test(outcomes_have_names),
	};
	int rc;

	if (!uffd_permitted())
		return TEST_SKIPPED;
	has_poison = poison_permitted();
	source_fill();
	rc = cmocka_run_group_tests(tests, NULL, NULL);
	huge_give_back(); /* also after a failed test */
	return rc;
}
