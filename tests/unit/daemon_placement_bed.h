/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One region under a real userfaultfd with page map, ledger and placer: what a
 * lane gives to placement.c, for its tests. Unit n's content is known.
 */
#ifndef TESTS_UNIT_DAEMON_PLACEMENT_BED_H
#define TESTS_UNIT_DAEMON_PLACEMENT_BED_H

#include <poll.h>
#include <pthread.h>

#include "daemon/placement.h"
#include "daemon_guest_memory.h"

#define BED_REGION_GPA UINT64_C(0x100000000)

struct bed {
	struct guest_memory m;
	uint64_t n_units;
	struct region_table *regions;
	const struct region *r;
	uint8_t *states;
	struct page_map map;
	void *ledger_area;
	struct ledger ledger;
	_Atomic uint64_t pages_left;
	struct stats stats;
	uint8_t *zeros;
	uint8_t *source; /* what the units hold on the source host */
	pthread_mutex_t remove_lock;
	struct placer placer;
	/* What was reported, from any thread. */
	_Atomic unsigned n_reports[PLACEMENT_FAILED + 1];
	pthread_mutex_t text_lock;
	struct error last_error;
	/* What wait_retry does: NULL gives up. */
	bool (*on_wait)(struct bed *b, bool changing);
	_Atomic unsigned n_waits;
};

static void bed_report(enum placement_report what, uint64_t unit, const struct error *err,
                       void *user)
{
	struct bed *b = user;

	(void)unit;
	atomic_fetch_add(&b->n_reports[what], 1);
	if (!err)
		return;
	pthread_mutex_lock(&b->text_lock);
	b->last_error = *err;
	pthread_mutex_unlock(&b->text_lock);
}

static bool bed_wait(bool changing, void *user)
{
	struct bed *b = user;

	atomic_fetch_add(&b->n_waits, 1);
	return b->on_wait && b->on_wait(b, changing);
}

static const struct placer_callbacks bed_callbacks = {.wait_retry = bed_wait, .report = bed_report};

static inline const uint8_t *bed_source(const struct bed *b, uint64_t unit)
{
	return b->source + (unit << b->m.unit_shift);
}

static inline void bed_fill_source(struct bed *b)
{
	for (uint64_t i = 0; i < b->m.length_bytes / 8; i++) {
		/* No byte of it is zero: zeros and stale bytes cannot be confused. */
		uint64_t word =
		        ((i + 1) * UINT64_C(0x9e3779b97f4a7c15)) | UINT64_C(0x0101010101010101);

		memcpy(b->source + i * 8, &word, 8);
	}
}

static inline int bed_regions(struct bed *b)
{
	static const enum region_backing backings[] = {REGION_ANONYMOUS, REGION_MEMFD, REGION_MEMFD,
	                                               REGION_HUGETLB, REGION_HUGETLB};
	struct region r = {
	        .name = "ram",
	        .gpa = {BED_REGION_GPA},
	        .hva = guest_memory_hva(&b->m, 0),
	        .length_bytes = b->m.length_bytes,
	        .unit_shift = b->m.unit_shift,
	        .backing = backings[b->m.kind],
	        .mode = memory_is_minor(b->m.kind) ? REGION_MINOR : REGION_MISSING,
	        .memory_fd = b->m.memfd,
	        .zeropage = b->m.zeropage,
	};

	return region_table_new(&r, 1, 1, &b->regions, NULL);
}

/* 0 or -errno. poison_supported is set as the features say. */
static inline int bed_new(enum memory_kind kind, uint64_t n_units, uint64_t features, struct bed *b)
{
	int rc;

	memset(b, 0, sizeof(*b));
	rc = guest_memory_new(kind, n_units, features, &b->m);
	if (rc == 0)
		rc = bed_regions(b);
	if (rc < 0)
		return rc;
	b->n_units = n_units;
	b->r = &b->regions->regions[0];
	b->states = calloc(1, n_units);
	b->ledger_area = calloc(1, ledger_area_bytes(n_units));
	b->source = malloc(b->m.length_bytes);
	b->zeros = calloc(1, b->m.length_bytes);
	/* Touched, so that hugetlb's COPY finds it there. */
	memset(b->zeros, 0, b->m.length_bytes);
	bed_fill_source(b);
	page_map_init(&b->map, b->states, n_units);
	ledger_init(&b->ledger, b->ledger_area, n_units);
	pthread_mutex_init(&b->remove_lock, NULL);
	pthread_mutex_init(&b->text_lock, NULL);
	atomic_store(&b->pages_left, b->m.length_bytes >> WIRE_PAGE_SHIFT);
	b->placer = (struct placer){
	        .uffd = b->m.uffd,
	        .poison_supported = features & UFFD_FEATURE_POISON,
	        .regions = b->regions,
	        .map = &b->map,
	        .ledger = &b->ledger,
	        .remove_lock = features & UFFD_FEATURE_EVENT_REMOVE ? &b->remove_lock : NULL,
	        .pages_left = &b->pages_left,
	        .stats = &b->stats,
	        .zeros = b->zeros,
	        .callbacks = &bed_callbacks,
	        .user = b,
	};
	return 0;
}

