/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Promises of daemon/removal.h: what one call of the VMM takes from two lanes is
 * noted by each for its own units, once. The kernel tells each userfaultfd of an
 * unmap in its full length, of a discard only what is its own.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <poll.h>
#include <pthread.h>

#include "daemon/removal.h"
#include "daemon_guest_memory.h"

#define PAGE UINT64_C(4096)
#define UNITS 8 /* of each lane */

struct bed {
	uint8_t *base;
	int uffds[2];
	struct region_table *regions;
	uint8_t states[2 * UNITS];
	struct page_map map;
	_Atomic uint64_t pages_left[2];
	struct stats stats[2];
	struct placer placers[2];
	unsigned n_finished;
	int (*give_back)(void *memory, size_t len_bytes);
	pthread_t thread;
};

static void on_report(enum placement_report what, uint64_t unit, const struct error *err,
                      void *user)
{
	struct bed *b = user;

	(void)unit;
	(void)err;
	b->n_finished += what == PLACEMENT_FINISHED;
}

static const struct placer_callbacks callbacks = {.report = on_report};

/* The two pieces of a region, one mapping until they are registered. */
static void bed_start(struct bed *b)
{
	struct region pieces[2];

	*b = (struct bed){.base = mmap(NULL, 2 * UNITS * PAGE, PROT_READ | PROT_WRITE,
	                               MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)};
	assert_true(b->base != MAP_FAILED);
	for (uint32_t i = 0; i < 2; i++) {
		uint64_t features, ioctls;

		pieces[i] = (struct region){
		        .name = "ram0",
		        .gpa = {i * UNITS * PAGE},
		        .hva = {(uintptr_t)b->base + i * UNITS * PAGE},
		        .length_bytes = UNITS * PAGE,
		        .unit_shift = 12,
		        .lane = i,
		        .memory_fd = -1,
		};
		b->uffds[i] = uffd_open();
		assert_true(b->uffds[i] >= 0);
		assert_int_equal(
		        uffd_negotiate(b->uffds[i],
		                       UFFD_FEATURE_EVENT_REMOVE | UFFD_FEATURE_EVENT_UNMAP,
		                       &features),
		        0);
		assert_int_equal(uffd_register(b->uffds[i], pieces[i].hva, UNITS * PAGE, false,
		                               &ioctls, NULL),
		                 0);
		b->pages_left[i] = UNITS;
	}
	assert_int_equal(region_table_new(pieces, 2, 2, &b->regions, NULL), 0);
	page_map_init(&b->map, b->states, 2 * UNITS);
	for (uint32_t i = 0; i < 2; i++)
		b->placers[i] = (struct placer){
		        .uffd = b->uffds[i],
		        .regions = b->regions,
		        .map = &b->map,
		        .pages_left = &b->pages_left[i],
		        .stats = &b->stats[i],
		        .callbacks = &callbacks,
		        .user = b,
		};
}

static void bed_end(struct bed *b)
{
	region_table_free(b->regions);
	close(b->uffds[0]); /* first: nobody reads any more what an unmap waits for */
	close(b->uffds[1]);
	munmap(b->base, 2 * UNITS * PAGE);
}

/* The VMM: waits until both events are read. */
static void *vmm_main(void *arg)
{
	struct bed *b = arg;

	return b->give_back(b->base + PAGE, (2 * UNITS - 2) * PAGE) < 0 ? b : NULL;
}

static void lane_reads(struct bed *b, uint32_t lane, struct uffd_msg *ret)
{
	struct pollfd p = {.fd = b->uffds[lane], .events = POLLIN};

	assert_int_equal(poll(&p, 1, 20000), 1);
	assert_int_equal(uffd_read(b->uffds[lane], ret, 1), 1);
	assert_true(removal_is(ret));
}

/* All but the first and the last page of the region; in which order the lanes read is no matter. */
static void give_back(struct bed *b, int (*how)(void *, size_t), struct uffd_msg msgs[2])
{
	struct pollfd p[2] = {{.fd = b->uffds[0], .events = POLLIN},
	                      {.fd = b->uffds[1], .events = POLLIN}};
	bool read[2] = {false, false};
	void *failed;

	b->give_back = how;
	assert_int_equal(pthread_create(&b->thread, NULL, vmm_main, b), 0);
	while (!read[0] || !read[1]) {
		assert_true(poll(p, 2, 20000) > 0);
		for (uint32_t i = 0; i < 2; i++)
			if (p[i].revents & POLLIN && !read[i]) {
				lane_reads(b, i, &msgs[i]);
				read[i] = true;
				p[i].fd = -1;
			}
	}
	assert_int_equal(pthread_join(b->thread, &failed), 0);
	assert_null(failed);
}

/* Every lane has noted its seven units, and none of the other's. */
static void check_noted(struct bed *b, const struct uffd_msg msgs[2])
{
	for (uint32_t lane = 0; lane < 2; lane++) {
		for (int again = 0; again < 2; again++)
			removal_take(&b->placers[lane], lane, &msgs[lane]);
		assert_int_equal(b->pages_left[lane], 1);
		assert_int_equal(b->stats[lane].pages_removed, UNITS - 1);
		assert_int_equal(page_map_count(&b->map, lane * UNITS, UNITS, PAGE_REMOVED),
		                 UNITS - 1);
		if (lane == 0)
			assert_int_equal(page_map_count(&b->map, UNITS, UNITS, PAGE_MISSING),
			                 UNITS);
	}
	assert_int_equal(page_map_get(&b->map, 0), PAGE_MISSING);
	assert_int_equal(page_map_get(&b->map, 2 * UNITS - 1), PAGE_MISSING);
	assert_int_equal(b->n_finished, 0);
}

static int discard(void *memory, size_t len_bytes)
{
	return madvise(memory, len_bytes, MADV_DONTNEED);
}

static void discard_over_two_lanes(void **state)
{
	struct uffd_msg msgs[2];
	struct bed b;

	(void)state;
	bed_start(&b);
	give_back(&b, discard, msgs);
	assert_int_equal(msgs[0].event, UFFD_EVENT_REMOVE);
	check_noted(&b, msgs);
	bed_end(&b);
}

static void unmap_over_two_lanes(void **state)
{
	struct uffd_msg msgs[2];
	struct bed b;

	(void)state;
	bed_start(&b);
	give_back(&b, munmap, msgs);
	assert_int_equal(msgs[0].event, UFFD_EVENT_UNMAP);
	/* What this test is about: the event of one lane speaks of the other's memory, too. */
	assert_true(msgs[0].arg.remove.end == (uintptr_t)b.base + (2 * UNITS - 1) * PAGE);
	check_noted(&b, msgs);
	bed_end(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(discard_over_two_lanes),
	        cmocka_unit_test(unmap_over_two_lanes),
	};

	if (!uffd_permitted())
		return TEST_SKIPPED;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
