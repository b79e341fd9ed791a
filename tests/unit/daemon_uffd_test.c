/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Promises of daemon/uffd.h, asked of the real kernel: a userfaultfd is taken
 * over in whatever state a VMM left it, anything else is refused with a text;
 * what cannot be registered says why; poison outlives unregistering.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/wait.h>

#include "daemon/resolve.h"
#include "daemon_guest_memory.h"

#define PAGE WIRE_PAGE_SIZE
#define UNITS 4

static bool has_poison;

static int handshaken(uint64_t features)
{
	uint64_t available;
	int fd = uffd_open();

	assert_true(fd >= 0);
	assert_int_equal(uffd_negotiate(fd, features, &available), 0);
	return fd;
}

static bool is_nonblocking(int fd)
{
	return fcntl(fd, F_GETFL) & O_NONBLOCK;
}

/* ---- what the process has begun ---- */

struct mover {
	void *from, *to;
	uint64_t bytes;
	void *result;
};

static void *move_main(void *arg)
{
	struct mover *m = arg;

	m->result = mremap(m->from, m->bytes, m->bytes, MREMAP_MAYMOVE | MREMAP_FIXED, m->to);
	return NULL;
}

/* A move is under way until its event is read, and nothing that is asked changes that. */
static void a_move_is_under_way_until_its_event_is_read(void **state)
{
	struct guest_memory g;
	struct mover m = {.bytes = UNITS * PAGE};
	struct uffd_msg msg;
	struct pollfd p;
	pthread_t thread;

	(void)state;
	assert_int_equal(guest_memory_new(MEMORY_ANON, UNITS, UFFD_FEATURE_EVENT_REMAP, &g), 0);
	m.from = guest_memory_at(&g, 0);
	m.to = mmap(NULL, m.bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_true(m.to != MAP_FAILED);
	assert_false(uffd_changing(g.uffd));
	assert_int_equal(pthread_create(&thread, NULL, move_main, &m), 0);
	p = (struct pollfd){.fd = g.uffd, .events = POLLIN};
	assert_int_equal(poll(&p, 1, 10000), 1);
	assert_true(uffd_changing(g.uffd));
	assert_true(uffd_changing(g.uffd));
	assert_int_equal(uffd_read(g.uffd, &msg, 1), 1);
	assert_int_equal(msg.event, UFFD_EVENT_REMAP);
	assert_int_equal(pthread_join(thread, NULL), 0);
	assert_ptr_equal(m.result, m.to);
	assert_false(uffd_changing(g.uffd));
	munmap(m.to, m.bytes);
	guest_memory_free(&g);
}

/* ---- adopt ---- */

static void adopts_a_raw_one(void **state)
{
	_cleanup_close_ int fd = uffd_open();
	struct uffd_info info = {0}, again = {0};
	struct error err = {0};
	struct pollfd p = {.fd = fd, .events = POLLIN};

	(void)state;
	assert_int_equal(uffd_adopt(fd, &info, &err), 0);
	assert_false(info.handshake_was_done);
	assert_int_equal(info.poison_supported, has_poison);
	assert_true(info.remove_events);
	assert_true(info.features & UFFD_FEATURE_EVENT_REMOVE);
	assert_int_equal(!!(info.features & UFFD_FEATURE_POISON), has_poison);
	/* It really is ready: no POLLERR, which an unfinished one always has. */
	assert_int_equal(poll(&p, 1, 0), 0);
	/* As a restarted daemon would find it. */
	assert_int_equal(uffd_adopt(fd, &again, &err), 0);
	assert_true(again.handshake_was_done);
	assert_true(again.features == info.features);
	assert_int_equal(again.poison_supported, has_poison);
	assert_true(again.remove_events && again.remap_events);
}

static void adopts_one_that_is_handshaken(void **state)
{
	static const uint64_t features[] = {
	        0, UFFD_FEATURE_EVENT_REMOVE, UFFD_FEATURE_MISSING_SHMEM,
	        UFFD_FEATURE_MISSING_HUGETLBFS | UFFD_FEATURE_THREAD_ID | UFFD_FEATURE_EVENT_UNMAP,
	        UFFD_FEATURE_EVENT_REMAP};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(features); i++) {
		_cleanup_close_ int fd = handshaken(features[i]);
		struct uffd_info info = {0};

		assert_int_equal(uffd_adopt(fd, &info, NULL), 0);
		assert_true(info.handshake_was_done);
		assert_true(info.features == features[i]);
		assert_int_equal(info.remove_events, !!(features[i] & (UFFD_FEATURE_EVENT_REMOVE |
		                                                       UFFD_FEATURE_EVENT_UNMAP)));
		assert_int_equal(info.remap_events, !!(features[i] & UFFD_FEATURE_EVENT_REMAP));
		/* Not asked for at the handshake, but the kernel has it: found out. */
		assert_int_equal(info.poison_supported, has_poison);
	}
}

