/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Checks of the runs in one received message. Called by page_message_decode()
 * for requests, answers and poison notices.
 *
 * Senders usually sort their runs, and then one pass finds an overlap. Others
 * are sorted in a copy: n log n of at most PAGE_RUNS_MAX, whatever their order.
 */
#include "wire/page_runs.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

static int run_check(const char *name, size_t i, const Postcopy__V1__Run *run, bool with_kind,
                     struct error *err)
{
	int kind = (int)run->kind;

	if (run->count == 0)
		return error_set(err, -EBADMSG, "%s.runs[%zu].count is 0, expected at least 1",
		                 name, i);
	if (run->first >= PAGE_NUMBER_LIMIT || run->count > PAGE_NUMBER_LIMIT - run->first)
		return error_set(err, -EBADMSG,
		                 "%s.runs[%zu]: first %" PRIu64 " + count %" PRIu32
		                 " is over the largest page number",
		                 name, i, run->first, run->count);
	if (!with_kind && kind != PAGE_KIND_UNSPECIFIED)
		return error_set(err, -EBADMSG, "%s.runs[%zu].kind is %d, expected none", name, i,
		                 kind);
	if (with_kind && (kind < PAGE_KIND_DATA || kind > PAGE_KIND_POISONED))
		return error_set(err, -EBADMSG,
		                 "%s.runs[%zu].kind is %d, expected 1 (data), 2 (zero) or 3 "
		                 "(poisoned)",
		                 name, i, kind);
	return 0;
}

static int overlap_set(const char *name, const struct page_run *a, const struct page_run *b,
                       struct error *err)
{
	return error_set(
	        err, -EBADMSG,
	        "%s.runs overlap: pages %" PRIu64 "..%" PRIu64 " and %" PRIu64 "..%" PRIu64, name,
	        a->first, a->first + a->count - 1, b->first, b->first + b->count - 1);
}

static bool runs_sorted(const struct page_run *runs, size_t n)
{
	for (size_t i = 1; i < n; i++) {
		if (runs[i].first < runs[i - 1].first)
			return false;
	}
	return true;
}

static void heap_sink(struct page_run *heap, size_t root, size_t n)
{
	struct page_run moved = heap[root];
	size_t child;

	while ((child = 2 * root + 1) < n) {
		if (child + 1 < n && heap[child + 1].first > heap[child].first)
			child++;
		if (heap[child].first <= moved.first)
			break;
		heap[root] = heap[child];
		root = child;
	}
	heap[root] = moved;
}

/* Heap sort: glibc's qsort() calls malloc(), and quicksorts have a bad case to be sent. */
static void runs_sort(struct page_run *runs, size_t n)
{
	for (size_t i = n / 2; i-- > 0;)
		heap_sink(runs, i, n);
	for (size_t end = n; end-- > 1;) {
		struct page_run largest = runs[0];

		runs[0] = runs[end];
		runs[end] = largest;
		heap_sink(runs, 0, end);
	}
}

static int runs_check_overlap(struct wire_arena *arena, const char *name,
                              const struct page_run *runs, size_t n, struct error *err)
{
	if (!runs_sorted(runs, n)) {
		struct page_run *copy = wire_arena_alloc(arena, n, sizeof(*copy));

		if (!copy)
			return error_set(err, -EBADMSG, "%s is too large to decode", name);
		memcpy(copy, runs, n * sizeof(*copy));
		runs_sort(copy, n);
		runs = copy;
	}
	for (size_t i = 1; i < n; i++) {
		if (runs[i].first - runs[i - 1].first < runs[i - 1].count)
			return overlap_set(name, &runs[i - 1], &runs[i], err);
	}
	return 0;
}

static int data_pages_add(const char *name, const Postcopy__V1__Run *run, uint64_t *pages,
                          struct error *err)
{
	if ((int)run->kind != PAGE_KIND_DATA)
		return 0;
	*pages += run->count; /* 1024 runs of 32 bits: no overflow */
	if (*pages > PAGE_PAYLOAD_PAGES_MAX)
		return error_set(err, -EBADMSG,
		                 "%s.runs have %" PRIu64 " data pages or more, expected at most %u",
		                 name, *pages, (unsigned int)PAGE_PAYLOAD_PAGES_MAX);
	return 0;
}

int page_runs_decode(struct wire_arena *arena, const char *name, Postcopy__V1__Run *const *from,
                     size_t n, bool with_kind, struct page_runs *ret, uint64_t *ret_data_pages,
                     struct error *err)
{
	struct page_run *runs;
	uint64_t data_pages = 0;
	int r;

	if (n == 0 || n > PAGE_RUNS_MAX)
		return error_set(err, -EBADMSG, "%s has %zu runs, expected 1 to %u", name, n,
		                 (unsigned int)PAGE_RUNS_MAX);
	runs = wire_arena_alloc(arena, n, sizeof(*runs));
	if (!runs)
		return error_set(err, -EBADMSG, "%s is too large to decode", name);
	for (size_t i = 0; i < n; i++) {
		r = run_check(name, i, from[i], with_kind, err);
		if (r == 0)
			r = data_pages_add(name, from[i], &data_pages, err);
		if (r < 0)
			return r;
		runs[i] = (struct page_run){from[i]->first, from[i]->count,
		                            (enum page_kind)from[i]->kind};
	}
	r = runs_check_overlap(arena, name, runs, n, err);
	if (r < 0)
		return r;
	*ret = (struct page_runs){runs, n};
	if (ret_data_pages)
		*ret_data_pages = data_pages;
	return 0;
}
