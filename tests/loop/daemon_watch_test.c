/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Promises of the watchdog over all migrations of a real daemon: it finds the one lane that
 * stands among those that work, and time in which the main loop was not there to ask does
 * not count against a lane. Time is the test's own.
 */
#include "loop/daemon_fixture.h"

#include <sched.h>
#include <semaphore.h>

#include "core/clock.h"
#include "daemon/lane_private.h"
#include "daemon/lane_watch.h"

#define ALLOWED_US 1000000
#define STEP_US (ALLOWED_US / 4)
#define HOUR_US UINT64_C(3600000000)

struct watched {
	struct lane_watch watch;
	uint64_t now_us;
	struct lane_thread *blocked;
	sem_t entered, leave;
	unsigned n_steps;
	uint64_t step_us;
	unsigned n_alive;
};

/* Two guests. */
struct guests {
	void *memory[2];
	int uffds[2], sockets[2];
};

static void guests_attach(const struct fixture *f, struct guests *g)
{
	for (uint8_t i = 0; i < 2; i++) {
		struct attach_request request = attach_request_for(i, NULL, 1);
		struct attach_region region;
		struct attach_reply reply = {0};

		g->memory[i] = map_anonymous();
		g->uffds[i] = uffd_open();
		region = anonymous_region(g->memory[i]);
		request.attach.regions = &region;
		start_migration(f, i);
		g->sockets[i] = connect_to(f->attach);
		attach_send(g->sockets[i], &request, &g->uffds[i], 1);
		attach_recv(g->sockets[i], &reply);
		if (reply.error)
			fail_msg("%s", reply.text);
	}
}

static void guests_end(struct guests *g)
{
	for (int i = 0; i < 2; i++) {
		close(g->sockets[i]);
		close(g->uffds[i]);
		munmap(g->memory[i], REGION_BYTES);
	}
}

static void block_run(void *arg)
{
	struct watched *w = arg;

	sem_post(&w->entered);
	while (sem_wait(&w->leave) < 0)
		;
}

/* On the main loop: the bulk thread of the second guest does not react from here on. */
static void block(struct fixture *f, void *arg)
{
	struct migration_table *t = daemon_migrations(f->daemon);
	struct watched *w = arg;

	w->blocked = &migration_table_next(t, migration_table_next(t, NULL))->lanes[0].lane->bulk;
	sem_init(&w->entered, 0, 0);
	sem_init(&w->leave, 0, 0);
	loop_post(w->blocked->loop, block_run, w);
	sem_wait(&w->entered);
}

/* Until each thread but the blocked one has answered. */
static void wait_answers(const struct migration_table *t, const struct lane_thread *blocked)
{
	for (struct migration *m = migration_table_next(t, NULL); m;
	     m = migration_table_next(t, m)) {
		struct lane *lane = m->lanes[0].lane;
		const struct lane_thread *threads[] = {&lane->urgent, &lane->bulk};

		for (int i = 0; i < 2; i++)
			while (threads[i] != blocked &&
			       atomic_load(&threads[i]->pulse.n_pongs) != threads[i]->pulse.n_pings)
				sched_yield();
	}
}

static void steps(struct fixture *f, void *arg)
{
	struct migration_table *t = daemon_migrations(f->daemon);
	struct watched *w = arg;

	w->n_alive = 0;
	for (unsigned i = 0; i < w->n_steps; i++) {
		w->n_alive += lane_watch_all(&w->watch, t, w->now_us += w->step_us, ALLOWED_US);
		wait_answers(t, w->blocked);
	}
}

static unsigned watch_steps(struct fixture *f, struct watched *w, unsigned n, uint64_t step_us)
{
	w->n_steps = n;
	w->step_us = step_us;
	fixture_call(f, steps, w);
	return w->n_alive;
}

static void test_one_of_two(void **state)
{
	struct watched w = {.now_us = clock_monotonic_us()};
	struct fixture *f = *state;
	struct guests g;

	assert_int_equal(watch_steps(f, &w, 10, STEP_US), 10); /* nobody there */
	guests_attach(f, &g);
	assert_int_equal(watch_steps(f, &w, 100, STEP_US), 100);
	fixture_call(f, block, &w);
	/* Sent with the first step, outstanding for the whole time with the fifth. */
	assert_int_equal(watch_steps(f, &w, 4, STEP_US), 4);
	assert_int_equal(watch_steps(f, &w, 20, STEP_US), 0);
	sem_post(&w.leave);
	w.blocked = NULL;
	(void)watch_steps(f, &w, 1, STEP_US); /* finds that it goes on, or had not yet */
	assert_int_equal(watch_steps(f, &w, 100, STEP_US), 100);
	guests_end(&g);
}

/* The process was stopped for an hour right after it had asked. */
static void test_main_loop_was_away(void **state)
{
	struct watched w = {.now_us = clock_monotonic_us()};
	struct fixture *f = *state;
	struct guests g;

	guests_attach(f, &g);
	assert_int_equal(watch_steps(f, &w, 10, STEP_US), 10);
	fixture_call(f, block, &w);
	assert_int_equal(watch_steps(f, &w, 1, STEP_US), 1);
	assert_int_equal(watch_steps(f, &w, 1, HOUR_US), 1);
	assert_int_equal(watch_steps(f, &w, 1, STEP_US), 1);
	assert_int_equal(watch_steps(f, &w, 1, STEP_US), 0); /* it stands all the same */
	sem_post(&w.leave);
	guests_end(&g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test_setup_teardown(test_one_of_two, fixture_setup, fixture_teardown),
	        cmocka_unit_test_setup_teardown(test_main_loop_was_away, fixture_setup,
	                                        fixture_teardown),
	};

	if (require_uffd() < 0)
		return 77;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
