/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Role: the memory behind a migration's page map, ledger and events. Made at attach;
 * opened by a daemon that starts and finds what an earlier one left. The layout is
 * fixed by struct state_header.
 *
 * Always holds: a mapping is made only of a file whose length can never change.
 */
#include "daemon/state_memfd.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/units.h"

#define SEALS (F_SEAL_SHRINK | F_SEAL_GROW)
#define LANE_EVENTS_BYTES (STATE_EVENTS_MAX * sizeof(struct uffd_msg))
_Static_assert(sizeof(struct uffd_msg) == 32, "kept over restarts");
_Static_assert(LANE_EVENTS_BYTES % 64 == 0, "a lane's events share no cache line");

/* More pages of 4 KiB than an address space has; keeps every product below in 64 bits. */
#define UNITS_MAX (UINT64_C(1) << 52)

/* A part of the file. */
struct section {
	const char *name;
	uint64_t offset;
	uint64_t length_bytes;
};

static uint64_t page_align(uint64_t bytes)
{
	return align_up(bytes, WIRE_PAGE_SIZE);
}

static struct state_header header_of(const struct uuid *id, uint64_t n_units, uint32_t n_lanes)
{
	struct state_header h = {
	        .head = kept_header_of(STATE_MAGIC, sizeof(h), id),
	        .n_units = n_units,
	        .n_lanes = n_lanes,
	        .events_offset = WIRE_PAGE_SIZE,
	        .ledger_capacity = n_units,
	};

	h.map_offset = h.events_offset + page_align(n_lanes * LANE_EVENTS_BYTES);
	h.ledger_offset = h.map_offset + page_align(n_units);
	h.addresses_offset = h.ledger_offset + page_align(ledger_area_bytes(h.ledger_capacity));
	h.length_bytes = h.addresses_offset + page_align(n_lanes * STATE_ADDRESSES_BYTES);
	kept_header_sign(&h.head);
	return h;
}

/* What follows from a header that is known to be right. */
static int state_map(struct state_memfd *s, const struct state_header *h, struct error *err)
{
	void *base = mmap(NULL, h->length_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE,
	                  s->fd, 0);

	if (base == MAP_FAILED)
		return error_set_errno(err, -errno, "map the migration state");
	s->base = base;
	s->length_bytes = h->length_bytes;
	s->events_offset = h->events_offset;
	s->addresses_offset = h->addresses_offset;
	s->n_lanes = (uint32_t)h->n_lanes;
	page_map_init(&s->map, (char *)base + h->map_offset, h->n_units);
	ledger_init(&s->ledger, (char *)base + h->ledger_offset, h->ledger_capacity);
	return 0;
}

int state_memfd_new(const struct uuid *migration_id, uint64_t n_units, uint32_t n_lanes,
                    struct state_memfd **ret, struct error *err)
{
	_cleanup_(cleanup_state_memfd_free) struct state_memfd *s = calloc(1, sizeof(*s));
	struct state_header h;
	int r;

