/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Promises of the stream: exactly what Resume asked for, once, in increasing
 * order, units whole; what an urgent answer gave is not sent again; position,
 * window and bandwidth are obeyed; a destination that does not read costs
 * nothing but its own stream.
 */
#include "loop/source_fixture.h"

#include "core/clock.h"

#define PAGES_MAX 8192

/* What came by the stream, in its order. */
struct received {
	uint64_t order[PAGES_MAX];
	enum page_kind kinds[PAGES_MAX];
	size_t n;
	uint64_t bytes;
};

static struct received got;

static void take(const struct page_message *m)
{
	const uint8_t *bytes = m->pages.bytes;

	assert_int_equal(m->pages.id, 0);
	for (size_t i = 0; i < m->pages.runs.n_runs; i++) {
		const struct page_run *run = &m->pages.runs.runs[i];

		for (uint32_t k = 0; k < run->count; k++) {
			assert_true(got.n < PAGES_MAX);
			got.order[got.n] = run->first + k;
			got.kinds[got.n++] = run->kind;
			if (run->kind != PAGE_KIND_DATA)
				continue;
			assert_page(bytes, run->first + k);
			bytes += PAGE;
			got.bytes += PAGE;
		}
	}
}

/* Receive until Progress says the end. */
static void receive_round(struct destination *d)
{
	got.n = 0;
	got.bytes = 0;
	while (destination_receive(d) == PAGE_MESSAGE_PAGES)
		take(&d->m);
	assert_int_equal(d->m.type, PAGE_MESSAGE_PROGRESS);
	assert_true(d->m.progress.end);
}

static void test_all_in_order(void **state)
{
	struct fixture *f = fixture_new(NULL);
	struct vmm v = vmm_export(f, 1, 5000, true);

	(void)state;
	assert_int_equal(vmm_report(&v, 77 * PAGE, 2 * PAGE, NULL), 0);
	struct destination *d = destination_hello(f, 1, LINK_ROLE_BULK, 0);

	destination_resume(d, 0, 5000, 1, NULL, true);
	receive_round(d);
	assert_int_equal(got.n, 5000);
	assert_int_equal(d->m.progress.sent, 5000);
	for (uint64_t i = 0; i < 5000; i++) {
		assert_int_equal(got.order[i], i);
		assert_int_equal(got.kinds[i], i == 77 || i == 78 ? PAGE_KIND_POISONED
		                               : i % 4 == 3       ? PAGE_KIND_ZERO
		                                                  : PAGE_KIND_DATA);
	}
	/* Another round on the same connection; nothing wanted: only the end. */
	destination_resume(d, 0, 0, 1, NULL, true);
	receive_round(d);
	assert_int_equal(got.n, 0);
	destination_free(d);
	close(v.sock);
	fixture_free(f);
}

static void test_only_what_is_wanted(void **state)
{
	struct fixture *f = fixture_new(NULL);
	struct vmm v = vmm_export(f, 1, 256, true);
	struct destination *d = destination_hello(f, 1, LINK_ROLE_BULK, 0);
	uint8_t bits[128 / 8];

	(void)state;
	memset(bits, 0x0d, sizeof(bits)); /* 0, 2, 3 of 8 */
	destination_resume(d, 128, 128, 1, bits, false);
	destination_resume(d, 8, 8, 1, NULL, true);
	receive_round(d);
	assert_int_equal(got.n, 16 * 3 + 8);
	for (size_t i = 0; i < got.n; i++) {
		uint64_t page = got.order[i];

		assert_true((page >= 8 && page < 16) || (page >= 128 && (0x0d >> (page % 8) & 1)));
		assert_true(i == 0 || page > got.order[i - 1]);
	}
	/* Outside every region. */
	destination_resume(d, 0, 257, 1, NULL, true);
	destination_expect_error(d, WIRE_ERROR_BAD_PAGE, "256 pages");
	destination_free(d);
	close(v.sock);
	fixture_free(f);
}

