/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The record memfd of a migration: what it is (lib/wire/state_message.h), for the
 * next daemon. It changes while the daemon runs, and the daemon may be killed at any
 * moment: of two slots, the older is overwritten, so that one is always whole.
 *
 * The bytes are anybody's: this file knows nothing of protobuf. One thread.
 */
#ifndef CORE_RECORD_MEMFD_H
#define CORE_RECORD_MEMFD_H

#include <stddef.h>
#include <stdint.h>

#include "core/cleanup.h"
#include "core/error.h"
#include "core/fdpass.h"
#include "core/kept_memfd.h"
#include "core/uuid.h"

#define RECORD_MAGIC "PCPYREC1"
#define RECORD_SLOTS 2
#define RECORD_BYTES_MAX FDPASS_MESSAGE_MAX /* no encoder here makes more */

/* Fixed layout, both: kept over restarts. */
struct record_header {
	struct kept_header head;
	uint64_t slot_offset[RECORD_SLOTS]; /* a record_slot, then room for its bytes */
	uint64_t slot_capacity;             /* bytes, without the record_slot */
};
_Static_assert(sizeof(struct record_header) == 64, "kept over restarts");

struct record_slot {
	uint64_t sequence; /* 1, 2, ...; the higher one is the newer; 0: never written */
	uint64_t length_bytes;
	uint64_t checksum; /* of the two above and the bytes */
};
_Static_assert(sizeof(struct record_slot) == 24, "kept over restarts");

struct record_memfd {
	int fd;
	struct record_header header;
	unsigned newest;   /* slot */
	uint64_t sequence; /* of the newest slot; 0: nothing written yet */
};

int record_memfd_new(const struct uuid *migration_id, struct record_memfd **ret, struct error *err);

/*
 * What another daemon left; takes fd on success. -EINVAL, -EBADMSG, -EPROTONOSUPPORT
 * or -errno, with a text that says what was wrong, and what to do where there is
 * something.
 */
int record_memfd_open(int fd, const struct uuid *migration_id, struct record_memfd **ret,
                      struct error *err);
struct record_memfd *record_memfd_free(struct record_memfd *r); /* always NULL */
DEFINE_CLEANUP(struct record_memfd, record_memfd_free)

/*
 * A new record, of 1 to RECORD_BYTES_MAX bytes. On failure, and wherever the process is
 * killed meanwhile, the file's record is the new one or the one before.
 */
int record_memfd_write(struct record_memfd *r, const void *bytes, size_t len, struct error *err);

/* The newest record that is whole, malloc()ed. -EBADMSG when there is none. */
int record_memfd_read(const struct record_memfd *r, uint8_t **ret, size_t *ret_len,
                      struct error *err);

#endif
