/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Promises of daemon/ledger.h: entries are never lost, changed or seen half
 * written, from any number of threads; full is an error; what an earlier
 * ledger left in the memory is still there.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "core/cleanup.h"
#include "daemon/ledger.h"

#define WRITERS 4
#define ENTRIES_A_WRITER 100000
#define CAPACITY ((uint64_t)WRITERS * ENTRIES_A_WRITER)

/* Every field follows from the unit, so that a torn entry shows. */
static struct ledger_entry entry_of(uint64_t unit)
{
	struct ledger_entry e = {
	        .unit = unit,
	        .offset_bytes = unit * 4096,
	        .gpa = {unit * 4096 + (UINT64_C(1) << 32)},
	        .lost_bytes = 4096 + unit % 7,
	        .time_us = ~unit,
	        .region = (uint32_t)(unit % 5),
	        .reason = (uint32_t)(1 + unit % 5),
	};

	memset(e.padding, (int)(unit % 251), sizeof(e.padding));
	return e;
}

static bool entry_is_whole(const struct ledger_entry *e)
{
	struct ledger_entry want = entry_of(e->unit);

	return memcmp(e, &want, sizeof(want)) == 0;
}

static void appends_until_full(void **state)
{
	_cleanup_free_ void *area = calloc(1, ledger_area_bytes(3));
	struct ledger l;
	uint64_t lost = 0;

	(void)state;
	ledger_init(&l, area, 3);
	assert_int_equal(ledger_count(&l), 0);
	assert_int_equal(ledger_lost_bytes(&l), 0);
	for (uint64_t i = 0; i < 3; i++) {
		struct ledger_entry e = entry_of(100 + i);

		assert_int_equal(ledger_append(&l, &e), 0);
		assert_int_equal(ledger_count(&l), i + 1);
		assert_memory_equal(ledger_get(&l, i), &e, sizeof(e));
		lost += e.lost_bytes;
		assert_int_equal(ledger_lost_bytes(&l), lost);
	}
	for (int i = 0; i < 2; i++) {
		struct ledger_entry e = entry_of(7);

		assert_int_equal(ledger_append(&l, &e), -ENOSPC);
		assert_int_equal(ledger_count(&l), 3);
	}
	assert_int_equal(ledger_get(&l, 2)->unit, 102);
	ledger_deinit(&l);
}

static void goes_on_with_what_is_there(void **state)
{
	_cleanup_free_ void *area = calloc(1, ledger_area_bytes(4));
	struct ledger_entry a = entry_of(1), b = entry_of(2);
	struct ledger l;

	(void)state;
	ledger_init(&l, area, 4);
	assert_int_equal(ledger_append(&l, &a), 0);
	ledger_deinit(&l);
	memset(&l, 0xff, sizeof(l));
	ledger_init(&l, area, 4);
	assert_int_equal(ledger_count(&l), 1);
	assert_int_equal(ledger_append(&l, &b), 0);
	assert_memory_equal(ledger_get(&l, 0), &a, sizeof(a));
	assert_memory_equal(ledger_get(&l, 1), &b, sizeof(b));
	ledger_deinit(&l);
}

/* ---- threads ---- */

struct writer {
	struct ledger *l;
	pthread_barrier_t *start;
	uint64_t first;
	uint64_t n_failed;
};
struct reader {
	struct ledger *l;
	uint64_t n_torn, n_seen;
};

static void *writer_main(void *arg)
{
	struct writer *w = arg;

	pthread_barrier_wait(w->start);
	for (uint64_t i = 0; i < ENTRIES_A_WRITER; i++) {
		struct ledger_entry e = entry_of(w->first + i);

		w->n_failed += ledger_append(w->l, &e) != 0;
	}
	return NULL;
}

/* Follows the writers: each entry is looked at in the moment it becomes visible. */
static void *reader_main(void *arg)
{
	struct reader *r = arg;

	while (r->n_seen < CAPACITY) {
		uint64_t n = ledger_count(r->l);

		for (; r->n_seen < n; r->n_seen++)
			r->n_torn += !entry_is_whole(ledger_get(r->l, r->n_seen));
	}
	return NULL;
}

