/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Promises of the watchdog's look at lanes: a thread that is stuck and events that nobody
 * reads are noticed, told once, and forgiven when it goes on; a lane that has nothing to
 * do, or whose link is down for hours, is not taken for one of these.
 *
 * Time is the test's own; what is waited for are the threads' answers.
 */
#include "loop/daemon_lane_source.h"

#include <semaphore.h>
#include <sys/epoll.h>

#include "daemon/lane_private.h"
#include "daemon/uffd.h"

#define ALLOWED_US 1000000
#define START_US 5000000
#define HOUR_US UINT64_C(3600000000)

/* Until its ping is answered; that has no event. */
static void thread_wait(const struct lane_thread *t)
{
	uint64_t end_us = clock_monotonic_us() + DEADLINE_S * UINT64_C(1000000);

	while (atomic_load(&t->pulse.n_pongs) != t->pulse.n_pings) {
		must(clock_monotonic_us() < end_us);
		sched_yield();
	}
}

static void answered_wait(struct bed *b)
{
	thread_wait(&b->lanes[0]->urgent);
	thread_wait(&b->lanes[0]->bulk);
}

static void expect_stands(struct bed *b, uint64_t now_us, enum lane_pulse_result expected,
                          const char *text)
{
	struct error err = {0};
	enum lane_pulse_result result;

	lane_ping(b->lanes[0], true, now_us);
	result = lane_alive(b->lanes[0], now_us, ALLOWED_US, &err);
	if (result != expected || (text && !strstr(err.text, text)))
		fail_msg("%d with \"%s\"; expected %d with \"%s\"", result, err.text, expected,
		         text ? text : "");
}

/* In quarters, as the watchdog comes; it works all the time. */
static void expect_works(struct bed *b, uint64_t *now_us, uint64_t us)
{
	for (uint64_t end_us = *now_us + us; *now_us < end_us; *now_us += ALLOWED_US / 4) {
		expect_stands(b, *now_us, LANE_WORKS, NULL);
		answered_wait(b);
	}
}

static void test_idle(void **state)
{
	struct bed *b = bed_start_small();
	uint64_t now_us = START_US;

	(void)state;
	expect_works(b, &now_us, 100 * ALLOWED_US);
	now_us += HOUR_US;
	expect_works(b, &now_us, ALLOWED_US);
	bed_finish(b);
}

/* A guest waits, for hours, for a source that is away: the fault was read, nothing stands. */
static void test_paused(void **state)
{
	struct bed *b = bed_start_small();
	struct links l = links_up(b, 0, true);
	uint64_t now_us = START_US;
	struct waiter w;

	(void)state;
	links_down(&l);
	bed_wait(b, 0, LANE_EVENT_LINK_LOST);
	waiter_start(b, 5, &w);
	unit_wait(b, 5, PAGE_REQUESTED);
	expect_works(b, &now_us, 100 * ALLOWED_US);
	now_us += HOUR_US;
	expect_works(b, &now_us, ALLOWED_US);
	bed_finish(b);
}

/* What a thread is doing while it should answer: waiting for somebody who does not come. */
struct block {
	sem_t entered, leave;
};

static void block_run(void *arg)
{
	struct block *block = arg;

	must(sem_post(&block->entered) == 0);
	while (sem_wait(&block->leave) < 0)
		must(errno == EINTR);
}

static void block_enter(struct block *block, const struct lane_thread *t)
{
	must(sem_init(&block->entered, 0, 0) == 0 && sem_init(&block->leave, 0, 0) == 0);
	must(loop_post(t->loop, block_run, block) == 0);
	must(sem_wait(&block->entered) == 0);
}

static void block_leave(struct bed *b, struct block *block)
{
	must(sem_post(&block->leave) == 0);
	answered_wait(b);
	sem_destroy(&block->entered);
	sem_destroy(&block->leave);
}

static void run_stuck(bool urgent, const char *text)
{
	struct bed *b = bed_start_small();
	const struct lane_thread *t = urgent ? &b->lanes[0]->urgent : &b->lanes[0]->bulk;
	uint64_t now_us = START_US;
	const struct lane_thread *other = urgent ? &b->lanes[0]->bulk : &b->lanes[0]->urgent;
	struct block block;

	expect_works(b, &now_us, 3 * ALLOWED_US);
	block_enter(&block, t);
	for (int i = 0; i < 4; i++, now_us += ALLOWED_US / 4) {
		expect_stands(b, now_us, LANE_WORKS, NULL);
		thread_wait(other);
	}
	expect_stands(b, now_us - 1, LANE_WORKS, NULL);
	thread_wait(other);
	expect_stands(b, now_us, LANE_STANDS, text);
	expect_stands(b, now_us, LANE_STANDS_STILL, text);
	thread_wait(other);
	expect_stands(b, now_us + HOUR_US, LANE_STANDS_STILL, text);
	block_leave(b, &block);
	expect_works(b, &now_us, 3 * ALLOWED_US);
	/* And once more: that is news again. */
	block_enter(&block, t);
	expect_stands(b, now_us, LANE_WORKS, NULL);
	thread_wait(other);
	expect_stands(b, now_us + ALLOWED_US, LANE_STANDS, text);
	block_leave(b, &block);
	bed_finish(b);
}

