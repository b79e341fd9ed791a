/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Role: keep a migration's record so that no moment of death leaves none. Called when
 * a migration starts, changes, and is found again after a restart.
 *
 * Always holds: the slot with the highest sequence that is whole is not written to.
 * No mapping: a file that somebody has shortened gives an error, not SIGBUS.
 */
#include "core/record_memfd.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/units.h"

/* What was found in a slot. */
struct slot_content {
	uint64_t sequence;
	uint8_t *bytes; /* malloc()ed */
	size_t len;
};

static struct record_header header_of(const struct uuid *id)
{
	struct record_header h = {
	        .head = kept_header_of(RECORD_MAGIC, sizeof(h), id),
	        .slot_capacity = RECORD_BYTES_MAX,
	};
	uint64_t slot_bytes =
	        align_up(sizeof(struct record_slot) + h.slot_capacity, WIRE_PAGE_SIZE);

	for (unsigned i = 0; i < RECORD_SLOTS; i++)
		h.slot_offset[i] = WIRE_PAGE_SIZE + i * slot_bytes;
	kept_header_sign(&h.head);
	return h;
}

static uint64_t slot_end(const struct record_header *h, unsigned slot)
{
	return h->slot_offset[slot] + sizeof(struct record_slot) + h->slot_capacity;
}

int record_memfd_new(const struct uuid *migration_id, struct record_memfd **ret, struct error *err)
{
	_cleanup_(cleanup_record_memfd_free) struct record_memfd *r = calloc(1, sizeof(*r));
	int result;

	if (!r)
		return error_set_errno(err, -ENOMEM, "migration record");
	r->header = header_of(migration_id);
	r->fd = memfd_create("postcopyd-record", MFD_CLOEXEC);
	if (r->fd < 0 || ftruncate(r->fd, (off_t)slot_end(&r->header, RECORD_SLOTS - 1)) < 0)
		return error_set_errno(err, -errno, "migration record");
	result = kept_write(r->fd, &r->header, sizeof(r->header), 0);
	if (result < 0)
		return error_set_errno(err, result, "migration record");
	*ret = TAKE_PTR(r);
	return 0;
}

static uint64_t slot_checksum(const struct record_slot *s, const uint8_t *bytes)
{
	uint64_t sum =
	        kept_checksum(KEPT_CHECKSUM_START, s, offsetof(struct record_slot, checksum));

	return kept_checksum(sum, bytes, s->length_bytes);
}

/* NULL and a filled *ret, or what is wrong with the slot; its sequence in any case. */
static const char *slot_load(const struct record_memfd *r, unsigned slot, struct slot_content *ret)
{
	uint64_t offset = r->header.slot_offset[slot];
	_cleanup_free_ uint8_t *bytes = NULL;
	struct record_slot s;

	if (kept_read(r->fd, &s, sizeof(s), offset) < 0)
		return "cannot be read";
	ret->sequence = s.sequence;
	if (s.sequence == 0)
		return "was never written";
	if (s.length_bytes == 0 || s.length_bytes > r->header.slot_capacity)
		return "has an impossible length";
	bytes = malloc(s.length_bytes);
	if (!bytes)
		return "does not fit into memory";
	if (kept_read(r->fd, bytes, s.length_bytes, offset + sizeof(s)) < 0)
		return "cannot be read to its end";
	if (s.checksum != slot_checksum(&s, bytes))
		return "has a wrong checksum";
	*ret = (struct slot_content){s.sequence, TAKE_PTR(bytes), s.length_bytes};
	return NULL;
}

static int newest_load(const struct record_memfd *r, struct slot_content *ret, unsigned *ret_slot,
                       struct error *err)
{
	struct slot_content found[RECORD_SLOTS] = {{0}};
	const char *why[RECORD_SLOTS];
	unsigned newest;

	for (unsigned i = 0; i < RECORD_SLOTS; i++)
		why[i] = slot_load(r, i, &found[i]);
	if (why[0] && why[1])
		return error_set(err, -EBADMSG,
		                 "neither copy of it is whole: the first %s, the second %s", why[0],
		                 why[1]);
	newest = found[1].sequence > found[0].sequence;
	/* A write that was cut off has spoilt the older one, and left its number. */
	if (why[newest] || found[newest].sequence - found[!newest].sequence != 1) {
		free(found[0].bytes);
		free(found[1].bytes);
		return error_set(err, -EBADMSG,
		                 "its two copies have the numbers %llu and %llu, and the newer one "
		                 "%s",
		                 (unsigned long long)found[0].sequence,
		                 (unsigned long long)found[1].sequence,
		                 why[newest] ? why[newest] : "does not follow the other");
	}
	free(found[!newest].bytes);
	*ret = found[newest];
	*ret_slot = newest;
	return 0;
}

