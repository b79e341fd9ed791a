/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The state memfd of a migration: header, the events that the lanes have read, page
 * map, ledger. It outlives the daemon in systemd's FD store. The header never changes;
 * the rest changes all the time, and is right at every moment (docs/architecture.md).
 */
#ifndef DAEMON_STATE_MEMFD_H
#define DAEMON_STATE_MEMFD_H

#include <stdint.h>

#include "core/cleanup.h"
#include "core/error.h"
#include "core/kept_memfd.h"
#include "core/uffd_abi.h"
#include "core/units.h"
#include "core/uuid.h"
#include "daemon/address_map.h"
#include "daemon/ledger.h"
#include "daemon/page_map.h"

#define STATE_MAGIC "PCPYSTA1"
#define STATE_EVENTS_MAX 16 /* a lane: one batch */
#define STATE_LANES_MAX 16
/* A lane's struct address_area, no cache line shared with another's. */
#define STATE_ADDRESSES_BYTES align_up(sizeof(struct address_area), 64)

/* Fixed layout: kept over restarts. Offsets in bytes, from the file's beginning. */
struct state_header {
	struct kept_header head;
	uint64_t n_units;
	uint64_t n_lanes;
	uint64_t events_offset; /* n_lanes times STATE_EVENTS_MAX struct uffd_msg */
	uint64_t map_offset;    /* n_units bytes */
	uint64_t ledger_offset;
	uint64_t ledger_capacity;  /* entries */
	uint64_t length_bytes;     /* of the file */
	uint64_t addresses_offset; /* n_lanes times STATE_ADDRESSES_BYTES */
};
_Static_assert(sizeof(struct state_header) == 104, "kept over restarts");

struct state_memfd {
	int fd;
	void *base;
	uint64_t length_bytes;
	uint64_t events_offset;
	uint64_t addresses_offset;
	uint32_t n_lanes;
	struct page_map map;
	struct ledger ledger;
};

/*
 * n_units > 0, n_lanes 1 to STATE_LANES_MAX. The file is sparse: memory is used as units
 * and poison come. Its length is sealed, so that no mapping of it can ever SIGBUS.
 */
int state_memfd_new(const struct uuid *migration_id, uint64_t n_units, uint32_t n_lanes,
                    struct state_memfd **ret, struct error *err);

/*
 * What another daemon left of this migration; takes fd on success. Everything that can
 * be checked without the migration's regions is: those who know them compare map.n_units,
 * n_lanes, and the ledger's regions. -EINVAL, -EBADMSG, -EPROTONOSUPPORT or -errno, with
 * a text that says what was wrong. Nothing in the file is changed.
 */
int state_memfd_open(int fd, const struct uuid *migration_id, struct state_memfd **ret,
                     struct error *err);
struct state_memfd *state_memfd_free(struct state_memfd *s); /* always NULL */
DEFINE_CLEANUP(struct state_memfd, state_memfd_free)

/*
 * The migration has ended and its lanes are gone: give the memory of the page map back,
 * which reads as MISSING from then on. The ledger stays.
 */
void state_memfd_drop_map(struct state_memfd *s);

/* Where lane (< n_lanes) reads its batch into: STATE_EVENTS_MAX messages, 64-byte aligned. */
struct uffd_msg *state_memfd_events(struct state_memfd *s, uint32_t lane);

/* Where lane (< n_lanes) keeps what the VMM has moved. */
struct address_area *state_memfd_addresses(struct state_memfd *s, uint32_t lane);

#endif
