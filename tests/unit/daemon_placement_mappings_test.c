/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Promises of further mappings (daemon/mapping.h): a thread that waits in one goes on when its
 * page comes, wherever that was asked for; what is lost is lost in each of them, also in one
 * that comes later and in one that has dropped the mark.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "daemon_placement_bed.h"

#define UNITS 8
#define POISON UFFD_FEATURE_POISON

/* The bed's memory once more, as another process would have it. */
struct second {
	struct mapping_set set;
	struct mapping *mapping; /* the set's once it is in it */
	struct guest_memory m;
};

static void second_new(struct bed *b, struct second *s)
{
	uint64_t available, ioctls;

	memset(s, 0, sizeof(*s));
	mapping_set_init(&s->set);
	b->placer.mappings = &s->set;
	s->m = b->m;
	s->m.uffd = uffd_open();
	assert_return_code(s->m.uffd, 0);
	assert_int_equal(uffd_negotiate(s->m.uffd, POISON, &available), 0);
	s->m.base =
	        mmap(NULL, b->m.length_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, b->m.memfd, 0);
	assert_ptr_not_equal(s->m.base, MAP_FAILED);
	if (!memory_is_huge(b->m.kind))
		madvise(s->m.base, b->m.length_bytes, MADV_NOHUGEPAGE);
	assert_int_equal(uffd_register(s->m.uffd, guest_memory_hva(&s->m, 0), b->m.length_bytes,
	                               memory_is_minor(b->m.kind), &ioctls, NULL),
	                 0);
	assert_int_equal(mapping_new(3, s->m.uffd, 1, &s->mapping), 0);
	s->mapping->poison_supported = true;
	s->mapping->parts[0] = (struct mapping_part){
	        .n_units = UNITS,
	        .unit_shift = b->m.unit_shift,
	        .hva = guest_memory_hva(&s->m, 0),
	};
}

static void second_free(struct second *s)
{
	close_fd(&s->m.uffd);
	munmap(s->m.base, s->m.length_bytes);
	mapping_set_fini(&s->set);
}

/* Touch the unit there from a thread, and read its fault. */
static void second_touch(struct second *s, uint64_t unit, struct toucher *t, struct uffd_msg *msg)
{
	struct pollfd p = {.fd = s->m.uffd, .events = POLLIN};

	*t = (struct toucher){.at = guest_memory_at(&s->m, unit), .byte = 0xee};
	assert_int_equal(pthread_create(&t->thread, NULL, toucher_main, t), 0);
	assert_int_equal(poll(&p, 1, 10000), 1);
	assert_int_equal(uffd_read(s->m.uffd, msg, 1), 1);
	assert_int_equal(msg->event, UFFD_EVENT_PAGEFAULT);
}

/* Answer what comes there until the toucher has its page. */
static void second_serve(struct bed *b, struct second *s, struct toucher *t)
{
	struct pollfd p = {.fd = s->m.uffd, .events = POLLIN};
	struct uffd_msg msg;

	while (pthread_tryjoin_np(t->thread, NULL) != 0) {
		uint64_t unit;
		hva_t hva;

		if (poll(&p, 1, 10) != 1 || uffd_read(s->m.uffd, &msg, 1) != 1)
			continue;
		hva.addr = msg.arg.pagefault.address;
		assert_true(mapping_find_hva(s->mapping, hva, &unit));
		placement_answer_mapping(&b->placer, s->mapping, guest_memory_hva(&s->m, unit),
		                         b->r, page_map_request(&b->map, unit),
		                         msg.arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_MINOR);
	}
}

static void waits_until_its_page_comes(enum memory_kind kind)
{
	struct bed b;
	struct second s;
	struct uffd_msg msg;
	struct toucher data, zero, lost, removed;

	bed_start(kind, UNITS, POISON, &b);
	second_new(&b, &s);
	mapping_set_add(&s.set, s.mapping);
	second_touch(&s, 0, &data, &msg);
	assert_int_equal(placement_data(&b.placer, b.r, 0, 1, b.source), 0);
	second_serve(&b, &s, &data);
	assert_true(data.healthy && data.byte == b.source[0]);
	second_touch(&s, 1, &zero, &msg);
	assert_int_equal(placement_zero(&b.placer, b.r, 1, 1), 0);
	second_serve(&b, &s, &zero);
	assert_true(zero.healthy && zero.byte == 0);
	second_touch(&s, 2, &lost, &msg);
	assert_int_equal(placement_poison(&b.placer, b.r, 2, 1, LEDGER_REPORTED), 0);
	second_serve(&b, &s, &lost);
	assert_false(lost.healthy);
	second_touch(&s, 3, &removed, &msg);
	placement_remove(&b.placer, b.r, 3);
	second_serve(&b, &s, &removed);
	assert_true(removed.healthy && removed.byte == 0);
	second_free(&s);
	bed_free(&b);
}

static void in_a_memfd(void **state)
{
	(void)state;
	waits_until_its_page_comes(MEMORY_MEMFD);
}

static void in_a_memfd_in_minor_mode(void **state)
{
	(void)state;
	waits_until_its_page_comes(MEMORY_MEMFD_MINOR);
}

static void in_huge_pages(void **state)
{
	(void)state;
	if (!huge_reserve(UNITS + 1))
		skip();
	waits_until_its_page_comes(MEMORY_HUGETLB);
	waits_until_its_page_comes(MEMORY_HUGETLB_MINOR);
	huge_give_back();
}