	assert(n_units > 0 && n_lanes > 0 && n_lanes <= STATE_LANES_MAX);
	if (!s)
		return error_set_errno(err, -ENOMEM, "migration state");
	s->fd = -1;
	if (n_units > UNITS_MAX)
		return error_set(err, -EFBIG, "migration state of %llu units: at most %llu",
		                 (unsigned long long)n_units, (unsigned long long)UNITS_MAX);
	h = header_of(migration_id, n_units, n_lanes);
	s->fd = memfd_create("postcopyd-state", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (s->fd < 0 || ftruncate(s->fd, (off_t)h.length_bytes) < 0 ||
	    fcntl(s->fd, F_ADD_SEALS, SEALS) < 0)
		return error_set_errno(err, -errno, "migration state of %llu bytes",
		                       (unsigned long long)h.length_bytes);
	r = state_map(s, &h, err);
	if (r < 0)
		return r;
	*(struct state_header *)s->base = h;
	*ret = TAKE_PTR(s);
	return 0;
}

static int check_owner(const struct uuid *found, const struct uuid *expected, struct error *err)
{
	char text[UUID_TEXT_LEN];

	if (uuid_equal(found, expected))
		return 0;
	return error_set(err, -EBADMSG, "it is that of migration %s", uuid_format(found, text));
}

static int check_length(int fd, uint64_t length_bytes, uint64_t file_bytes, struct error *err)
{
	int seals = fcntl(fd, F_GET_SEALS);

	if (seals < 0 || (seals & SEALS) != SEALS)
		return error_set(err, -EBADMSG,
		                 "its length is not sealed against change (seals 0x%x)",
		                 seals < 0 ? 0 : seals);
	if (file_bytes != length_bytes)
		return error_set(err, -EBADMSG, "it has %llu bytes, but its header says %llu",
		                 (unsigned long long)file_bytes, (unsigned long long)length_bytes);
	return 0;
}

static int check_numbers(const struct state_header *h, struct error *err)
{
	if (h->n_units == 0 || h->n_units > UNITS_MAX)
		return error_set(err, -EBADMSG, "its header says %llu units, expected 1 to %llu",
		                 (unsigned long long)h->n_units, (unsigned long long)UNITS_MAX);
	if (h->n_lanes == 0 || h->n_lanes > STATE_LANES_MAX)
		return error_set(err, -EBADMSG, "its header says %llu lanes, expected 1 to %d",
		                 (unsigned long long)h->n_lanes, STATE_LANES_MAX);
	if (h->ledger_capacity == 0 || h->ledger_capacity > UNITS_MAX)
		return error_set(
		        err, -EBADMSG, "its header says %llu ledger entries, expected 1 to %llu",
		        (unsigned long long)h->ledger_capacity, (unsigned long long)UNITS_MAX);
	return 0;
}

static int check_section(const struct section *s, uint64_t file_bytes, struct error *err)
{
	if (!is_aligned(s->offset, 64))
		return error_set(err, -EBADMSG, "its %s begin at offset %llu, no multiple of 64",
		                 s->name, (unsigned long long)s->offset);
	if (s->offset < sizeof(struct state_header) || s->offset > file_bytes ||
	    s->length_bytes > file_bytes - s->offset)
		return error_set(err, -EBADMSG,
		                 "its %s take %llu bytes at offset %llu, which is not within the "
		                 "file's %llu, behind the header",
		                 s->name, (unsigned long long)s->length_bytes,
		                 (unsigned long long)s->offset, (unsigned long long)file_bytes);
	return 0;
}

/* Every part inside the file, and none in another. */
static int check_sections(const struct state_header *h, struct error *err)
{
	const struct section sections[] = {
	        {"events", h->events_offset, h->n_lanes * LANE_EVENTS_BYTES},
	        {"page states", h->map_offset, h->n_units},
	        {"ledger entries", h->ledger_offset, ledger_area_bytes(h->ledger_capacity)},
	        {"addresses", h->addresses_offset, h->n_lanes * STATE_ADDRESSES_BYTES},
	};

	for (size_t i = 0; i < ARRAY_SIZE(sections); i++) {
		int r = check_section(&sections[i], h->length_bytes, err);

		if (r < 0)
			return r;
		for (size_t k = 0; k < i; k++)
			if (sections[i].offset < sections[k].offset + sections[k].length_bytes &&
			    sections[k].offset < sections[i].offset + sections[i].length_bytes)
				return error_set(err, -EBADMSG, "its %s and its %s overlap",
				                 sections[k].name, sections[i].name);
	}
	return 0;
}

static int check_map(const struct page_map *m, struct error *err)
{
	for (uint64_t unit = 0; unit < m->n_units; unit++) {
		uint8_t state = atomic_load_explicit(&m->states[unit], memory_order_relaxed);

		if (state >= PAGE_STATES_)
			return error_set(err, -EBADMSG,
			                 "its unit %llu of %llu is in state %u, expected 0 to %d",
			                 (unsigned long long)unit, (unsigned long long)m->n_units,
			                 state, PAGE_STATES_ - 1);
	}
	return 0;
}

static int check_ledger(const struct ledger *l, uint64_t n_units, struct error *err)
{
	uint64_t n = ledger_count(l);

	if (n > l->capacity)
		return error_set(err, -EBADMSG,
		                 "its ledger says %llu entries, but has room for %llu",
		                 (unsigned long long)n, (unsigned long long)l->capacity);
	for (uint64_t i = 0; i < n; i++)
		if (ledger_get(l, i)->unit >= n_units)
			return error_set(err, -EBADMSG,
			                 "its ledger's entry %llu is of unit %llu, but there are "
			                 "%llu",
			                 (unsigned long long)i,
			                 (unsigned long long)ledger_get(l, i)->unit,
			                 (unsigned long long)n_units);
	return 0;
}

/* That the units are the lane's, its regions tell. */
static int check_addresses(struct state_memfd *s, struct error *err)
{
	for (uint32_t i = 0; i < s->n_lanes; i++)
		if (!address_area_valid(state_memfd_addresses(s, i), s->map.n_units))
			return error_set(err, -EBADMSG,
			                 "where it has lane %u's memory makes no sense", i);
	return 0;
}

static int open_checked(struct state_memfd *s, int fd, const struct uuid *id, struct error *err)
{
	struct state_header h;
	uint64_t file_bytes;
	int r = kept_header_read(fd, STATE_MAGIC, sizeof(h), &h.head, &file_bytes, err);

	if (r < 0 || (r = check_owner(&h.head.migration_id, id, err)) < 0 ||
	    (r = check_length(fd, h.length_bytes, file_bytes, err)) < 0 ||
	    (r = check_numbers(&h, err)) < 0 || (r = check_sections(&h, err)) < 0)
		return r;
	s->fd = fd;
	if ((r = state_map(s, &h, err)) == 0 && (r = check_map(&s->map, err)) == 0)
		r = check_ledger(&s->ledger, h.n_units, err);
	if (r == 0)
		r = check_addresses(s, err);
	if (r < 0)
		s->fd = -1; /* the caller's again */
	return r;
}

int state_memfd_open(int fd, const struct uuid *migration_id, struct state_memfd **ret,
                     struct error *err)
{
	_cleanup_(cleanup_state_memfd_free) struct state_memfd *s = calloc(1, sizeof(*s));
	char text[UUID_TEXT_LEN];
	int r;

