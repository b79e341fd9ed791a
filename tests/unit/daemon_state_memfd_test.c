/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Promises of daemon/state_memfd.h: a fresh state has every unit missing and an
 * empty ledger with room for every unit; what is written is in the file, for
 * whoever opens it next; memory is used only as the state is. What is no state, or not
 * this migration's, is refused with a text that says why, and is left alone.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "core/units.h"
#include "daemon/state_memfd.h"

static const struct uuid id = {{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}};

static struct state_memfd *state_new(uint64_t n_units)
{
	struct state_memfd *s = NULL;
	struct error err = {0};

	assert_int_equal(state_memfd_new(&id, n_units, 2, &s, &err), 0);
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

static struct uffd_msg removal(uint64_t start)
{
	struct uffd_msg m = {.event = UFFD_EVENT_REMOVE};

	m.arg.remove.start = start;
	m.arg.remove.end = start + 4096;
	return m;
}

/* Events, page map and ledger filled to the brim: none runs into another. */
static void has_room_for_every_unit(void **state)
{
	static const uint64_t sizes[] = {1, 4095, 4096, 4097, 10000};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		_cleanup_(cleanup_state_memfd_free) struct state_memfd *s = state_new(sizes[i]);

		for (uint32_t lane = 0; lane < 2; lane++)
			for (int k = 0; k < STATE_EVENTS_MAX; k++)
				state_memfd_events(s, lane)[k] = removal(lane * 100 + k);
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
		for (uint32_t lane = 0; lane < 2; lane++)
			for (int k = 0; k < STATE_EVENTS_MAX; k++)
				assert_int_equal(state_memfd_events(s, lane)[k].arg.remove.start,
				                 lane * 100 + k);
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
	assert_true(state_memfd_new(&id, UINT64_C(1) << 52, 1, &s, &err) < 0);
	assert_true(state_memfd_new(&id, UINT64_C(1) << 58, 1, &s, &err) < 0);
	assert_true(state_memfd_new(&id, UINT64_C(1) << 57, 1, &s, &err) < 0);
	assert_null(s);
	assert_non_null(strstr(err.text, "migration state of 144115188075855872 units: at most"));
}

static struct state_memfd *state_again(const struct state_memfd *s)
{
	struct state_memfd *again = NULL;
	struct error err = {0};

	if (state_memfd_open(dup(s->fd), &id, &again, &err) < 0)
		fail_msg("%s", err.text);
	return again;
}

/* What the next daemon finds is what this one had, at the moment of its death. */
static void is_found_again(void **state)
{
	_cleanup_(cleanup_state_memfd_free) struct state_memfd *s = state_new(5000), *again = NULL;
	struct ledger_entry e = {.unit = 4999, .lost_bytes = 4096, .reason = LEDGER_REPORTED};

	(void)state;
	for (unsigned i = 0; i < PAGE_STATES_; i++)
		page_map_reset(&s->map, i, (enum page_state)i);
	assert_int_equal(ledger_append(&s->ledger, &e), 0);
	state_memfd_events(s, 1)[15] = removal(77);
	again = state_again(s);
	s = state_memfd_free(s);
	assert_int_equal(again->n_lanes, 2);
	assert_int_equal(again->map.n_units, 5000);
	for (unsigned i = 0; i < PAGE_STATES_; i++)
		assert_int_equal(page_map_get(&again->map, i), i);
	assert_int_equal(
	        page_map_count(&again->map, PAGE_STATES_, 5000 - PAGE_STATES_, PAGE_MISSING),
	        5000 - PAGE_STATES_);
	assert_int_equal(again->ledger.capacity, 5000);
	assert_int_equal(ledger_count(&again->ledger), 1);
	assert_memory_equal(ledger_get(&again->ledger, 0), &e, sizeof(e));
	assert_int_equal(state_memfd_events(again, 1)[15].arg.remove.start, 77);
	/* And it goes on: the same file, not a copy. */
	assert_int_equal(ledger_append(&again->ledger, &e), 0);
	s = state_again(again);
	assert_int_equal(ledger_count(&s->ledger), 2);
}

static void events_are_apart_and_aligned(void **state)
{
	_cleanup_(cleanup_state_memfd_free) struct state_memfd *s = NULL;

	(void)state;
	assert_int_equal(state_memfd_new(&id, 1, STATE_LANES_MAX, &s, NULL), 0);
	for (uint32_t lane = 0; lane < STATE_LANES_MAX; lane++) {
		char *events = (char *)state_memfd_events(s, lane);

		assert_int_equal((uintptr_t)events % 64, 0);
		assert_true(lane == 0 ||
		            events >= (char *)(state_memfd_events(s, lane - 1) + STATE_EVENTS_MAX));
		assert_true(events + STATE_EVENTS_MAX * sizeof(struct uffd_msg) <=
		            (char *)s->map.states);
	}
}

static void length_never_changes(void **state)
{
	_cleanup_(cleanup_state_memfd_free) struct state_memfd *s = state_new(100);

	(void)state;
	assert_int_equal(ftruncate(s->fd, 0), -1);
	assert_int_equal(errno, EPERM);
	assert_int_equal(ftruncate(s->fd, (off_t)s->length_bytes + 4096), -1);
	assert_int_equal(errno, EPERM);
}

/* Refused, with this text; the descriptor stays the caller's. Closes it. */
static void refuse(int fd, int code, const char *text)
{
	struct state_memfd *s = NULL;
	struct error err = {0};

	assert_true(fd >= 0);
	assert_int_equal(state_memfd_open(fd, &id, &s, &err), code);
	assert_null(s);
	assert_int_equal(err.code, code);
	if (!strstr(err.text, text) ||
	    !strstr(err.text, "the state of migration 01020304-0506-0708-090a-0b0c0d0e0f10 cannot "
	                      "be used, and its guest keeps waiting"))
		fail_msg("\"%s\" does not say \"%s\"", err.text, text);
	assert_int_equal(close(fd), 0);
}

/* A file with the same content up to there, and these seals. */
static int copy_of(const struct state_memfd *s, uint64_t length_bytes, int seals)
{
	int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	size_t n = MIN(s->length_bytes, length_bytes);

	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, s->base, n, 0), n);
	assert_int_equal(ftruncate(fd, (off_t)length_bytes), 0);
	assert_int_equal(fcntl(fd, F_ADD_SEALS, seals), 0);
	return fd;
}