static void poison_works_where_adopt_says_so(void **state)
{
	static const uint64_t features[] = {0, UFFD_FEATURE_POISON};

	(void)state;
	if (!has_poison)
		skip();
	for (size_t i = 0; i < ARRAY_SIZE(features); i++) {
		struct guest_memory m;
		struct uffd_info info = {0};
		uint8_t byte;

		assert_int_equal(guest_memory_new(MEMORY_ANON, UNITS, features[i], &m), 0);
		assert_int_equal(uffd_adopt(m.uffd, &info, NULL), 0);
		assert_true(info.poison_supported);
		assert_int_equal(resolve_poison(m.uffd, guest_memory_hva(&m, 1), PAGE).outcome,
		                 RESOLVE_DONE);
		assert_false(touch_read(guest_memory_at(&m, 1), &byte));
		guest_memory_free(&m);
	}
}

/* The question must not change the guest's memory, nor depend on an address. */
static void asking_for_poison_places_none(void **state)
{
	struct guest_memory m;
	struct uffd_info info = {0};

	(void)state;
	assert_int_equal(guest_memory_new(MEMORY_ANON, UNITS, 0, &m), 0);
	assert_int_equal(uffd_adopt(m.uffd, &info, NULL), 0);
	for (uint64_t unit = 0; unit < UNITS; unit++)
		assert_int_equal(resolve_zeropage(m.uffd, guest_memory_hva(&m, unit), PAGE).outcome,
		                 RESOLVE_DONE);
	guest_memory_free(&m);
}

static void makes_a_blocking_one_non_blocking(void **state)
{
	(void)state;
	for (int raw = 0; raw < 2; raw++) {
		_cleanup_close_ int fd = raw ? uffd_open() : handshaken(0);
		struct uffd_info info = {0};
		struct uffd_msg msg;

		assert_int_equal(fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK), 0);
		assert_false(is_nonblocking(fd));
		assert_int_equal(uffd_adopt(fd, &info, NULL), 0);
		assert_true(is_nonblocking(fd));
		assert_int_equal(uffd_read(fd, &msg, 1), -EAGAIN);
	}
}

static void expect_not_a_uffd(int fd)
{
	struct uffd_info info = {.features = 77};
	struct error err = {0};
	int flags = fcntl(fd, F_GETFL);

	assert_int_equal(uffd_adopt(fd, &info, &err), -EINVAL);
	assert_string_equal(err.text, "the descriptor is not a userfaultfd");
	assert_int_equal(info.features, 77);
	assert_int_equal(fcntl(fd, F_GETFL), flags); /* untouched */
}

static void refuses_other_kinds_of_fd(void **state)
{
	_cleanup_close_ int memfd = memfd_create("[userfaultfd]", MFD_CLOEXEC);
	_cleanup_close_ int event = eventfd(0, EFD_CLOEXEC);
	_cleanup_close_ int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	int pipe_fds[2];

	(void)state;
	assert_int_equal(pipe(pipe_fds), 0);
	expect_not_a_uffd(pipe_fds[0]);
	expect_not_a_uffd(memfd);
	expect_not_a_uffd(event);
	expect_not_a_uffd(null);
	expect_not_a_uffd(-1);
	close(pipe_fds[0]);
	close(pipe_fds[1]);
}

