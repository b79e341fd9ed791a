/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Lost pages. Written by the main loop (reports) and by links (read errors),
 * read by links for every page they serve. The bitmap is read without a lock; a
 * page is in the log before its bit can be seen to have been set by somebody
 * else's call, because both change under the mutex. And it is in the kept log, where
 * there is one, before its bit is set: who hears of it hears what every agent to come
 * will say.
 */
#include "source/poison_set.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "core/bitmap.h"
#include "core/clock.h"

struct poison_set {
	const struct region_table *regions;
	struct bitmap *lost;
	_Atomic uint64_t count;
	pthread_mutex_t lock; /* of the log, and of setting bits */
	struct poison_entry *log;
	size_t n_log;
	size_t cap_log;
	struct poison_log *kept; /* NULL: nothing outlives us */
};

const char *poison_reporter_name(enum poison_reporter by)
{
	static const char *const names[] = {"vmm", "operator", "read"};

	return (size_t)by < ARRAY_SIZE(names) ? names[by] : "unknown";
}

const char *poison_reason_name(enum poison_reason reason)
{
	static const char *const names[] = {"unknown", "reported", "read-error", "inherited"};

	return (size_t)reason < ARRAY_SIZE(names) ? names[reason] : "unknown";
}

int poison_set_new(const struct region_table *regions, struct poison_set **ret)
{
	struct poison_set *s = calloc(1, sizeof(*s));
	int r;

	if (!s)
		return -ENOMEM;
	r = bitmap_new(regions->n_pages, &s->lost);
	if (r < 0) {
		free(s);
		return r;
	}
	s->regions = regions;
	pthread_mutex_init(&s->lock, NULL);
	*ret = s;
	return 0;
}

struct poison_set *poison_set_free(struct poison_set *s)
{
	if (!s)
		return NULL;
	bitmap_free(s->lost);
	pthread_mutex_destroy(&s->lock);
	free(s->log);
	poison_log_free(s->kept);
	free(s);
	return NULL;
}

bool poison_set_test(const struct poison_set *s, uint64_t page)
{
	return atomic_load_explicit(&s->count, memory_order_acquire) > 0 &&
	       bitmap_test_atomic(s->lost, page);
}

uint64_t poison_set_count(const struct poison_set *s)
{
	return atomic_load_explicit(&s->count, memory_order_acquire);
}

/* Room for one more entry. */
static int log_reserve(struct poison_set *s)
{
	if (s->n_log < s->cap_log)
		return 0;
	size_t cap = s->cap_log ? 2 * s->cap_log : 16;
	struct poison_entry *log = reallocarray(s->log, cap, sizeof(*log));

	if (!log)
		return -ENOMEM;
	s->log = log;
	s->cap_log = cap;
	return 0;
}

/* Entries are sent as runs, which never cross a region's end. */
static bool entry_goes_on(const struct poison_set *s, const struct poison_entry *last,
                          uint64_t page, enum poison_reason reason, enum poison_reporter by)
{
	return last->first + last->count == page && last->reason == reason && last->by == by &&
	       region_table_find_page(s->regions, page)->first_page != page;
}

/* Pages that were not known before, and that are kept: to the last entry where they fit. */
static void run_enter(struct poison_set *s, const struct poison_log_entry *run)
{
	enum poison_reason reason = (enum poison_reason)run->reason;
	enum poison_reporter by = (enum poison_reporter)run->by;
	struct poison_entry *last = s->n_log ? &s->log[s->n_log - 1] : NULL;

	for (uint64_t page = run->first; page < run->first + run->count; page++)
		(void)bitmap_test_and_set_atomic(s->lost, page);
	if (last && entry_goes_on(s, last, run->first, reason, by)) {
		last->count += run->count;
		return;
	}
	s->log[s->n_log++] = (struct poison_entry){
	        .first = run->first,
	        .count = run->count,
	        .before = last ? last->before + last->count : 0,
	        .time_us = run->time_us,
	        .reason = reason,
	        .by = by,
	};
}

/* The first pages from page on that are not known; how many there are before end. */
static uint64_t run_find(const struct poison_set *s, uint64_t *page, uint64_t end)
{
	uint64_t n = 0;

	while (*page < end && bitmap_test_atomic(s->lost, *page))
		++*page;
	while (*page + n < end && !bitmap_test_atomic(s->lost, *page + n))
		n++;
	return n;
}

int poison_set_add(struct poison_set *s, uint64_t first, uint64_t count, enum poison_reason reason,
                   enum poison_reporter by, uint64_t *ret_added)
{
	struct poison_log_entry run = {
	        .first = first,
	        .time_us = clock_realtime_us(),
	        .reason = reason,
	        .by = by,
	};
	uint64_t added = 0;
	int r = 0;