static void another_file(void **state)
{
	_cleanup_(cleanup_state_memfd_free) struct state_memfd *s = state_new(100);
	int pipes[2], seals = F_SEAL_SHRINK | F_SEAL_GROW;

	(void)state;
	assert_int_equal(pipe(pipes), 0);
	refuse(pipes[0], -EINVAL, "is not a memory file");
	refuse(pipes[1], -EINVAL, "is not a memory file");
	refuse(open("/dev/zero", O_RDWR | O_CLOEXEC), -EINVAL, "is not a memory file");
	refuse(memfd_create("test", MFD_CLOEXEC), -EBADMSG,
	       "it has 0 bytes, less than a header of 104");
	refuse(copy_of(s, 95, seals), -EBADMSG, "it has 95 bytes");
	refuse(copy_of(s, s->length_bytes - 1, seals), -EBADMSG, "but its header says");
	refuse(copy_of(s, s->length_bytes + 1, seals), -EBADMSG, "but its header says");
	refuse(copy_of(s, s->length_bytes, 0), -EBADMSG, "not sealed against change (seals 0x0)");
	refuse(copy_of(s, s->length_bytes, F_SEAL_SHRINK), -EBADMSG, "not sealed");
	refuse(copy_of(s, s->length_bytes, F_SEAL_GROW), -EBADMSG, "not sealed");
	memset(s->base, 0, 8);
	refuse(dup(s->fd), -EBADMSG, "it does not begin with PCPYSTA1");
}

typedef void (*damage_fn)(struct state_header *h);

/* 100 units, 2 lanes; the header changed, with or without a fresh checksum. */
static int damaged(damage_fn damage, bool sign)
{
	_cleanup_(cleanup_state_memfd_free) struct state_memfd *s = state_new(100);
	struct state_header *h = s->base;

	damage(h);
	if (sign)
		kept_header_sign(&h->head);
	return dup(s->fd);
}

#define DAMAGE(name, change)                     \
	static void name(struct state_header *h) \
	{                                        \
		change;                          \
	}
DAMAGE(make_newer, h->head.version = KEPT_VERSION + 1)
DAMAGE(make_unversioned, h->head.version = 0)
DAMAGE(make_header_short, h->head.header_bytes = 40)
DAMAGE(make_another, h->head.migration_id.bytes[0] = 0xff)
DAMAGE(make_longer, h->length_bytes += 4096)
DAMAGE(make_no_units, h->n_units = 0)
DAMAGE(make_many_units, h->n_units = UINT64_MAX)
DAMAGE(make_too_many_units, h->n_units = h->length_bytes)
DAMAGE(make_no_lanes, h->n_lanes = 0)
DAMAGE(make_many_lanes, h->n_lanes = STATE_LANES_MAX + 1)
DAMAGE(make_wide_lanes, h->n_lanes = (UINT64_C(1) << 32) + 1)
DAMAGE(make_no_ledger, h->ledger_capacity = 0)
DAMAGE(make_huge_ledger, h->ledger_capacity = UINT64_C(1) << 58)
DAMAGE(make_long_ledger, h->ledger_capacity = 10000)
DAMAGE(make_map_in_header, h->map_offset = 64)
DAMAGE(make_map_outside, h->map_offset = h->length_bytes)
DAMAGE(make_map_far, h->map_offset = UINT64_MAX - 63)
DAMAGE(make_map_odd, h->map_offset += 8)
DAMAGE(make_map_on_events, h->map_offset = h->events_offset + 512)
DAMAGE(make_ledger_on_map, h->ledger_offset = h->map_offset + 64)
DAMAGE(make_events_on_ledger, h->events_offset = h->ledger_offset + 64)

