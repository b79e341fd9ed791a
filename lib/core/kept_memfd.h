/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the memfds that outlive a program have in common: how they begin, and which
 * version may read what another has left. By mistake anything may stand where one was
 * expected, so nothing is trusted before it is checked; the checksum is against
 * mistakes, not against somebody who wants to deceive.
 */
#ifndef CORE_KEPT_MEMFD_H
#define CORE_KEPT_MEMFD_H

#include <stddef.h>
#include <stdint.h>

#include "core/error.h"
#include "core/uuid.h"

/*
 * The layout of the kept memfds. A program reads its own and the one before it, so that
 * an upgrade in the middle of a migration loses nothing; there is none before 1 yet.
 */
#define KEPT_VERSION 1

/* Begins every header. Fixed layout: it is kept over restarts. */
struct kept_header {
	char magic[8];
	uint32_t version;
	uint32_t header_bytes; /* with what follows this */
	struct uuid migration_id;
	uint64_t checksum; /* of all header_bytes, with 0 in its place */
};
_Static_assert(sizeof(struct kept_header) == 40, "kept over restarts");

#define KEPT_CHECKSUM_START UINT64_C(0xcbf29ce484222325)

/* FNV-1a; so_far: KEPT_CHECKSUM_START, or that of what lies before these bytes. */
uint64_t kept_checksum(uint64_t so_far, const void *bytes, size_t len);

/* Everything but the checksum, which comes last: kept_header_sign(). */
struct kept_header kept_header_of(const char magic[8], uint32_t header_bytes,
                                  const struct uuid *migration_id);
void kept_header_sign(struct kept_header *h);

/*
 * Read the header_bytes of a header from the beginning of fd, and check that fd is a
 * memory file, magic, version and checksum; what follows the kept_header is the caller's
 * to check. *h is undefined on failure. -EINVAL for another kind of file,
 * -EPROTONOSUPPORT for a version that cannot be read, -EBADMSG, -errno; with a text.
 */
int kept_header_read(int fd, const char magic[8], uint32_t header_bytes, struct kept_header *h,
                     uint64_t *ret_file_bytes, struct error *err);

/* All of it: 0, -ENODATA where the file ends, -errno. */
int kept_read(int fd, void *buf, size_t len, uint64_t offset);
int kept_write(int fd, const void *buf, size_t len, uint64_t offset);

#endif
