/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Promises of daemon/placement.h under way: threads that place data and poison
 * at once never un-poison a page; memory that the guest gives back meanwhile
 * reads as zeros, never as what it held before; whoever faults is woken.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <sched.h>
#include <sys/eventfd.h>

#include "daemon_placement_bed.h"

#define POISON UFFD_FEATURE_POISON
#define REMOVE UFFD_FEATURE_EVENT_REMOVE

static uint64_t next_random(uint64_t *x)
{
	*x ^= *x << 13;
	*x ^= *x >> 7;
	*x ^= *x << 17;
	return *x;
}

/* ---- data against poison ---- */

#define RACE_UNITS 64
#define RACE_ROUNDS 250
#define RACERS 4

struct racer {
	struct bed *bed;
	pthread_barrier_t *start;
	struct placer placer; /* one a thread */
	struct stats stats;
	uint64_t random;
	bool poisons;
	int rc;
};

static void *racer_main(void *arg)
{
	struct racer *r = arg;
	struct bed *b = r->bed;

	pthread_barrier_wait(r->start);
	for (int i = 0; i < RACE_UNITS && r->rc == 0; i++) {
		uint64_t unit = next_random(&r->random) % RACE_UNITS;
		uint64_t n = 1 + next_random(&r->random) % (r->poisons ? 2 : 12);

		n = MIN(n, RACE_UNITS - unit);
		if (r->poisons)
			r->rc = placement_poison(&r->placer, b->r, unit, n, LEDGER_READ_ERROR);
		else if (next_random(&r->random) % 4 == 0)
			r->rc = placement_zero(&r->placer, b->r, unit, n);
		else
			r->rc = placement_data(&r->placer, b->r, unit, n, bed_source(b, unit));
	}
	return NULL;
}

/* Each unit is as a whole one thing, and the ledger names exactly the lost ones. */
static uint64_t check_race(struct bed *b, const struct racer *racers)
{
	bool in_ledger[RACE_UNITS] = {false};
	uint64_t data = 0, zero = 0;

	for (uint64_t i = 0; i < ledger_count(&b->ledger); i++) {
		uint64_t unit = ledger_get(&b->ledger, i)->unit;

		assert_false(in_ledger[unit]);
		in_ledger[unit] = true;
	}
	for (uint64_t unit = 0; unit < RACE_UNITS; unit++) {
		enum content c;

		/* Who was touched by nobody is filled, so that looking does not wait. */
		if (page_map_get(&b->map, unit) == PAGE_MISSING)
			assert_int_equal(placement_zero(&b->placer, b->r, unit, 1), 0);
		c = bed_content(b, unit);
		assert_int_not_equal(c, CONTENT_OTHER);
		assert_int_equal(c == CONTENT_SIGBUS, in_ledger[unit]);
		assert_state(b, unit, c == CONTENT_SIGBUS ? PAGE_POISONED : PAGE_PRESENT);
		data += c == CONTENT_SOURCE;
		zero += c == CONTENT_ZEROS;
	}
	for (size_t i = 0; i < RACERS; i++) {
		data -= racers[i].stats.pages_data;
		zero -= racers[i].stats.pages_zero;
	}
	assert_int_equal(data, 0);
	assert_int_equal(zero, b->stats.pages_zero);
	assert_int_equal(b->pages_left, 0);
	assert_int_equal(b->n_reports[PLACEMENT_FINISHED], 1);
	assert_int_equal(b->n_reports[PLACEMENT_WARNING], 0);
	return ledger_count(&b->ledger);
}

static uint64_t race_once(enum memory_kind kind, uint64_t seed)
{
	pthread_t threads[RACERS];
	struct racer *racers = calloc(RACERS, sizeof(*racers));
	pthread_barrier_t start;
	struct bed b;
	uint64_t n_poisoned;

	bed_start(kind, RACE_UNITS, POISON, &b);
	pthread_barrier_init(&start, NULL, RACERS);
	for (size_t i = 0; i < RACERS; i++) {
		racers[i] = (struct racer){.bed = &b,
		                           .start = &start,
		                           .placer = b.placer,
		                           .random = (seed * RACERS + i + 1) * 0x9e3779b97f4a7c15,
		                           .poisons = i % 2};
		racers[i].placer.stats = &racers[i].stats;
		assert_int_equal(pthread_create(&threads[i], NULL, racer_main, &racers[i]), 0);
	}
	for (size_t i = 0; i < RACERS; i++) {
		pthread_join(threads[i], NULL);
		assert_int_equal(racers[i].rc, 0);
	}
	n_poisoned = check_race(&b, racers);
	pthread_barrier_destroy(&start);
	bed_free(&b);
	free(racers);
	return n_poisoned;
}