static void check_all_there(const struct ledger *l)
{
	_cleanup_free_ uint8_t *times = calloc(1, CAPACITY);
	uint64_t last[WRITERS] = {0};

	for (uint64_t i = 0; i < CAPACITY; i++) {
		const struct ledger_entry *e = ledger_get(l, i);
		uint64_t writer = e->unit / ENTRIES_A_WRITER;

		assert_in_range(e->unit, 0, CAPACITY - 1);
		assert_true(entry_is_whole(e));
		assert_int_equal(times[e->unit]++, 0);
		/* In the order each thread wrote them. */
		assert_true(e->unit % ENTRIES_A_WRITER == 0 || e->unit == last[writer] + 1);
		last[writer] = e->unit;
	}
}

static void entries_are_complete_when_visible(void **state)
{
	_cleanup_free_ void *area = calloc(1, ledger_area_bytes(CAPACITY));
	pthread_t writer_threads[WRITERS], reader_thread;
	struct writer writers[WRITERS];
	struct ledger_entry one_more = entry_of(1);
	struct ledger l;
	struct reader reader = {.l = &l};
	pthread_barrier_t start;

	(void)state;
	pthread_barrier_init(&start, NULL, WRITERS);
	ledger_init(&l, area, CAPACITY);
	assert_int_equal(pthread_create(&reader_thread, NULL, reader_main, &reader), 0);
	for (uint64_t i = 0; i < WRITERS; i++) {
		writers[i] =
		        (struct writer){.l = &l, .start = &start, .first = i * ENTRIES_A_WRITER};
		assert_int_equal(pthread_create(&writer_threads[i], NULL, writer_main, &writers[i]),
		                 0);
	}
	for (size_t i = 0; i < WRITERS; i++) {
		pthread_join(writer_threads[i], NULL);
		assert_int_equal(writers[i].n_failed, 0);
	}
	pthread_barrier_destroy(&start);
	/* All appends succeeded, so this cannot wait for ever. */
	assert_int_equal(ledger_count(&l), CAPACITY);
	pthread_join(reader_thread, NULL);
	assert_int_equal(reader.n_torn, 0);
	assert_int_equal(ledger_append(&l, &one_more), -ENOSPC);
	check_all_there(&l);
	ledger_deinit(&l);
}

/* A restarted daemon writes no audit record again, and leaves none out. */
static void audited_entries_stay_audited(void **state)
{
	_cleanup_free_ struct ledger_area *area = calloc(1, ledger_area_bytes(2));
	struct ledger_entry e = entry_of(1);
	struct ledger l;

	(void)state;
	ledger_init(&l, area, 2);
	assert_int_equal(ledger_audited(&l), 0);
	assert_int_equal(ledger_append(&l, &e), 0);
	assert_int_equal(ledger_append(&l, &e), 0);
	ledger_set_audited(&l, 1);
	ledger_deinit(&l);

	ledger_init(&l, area, 2);
	assert_int_equal(ledger_audited(&l), 1);
	assert_int_equal(ledger_count(&l), 2);
	area->n_audited = UINT64_MAX; /* more than there are: nothing is read behind them */
	assert_int_equal(ledger_audited(&l), 2);
	ledger_deinit(&l);
}

static void reasons_have_names(void **state)
{
	(void)state;
	assert_string_equal(ledger_reason_name(LEDGER_REPORTED), "reported");
	assert_string_equal(ledger_reason_name(LEDGER_READ_ERROR), "read error");
	assert_string_equal(ledger_reason_name(LEDGER_INHERITED), "inherited");
	assert_string_equal(ledger_reason_name(LEDGER_SOURCE_LOST), "source lost");
	assert_string_equal(ledger_reason_name(LEDGER_OPERATOR), "operator");
	assert_string_equal(ledger_reason_name((enum ledger_reason)0), "unknown");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(appends_until_full),
	        cmocka_unit_test(goes_on_with_what_is_there),
	        cmocka_unit_test(entries_are_complete_when_visible),
	        cmocka_unit_test(audited_entries_stay_audited),
	        cmocka_unit_test(reasons_have_names),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
