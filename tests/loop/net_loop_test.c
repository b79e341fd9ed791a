/* SPDX-License-Identifier: Apache-2.0 */
/* The loop's mailbox: order, any thread, stopping at once, nothing lost. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdlib.h>

#include "net/loop.h"

#define POSTERS 4
#define POSTS_EACH 20000

struct sequence {
	struct loop *loop;
	unsigned n;
	unsigned next[POSTERS];
	unsigned n_out_of_order;
	unsigned stop_at;
};

struct item {
	struct sequence *sequence;
	unsigned poster;
	unsigned number;
};

static void take_item(void *arg)
{
	struct item *item = arg;
	struct sequence *s = item->sequence;

	s->n_out_of_order += item->number != s->next[item->poster]++;
	if (++s->n == s->stop_at)
		loop_stop(s->loop);
}

struct poster {
	struct item items[POSTS_EACH];
};

static void *poster_main(void *arg)
{
	struct poster *p = arg;

	for (unsigned i = 0; i < POSTS_EACH; i++)
		assert_int_equal(loop_post(p->items[i].sequence->loop, take_item, &p->items[i]), 0);
	return NULL;
}

static void posts_of_many_threads_arrive_in_order(void **state)
{
	struct poster *posters = calloc(POSTERS, sizeof(*posters));
	struct sequence s = {.stop_at = POSTERS * POSTS_EACH};
	pthread_t threads[POSTERS];

	(void)state;
	assert_non_null(posters);
	assert_int_equal(loop_new(&s.loop), 0);
	for (unsigned p = 0; p < POSTERS; p++) {
		for (unsigned i = 0; i < POSTS_EACH; i++)
			posters[p].items[i] = (struct item){&s, p, i};
		assert_int_equal(pthread_create(&threads[p], NULL, poster_main, &posters[p]), 0);
	}
	assert_int_equal(loop_run(s.loop), 0);
	for (unsigned p = 0; p < POSTERS; p++)
		pthread_join(threads[p], NULL);
	assert_int_equal(s.n, POSTERS * POSTS_EACH);
	assert_int_equal(s.n_out_of_order, 0);
	loop_free(s.loop);
	free(posters);
}

static void stop_leaves_the_rest_for_the_next_run(void **state)
{
	struct sequence s = {.stop_at = 3};
	struct item items[10];

	(void)state;
	assert_int_equal(loop_new(&s.loop), 0);
	for (unsigned i = 0; i < 10; i++) { /* before any run */
		items[i] = (struct item){&s, 0, i};
		assert_int_equal(loop_post(s.loop, take_item, &items[i]), 0);
	}
	assert_int_equal(loop_run(s.loop), 0);
	assert_int_equal(s.n, 3);
	s.stop_at = 10;
	assert_int_equal(loop_run(s.loop), 0);
	assert_int_equal(s.n, 10);
	assert_int_equal(s.n_out_of_order, 0);
	loop_free(s.loop);
}

static void *stop_main(void *arg)
{
	loop_stop(arg);
	return NULL;
}

static void stop_from_another_thread_and_before_the_run(void **state)
{
	struct loop *loop;
	pthread_t thread;

	(void)state;
	assert_int_equal(loop_new(&loop), 0);
	for (int i = 0; i < 200; i++) {
		assert_int_equal(pthread_create(&thread, NULL, stop_main, loop), 0);
		if (i % 2)
			pthread_join(thread, NULL); /* stopped before it runs */
		assert_int_equal(loop_run(loop), 0);
		if (i % 2 == 0)
			pthread_join(thread, NULL);
	}
	loop_free(loop);
}

struct order {
	char seen[8];
	unsigned n;
	struct event *events[3];
	struct loop *loop;
};

static void note_first(evutil_socket_t fd, short what, void *arg)
{
	struct order *o = arg;

	(void)fd;
	(void)what;
	o->seen[o->n++] = '0';
}

static void note_last(evutil_socket_t fd, short what, void *arg)
{
	struct order *o = arg;

	(void)fd;
	(void)what;
	o->seen[o->n++] = '3';
	loop_stop(o->loop);
}

static void priorities_are_kept(void **state)
{
	struct order o = {0};
	struct event *first, *last;

	(void)state;
	assert_int_equal(loop_new(&o.loop), 0);
	last = event_new(loop_base(o.loop), -1, 0, note_last, &o);
	first = event_new(loop_base(o.loop), -1, 0, note_first, &o);
	assert_int_equal(event_priority_set(last, 3), 0);
	assert_int_equal(event_priority_set(first, 0), 0);
	event_active(last, EV_READ, 0);
	event_active(first, EV_READ, 0);
	assert_int_equal(loop_run(o.loop), 0);
	assert_string_equal(o.seen, "03");
	event_free(first);
	event_free(last);
	loop_free(o.loop);
}

static void free_drops_what_did_not_run(void **state)
{
	struct sequence s = {0};
	struct item item = {&s, 0, 0};

	(void)state;
	assert_int_equal(loop_new(&s.loop), 0);
	assert_int_equal(loop_post(s.loop, take_item, &item), 0);
	assert_null(loop_free(s.loop));
	assert_int_equal(s.n, 0);
	assert_null(loop_free(NULL));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(posts_of_many_threads_arrive_in_order),
	        cmocka_unit_test(stop_leaves_the_rest_for_the_next_run),
	        cmocka_unit_test(stop_from_another_thread_and_before_the_run),
	        cmocka_unit_test(priorities_are_kept),
	        cmocka_unit_test(free_drops_what_did_not_run),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
