/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Promises of daemon/page_map.h: every operation in every state does what the
 * diagram there says and nothing else; of any number of racing threads exactly
 * one wins a claim and stays the only one until it ends it; POISONED is final.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "core/cleanup.h"
#include "daemon/page_map.h"

static struct page_map map_of(void *bytes, uint64_t n)
{
	struct page_map m;

	page_map_init(&m, bytes, n);
	return m;
}

/* ---- the table ---- */

struct transition {
	enum page_state from, to;
	int result; /* what the operation returns */
};

static const struct transition requests[] = {
        {PAGE_MISSING, PAGE_REQUESTED, PAGE_MISSING},
        {PAGE_REQUESTED, PAGE_REQUESTED, PAGE_REQUESTED},
        {PAGE_PLACING, PAGE_PLACING, PAGE_PLACING},
        {PAGE_PRESENT, PAGE_PRESENT, PAGE_PRESENT},
        {PAGE_POISONED, PAGE_POISONED, PAGE_POISONED},
        {PAGE_REMOVED, PAGE_REMOVED, PAGE_REMOVED},
        {PAGE_WRITTEN, PAGE_WRITTEN, PAGE_WRITTEN},
};
static const struct transition claims[] = {
        {PAGE_MISSING, PAGE_PLACING, true},    {PAGE_REQUESTED, PAGE_PLACING, true},
        {PAGE_PLACING, PAGE_PLACING, false},   {PAGE_PRESENT, PAGE_PRESENT, false},
        {PAGE_POISONED, PAGE_POISONED, false}, {PAGE_REMOVED, PAGE_REMOVED, false},
        {PAGE_WRITTEN, PAGE_WRITTEN, false},
};
static const struct transition removals[] = {
        {PAGE_MISSING, PAGE_REMOVED, PAGE_MISSING},
        {PAGE_REQUESTED, PAGE_REMOVED, PAGE_REQUESTED},
        {PAGE_PLACING, PAGE_PLACING, PAGE_PLACING},
        {PAGE_PRESENT, PAGE_REMOVED, PAGE_PRESENT},
        {PAGE_POISONED, PAGE_POISONED, PAGE_POISONED},
        {PAGE_REMOVED, PAGE_REMOVED, PAGE_REMOVED},
        {PAGE_WRITTEN, PAGE_WRITTEN, PAGE_WRITTEN},
};

static int op_request(struct page_map *m, uint64_t unit)
{
	return (int)page_map_request(m, unit);
}
static int op_claim(struct page_map *m, uint64_t unit)
{
	return page_map_claim(m, unit);
}
static int op_remove(struct page_map *m, uint64_t unit)
{
	return (int)page_map_remove(m, unit);
}

static void check_transitions(const struct transition *table,
                              int (*op)(struct page_map *, uint64_t))
{
	for (size_t i = 0; i < PAGE_STATES_; i++) {
		uint8_t bytes[3] = {PAGE_PRESENT, (uint8_t)table[i].from, PAGE_POISONED};
		struct page_map m = map_of(bytes, 3);

		assert_int_equal(op(&m, 1), table[i].result);
		assert_int_equal(page_map_get(&m, 1), table[i].to);
		/* The neighbours are somebody else's. */
		assert_int_equal(page_map_get(&m, 0), PAGE_PRESENT);
		assert_int_equal(page_map_get(&m, 2), PAGE_POISONED);
	}
}

static void every_operation_in_every_state(void **state)
{
	(void)state;
	_Static_assert(ARRAY_SIZE(requests) == PAGE_STATES_, "a row a state");
	_Static_assert(ARRAY_SIZE(claims) == PAGE_STATES_, "a row a state");
	_Static_assert(ARRAY_SIZE(removals) == PAGE_STATES_, "a row a state");
	check_transitions(requests, op_request);
	check_transitions(claims, op_claim);
	check_transitions(removals, op_remove);
}

static void a_claim_has_four_ends(void **state)
{
	static const struct {
		void (*end)(struct page_map *m, uint64_t unit);
		enum page_state to;
	} ends[] = {{page_map_placed, PAGE_PRESENT},
	            {page_map_poisoned, PAGE_POISONED},
	            {page_map_unmapped, PAGE_REMOVED},
	            {page_map_release, PAGE_MISSING}};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(ends); i++) {
		uint8_t bytes[] = {PAGE_PLACING, PAGE_PLACING};
		struct page_map m = map_of(bytes, 2);

		page_map_written(&m, 1);
		page_map_written(&m, 1); /* tried again */
		assert_int_equal(page_map_get(&m, 1), PAGE_WRITTEN);
		for (uint64_t unit = 0; unit < 2; unit++) {
			ends[i].end(&m, unit);
			assert_int_equal(page_map_get(&m, unit), ends[i].to);
		}
	}
}

