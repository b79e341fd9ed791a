/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Role: the memory behind a migration's page map and ledger. Made at attach;
 * the layout is fixed by struct state_header, so that a later daemon can read
 * what an earlier one left.
 */
#include "daemon/state_memfd.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/units.h"

#define STATE_MAGIC "PCPYSTA1"
#define STATE_VERSION 1

struct state_header {
	char magic[8];
	uint32_t version;
	uint32_t header_bytes;
	struct uuid migration_id;
	uint64_t n_units;
	uint64_t map_offset;
	uint64_t ledger_offset;
	uint64_t ledger_capacity;
	uint64_t length_bytes;
};
_Static_assert(sizeof(struct state_header) <= WIRE_PAGE_SIZE, "the header is one page");

static uint64_t page_align(uint64_t bytes)
{
	return align_up(bytes, WIRE_PAGE_SIZE);
}

static struct state_header header_of(const struct uuid *id, uint64_t n_units)
{
	struct state_header h = {
	        .magic = STATE_MAGIC,
	        .version = STATE_VERSION,
	        .header_bytes = sizeof(h),
	        .migration_id = *id,
	        .n_units = n_units,
	        .map_offset = WIRE_PAGE_SIZE,
	        .ledger_capacity = n_units,
	};

	h.ledger_offset = h.map_offset + page_align(n_units);
	h.length_bytes = h.ledger_offset + page_align(ledger_area_bytes(h.ledger_capacity));
	return h;
}

int state_memfd_new(const struct uuid *migration_id, uint64_t n_units, struct state_memfd **ret,
                    struct error *err)
{
	struct state_header h = header_of(migration_id, n_units);
	_cleanup_(cleanup_state_memfd_free) struct state_memfd *s = calloc(1, sizeof(*s));

	if (!s)
		return error_set_errno(err, -ENOMEM, "migration state");
	s->fd = memfd_create("postcopyd-state", MFD_CLOEXEC);
	if (s->fd < 0 || ftruncate(s->fd, (off_t)h.length_bytes) < 0)
		return error_set_errno(err, -errno, "migration state of %llu bytes",
		                       (unsigned long long)h.length_bytes);
	s->base = mmap(NULL, h.length_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE,
	               s->fd, 0);
	if (s->base == MAP_FAILED) {
		int rc = -errno;

		s->base = NULL;
		return error_set_errno(err, rc, "map the migration state");
	}
	s->length_bytes = h.length_bytes;
	memcpy(s->base, &h, sizeof(h));
	page_map_init(&s->map, (char *)s->base + h.map_offset, n_units);
	ledger_init(&s->ledger, (char *)s->base + h.ledger_offset, h.ledger_capacity);
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
