/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is known of an inbound export's pages. The links' threads look and ask; the
 * main loop, which has the VMM's connection, sends and enters the answers.
 *
 * Always holds: a page is entered as known after it is in the list of lost pages, if
 * it is lost; so whoever sees it as known sees that, too.
 */
#include "source/inbound.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "core/bitmap.h"

/* A stream asks for so much at a time: 8 MiB. */
#define PROBE_PAGES 2048

/* One at a time for each stream. */
struct probe {
	uint32_t number; /* 0: answered */
	bool unsent;
	size_t n_ranges;
	struct poison_range ranges[POISON_LIST_MAX];
};

struct inbound {
	const struct region_table *regions;
	atomic_bool all;
	struct bitmap *known;
	struct bitmap *asked;
	struct want *to_ask;
	pthread_mutex_t lock; /* the rest */
	uint32_t last_number;
	unsigned n_lanes;
	struct probe *probes;
};

int inbound_new(const struct region_table *regions, unsigned n_lanes, struct inbound **ret)
{
	struct inbound *in = calloc(1, sizeof(*in));
	uint64_t n_pages = regions->n_pages;

	if (!in)
		return -ENOMEM;
	pthread_mutex_init(&in->lock, NULL);
	in->regions = regions;
	in->n_lanes = n_lanes;
	in->probes = calloc(n_lanes, sizeof(*in->probes));
	if (!in->probes || bitmap_new(n_pages, &in->known) < 0 ||
	    bitmap_new(n_pages, &in->asked) < 0 || want_new(n_pages, &in->to_ask) < 0) {
		inbound_free(in);
		return -ENOMEM;
	}
	*ret = in;
	return 0;
}

struct inbound *inbound_free(struct inbound *in)
{
	if (!in)
		return NULL;
	bitmap_free(in->known);
	bitmap_free(in->asked);
	want_free(in->to_ask);
	pthread_mutex_destroy(&in->lock);
	free(in->probes);
	free(in);
	return NULL;
}

void inbound_know(struct inbound *in, uint64_t first, uint64_t count)
{
	uint64_t n;

	for (uint64_t page = first; count > 0; page += n, count -= n) {
		uint64_t mask = bitmap_word_mask(page, count, &n);

		__atomic_fetch_or(&in->known->words[page / 64], mask, __ATOMIC_RELEASE);
	}
}

void inbound_know_all(struct inbound *in)
{
	atomic_store_explicit(&in->all, true, memory_order_release);
}

bool inbound_all_known(const struct inbound *in)
{
	return !in || atomic_load_explicit(&in->all, memory_order_acquire);
}

static uint64_t known_word(const struct inbound *in, uint64_t page)
{
	return __atomic_load_n(&in->known->words[page / 64], __ATOMIC_ACQUIRE);
}

uint64_t inbound_known_run(const struct inbound *in, uint64_t first, uint64_t max)
{
	uint64_t n = 0, ones;

	if (inbound_all_known(in))
		return max;
	do {
		uint64_t at = first + n;
		uint64_t unknown = ~known_word(in, at) >> (at % 64);

		ones = unknown ? (uint64_t)__builtin_ctzll(unknown) : 64 - at % 64;
		n += ones;
	} while (n < max && ones > 0 && (first + n) % 64 == 0);
	return MIN(n, max);
}

uint64_t inbound_next_wanted(const struct inbound *in, const struct want *w, uint64_t from,
                             bool known)
{
	uint64_t n_pages = in->known->n_bits, page = from;

	while ((page = want_next(w, page)) < n_pages) {
		uint64_t word = known ? known_word(in, page) : ~known_word(in, page);

		word &= want_word(w, page) & (UINT64_MAX << (page % 64));
		if (word)
			return page / 64 * 64 + (uint64_t)__builtin_ctzll(word);
		page = MIN((page / 64 + 1) * 64, n_pages);
	}
	return n_pages;
}

bool inbound_ask(struct inbound *in, uint64_t first, uint64_t count)
{
	bool news = false;

	for (uint64_t page = first; page < first + count; page++) {
		if (inbound_known(in, page, 1) || bitmap_test_and_set_atomic(in->asked, page))
			continue;
		want_add(in->to_ask, page, 1);
		news = true;
	}
	return news;
}