static void keeps_what_it_is_given(void **state)
{
	uint8_t bytes[] = {5, 4, 3, 2, 1, 0};
	struct page_map m = map_of(bytes, sizeof(bytes));

	(void)state;
	for (uint64_t i = 0; i < sizeof(bytes); i++)
		assert_int_equal(page_map_get(&m, i), 5 - i);
}

static void counts_a_range(void **state)
{
	uint8_t bytes[] = {0, 3, 3, 4, 3, 0, 3};
	struct page_map m = map_of(bytes, sizeof(bytes));

	(void)state;
	assert_int_equal(page_map_count(&m, 0, 7, PAGE_PRESENT), 4);
	assert_int_equal(page_map_count(&m, 1, 3, PAGE_PRESENT), 2);
	assert_int_equal(page_map_count(&m, 2, 3, PAGE_POISONED), 1);
	assert_int_equal(page_map_count(&m, 2, 0, PAGE_PRESENT), 0);
	assert_int_equal(page_map_count(&m, 0, 7, PAGE_REMOVED), 0);
}

static void states_have_names(void **state)
{
	(void)state;
	assert_string_equal(page_state_name(PAGE_MISSING), "missing");
	assert_string_equal(page_state_name(PAGE_REMOVED), "removed");
	assert_string_equal(page_state_name(PAGE_STATES_), "invalid");
}

/* ---- the property: random operations, racing threads ---- */

#define THREADS 6
#define UNITS 24            /* few, so that threads meet all the time */
#define ROUNDS 400          /* each begins with all units MISSING */
#define CLAIMS_A_ROUND 4000 /* 1.6 million in all */

struct race {
	struct page_map map;
	uint8_t bytes[UNITS];
	/* The shadow: who holds the unit, and whether it was ever poisoned. */
	_Atomic uint32_t holder[UNITS];
	_Atomic bool poisoned[UNITS];
	_Atomic uint64_t n_won, n_tried, n_wrong, n_poisoned, n_final;
	pthread_barrier_t barrier;
};

struct racer {
	struct race *race;
	uint32_t id; /* from 1 */
	uint64_t random;
};

static uint64_t racer_random(struct racer *r)
{
	r->random ^= r->random << 13;
	r->random ^= r->random >> 7;
	r->random ^= r->random << 17;
	return r->random;
}

static void wrong_if(struct race *race, bool condition)
{
	if (condition)
		atomic_fetch_add(&race->n_wrong, 1);
}

/* Hold the unit for a random moment: nobody else may win or end it meanwhile. */
static void hold(struct racer *r, uint64_t unit)
{
	struct race *race = r->race;
	uint32_t nobody = 0, mine = r->id;

	wrong_if(race, !atomic_compare_exchange_strong(&race->holder[unit], &nobody, r->id));
	wrong_if(race, atomic_load(&race->poisoned[unit]));
	for (uint64_t n = racer_random(r) % 32; n > 0; n--)
		wrong_if(race, page_map_get(&race->map, unit) != PAGE_PLACING ||
		                       atomic_load(&race->holder[unit]) != r->id);
	wrong_if(race, !atomic_compare_exchange_strong(&race->holder[unit], &mine, 0));
}

static void end_claim(struct racer *r, uint64_t unit)
{
	struct race *race = r->race;
	uint64_t dice = racer_random(r) % 1000;

	/* Mostly release: a unit that is final takes no more part in the round. */
	if (dice == 0) {
		atomic_fetch_add(&race->n_final, 1);
		page_map_placed(&race->map, unit);
	} else if (dice == 1) {
		atomic_fetch_add(&race->n_final, 1);
		atomic_fetch_add(&race->n_poisoned, 1);
		atomic_store(&race->poisoned[unit], true);
		page_map_poisoned(&race->map, unit);
	} else if (dice == 2) {
		atomic_fetch_add(&race->n_final, 1);
		page_map_unmapped(&race->map, unit);
	} else {
		page_map_release(&race->map, unit);
	}
}

static void claim_one(struct racer *r, uint64_t unit)
{
	struct race *race = r->race;

	atomic_fetch_add(&race->n_tried, 1);
	if (!page_map_claim(&race->map, unit))
		return;
	atomic_fetch_add(&race->n_won, 1);
	hold(r, unit);
	if (racer_random(r) % 2)
		page_map_written(&race->map, unit);
	end_claim(r, unit);
}