/* Without anybody who would answer a fault. */
static bool is_marked(const struct second *s, uint64_t unit)
{
	uint8_t byte;

	return !touch_read(guest_memory_at(&s->m, unit), &byte) && touch_was_poison();
}

static void is_marked_at_once(void **state)
{
	struct bed b;
	struct second s;

	(void)state;
	bed_start(MEMORY_MEMFD, UNITS, POISON, &b);
	second_new(&b, &s);
	mapping_set_add(&s.set, s.mapping);
	assert_int_equal(placement_poison(&b.placer, b.r, 4, 2, LEDGER_REPORTED), 0);
	assert_true(is_marked(&s, 4) && is_marked(&s, 5));
	/* Also if nobody ever registers or looks again. */
	assert_int_equal(uffd_unregister(s.m.uffd, guest_memory_hva(&s.m, 0), s.m.length_bytes), 0);
	assert_true(is_marked(&s, 4) && is_marked(&s, 5));
	second_free(&s);
	bed_free(&b);
}

static void is_marked_in_one_that_comes_later(void **state)
{
	struct bed b;
	struct second s;

	(void)state;
	bed_start(MEMORY_MEMFD, UNITS, POISON, &b);
	assert_int_equal(placement_poison(&b.placer, b.r, 4, 1, LEDGER_REPORTED), 0);
	second_new(&b, &s);
	mapping_set_add(&s.set, s.mapping);
	placement_catch_up(&b.placer, s.mapping);
	assert_true(is_marked(&s, 4));
	/* The mark goes with the page table's entry, and comes back. */
	assert_int_equal(madvise(guest_memory_at(&s.m, 4), 4096, MADV_DONTNEED), 0);
	placement_catch_up(&b.placer, s.mapping);
	assert_true(is_marked(&s, 4));
	second_free(&s);
	bed_free(&b);
}

static void taken_out_it_is_left_alone(void **state)
{
	struct bed b;
	struct second s;

	(void)state;
	bed_start(MEMORY_MEMFD, UNITS, POISON, &b);
	second_new(&b, &s);
	mapping_set_add(&s.set, s.mapping);
	assert_ptr_equal(mapping_set_get(&s.set, 3), s.mapping);
	assert_null(mapping_set_get(&s.set, 2));
	mapping_free(mapping_set_take(&s.set, 3));
	assert_null(mapping_set_take(&s.set, 3));
	assert_int_equal(placement_data(&b.placer, b.r, 0, UNITS, b.source), 0);
	assert_int_equal(b.n_reports[PLACEMENT_WARNING], 0);
	second_free(&s);
	bed_free(&b);
}

/* Addresses of hostile or confused processes: every byte beside the parts is no unit. */
static void places_at_the_edges(void **state)
{
	_cleanup_(cleanup_mapping_free) struct mapping *m = NULL;
	uint64_t unit, len;
	size_t cursor = 0;
	hva_t hva;

	(void)state;
	assert_int_equal(mapping_new(0, 0, 3, &m), 0);
	m->parts[0] = (struct mapping_part){10, 4, 12, {0x10000}};
	m->parts[1] = (struct mapping_part){20, 1, 21, {0x400000}};
	m->parts[2] = (struct mapping_part){12, 2, 12, {0x80000}}; /* once more, elsewhere */
	assert_false(mapping_find_hva(m, (hva_t){0xffff}, &unit));
	assert_true(mapping_find_hva(m, (hva_t){0x13fff}, &unit) && unit == 13);
	assert_false(mapping_find_hva(m, (hva_t){0x14000}, &unit));
	assert_true(mapping_find_hva(m, (hva_t){0x81000}, &unit) && unit == 13);
	assert_true(mapping_find_hva(m, (hva_t){0x5fffff}, &unit) && unit == 20);
	assert_false(mapping_find_hva(m, (hva_t){0x600000}, &unit));
	assert_false(mapping_find_hva(m, (hva_t){UINT64_MAX}, &unit));
	assert_true(mapping_next(m, 9, 4, &cursor, &hva, &len));
	assert_true(hva.addr == 0x10000 && len == 3 * 4096);
	assert_true(mapping_next(m, 9, 4, &cursor, &hva, &len));
	assert_true(hva.addr == 0x80000 && len == 4096);
	assert_false(mapping_next(m, 9, 4, &cursor, &hva, &len));
	cursor = 0;
	assert_true(mapping_next(m, 20, 9, &cursor, &hva, &len));
	assert_true(hva.addr == 0x400000 && len == 0x200000);
	assert_false(mapping_next(m, 20, 9, &cursor, &hva, &len));
	cursor = 0;
	assert_false(mapping_next(m, 14, 6, &cursor, &hva, &len));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(in_a_memfd),
	        cmocka_unit_test(in_a_memfd_in_minor_mode),
	        cmocka_unit_test(in_huge_pages),
	        cmocka_unit_test(is_marked_at_once),
	        cmocka_unit_test(is_marked_in_one_that_comes_later),
	        cmocka_unit_test(taken_out_it_is_left_alone),
	        cmocka_unit_test(places_at_the_edges),
	};

	if (!uffd_permitted() || !poison_permitted())
		return TEST_SKIPPED;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