static int check_slots(const struct record_header *h, uint64_t file_bytes, struct error *err)
{
	if (h->slot_capacity == 0 || h->slot_capacity > RECORD_BYTES_MAX)
		return error_set(err, -EBADMSG, "it has room for %llu bytes, expected 1 to %d",
		                 (unsigned long long)h->slot_capacity, RECORD_BYTES_MAX);
	for (unsigned i = 0; i < RECORD_SLOTS; i++)
		if (h->slot_offset[i] < sizeof(*h) || h->slot_offset[i] > file_bytes ||
		    slot_end(h, i) > file_bytes)
			return error_set(err, -EBADMSG,
			                 "copy %u of it should lie at offset %llu with room for "
			                 "%llu bytes, but the file has %llu",
			                 i + 1, (unsigned long long)h->slot_offset[i],
			                 (unsigned long long)h->slot_capacity,
			                 (unsigned long long)file_bytes);
	if (h->slot_offset[1] < slot_end(h, 0) && h->slot_offset[0] < slot_end(h, 1))
		return error_set(err, -EBADMSG, "its two copies overlap (offsets %llu and %llu)",
		                 (unsigned long long)h->slot_offset[0],
		                 (unsigned long long)h->slot_offset[1]);
	return 0;
}

static int open_checked(struct record_memfd *r, int fd, const struct uuid *migration_id,
                        struct error *err)
{
	struct slot_content newest;
	uint64_t file_bytes;
	int result = kept_header_read(fd, RECORD_MAGIC, sizeof(r->header), &r->header.head,
	                              &file_bytes, err);

	if (result == 0 && !uuid_equal(&r->header.head.migration_id, migration_id))
		result = error_set(err, -EBADMSG, "it is that of another migration");
	if (result == 0)
		result = check_slots(&r->header, file_bytes, err);
	if (result < 0)
		return result;
	r->fd = fd;
	result = newest_load(r, &newest, &r->newest, err);
	if (result < 0) {
		r->fd = -1; /* the caller's again */
		return result;
	}
	r->sequence = newest.sequence;
	free(newest.bytes);
	return 0;
}

int record_memfd_open(int fd, const struct uuid *migration_id, struct record_memfd **ret,
                      struct error *err)
{
	_cleanup_(cleanup_record_memfd_free) struct record_memfd *r = calloc(1, sizeof(*r));
	int result;

	if (!r)
		return error_set_errno(err, -ENOMEM, "migration record");
	r->fd = -1;
	result = open_checked(r, fd, migration_id, err);
	if (result < 0) {
		error_prefix(err, "the record of a migration cannot be used, and its guest keeps "
		                  "waiting for its missing pages");
		return result;
	}
	*ret = TAKE_PTR(r);
	return 0;
}

struct record_memfd *record_memfd_free(struct record_memfd *r)
{
	if (!r)
		return NULL;
	close_fd(&r->fd);
	free(r);
	return NULL;
}

int record_memfd_write(struct record_memfd *r, const void *bytes, size_t len, struct error *err)
{
	struct record_slot s = {.sequence = r->sequence + 1, .length_bytes = len};
	unsigned slot = r->sequence ? !r->newest : 0;
	uint64_t offset = r->header.slot_offset[slot];
	int result;

	if (len == 0 || len > r->header.slot_capacity)
		return error_set(err, -EMSGSIZE,
		                 "migration record of %zu bytes: expected 1 to %llu", len,
		                 (unsigned long long)r->header.slot_capacity);
	s.checksum = slot_checksum(&s, bytes);
	/*
	 * The bytes first: they make the slot's old head wrong, and the new one right. The
	 * sequence last, which a kill cannot tear: until then it is lower than the other's.
	 */
	result = kept_write(r->fd, bytes, len, offset + sizeof(s));
	if (result == 0)
		result = kept_write(r->fd, &s.length_bytes, sizeof(s) - sizeof(s.sequence),
		                    offset + sizeof(s.sequence));
	if (result == 0)
		result = kept_write(r->fd, &s.sequence, sizeof(s.sequence), offset);
	if (result < 0)
		return error_set_errno(err, result, "write the migration record");
	r->newest = slot;
	r->sequence = s.sequence;
	return 0;
}

int record_memfd_read(const struct record_memfd *r, uint8_t **ret, size_t *ret_len,
                      struct error *err)
{
	struct slot_content newest;
	unsigned slot;
	int result = newest_load(r, &newest, &slot, err);

	if (result < 0) {
		error_prefix(err, "migration record");
		return result;
	}
	*ret = newest.bytes;
	*ret_len = newest.len;
	return 0;
}