static void refuses_features_that_cannot_be_served(void **state)
{
	static const struct {
		uint64_t feature;
		const char *text;
	} refused[] = {{UFFD_FEATURE_EVENT_FORK, "(0x2)"},
	               {UFFD_FEATURE_SIGBUS, "(0x80)"},
	               {UFFD_FEATURE_SIGBUS | UFFD_FEATURE_EVENT_REMOVE, "(0x80)"}};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(refused); i++) {
		_cleanup_close_ int fd = uffd_open();
		struct uffd_info info = {.features = 77};
		struct error err = {0};
		uint64_t available;

		/* Fork events need a privilege. */
		if (uffd_negotiate(fd, refused[i].feature, &available) < 0)
			continue;
		assert_int_equal(uffd_adopt(fd, &info, &err), -EINVAL);
		assert_non_null(strstr(err.text, "fork or SIGBUS; open it without them"));
		assert_non_null(strstr(err.text, refused[i].text));
		assert_int_equal(info.features, 77);
	}
}

/*
 * A kernel without UFFDIO_POISON refuses the first handshake, and the next goes
 * to the same descriptor: it came from the VMM, there is no other.
 */
static void a_refused_handshake_can_be_repeated(void **state)
{
	_cleanup_close_ int fd = uffd_open();
	struct uffdio_api unknown = {.api = UFFD_API, .features = UINT64_C(1) << 50};
	struct uffd_info info = {0};

	(void)state;
	assert_int_equal(ioctl(fd, UFFDIO_API, &unknown), -1);
	assert_int_equal(errno, EINVAL);
	assert_int_equal(uffd_adopt(fd, &info, NULL), 0);
	assert_false(info.handshake_was_done);
}

/* ---- register ---- */

#define HAS(ioctls, number) (!!((ioctls) & (UINT64_C(1) << (number))))

static void registers_every_kind(void **state)
{
	(void)state;
	for (int kind = 0; kind < MEMORY_KINDS_; kind++) {
		_cleanup_close_ int fd = handshaken(has_poison ? UFFD_FEATURE_POISON : 0);
		uint64_t bytes = memory_is_huge(kind) ? HUGE_BYTES : UNITS * PAGE, ioctls = 0;
		int memfd = -1;
		void *base;

		if (memory_is_huge(kind) && !huge_reserve(1)) {
			printf("skipped: hugetlb: no free 2 MiB huge page here\n");
			continue;
		}
		base = memory_map(kind, bytes, &memfd);
		assert_ptr_not_equal(base, MAP_FAILED);
		/* Twice: a VMM may have registered its memory before. */
		for (int i = 0; i < 2; i++) {
			assert_int_equal(uffd_register(fd, (hva_t){(uintptr_t)base}, bytes,
			                               memory_is_minor(kind), &ioctls, NULL),
			                 0);
			assert_true(HAS(ioctls, _UFFDIO_COPY));
			assert_true(HAS(ioctls, _UFFDIO_WAKE));
			assert_int_equal(HAS(ioctls, _UFFDIO_POISON), has_poison);
			assert_int_equal(HAS(ioctls, _UFFDIO_ZEROPAGE), !memory_is_huge(kind));
			if (memory_is_minor(kind))
				assert_true(HAS(ioctls, _UFFDIO_CONTINUE));
		}
		munmap(base, bytes);
		close_fd(&memfd);
	}
	huge_give_back();
}

static void *touch_main(void *arg)
{
	uint8_t byte = 0;

	touch_read(arg, &byte);
	return NULL;
}

static void wait_for_fault(int fd, struct uffd_msg *msg)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};

	assert_int_equal(poll(&p, 1, 10000), 1);
	assert_int_equal(uffd_read(fd, msg, 1), 1);
	assert_int_equal(msg->event, UFFD_EVENT_PAGEFAULT);
}

/* MINOR alone would let the guest read zeros from a hole without any event. */
static void minor_mode_traps_holes_too(void **state)
{
	struct guest_memory m;
	struct uffd_msg msg;
	pthread_t thread;

	(void)state;
	assert_int_equal(guest_memory_new(MEMORY_MEMFD_MINOR, UNITS, 0, &m), 0);
	assert_int_equal(pthread_create(&thread, NULL, touch_main, guest_memory_at(&m, 1)), 0);
	wait_for_fault(m.uffd, &msg);
	assert_int_equal(msg.arg.pagefault.address & ~(PAGE - 1), guest_memory_hva(&m, 1).addr);
	assert_false(msg.arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_MINOR);
	/* It is in the page cache now: the fault comes again, as a minor one. */
	resolve_write(m.memfd, (backing_off_t){PAGE}, PAGE, NULL);
	resolve_wake(m.uffd, guest_memory_hva(&m, 1), PAGE);
	wait_for_fault(m.uffd, &msg);
	assert_true(msg.arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_MINOR);
	assert_int_equal(resolve_continue(m.uffd, guest_memory_hva(&m, 1), PAGE).outcome,
	                 RESOLVE_DONE);
	pthread_join(thread, NULL);
	guest_memory_free(&m);
}