/* The same pages by address, as many as lie in one region; their number. */
static uint64_t range_of(const struct inbound *in, uint64_t first, uint64_t count,
                         struct poison_range *ret)
{
	const struct source_region *r = region_table_find_page(in->regions, first);
	uint64_t n = MIN(count, r->first_page + r->n_pages - first);

	ret->gpa.addr = r->gpa.addr + ((first - r->first_page) << WIRE_PAGE_SHIFT);
	ret->length_bytes = n << WIRE_PAGE_SHIFT;
	return n;
}

/* How many pages from first on, at most max, are wanted and not known. */
static uint64_t unknown_run(const struct inbound *in, const struct want *w, uint64_t first,
                            uint64_t max)
{
	uint64_t n = 0;

	while (n < max && !inbound_known(in, first + n, 1) &&
	       want_word(w, first + n) >> ((first + n) % 64) & 1)
		n++;
	return n;
}

static size_t probe_fill(const struct inbound *in, struct probe *p, const struct want *w,
                         uint64_t *at)
{
	uint64_t n_pages = in->regions->n_pages, left = PROBE_PAGES;

	p->n_ranges = 0;
	/* When all is known the pages' own bits do not say so: there would be no end. */
	while (p->n_ranges < POISON_LIST_MAX && left > 0 && !inbound_all_known(in)) {
		uint64_t first = inbound_next_wanted(in, w, *at, false), n;

		*at = first;
		if (first == n_pages)
			break;
		n = unknown_run(in, w, first, MIN(left, n_pages - first));
		if (n == 0)
			continue; /* somebody was faster */
		n = range_of(in, first, n, &p->ranges[p->n_ranges++]);
		*at = first + n;
		left -= n;
	}
	return p->n_ranges;
}

bool inbound_probe(struct inbound *in, unsigned lane, const struct want *w, uint64_t *at)
{
	struct probe *p = &in->probes[lane];
	bool any;

	pthread_mutex_lock(&in->lock);
	any = probe_fill(in, p, w, at) > 0;
	if (any) {
		if (++in->last_number == 0)
			in->last_number = 1;
		p->number = in->last_number;
		p->unsent = true;
	}
	pthread_mutex_unlock(&in->lock);
	return any;
}

bool inbound_probe_answered(struct inbound *in, unsigned lane)
{
	bool answered;

	pthread_mutex_lock(&in->lock);
	answered = in->probes[lane].number == 0;
	pthread_mutex_unlock(&in->lock);
	return answered;
}

/* Guests wait for these: before any stream's. */
static bool take_urgent(struct inbound *in, struct attach_reply *ret)
{
	uint64_t first = 0, n, taken;

	while (ret->n_ranges < POISON_LIST_MAX &&
	       (n = want_take(in->to_ask, first, UINT64_MAX, &first)) > 0) {
		taken = range_of(in, first, n, &ret->ranges[ret->n_ranges++]);
		if (taken < n)
			want_add(in->to_ask, first + taken, n - taken);
		first += taken;
	}
	ret->urgent = true;
	return ret->n_ranges > 0;
}

static bool take_probe(struct inbound *in, struct attach_reply *ret)
{
	bool found = false;

	pthread_mutex_lock(&in->lock);
	for (unsigned lane = 0; lane < in->n_lanes && !found; lane++) {
		struct probe *p = &in->probes[lane];

		found = p->number != 0 && p->unsent;
		if (!found)
			continue;
		p->unsent = false;
		ret->number = p->number;
		ret->n_ranges = p->n_ranges;
		memcpy(ret->ranges, p->ranges, p->n_ranges * sizeof(*p->ranges));
	}
	pthread_mutex_unlock(&in->lock);
	return found;
}

bool inbound_take_ask(struct inbound *in, struct attach_reply *ret)
{
	*ret = (struct attach_reply){.type = ATTACH_REPLY_POPULATE};
	if (take_urgent(in, ret))
		return true;
	ret->urgent = false;
	return take_probe(in, ret);
}

void inbound_answered(struct inbound *in, uint32_t number)
{
	pthread_mutex_lock(&in->lock);
	for (unsigned lane = 0; lane < in->n_lanes && number != 0; lane++)
		if (in->probes[lane].number == number)
			in->probes[lane].number = 0;
	pthread_mutex_unlock(&in->lock);
}
