/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The state memfd of a migration: header, page map, ledger. It outlives the
 * daemon in systemd's FD store.
 */
#ifndef DAEMON_STATE_MEMFD_H
#define DAEMON_STATE_MEMFD_H

#include <stdint.h>

#include "core/cleanup.h"
#include "core/error.h"
#include "core/uuid.h"
#include "daemon/ledger.h"
#include "daemon/page_map.h"

struct state_memfd {
	int fd;
	void *base;
	uint64_t length_bytes;
	struct page_map map;
	struct ledger ledger;
};

/* n_units > 0. The file is sparse: memory is used as units and poison come. */
int state_memfd_new(const struct uuid *migration_id, uint64_t n_units, struct state_memfd **ret,
                    struct error *err);
struct state_memfd *state_memfd_free(struct state_memfd *s); /* always NULL */
DEFINE_CLEANUP(struct state_memfd, state_memfd_free)

#endif