static void expect_refused(int fd, uint64_t start, uint64_t bytes, bool minor, int code,
                           const char *text)
{
	struct error err = {0};
	uint64_t ioctls = 77;
	char where[64];

	assert_int_equal(uffd_register(fd, (hva_t){start}, bytes, minor, &ioctls, &err), code);
	assert_int_equal(err.code, code);
	assert_int_equal(ioctls, 77);
	if (!strstr(err.text, text))
		fail_msg("\"%s\" instead of \"%s\"", err.text, text);
	snprintf(where, sizeof(where), "register 0x%llx+%llu: ", (unsigned long long)start,
	         (unsigned long long)bytes);
	assert_non_null(strstr(err.text, where));
}

static void what_cannot_be_registered_says_why(void **state)
{
	_cleanup_close_ int fd = handshaken(0), raw = uffd_open();
	_cleanup_close_ int file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	struct guest_memory other;
	uint64_t hole, exe;
	void *base;

	(void)state;
	assert_int_equal(guest_memory_new(MEMORY_ANON, UNITS, 0, &other), 0);
	expect_refused(fd, (uintptr_t)other.base, UNITS * PAGE, false, -EBUSY,
	               "another userfaultfd is registered there");
	guest_memory_free(&other);

	base = mmap(NULL, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	hole = (uintptr_t)base + PAGE;
	/* A wrong kind of mode for the memory. */
	expect_refused(fd, (uintptr_t)base, PAGE, true, -EINVAL,
	               "that kind of memory cannot be registered in this mode");
	expect_refused(fd, (uintptr_t)base + 8, PAGE, false, -EINVAL, "Invalid argument");
	/* Without a handshake nothing works. */
	expect_refused(raw, (uintptr_t)base, PAGE, false, -EINVAL, "Invalid argument");
	munmap(base, 3 * PAGE);
	expect_refused(fd, hole, PAGE, false, -EINVAL, "is not mapped as a whole");

	exe = (uintptr_t)mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, file, 0);
	expect_refused(fd, exe, PAGE, false, -EINVAL, "that kind of memory");
	munmap((void *)(uintptr_t)exe, PAGE);
}

static void a_dead_vmm_cannot_be_registered(void **state)
{
	int status, fds[2];
	pid_t child;
	int fd;

	(void)state;
	assert_int_equal(pipe(fds), 0);
	child = fork();
	if (child == 0) {
		int own = uffd_open();

		if (write(fds[1], &own, sizeof(own)) != sizeof(own))
			_exit(1);
		for (;;)
			pause();
	}
	assert_int_equal(read(fds[0], &fd, sizeof(fd)), sizeof(fd));
	{
		_cleanup_close_ int pidfd = (int)syscall(434 /* pidfd_open */, child, 0);
		_cleanup_close_ int taken = (int)syscall(438 /* pidfd_getfd */, pidfd, fd, 0);
		struct uffd_info info = {0};

		if (taken >= 0)
			assert_int_equal(uffd_adopt(taken, &info, NULL), 0);
		kill(child, SIGKILL);
		assert_int_equal(waitpid(child, &status, 0), child);
		if (taken >= 0)
			expect_refused(taken, 0x10000000, PAGE, false, -ENOMEM,
			               "nothing is mapped there, or the VMM is gone");
	}
	close(fds[0]);
	close(fds[1]);
}

/* ---- unregister ---- */