static void poison_is_never_overwritten(void **state)
{
	(void)state;
	for (int kind = MEMORY_ANON; kind <= MEMORY_MEMFD_MINOR; kind++) {
		uint64_t n_poisoned = 0;

		for (uint64_t round = 0; round < RACE_ROUNDS; round++)
			n_poisoned += race_once(kind, round);
		/* Both sides won something. */
		assert_in_range(n_poisoned, RACE_ROUNDS, RACE_ROUNDS * (RACE_UNITS - 1));
	}
}

/* ---- an event that nobody has read ---- */

static void giving_up_leaves_units_missing(void **state)
{
	struct discard d;
	struct bed b;

	(void)state;
	bed_start(MEMORY_ANON, 8, POISON | REMOVE, &b);
	discard_start(&b, 6, 1, &d);
	assert_int_equal(placement_data(&b.placer, b.r, 0, 4, b.source), -ECANCELED);
	assert_int_equal(b.n_waits, 1);
	assert_int_equal(b.stats.retries, 1);
	for (uint64_t unit = 0; unit < 4; unit++)
		assert_state(&b, unit, PAGE_MISSING);
	assert_int_equal(b.pages_left, 8);
	/* Poison that cannot be placed now is poison all the same: a fault tries again. */
	assert_int_equal(placement_poison(&b.placer, b.r, 4, 2, LEDGER_REPORTED), -ECANCELED);
	assert_state(&b, 4, PAGE_POISONED);
	assert_state(&b, 5, PAGE_MISSING);
	assert_int_equal(ledger_count(&b.ledger), 1);
	read_removal(&b, true);
	discard_end(&d);
	placement_answer(&b.placer, b.r, 4, PAGE_POISONED, false);
	assert_int_equal(bed_content(&b, 4), CONTENT_SIGBUS);
	bed_free(&b);
}

static void goes_on_when_the_event_was_read(void **state)
{
	struct discard d;
	struct bed b;

	(void)state;
	bed_start(MEMORY_ANON, 8, POISON | REMOVE, &b);
	b.on_wait = read_removal;
	discard_start(&b, 2, 2, &d);
	assert_int_equal(placement_data(&b.placer, b.r, 0, 6, b.source), 0);
	discard_end(&d);
	assert_true(b.n_waits >= 1);
	for (uint64_t unit = 0; unit < 6; unit++)
		assert_state(&b, unit, unit == 2 || unit == 3 ? PAGE_REMOVED : PAGE_PRESENT);
	assert_int_equal(b.stats.pages_removed, 2);
	/* Poison in the middle of a removal stays poison. */
	discard_start(&b, 6, 1, &d);
	assert_int_equal(placement_poison(&b.placer, b.r, 6, 1, LEDGER_REPORTED), 0);
	discard_end(&d);
	assert_state(&b, 6, PAGE_POISONED);
	placement_answer(&b.placer, b.r, 6, PAGE_POISONED, false);
	assert_int_equal(bed_content(&b, 6), CONTENT_SIGBUS);
	assert_int_equal(placement_zero(&b.placer, b.r, 7, 1), 0);
	assert_int_equal(b.n_reports[PLACEMENT_FINISHED], 1);
	bed_free(&b);
}

/*
 * A thread waits for a page, its answer is there, and another thread gives the
 * page back just then: the answer is dropped, and the waiting thread reads zeros.
 */
static void a_removal_wakes_who_waits_for_the_page(void **state)
{
	struct toucher t;
	struct discard d;
	struct uffd_msg msg;
	struct pollfd p;
	struct bed b;

	(void)state;
	bed_start(MEMORY_ANON, 4, POISON | REMOVE, &b);
	b.on_wait = read_removal;
	assert_true(toucher_start(&b, 1, &t, &msg));
	assert_int_equal(page_map_request(&b.map, 1), PAGE_MISSING);
	discard_start(&b, 1, 1, &d);
	assert_int_equal(placement_data(&b.placer, b.r, 1, 1, bed_source(&b, 1)), 0);
	discard_end(&d);
	assert_state(&b, 1, PAGE_REMOVED);
	/* Woken, it faults again and can be answered. */
	p = (struct pollfd){.fd = b.m.uffd, .events = POLLIN};
	assert_int_equal(poll(&p, 1, 10000), 1);
	assert_int_equal(uffd_read(b.m.uffd, &msg, 1), 1);
	placement_answer(&b.placer, b.r, 1, PAGE_REMOVED, false);
	toucher_end(&t);
	assert_true(t.healthy);
	assert_int_equal(t.byte, 0);
	bed_free(&b);
}

/* ---- a removal in the middle of a placement ---- */

/*
 * The page map lies in memory with a userfaultfd of its own, and its second page
 * is missing: a run of claims that crosses into it stops there until it is
 * filled. So a removal can be tried at exactly that moment.
 */