/* Urgent answers take pages out of the stream; a unit that is begun is sent whole. */
static void test_units_and_urgent(void **state)
{
	enum {
		PAGES = 2048,
		UNIT = 512
	};
	struct fixture *f = fixture_new(NULL);
	struct vmm v = vmm_export(f, 1, PAGES, true);
	struct destination *bulk = destination_hello(f, 1, LINK_ROLE_BULK, 3);
	struct destination *urgent = destination_hello(f, 1, LINK_ROLE_URGENT, 0);

	(void)state;
	/* Collected, but not last: nothing flows yet. The pong says that it was taken in. */
	struct page_message ping = {.type = PAGE_MESSAGE_PING};

	destination_resume(bulk, 0, PAGES, UNIT, NULL, false);
	destination_send(bulk, &ping, NULL, 0);
	destination_expect(bulk, PAGE_MESSAGE_PONG);
	/* All of unit 1, half of unit 2. */
	destination_ask(urgent, 1, UNIT, UNIT + UNIT / 2);
	for (unsigned n = 0; n < UNIT + UNIT / 2;) {
		destination_expect(urgent, PAGE_MESSAGE_PAGES);
		for (size_t i = 0; i < urgent->m.pages.runs.n_runs; i++)
			n += urgent->m.pages.runs.runs[i].count;
	}
	destination_resume(bulk, 0, 0, 1, NULL, true);
	receive_round(bulk);
	assert_int_equal(got.n, 3 * UNIT);
	for (size_t i = 0; i < got.n; i++) {
		assert_int_equal(got.order[i], i < UNIT ? i : i + UNIT);
	}
	destination_free(bulk);
	destination_free(urgent);
	close(v.sock);
	fixture_free(f);
}

static void test_position_and_window(void **state)
{
	struct fixture *f = fixture_new(NULL);
	struct vmm v = vmm_export(f, 1, 512, true);
	struct destination *d = destination_hello(f, 1, LINK_ROLE_BULK, 0);

	(void)state;
	/* From page 100 round to page 99. */
	destination_control(d, 100, 0, -1);
	destination_resume(d, 0, 512, 1, NULL, true);
	receive_round(d);
	assert_int_equal(got.n, 512);
	for (size_t i = 0; i < 512; i++)
		assert_int_equal(got.order[i], (i + 100) % 512);
	/* 10 pages from 300 on, then from where it was (the position is at 100 again). */
	destination_control(d, 300, 10, -1);
	destination_resume(d, 0, 512, 1, NULL, true);
	receive_round(d);
	assert_int_equal(got.n, 512);
	for (size_t i = 0; i < 10; i++)
		assert_int_equal(got.order[i], 300 + i);
	assert_int_equal(got.order[10], 100);
	destination_control(d, 512, 0, -1);
	destination_expect_error(d, WIRE_ERROR_BAD_PAGE, "StreamControl.position 512");
	destination_free(d);
	close(v.sock);
	fixture_free(f);
}

/* A jump while the stream runs, and is held back by the destination, comes soon and loses nothing. */
static void test_jump_under_way(void **state)
{
	enum {
		PAGES = 8192
	};
	struct fixture *f = fixture_new(NULL);
	struct vmm v = vmm_export(f, 1, PAGES, true);
	struct destination *d = destination_hello(f, 1, LINK_ROLE_BULK, 0);
	static uint8_t seen[PAGES];
	size_t jump = 0;

	(void)state;
	memset(seen, 0, sizeof(seen));
	destination_resume(d, 0, PAGES, 1, NULL, true);
	destination_expect(d, PAGE_MESSAGE_PAGES); /* it runs, and fills what it may */
	got.n = 0;
	take(&d->m);
	destination_control(d, 8000, 64, -1);
	while (destination_receive(d) == PAGE_MESSAGE_PAGES)
		take(&d->m);
	assert_int_equal(d->m.type, PAGE_MESSAGE_PROGRESS);
	assert_int_equal(got.n, PAGES);
	for (size_t i = 0; i < got.n; i++) {
		seen[got.order[i]]++;
		if (!jump && got.order[i] == 8000)
			jump = i;
	}
	for (size_t i = 0; i < PAGES; i++)
		assert_int_equal(seen[i], 1);
	/* Within what the queues may hold (the buffers of both sockets and the channel). */
	assert_true(jump > 0 && jump < 7000);
	assert_int_equal(got.order[jump + 63], 8063);
	assert_true(got.order[jump + 64] < 8000);
	destination_free(d);
	close(v.sock);
	fixture_free(f);
}

static void test_bandwidth(void **state)
{
	struct fixture *f = fixture_new(NULL);
	struct vmm v = vmm_export(f, 1, 256, true);
	struct destination *d = destination_hello(f, 1, LINK_ROLE_BULK, 0);
	uint64_t start_us, took_us;

	(void)state;
	/* 192 pages of data at 2 MiB a second: 0.375 s. */
	destination_control(d, -1, 0, 2 * 1024 * 1024);
	start_us = clock_monotonic_us();
	destination_resume(d, 0, 256, 1, NULL, true);
	receive_round(d);
	took_us = clock_monotonic_us() - start_us;
	assert_int_equal(got.n, 256);
	assert_int_equal(got.bytes, 192 * PAGE);
	assert_true(took_us > 250000);
	/* Without a limit again. */
	destination_control(d, -1, 0, 0);
	start_us = clock_monotonic_us();
	destination_resume(d, 0, 256, 1, NULL, true);
	receive_round(d);
	assert_true(clock_monotonic_us() - start_us < 250000);
	destination_free(d);
	close(v.sock);
	fixture_free(f);
}

