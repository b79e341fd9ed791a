/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Building a Pages frame in place. The head, whose length depends on what the
 * pages turn out to be, comes before the bytes: room for the likeliest head is
 * left, and only if another one is needed are the bytes moved. A request for
 * one page of data and a stream of data never move anything.
 */
#include "source/page_frame.h"

#include <errno.h>
#include <string.h>

#include "source/zero.h"

static ssize_t encode_head(const struct page_frame *f, const struct page_run *runs, size_t n_runs,
                           size_t bytes_len, uint8_t *buf, size_t cap)
{
	struct page_message m = {.type = PAGE_MESSAGE_PAGES};

	m.pages.id = f->id;
	m.pages.runs.runs = runs;
	m.pages.runs.n_runs = n_runs;
	m.pages.bytes_len = bytes_len;
	return page_message_encode(&m, buf, cap);
}

int page_frame_begin(struct page_frame *f, struct channel *channel, struct export *e, uint64_t id,
                     unsigned data_max, uint64_t first, uint32_t count)
{
	size_t head_max = MIN((size_t)PAGE_FRAME_HEAD_MAX, 64 + (size_t)data_max * 24);

	if (data_max == PAGE_PAYLOAD_PAGES_MAX)
		head_max = PAGE_FRAME_HEAD_MAX;
	f->export = e;
	f->channel = channel;
	f->id = id;
	f->data_max = data_max;
	f->guess = (struct page_run){first, MIN(count, (uint32_t)data_max), PAGE_KIND_DATA};
	f->n_data = 0;
	f->n_pages = f->n_zero = f->n_poisoned = 0;
	f->n_runs = 0;
	f->base = channel_reserve(channel, head_max + data_max * WIRE_PAGE_SIZE);
	if (!f->base)
		return -ENOBUFS;
	ssize_t head =
	        encode_head(f, &f->guess, 1, f->guess.count * WIRE_PAGE_SIZE, f->base, head_max);

	if (head < 0) {
		page_frame_abort(f);
		return (int)head;
	}
	f->payload_offset = (size_t)head;
	return 0;
}

/* A frame of few pages has a head sized for that many runs. */
uint32_t page_frame_room(const struct page_frame *f)
{
	bool small = f->data_max < PAGE_PAYLOAD_PAGES_MAX;
	uint32_t pages = (small ? f->data_max : PAGE_FRAME_PAGES_MAX) - f->n_pages;
	uint32_t runs = (uint32_t)(PAGE_FRAME_RUNS_MAX - f->n_runs);

	return MIN(MIN(pages, runs), (uint32_t)(f->data_max - f->n_data));
}

static void run_append(struct page_frame *f, uint64_t page, enum page_kind kind)
{
	struct page_run *last = f->n_runs ? &f->runs[f->n_runs - 1] : NULL;

	f->n_pages++;
	f->n_zero += kind == PAGE_KIND_ZERO;
	f->n_poisoned += kind == PAGE_KIND_POISONED;
	if (last && last->kind == kind && last->first + last->count == page &&
	    page != f->region_first)
		last->count++;
	else
		f->runs[f->n_runs++] = (struct page_run){page, 1, kind};
}

/* Sort what was read into data, which moves up behind the data before it, zeros and lost pages. */
static int sort_pages(struct page_frame *f, uint64_t first, unsigned n, uint64_t lost)
{
	uint8_t *payload = f->base + f->payload_offset;
	const uint8_t *from = payload + f->n_data * WIRE_PAGE_SIZE;

	for (unsigned i = 0; i < n; i++, from += WIRE_PAGE_SIZE) {
		uint8_t *to = payload + f->n_data * WIRE_PAGE_SIZE;

		if (lost >> i & 1) {
			int r = export_read_error(f->export, first + i, 1);

			if (r < 0)
				return r;
			run_append(f, first + i, PAGE_KIND_POISONED);
		} else if (zero_page(from)) {
			run_append(f, first + i, PAGE_KIND_ZERO);
		} else {
			if (to != from)
				memmove(to, from, WIRE_PAGE_SIZE);
			f->n_data++;
			run_append(f, first + i, PAGE_KIND_DATA);
		}
	}
	return 0;
}

/* Known poison is never read again: how many pages from first on are (not) known lost. */
static unsigned count_poison(const struct page_frame *f, uint64_t first, uint32_t max, bool lost)
{
	unsigned n = 0;

	while (n < max && poison_set_test(f->export->poison, first + n) == lost)
		n++;
	return n;
}

ssize_t page_frame_add(struct page_frame *f, uint64_t first, uint32_t count)
{
	const struct source_region *r = region_table_find_page(f->export->regions, first);
	uint32_t max = MIN(count, page_frame_room(f));
	uint64_t lost = 0;
	unsigned n;

	max = MIN(max, (uint32_t)MEMORY_READ_PAGES_MAX);
	if (!r || first + max > r->first_page + r->n_pages)
		return -EINVAL;
	f->region_first = r->first_page;
	n = count_poison(f, first, max, true);
	if (n > 0) {
		for (unsigned i = 0; i < n; i++)
			run_append(f, first + i, PAGE_KIND_POISONED);
		return n;
	}
	n = count_poison(f, first, max, false);
	int e = memory_read(&r->memory, source_region_offset(r, first), n,
	                    f->base + f->payload_offset + f->n_data * WIRE_PAGE_SIZE, &lost);

	if (e == 0)
		e = sort_pages(f, first, n, lost);
	return e < 0 ? e : (ssize_t)n;
}

static bool as_guessed(const struct page_frame *f)
{
	return f->n_runs == 1 && f->runs[0].kind == PAGE_KIND_DATA &&
	       f->runs[0].first == f->guess.first && f->runs[0].count == f->guess.count;
}

static void count_stats(const struct page_frame *f, size_t len)
{
	struct export_stats *s = &f->export->stats;

	atomic_fetch_add_explicit(&s->pages_data, f->n_data, memory_order_relaxed);
	atomic_fetch_add_explicit(&s->pages_zero, f->n_zero, memory_order_relaxed);
	atomic_fetch_add_explicit(&s->pages_poisoned, f->n_poisoned, memory_order_relaxed);
	atomic_fetch_add_explicit(&s->bytes_sent, len, memory_order_relaxed);
}

int page_frame_end(struct page_frame *f)
{
	size_t bytes_len = f->n_data * WIRE_PAGE_SIZE;
	ssize_t head_len = (ssize_t)f->payload_offset;

	if (!as_guessed(f)) {
		uint8_t head[PAGE_FRAME_HEAD_MAX];

		head_len = encode_head(f, f->runs, f->n_runs, bytes_len, head, sizeof(head));
		if (head_len < 0) {
			page_frame_abort(f);
			return (int)head_len;
		}
		if ((size_t)head_len != f->payload_offset && bytes_len > 0)
			memmove(f->base + head_len, f->base + f->payload_offset, bytes_len);
		memcpy(f->base, head, (size_t)head_len);
	}
	count_stats(f, (size_t)head_len + bytes_len);
	return channel_commit(f->channel, (size_t)head_len + bytes_len);
}

void page_frame_abort(struct page_frame *f)
{
	channel_commit(f->channel, 0);
}