#define CROSSING_UNIT UINT64_C(4096)

struct crossing {
	struct bed b;
	struct guest_memory map_memory;
	int rc;
};

static void *crossing_place_main(void *arg)
{
	struct crossing *c = arg;

	c->rc = placement_data(&c->b.placer, c->b.r, CROSSING_UNIT - 2, 4,
	                       bed_source(&c->b, CROSSING_UNIT - 2));
	return NULL;
}

static void *crossing_remove_main(void *arg)
{
	struct crossing *c = arg;

	read_removal(&c->b, true);
	return NULL;
}

static bool wait_by_yielding(struct bed *b, bool changing)
{
	(void)b;
	assert_true(changing);
	sched_yield();
	return true;
}

static void crossing_start(struct crossing *c)
{
	bed_start(MEMORY_ANON, CROSSING_UNIT + 4, POISON | REMOVE, &c->b);
	c->b.on_wait = wait_by_yielding;
	assert_int_equal(guest_memory_new(MEMORY_ANON, 2, 0, &c->map_memory), 0);
	resolve_zeropage(c->map_memory.uffd, guest_memory_hva(&c->map_memory, 0), 4096);
	page_map_init(&c->b.map, c->map_memory.base, c->b.n_units);
}

static void wait_readable(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};

	assert_int_equal(poll(&p, 1, 10000), 1);
}

static void a_removal_waits_for_claims_to_end(void **state)
{
	static struct crossing c;
	pthread_t place, remove_thread;
	struct timespec deadline;
	struct discard d;

	(void)state;
	crossing_start(&c);
	assert_int_equal(pthread_create(&place, NULL, crossing_place_main, &c), 0);
	wait_readable(c.map_memory.uffd); /* it claimed two units and stands at the third */
	discard_start(&c.b, CROSSING_UNIT - 2, 1, &d);
	assert_int_equal(pthread_create(&remove_thread, NULL, crossing_remove_main, &c), 0);
	/* Noted now, the removal would find the unit claimed, and its data would come after it. */
	clock_gettime(CLOCK_REALTIME, &deadline);
	deadline.tv_sec += 1;
	assert_int_equal(pthread_timedjoin_np(remove_thread, NULL, &deadline), ETIMEDOUT);
	resolve_zeropage(c.map_memory.uffd, guest_memory_hva(&c.map_memory, 1), 4096);
	pthread_join(remove_thread, NULL);
	discard_end(&d);
	pthread_join(place, NULL);
	assert_int_equal(c.rc, 0);
	assert_state(&c.b, CROSSING_UNIT - 2, PAGE_REMOVED);
	placement_answer(&c.b.placer, c.b.r, CROSSING_UNIT - 2, PAGE_REMOVED, false);
	assert_int_equal(bed_content(&c.b, CROSSING_UNIT - 2), CONTENT_ZEROS);
	for (uint64_t unit = CROSSING_UNIT - 1; unit < CROSSING_UNIT + 2; unit++)
		assert_int_equal(bed_content(&c.b, unit), CONTENT_SOURCE);
	guest_memory_free(&c.map_memory);
	bed_free(&c.b);
}

/* ---- removal against placing, with a guest that looks ---- */

#define STREAM_UNITS 64
#define STREAM_ROUNDS 60

struct stream {
	struct bed b;
	int stop_fd;
	struct placer bulk; /* of the thread that streams */
	struct stats bulk_stats;
	_Atomic bool done;
	_Atomic unsigned n_stale, n_lost, n_removed, n_failed;
	uint64_t random;
};

static void take_fault(struct bed *b, const struct uffd_msg *msg)
{
	uint64_t unit = region_unit_of_hva(b->r, (hva_t){msg->arg.pagefault.address});
	enum page_state s = page_map_request(&b->map, unit);

	if (s == PAGE_MISSING)
		placement_data(&b->placer, b->r, unit, 1, bed_source(b, unit));
	else if (s != PAGE_REQUESTED && s != PAGE_PLACING)
		placement_answer(&b->placer, b->r, unit, s, false);
}

/* As in fault_event.c: removals first, under the lock; then the faults. */
static bool take_batch(struct bed *b, bool changing)
{
	struct uffd_msg msgs[16];
	int n;

	(void)changing;
	pthread_mutex_lock(&b->remove_lock);
	n = uffd_read(b->m.uffd, msgs, 16);
	for (int i = 0; i < n; i++) {
		if (msgs[i].event != UFFD_EVENT_REMOVE)
			continue;
		for (uint64_t at = msgs[i].arg.remove.start; at < msgs[i].arg.remove.end;
		     at += 4096)
			placement_remove(&b->placer, b->r, region_unit_of_hva(b->r, (hva_t){at}));
	}
	pthread_mutex_unlock(&b->remove_lock);
	for (int i = 0; i < n; i++)
		if (msgs[i].event == UFFD_EVENT_PAGEFAULT)
			take_fault(b, &msgs[i]);
	return true;
}