static void poison_outlives_unregistering(void **state)
{
	(void)state;
	if (!has_poison)
		skip();
	for (int kind = MEMORY_ANON; kind <= MEMORY_MEMFD_MINOR; kind++) {
		struct guest_memory m;
		uint8_t byte = 0;

		assert_int_equal(guest_memory_new(kind, UNITS, UFFD_FEATURE_POISON, &m), 0);
		assert_int_equal(resolve_zeropage(m.uffd, guest_memory_hva(&m, 0), PAGE).outcome,
		                 RESOLVE_DONE);
		assert_int_equal(resolve_poison(m.uffd, guest_memory_hva(&m, 1), PAGE).outcome,
		                 RESOLVE_DONE);
		assert_int_equal(uffd_unregister(m.uffd, guest_memory_hva(&m, 0), m.length_bytes),
		                 0);
		touch_code = 0;
		assert_false(touch_read(guest_memory_at(&m, 1), &byte));
		assert_true(touch_was_poison());
		assert_true(touch_read(guest_memory_at(&m, 0), &byte));
		/* And without the userfaultfd at all. */
		close_fd(&m.uffd);
		assert_false(touch_read(guest_memory_at(&m, 1), &byte));
		guest_memory_free(&m);
	}
}

static void unregistering_ends_faults(void **state)
{
	struct guest_memory m;
	struct uffd_msg msg;
	uint8_t byte = 1;

	(void)state;
	assert_int_equal(guest_memory_new(MEMORY_ANON, UNITS, 0, &m), 0);
	assert_int_equal(uffd_unregister(m.uffd, guest_memory_hva(&m, 0), m.length_bytes), 0);
	assert_true(touch_read(m.base, &byte));
	assert_int_equal(byte, 0);
	assert_int_equal(uffd_read(m.uffd, &msg, 1), -EAGAIN);
	assert_true(uffd_unregister(m.uffd, (hva_t){1}, PAGE) < 0);
	guest_memory_free(&m);
}

/* ---- read ---- */

static void reads_a_batch(void **state)
{
	struct guest_memory m;
	struct uffd_msg msgs[UNITS + 1];
	pthread_t threads[UNITS];
	bool seen[UNITS] = {false};
	int n_seen = 0;

	(void)state;
	assert_int_equal(guest_memory_new(MEMORY_ANON, UNITS, 0, &m), 0);
	assert_int_equal(uffd_read(m.uffd, msgs, ARRAY_SIZE(msgs)), -EAGAIN);
	for (uint64_t i = 0; i < UNITS; i++)
		assert_int_equal(
		        pthread_create(&threads[i], NULL, touch_main, guest_memory_at(&m, i)), 0);
	while (n_seen < UNITS) {
		struct pollfd p = {.fd = m.uffd, .events = POLLIN};
		int n;

		assert_int_equal(poll(&p, 1, 10000), 1);
		n = uffd_read(m.uffd, msgs, ARRAY_SIZE(msgs));
		assert_in_range(n, 1, UNITS);
		for (int i = 0; i < n; i++) {
			uint64_t unit = (msgs[i].arg.pagefault.address - (uintptr_t)m.base) / PAGE;

			assert_in_range(unit, 0, UNITS - 1);
			assert_false(seen[unit]);
			seen[unit] = true;
			n_seen++;
		}
	}
	resolve_zeropage(m.uffd, guest_memory_hva(&m, 0), m.length_bytes);
	for (size_t i = 0; i < UNITS; i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(uffd_read(-1, msgs, 1), -EBADF);
	guest_memory_free(&m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(a_move_is_under_way_until_its_event_is_read),
	        cmocka_unit_test(adopts_a_raw_one),
	        cmocka_unit_test(adopts_one_that_is_handshaken),
	        cmocka_unit_test(poison_works_where_adopt_says_so),
	        cmocka_unit_test(asking_for_poison_places_none),
	        cmocka_unit_test(makes_a_blocking_one_non_blocking),
	        cmocka_unit_test(refuses_other_kinds_of_fd),
	        cmocka_unit_test(refuses_features_that_cannot_be_served),
	        cmocka_unit_test(a_refused_handshake_can_be_repeated),
	        cmocka_unit_test(registers_every_kind),
	        cmocka_unit_test(minor_mode_traps_holes_too),
	        cmocka_unit_test(what_cannot_be_registered_says_why),
	        cmocka_unit_test(a_dead_vmm_cannot_be_registered),
	        cmocka_unit_test(poison_outlives_unregistering),
	        cmocka_unit_test(unregistering_ends_faults),
	        cmocka_unit_test(reads_a_batch),
	};
	int rc;

	if (!uffd_permitted())
		return TEST_SKIPPED;
	has_poison = poison_permitted();
	rc = cmocka_run_group_tests(tests, NULL, NULL);
	huge_give_back(); /* also after a failed test */
	return rc;
}