/* Who does not read its stream gets its urgent answers all the same. */
static void test_slow_reader(void **state)
{
	enum {
		PAGES = 8192
	};
	struct fixture *f = fixture_new(NULL);
	struct vmm v = vmm_export(f, 1, PAGES, true);
	struct destination *bulk = destination_hello(f, 1, LINK_ROLE_BULK, 0);
	struct destination *urgent = destination_hello(f, 1, LINK_ROLE_URGENT, 0);

	(void)state;
	destination_resume(bulk, 0, PAGES, 1, NULL, true);
	destination_expect(bulk, PAGE_MESSAGE_PAGES); /* it has begun */
	got.n = 0;
	take(&bulk->m);
	for (uint64_t page = PAGES - 100; page < PAGES; page++)
		destination_expect_page(urgent, page,
		                        page % 4 == 3 ? PAGE_KIND_ZERO : PAGE_KIND_DATA);
	while (destination_receive(bulk) == PAGE_MESSAGE_PAGES)
		take(&bulk->m);
	assert_int_equal(bulk->m.type, PAGE_MESSAGE_PROGRESS);
	/* What urgent answered is not sent again: it was far behind what the queues hold. */
	assert_int_equal(got.n, PAGES - 100);
	destination_free(urgent);
	destination_free(bulk);
	close(v.sock);
	fixture_free(f);
}

/* A connection that is made again begins anew with what its Resume says. */
static void test_reconnect(void **state)
{
	struct fixture *f = fixture_new(NULL);
	struct vmm v = vmm_export(f, 1, 4096, true);
	struct destination *d = destination_hello(f, 1, LINK_ROLE_BULK, 0);

	(void)state;
	destination_resume(d, 0, 4096, 1, NULL, true);
	destination_expect(d, PAGE_MESSAGE_PAGES);
	struct destination *again = destination_hello(f, 1, LINK_ROLE_BULK, 0);

	destination_resume(again, 64, 128, 1, NULL, true);
	receive_round(again);
	assert_int_equal(got.n, 128);
	assert_int_equal(got.order[0], 64);
	destination_free(d);
	destination_free(again);
	close(v.sock);
	fixture_free(f);
}

static void assert_no_crossing(const struct page_message *m, uint64_t end)
{
	for (size_t i = 0; i < m->pages.runs.n_runs; i++) {
		const struct page_run *run = &m->pages.runs.runs[i];

		assert_true(run->first >= end || run->first + run->count <= end);
	}
}

/* Zeros at a region's end and at the next one's start are two runs. */
static void test_no_run_crosses_a_region(void **state)
{
	struct fixture *f = fixture_new(NULL);
	struct export_region r[] = {memfd_region("low", 0, 4), memfd_region("high", 1 << 30, 8)};
	struct attach_request q = export_request(1, r, 2);
	int fds[] = {memory_new(0, 4), memory_new(4, 8)};
	struct page_run both[] = {{0, 4, 0}, {4, 8, 0}};
	struct vmm v = vmm_connect(f);
	uint8_t zero[WIRE_PAGE_SIZE] = {0};

	(void)state;
	r[1].fd = 1;
	assert_int_equal(pwrite(fds[1], zero, PAGE, 0), PAGE); /* page 4 as page 3 */
	assert_int_equal(vmm_ask(&v, &q, fds, 2, NULL), 0);
	assert_int_equal(vmm_freeze(&v), 0);

	struct destination *d = destination_hello(f, 1, LINK_ROLE_BULK, 0);
	struct destination *urgent = destination_hello(f, 1, LINK_ROLE_URGENT, 0);

	destination_ask_runs(urgent, 1, both, 2);
	destination_expect(urgent, PAGE_MESSAGE_PAGES);
	assert_no_crossing(&urgent->m, 4);
	destination_resume(d, 0, 12, 1, NULL, true);
	destination_expect(d, PAGE_MESSAGE_PAGES);
	assert_no_crossing(&d->m, 4);
	destination_free(urgent);
	destination_free(d);
	close(fds[0]);
	close(fds[1]);
	close(v.sock);
	fixture_free(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_all_in_order),
	        cmocka_unit_test(test_only_what_is_wanted),
	        cmocka_unit_test(test_units_and_urgent),
	        cmocka_unit_test(test_position_and_window),
	        cmocka_unit_test(test_jump_under_way),
	        cmocka_unit_test(test_bandwidth),
	        cmocka_unit_test(test_slow_reader),
	        cmocka_unit_test(test_reconnect),
	        cmocka_unit_test(test_no_run_crosses_a_region),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