static void step(struct racer *r)
{
	struct race *race = r->race;
	uint64_t unit = racer_random(r) % UNITS;
	bool was_poisoned = atomic_load(&race->poisoned[unit]);
	enum page_state found;

	switch (racer_random(r) % 64) {
	case 0:
		if (racer_random(r) % 64 == 0) {
			found = page_map_remove(&race->map, unit);
			wrong_if(race, was_poisoned && found != PAGE_POISONED &&
			                       !page_state_is_claimed(found));
		}
		break;
	case 1 ... 12:
		found = page_map_request(&race->map, unit);
		wrong_if(race, found >= PAGE_STATES_);
		break;
	default:
		claim_one(r, unit);
	}
	found = page_map_get(&race->map, unit);
	/* The flag is set a moment before the state: until then it is claimed. */
	wrong_if(race, was_poisoned && found != PAGE_POISONED && !page_state_is_claimed(found));
}

static void *racer_main(void *arg)
{
	struct racer *r = arg;
	struct race *race = r->race;

	for (int round = 0; round < ROUNDS; round++) {
		pthread_barrier_wait(&race->barrier);
		while (atomic_load(&race->n_tried) < (uint64_t)(round + 1) * CLAIMS_A_ROUND)
			step(r);
		pthread_barrier_wait(&race->barrier);
		if (r->id != 1)
			continue;
		for (uint64_t unit = 0; unit < UNITS; unit++) {
			bool poisoned = page_map_get(&race->map, unit) == PAGE_POISONED;

			wrong_if(race, poisoned != atomic_load(&race->poisoned[unit]));
			wrong_if(race, page_state_is_claimed(page_map_get(&race->map, unit)));
			atomic_store(&race->poisoned[unit], false);
		}
		memset(race->bytes, PAGE_MISSING, sizeof(race->bytes));
	}
	return NULL;
}

static void racing_claims_have_one_winner_and_poison_stays(void **state)
{
	static struct race race;
	pthread_t threads[THREADS];
	struct racer racers[THREADS];

	(void)state;
	page_map_init(&race.map, race.bytes, UNITS);
	pthread_barrier_init(&race.barrier, NULL, THREADS);
	for (uint32_t i = 0; i < THREADS; i++) {
		racers[i] = (struct racer){&race, i + 1, UINT64_C(0x9e3779b97f4a7c15) * (i + 1)};
		assert_int_equal(pthread_create(&threads[i], NULL, racer_main, &racers[i]), 0);
	}
	for (uint32_t i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	pthread_barrier_destroy(&race.barrier);
	assert_true(race.n_tried >= 1000000);
	assert_int_equal(race.n_wrong, 0);
	/* It was a race over something: claims won and lost, pages poisoned. */
	assert_true(race.n_won > race.n_tried / 10);
	assert_true(race.n_won < race.n_tried);
	assert_true(race.n_poisoned > 100);
}

/* Every unit is claimed once and kept: the winners' numbers must add up. */
#define SWEEP_UNITS 200000

struct sweep {
	struct page_map map;
	pthread_barrier_t barrier;
	uint64_t n_won[THREADS];
};
struct sweeper {
	struct sweep *sweep;
	uint32_t id;
};

static void *sweeper_main(void *arg)
{
	struct sweeper *s = arg;
	uint64_t won = 0;

	pthread_barrier_wait(&s->sweep->barrier);
	for (uint64_t unit = 0; unit < SWEEP_UNITS; unit++) {
		if (s->id % 2)
			page_map_request(&s->sweep->map, unit);
		if (page_map_claim(&s->sweep->map, unit)) {
			won++;
			page_map_placed(&s->sweep->map, unit);
		}
	}
	s->sweep->n_won[s->id] = won;
	return NULL;
}

static void each_unit_is_won_exactly_once(void **state)
{
	static uint8_t bytes[SWEEP_UNITS];
	static struct sweep sweep;
	struct sweeper sweepers[THREADS];
	pthread_t threads[THREADS];
	uint64_t won = 0;

	(void)state;
	page_map_init(&sweep.map, bytes, SWEEP_UNITS);
	pthread_barrier_init(&sweep.barrier, NULL, THREADS);
	for (uint32_t i = 0; i < THREADS; i++) {
		sweepers[i] = (struct sweeper){&sweep, i};
		assert_int_equal(pthread_create(&threads[i], NULL, sweeper_main, &sweepers[i]), 0);
	}
	for (uint32_t i = 0; i < THREADS; i++) {
		pthread_join(threads[i], NULL);
		won += sweep.n_won[i];
	}
	pthread_barrier_destroy(&sweep.barrier);
	assert_int_equal(won, SWEEP_UNITS);
	assert_int_equal(page_map_count(&sweep.map, 0, SWEEP_UNITS, PAGE_PRESENT), SWEEP_UNITS);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(every_operation_in_every_state),
	        cmocka_unit_test(a_claim_has_four_ends),
	        cmocka_unit_test(keeps_what_it_is_given),
	        cmocka_unit_test(counts_a_range),
	        cmocka_unit_test(states_have_names),
	        cmocka_unit_test(racing_claims_have_one_winner_and_poison_stays),
	        cmocka_unit_test(each_unit_is_won_exactly_once),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