	pthread_mutex_lock(&s->lock);
	while ((run.count = run_find(s, &run.first, first + count)) > 0) {
		r = log_reserve(s);
		if (r == 0 && s->kept)
			r = poison_log_append(s->kept, &run);
		if (r < 0)
			break;
		run_enter(s, &run);
		added += run.count;
		run.first += run.count;
	}
	atomic_fetch_add_explicit(&s->count, added, memory_order_release);
	pthread_mutex_unlock(&s->lock);
	if (ret_added)
		*ret_added = added;
	return r;
}

static int check_kept(struct poison_set *s, const struct poison_log_entry *e, uint64_t i,
                      struct error *err)
{
	struct error why;
	uint64_t page = e->first;

	if (e->reason > POISON_REASON_INHERITED || e->by > POISON_BY_READ)
		return error_set(err, -EBADMSG,
		                 "entry %llu of the log of its lost pages has reason %u, reporter "
		                 "%u",
		                 (unsigned long long)i, e->reason, e->by);
	if (region_table_check_run(s->regions, e->first, e->count, &why) < 0)
		return error_set(err, -EBADMSG, "entry %llu of the log of its lost pages: %s",
		                 (unsigned long long)i, why.text);
	if (run_find(s, &page, e->first + e->count) != e->count)
		return error_set(err, -EBADMSG,
		                 "entry %llu of the log of its lost pages repeats one before it",
		                 (unsigned long long)i);
	return 0;
}

int poison_set_keep(struct poison_set *s, struct poison_log *log, struct error *err)
{
	uint64_t n_pages = 0;

	for (uint64_t i = 0; i < log->counts.n_entries; i++) {
		struct poison_log_entry e;
		int r = poison_log_read(log, i, &e, err);

		if (r == 0)
			r = check_kept(s, &e, i, err);
		if (r == 0 && log_reserve(s) < 0)
			r = error_set(err, -ENOMEM, "not enough memory for its lost pages");
		if (r < 0)
			return r;
		run_enter(s, &e);
		n_pages += e.count;
	}
	if (log->counts.n_audited > n_pages)
		return error_set(err, -EBADMSG,
		                 "the log of its lost pages has %llu, but says that the journal "
		                 "has %llu",
		                 (unsigned long long)n_pages,
		                 (unsigned long long)log->counts.n_audited);
	atomic_store_explicit(&s->count, n_pages, memory_order_release);
	s->kept = log;
	return 0;
}

void poison_set_audited(struct poison_set *s, uint64_t n_pages)
{
	if (s->kept)
		poison_log_audited(s->kept, n_pages);
}

/* The entry that holds the lost page number cursor; cursor < count. */
static size_t log_find(const struct poison_set *s, uint64_t cursor)
{
	size_t low = 0, high = s->n_log;

	while (high - low > 1) {
		size_t middle = low + (high - low) / 2;

		if (s->log[middle].before <= cursor)
			low = middle;
		else
			high = middle;
	}
	return low;
}

static size_t log_read(const struct poison_set *s, uint64_t *cursor, struct page_run *runs,
                       size_t max, enum poison_reason *ret_reason)
{
	size_t n = 0, i = log_find(s, *cursor);

	*ret_reason = s->log[i].reason;
	while (n < max && i < s->n_log && s->log[i].reason == *ret_reason) {
		const struct poison_entry *e = &s->log[i];
		uint64_t skip = *cursor - e->before;
		uint64_t left = e->count - skip;

		runs[n++] = (struct page_run){.first = e->first + skip,
		                              .count = (uint32_t)MIN(left, (uint64_t)UINT32_MAX)};
		*cursor += runs[n - 1].count;
		if (*cursor == e->before + e->count)
			i++;
	}
	return n;
}

size_t poison_set_read(struct poison_set *s, uint64_t cursor, struct page_run *runs, size_t max,
                       enum poison_reason *ret_reason, uint64_t *ret_cursor)
{
	size_t n = 0;

	if (cursor >= poison_set_count(s))
		return 0;
	pthread_mutex_lock(&s->lock);
	if (s->n_log > 0) {
		n = log_read(s, &cursor, runs, max, ret_reason);
		*ret_cursor = cursor;
	}
	pthread_mutex_unlock(&s->lock);
	return n;
}

int poison_set_copy(struct poison_set *s, struct poison_entry **ret, size_t *ret_n)
{
	struct poison_entry *copy = NULL;
	int r = 0;

	pthread_mutex_lock(&s->lock);
	size_t n = s->n_log;

	if (n > 0) {
		copy = reallocarray(NULL, n, sizeof(*copy));
		if (copy)
			memcpy(copy, s->log, n * sizeof(*copy));
		else
			r = -ENOMEM;
	}
	pthread_mutex_unlock(&s->lock);
	if (r == 0) {
		*ret = copy;
		*ret_n = n;
	}
	return r;
}
