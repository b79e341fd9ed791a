/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Promises of daemon/state_memfd.h: a fresh state has every unit missing and an
 * empty ledger with room for every unit; what is written is in the file, for
 * whoever maps it next; memory is used only as the state is.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "daemon/state_memfd.h"

static const struct uuid id = {{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}};

static struct state_memfd *state_new(uint64_t n_units)
{
	struct state_memfd *s = NULL;
	struct error err = {0};

	assert_int_equal(state_memfd_new(&id, n_units, &s, &err), 0);
	return s;
}

static void starts_missing_and_empty(void **state)
{
	_cleanup_(cleanup_state_memfd_free) struct state_memfd *s = state_new(5000);

	(void)state;
	assert_int_equal(s->map.n_units, 5000);
	assert_int_equal(page_map_count(&s->map, 0, 5000, PAGE_MISSING), 5000);
	assert_int_equal(ledger_count(&s->ledger), 0);
	assert_int_not_equal(fcntl(s->fd, F_GETFD) & FD_CLOEXEC, 0);
	assert_null(state_memfd_free(NULL));
}

/* Page map and ledger filled to the brim: neither runs into the other. */
static void has_room_for_every_unit(void **state)
{
	static const uint64_t sizes[] = {1, 4095, 4096, 4097, 10000};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		_cleanup_(cleanup_state_memfd_free) struct state_memfd *s = state_new(sizes[i]);

		for (uint64_t unit = 0; unit < sizes[i]; unit++) {
			struct ledger_entry e = {.unit = unit, .lost_bytes = 4096};

			assert_true(page_map_claim(&s->map, unit));
			assert_int_equal(ledger_append(&s->ledger, &e), 0);
			page_map_poisoned(&s->map, unit);
		}
		assert_int_equal(page_map_count(&s->map, 0, sizes[i], PAGE_POISONED), sizes[i]);
		assert_int_equal(ledger_lost_bytes(&s->ledger), 4096 * sizes[i]);
		for (uint64_t unit = 0; unit < sizes[i]; unit++)
			assert_int_equal(ledger_get(&s->ledger, unit)->unit, unit);
		assert_memory_equal(s->base, "PCPYSTA1", 8);
	}
}

/* The file, not only this mapping of it, has the state: it outlives the daemon. */
static void is_in_the_file(void **state)
{
	_cleanup_(cleanup_state_memfd_free) struct state_memfd *s = state_new(100);
	struct ledger_entry e = {.unit = 42, .lost_bytes = 4096};
	struct stat st;
	char *again;

	(void)state;
	assert_true(page_map_claim(&s->map, 42));
	assert_int_equal(ledger_append(&s->ledger, &e), 0);
	page_map_poisoned(&s->map, 42);
	assert_int_equal(fstat(s->fd, &st), 0);
	assert_int_equal(st.st_size, s->length_bytes);
	again = mmap(NULL, s->length_bytes, PROT_READ, MAP_SHARED, s->fd, 0);
	assert_ptr_not_equal(again, MAP_FAILED);
	assert_memory_equal(again, s->base, s->length_bytes);
	assert_int_equal(again[(char *)s->map.states - (char *)s->base + 42], PAGE_POISONED);
	munmap(again, s->length_bytes);
}

/* 16 GiB of guest in 4 KiB pages: at most a byte a page, and that only when used. */
static void is_sparse(void **state)
{
	_cleanup_(cleanup_state_memfd_free) struct state_memfd *s = state_new(UINT64_C(4) << 20);
	struct stat st;

	(void)state;
	assert_int_equal(fstat(s->fd, &st), 0);
	assert_true(st.st_blocks * 512 <= 8192);
	for (uint64_t unit = 0; unit < s->map.n_units; unit++)
		page_map_request(&s->map, unit);
	assert_int_equal(fstat(s->fd, &st), 0);
	assert_true((uint64_t)st.st_blocks * 512 <= s->map.n_units + 8192);
}

static void impossible_sizes_are_an_error(void **state)
{
	struct state_memfd *s = NULL;
	struct error err = {0};

	(void)state;
	assert_true(state_memfd_new(&id, UINT64_C(1) << 57, &s, &err) < 0);
	assert_null(s);
	assert_non_null(strstr(err.text, "migration state of "));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(starts_missing_and_empty),
	        cmocka_unit_test(has_room_for_every_unit),
	        cmocka_unit_test(is_in_the_file),
	        cmocka_unit_test(is_sparse),
	        cmocka_unit_test(impossible_sizes_are_an_error),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