static inline void bed_free(struct bed *b)
{
	guest_memory_free(&b->m);
	region_table_free(b->regions);
	ledger_deinit(&b->ledger);
	free(b->states);
	free(b->ledger_area);
	free(b->source);
	free(b->zeros);
	pthread_mutex_destroy(&b->remove_lock);
	pthread_mutex_destroy(&b->text_lock);
}

static inline void bed_start(enum memory_kind kind, uint64_t n_units, uint64_t features,
                             struct bed *b)
{
	assert_int_equal(bed_new(kind, n_units, features, b), 0);
}

static inline void assert_state(const struct bed *b, uint64_t unit, enum page_state s)
{
	assert_string_equal(page_state_name(page_map_get(&b->map, unit)), page_state_name(s));
}

/* What the guest finds in a unit. Only of units that are placed. */
enum content {
	CONTENT_SOURCE,
	CONTENT_ZEROS,
	CONTENT_SIGBUS,
	CONTENT_OTHER
};

__attribute__((no_sanitize("address", "thread"))) static inline enum content
bed_content(const struct bed *b, uint64_t unit)
{
	const volatile uint64_t *at = (const volatile uint64_t *)guest_memory_at(&b->m, unit);
	const uint64_t *want = (const uint64_t *)bed_source(b, unit);
	bool source = true, zeros = true;
	uint8_t byte;

	if (!touch_read(guest_memory_at(&b->m, unit), &byte))
		return CONTENT_SIGBUS;
	for (uint64_t i = 0; i < (UINT64_C(1) << b->m.unit_shift) / 8; i++) {
		uint64_t word = at[i];

		source = source && word == want[i];
		zeros = zeros && word == 0;
	}
	return source ? CONTENT_SOURCE : zeros ? CONTENT_ZEROS : CONTENT_OTHER;
}

/* ---- a guest's thread that touches one unit ---- */

struct toucher {
	pthread_t thread;
	const uint8_t *at;
	uint8_t byte;
	bool healthy;
};

static void *toucher_main(void *arg)
{
	struct toucher *t = arg;

	t->healthy = touch_read(t->at, &t->byte);
	return NULL;
}

/* Start it and read its fault: it waits then. False when no fault came. */
static inline bool toucher_start(struct bed *b, uint64_t unit, struct toucher *t,
                                 struct uffd_msg *msg)
{
	struct pollfd p = {.fd = b->m.uffd, .events = POLLIN};

	*t = (struct toucher){.at = guest_memory_at(&b->m, unit), .byte = 0xee};
	if (pthread_create(&t->thread, NULL, toucher_main, t) != 0)
		return false;
	return poll(&p, 1, 10000) == 1 && uffd_read(b->m.uffd, msg, 1) == 1 &&
	       msg->event == UFFD_EVENT_PAGEFAULT;
}

static inline void toucher_end(struct toucher *t)
{
	pthread_join(t->thread, NULL);
}

/* ---- a guest's thread that gives memory back ---- */

struct discard {
	pthread_t thread;
	uint8_t *at;
	uint64_t bytes;
	int rc;
};

static void *discard_main(void *arg)
{
	struct discard *d = arg;

	d->rc = madvise(d->at, d->bytes, MADV_DONTNEED);
	return NULL;
}

/* A thread in madvise(), its event unread. */
static inline void discard_start(struct bed *b, uint64_t unit, uint64_t n, struct discard *d)
{
	struct pollfd p = {.fd = b->m.uffd, .events = POLLIN};

	*d = (struct discard){.at = guest_memory_at(&b->m, unit), .bytes = n << b->m.unit_shift};
	assert_int_equal(pthread_create(&d->thread, NULL, discard_main, d), 0);
	assert_int_equal(poll(&p, 1, 10000), 1);
}

/* What fault_event.c does with it: read and note it under the lock. */
static inline bool read_removal(struct bed *b, bool changing)
{
	struct uffd_msg msg;

	(void)changing;
	pthread_mutex_lock(&b->remove_lock);
	if (uffd_read(b->m.uffd, &msg, 1) == 1 && msg.event == UFFD_EVENT_REMOVE)
		for (uint64_t at = msg.arg.remove.start; at < msg.arg.remove.end; at += 4096)
			placement_remove(&b->placer, b->r, region_unit_of_hva(b->r, (hva_t){at}));
	pthread_mutex_unlock(&b->remove_lock);
	return true;
}

static inline void discard_end(struct discard *d)
{
	pthread_join(d->thread, NULL);
	assert_int_equal(d->rc, 0);
}

#endif