static void bad_header(void **state)
{
	(void)state;
	refuse(damaged(make_newer, true), -EPROTONOSUPPORT,
	       "written by a newer version (format 2, this one reads up to 1): install that "
	       "version again");
	refuse(damaged(make_unversioned, true), -EPROTONOSUPPORT, "too old (format 0");
	refuse(damaged(make_header_short, true), -EBADMSG, "its header has 40 bytes, expected 104");
	refuse(damaged(make_map_odd, false), -EBADMSG, "its header's checksum is 0x");
	refuse(damaged(make_another, false), -EBADMSG, "its header's checksum is 0x");
	refuse(damaged(make_another, true), -EBADMSG,
	       "it is that of migration ff020304-0506-0708-090a-0b0c0d0e0f10");
	refuse(damaged(make_longer, true), -EBADMSG, "bytes, but its header says");
	refuse(damaged(make_no_units, true), -EBADMSG, "its header says 0 units");
	refuse(damaged(make_many_units, true), -EBADMSG, "its header says 18446744073709551615");
	refuse(damaged(make_too_many_units, true), -EBADMSG, "its page states take");
	refuse(damaged(make_no_lanes, true), -EBADMSG, "its header says 0 lanes");
	refuse(damaged(make_many_lanes, true), -EBADMSG, "its header says 17 lanes");
	refuse(damaged(make_wide_lanes, true), -EBADMSG, "its header says 4294967297 lanes");
	refuse(damaged(make_no_ledger, true), -EBADMSG, "its header says 0 ledger entries");
	refuse(damaged(make_huge_ledger, true), -EBADMSG, "ledger entries, expected 1 to");
	refuse(damaged(make_long_ledger, true), -EBADMSG, "its ledger entries take");
	refuse(damaged(make_map_in_header, true), -EBADMSG,
	       "its page states take 100 bytes at offset "
	       "64, which is not within");
	refuse(damaged(make_map_outside, true), -EBADMSG, "its page states take");
	refuse(damaged(make_map_far, true), -EBADMSG, "its page states take");
	refuse(damaged(make_map_odd, true), -EBADMSG, "its page states begin at offset 8200");
	refuse(damaged(make_map_on_events, true), -EBADMSG,
	       "its events and its page states overlap");
	refuse(damaged(make_ledger_on_map, true), -EBADMSG,
	       "its page states and its ledger entries overlap");
	refuse(damaged(make_events_on_ledger, true), -EBADMSG,
	       "its events and its ledger entries "
	       "overlap");
}

static void bad_content(void **state)
{
	static const uint64_t units[] = {0, 4096, 9999};
	struct ledger_entry e = {.unit = 9999};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(units); i++) {
		_cleanup_(cleanup_state_memfd_free) struct state_memfd *s = state_new(10000);
		char text[64];

		s->map.states[units[i]] = PAGE_STATES_;
		snprintf(text, sizeof(text), "its unit %llu of 10000 is in state %d, expected 0",
		         (unsigned long long)units[i], PAGE_STATES_);
		refuse(dup(s->fd), -EBADMSG, text);
		s->map.states[units[i]] = PAGE_PRESENT;
		assert_int_equal(ledger_append(&s->ledger, &e), 0);
		state_memfd_free(state_again(s));
		e.unit = 10000;
		assert_int_equal(ledger_append(&s->ledger, &e), 0);
		e.unit = 9999;
		refuse(dup(s->fd), -EBADMSG, "entry 1 is of unit 10000, but there are 10000");
		s->ledger.area->n_entries = 10001;
		refuse(dup(s->fd), -EBADMSG,
		       "its ledger says 10001 entries, but has room for 10000");
		s->ledger.area->n_entries = 1;
		state_memfd_free(state_again(s));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(starts_missing_and_empty),
	        cmocka_unit_test(has_room_for_every_unit),
	        cmocka_unit_test(is_in_the_file),
	        cmocka_unit_test(is_sparse),
	        cmocka_unit_test(impossible_sizes_are_an_error),
	        cmocka_unit_test(is_found_again),
	        cmocka_unit_test(events_are_apart_and_aligned),
	        cmocka_unit_test(length_never_changes),
	        cmocka_unit_test(another_file),
	        cmocka_unit_test(bad_header),
	        cmocka_unit_test(bad_content),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