	if (!s)
		return error_set_errno(err, -ENOMEM, "migration state");
	s->fd = -1;
	r = open_checked(s, fd, migration_id, err);
	if (r < 0) {
		error_prefix(err,
		             "the state of migration %s cannot be used, and its guest keeps "
		             "waiting for its missing pages",
		             uuid_format(migration_id, text));
		return r;
	}
	*ret = TAKE_PTR(s);
	return 0;
}

struct state_memfd *state_memfd_free(struct state_memfd *s)
{
	if (!s)
		return NULL;
	if (s->base) {
		ledger_deinit(&s->ledger);
		munmap(s->base, s->length_bytes);
	}
	close_fd(&s->fd);
	free(s);
	return NULL;
}

/* It is a matter of memory only: where it fails, the file stays as big as it is. */
void state_memfd_drop_map(struct state_memfd *s)
{
	off_t offset = (char *)s->map.states - (char *)s->base;

	(void)fallocate(s->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset,
	                (off_t)s->map.n_units);
}

struct uffd_msg *state_memfd_events(struct state_memfd *s, uint32_t lane)
{
	assert(lane < s->n_lanes);
	return (void *)((char *)s->base + s->events_offset + lane * LANE_EVENTS_BYTES);
}

struct address_area *state_memfd_addresses(struct state_memfd *s, uint32_t lane)
{
	assert(lane < s->n_lanes);
	return (void *)((char *)s->base + s->addresses_offset + lane * STATE_ADDRESSES_BYTES);
}