static void *urgent_main(void *arg)
{
	struct stream *s = arg;

	for (;;) {
		struct pollfd fds[] = {{.fd = s->b.m.uffd, .events = POLLIN},
		                       {.fd = s->stop_fd, .events = POLLIN}};

		poll(fds, 2, -1);
		if (fds[1].revents)
			return NULL;
		take_batch(&s->b, true);
	}
}

static void bulk_report(enum placement_report what, uint64_t unit, const struct error *err,
                        void *user)
{
	struct stream *s = user;

	bed_report(what, unit, err, &s->b);
}

/* The urgent thread reads the events. */
static bool bulk_wait(bool changing, void *user)
{
	(void)changing;
	(void)user;
	sched_yield();
	return true;
}

static const struct placer_callbacks bulk_callbacks = {.wait_retry = bulk_wait,
                                                       .report = bulk_report};

static void *bulk_main(void *arg)
{
	struct stream *s = arg;

	for (uint64_t unit = 0; unit < STREAM_UNITS; unit += 4)
		if (placement_data(&s->bulk, s->b.r, unit, 4, bed_source(&s->b, unit)) != 0)
			atomic_fetch_add(&s->n_failed, 1);
	atomic_store(&s->done, true);
	return NULL;
}

/* The balloon: what it gave back reads as zeros from then on. */
static void *balloon_main(void *arg)
{
	struct stream *s = arg;

	for (uint64_t i = 0; i < STREAM_UNITS / 2; i++) {
		uint64_t unit = i * 2; /* just about where the stream is */
		uint8_t byte = 0xff;

		if (madvise(guest_memory_at(&s->b.m, unit), 4096, MADV_DONTNEED) != 0)
			atomic_fetch_add(&s->n_failed, 1);
		atomic_fetch_add(&s->n_removed, 1);
		if (!touch_read(guest_memory_at(&s->b.m, unit) + 8 * (i % 512), &byte))
			atomic_fetch_add(&s->n_lost, 1);
		else if (byte != 0)
			atomic_fetch_add(&s->n_stale, 1);
	}
	return NULL;
}

static void stream_once(struct stream *s)
{
	pthread_t urgent, bulk, balloon;
	uint64_t one = 1;

	bed_start(MEMORY_ANON, STREAM_UNITS, POISON | REMOVE, &s->b);
	s->stop_fd = eventfd(0, EFD_CLOEXEC);
	s->b.on_wait = take_batch;
	s->bulk = s->b.placer;
	s->bulk.stats = &s->bulk_stats;
	s->bulk.callbacks = &bulk_callbacks;
	s->bulk.user = s;
	assert_int_equal(pthread_create(&urgent, NULL, urgent_main, s), 0);
	assert_int_equal(pthread_create(&bulk, NULL, bulk_main, s), 0);
	assert_int_equal(pthread_create(&balloon, NULL, balloon_main, s), 0);
	pthread_join(balloon, NULL);
	pthread_join(bulk, NULL);
	/* Odd units were never given back: every byte is the source's. */
	for (uint64_t unit = 0; unit < STREAM_UNITS; unit++)
		assert_int_equal(bed_content(&s->b, unit),
		                 unit % 2 ? CONTENT_SOURCE : CONTENT_ZEROS);
	assert_int_equal(write(s->stop_fd, &one, sizeof(one)), sizeof(one));
	pthread_join(urgent, NULL);
	assert_int_equal(s->b.pages_left, 0);
	assert_int_equal(s->b.n_reports[PLACEMENT_FINISHED], 1);
	close(s->stop_fd);
	bed_free(&s->b);
}

static void removed_pages_are_never_stale(void **state)
{
	static struct stream s;

	(void)state;
	for (int i = 0; i < STREAM_ROUNDS; i++) {
		stream_once(&s);
		assert_int_equal(s.n_stale, 0);
		assert_int_equal(s.n_lost, 0);
		assert_int_equal(s.n_failed, 0);
	}
	assert_int_equal(s.n_removed, STREAM_ROUNDS * STREAM_UNITS / 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(poison_is_never_overwritten),
	        cmocka_unit_test(giving_up_leaves_units_missing),
	        cmocka_unit_test(goes_on_when_the_event_was_read),
	        cmocka_unit_test(a_removal_wakes_who_waits_for_the_page),
	        cmocka_unit_test(a_removal_waits_for_claims_to_end),
	        cmocka_unit_test(removed_pages_are_never_stale),
	};

	if (!uffd_permitted() || !poison_permitted())
		return TEST_SKIPPED;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