static void test_stuck_thread(void **state)
{
	(void)state;
	run_stuck(true, "thread that answers faults does not react for 1.0 s");
	run_stuck(false, "thread of the background stream does not react for 1.0 s");
}

/* One order may take long (all that a lost source had is poisoned): work that moves is no standing. */
static void test_busy(void **state)
{
	struct bed *b = bed_start_small();
	struct lane *lane = b->lanes[0];
	uint64_t now_us = START_US;
	struct block block;

	(void)state;
	block_enter(&block, &lane->urgent);
	for (int i = 0; i < 20; i++, now_us += ALLOWED_US / 2) {
		stats_add(&lane->urgent_stats, pages_poisoned, 1);
		expect_stands(b, now_us, LANE_WORKS, NULL);
		thread_wait(&lane->bulk);
	}
	now_us -= ALLOWED_US / 2;
	expect_stands(b, now_us + ALLOWED_US, LANE_STANDS, "answers faults");
	block_leave(b, &block);
	bed_finish(b);
}

/* The epoll instance of this process that watches fd; the test tears fd out of it. */
static bool epoll_tear_out(int fd)
{
	char path[64], line[256];
	int tfd;

	for (int ep = 0; ep < 256; ep++) {
		struct epoll_event none = {0};
		FILE *f;

		snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", ep);
		f = fopen(path, "re");
		while (f && fgets(line, sizeof(line), f))
			if (sscanf(line, "tfd: %d", &tfd) == 1 && tfd == fd &&
			    epoll_ctl(ep, EPOLL_CTL_DEL, fd, &none) == 0) {
				fclose(f);
				return true;
			}
		if (f)
			fclose(f);
	}
	return false;
}

static void uffd_readable_wait(const struct lane *lane)
{
	struct pollfd p = {.fd = lane->uffd, .events = POLLIN};

	must(poll(&p, 1, DEADLINE_S * 1000) == 1 && p.revents == POLLIN);
}

/* Both threads answer, but the fault of the guest is read by nobody. */
static void test_unread_uffd(void **state)
{
	struct bed *b = bed_start_small();
	struct lane *lane = b->lanes[0];
	uint64_t now_us = START_US;
	struct uffd_msg msg;
	struct waiter w, before;

	(void)state;
	waiter_start(b, 4, &before);
	unit_wait(b, 4, PAGE_REQUESTED);
	expect_works(b, &now_us, ALLOWED_US);
	must(epoll_tear_out(lane->uffd));
	waiter_start(b, 5, &w);
	uffd_readable_wait(lane);
	for (int i = 0; i < 4; i++, now_us += ALLOWED_US / 4) {
		expect_stands(b, now_us, LANE_WORKS, NULL);
		answered_wait(b);
	}
	expect_stands(b, now_us, LANE_STANDS, "nobody reads them for 1.0 s");
	/* The same of a lane of which nothing is expected any more. */
	lane_ping(lane, false, now_us);
	assert_int_equal(lane_alive(lane, now_us, ALLOWED_US, NULL), LANE_WORKS);
	answered_wait(b);
	must(uffd_read(lane->uffd, &msg, 1) == 1);
	expect_works(b, &now_us, 3 * ALLOWED_US);
	lane_free(TAKE_PTR(b->lanes[0]));
	must(uffd_unregister(b->uffds[0], b->table->regions[0].hva,
	                     b->table->regions[0].length_bytes) == 0);
	waiters_end(b);
	bed_end(b);
}

/* Somebody reads, only slowly: each look finds an event, and another one each time. */
static void test_busy_uffd(void **state)
{
	struct bed *b = bed_start_small();
	struct lane *lane = b->lanes[0];
	uint64_t now_us = START_US;
	struct waiter w;

	(void)state;
	must(epoll_tear_out(lane->uffd));
	waiter_start(b, 5, &w);
	uffd_readable_wait(lane);
	for (int i = 0; i < 20; i++, now_us += ALLOWED_US / 2) {
		atomic_fetch_add(&lane->n_reads, 1);
		expect_stands(b, now_us, LANE_WORKS, NULL);
		answered_wait(b);
	}
	lane_free(TAKE_PTR(b->lanes[0]));
	must(uffd_unregister(b->uffds[0], b->table->regions[0].hva,
	                     b->table->regions[0].length_bytes) == 0);
	waiters_end(b);
	bed_end(b);
}

/* What the fault path counts as read is what uffd_look() goes by. */
static void test_reads_are_counted(void **state)
{
	struct bed *b = bed_start_small();
	struct waiter w[3];

	(void)state;
	for (uint64_t i = 0; i < ARRAY_SIZE(w); i++) {
		waiter_start(b, i, &w[i]);
		unit_wait(b, i, PAGE_REQUESTED);
		assert_int_equal(atomic_load(&b->lanes[0]->n_reads), i + 1);
	}
	bed_finish(b);
}

static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_idle),
        cmocka_unit_test(test_paused),
        cmocka_unit_test(test_stuck_thread),
        cmocka_unit_test(test_busy),
        cmocka_unit_test(test_unread_uffd),
        cmocka_unit_test(test_busy_uffd),
        cmocka_unit_test(test_reads_are_counted),
};

LANE_TEST_MAIN(tests)
