/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Placement: claim units in the page map, put them into the guest, and end the
 * claim: the same steps for an answered fault and for the stream. Whoever gets
 * here second finds the unit claimed and drops what it has.
 *
 * Poison goes ledger first, ioctl second. A page that is here already was read
 * healthy and stays.
 *
 * One placer a thread. With UFFD_FEATURE_EVENT_REMOVE, placing data and taking
 * note of a removal exclude each other by remove_lock: otherwise data that was
 * claimed before a removal could be placed after it, and the guest would read
 * stale bytes where it must read zeros.
 */
#ifndef DAEMON_PLACEMENT_H
#define DAEMON_PLACEMENT_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/error.h"
#include "daemon/address_map.h"
#include "daemon/ledger.h"
#include "daemon/mapping.h"
#include "daemon/page_map.h"
#include "daemon/region.h"
#include "daemon/resolve.h"
#include "daemon/stats.h"

enum placement_report {
	PLACEMENT_FINISHED, /* nothing is missing any more */
	PLACEMENT_POISONED, /* this unit */
	PLACEMENT_WARNING,  /* err->text, for the operator */
	PLACEMENT_VMM_GONE,
	PLACEMENT_FAILED, /* err */
};

struct placer_callbacks {
	/*
	 * Wait for a reason to try again: changing true: the VMM changes its
	 * mapping, the uffd's events must be read; false: no memory. Returns
	 * false to give up (the lane is being stopped).
	 */
	bool (*wait_retry)(bool changing, void *user);
	void (*report)(enum placement_report what, uint64_t unit, const struct error *err,
	               void *user);
};

struct placer {
	int uffd;
	bool poison_supported;
	const struct region_table *regions;
	struct page_map *map;
	struct ledger *ledger;
	struct address_area *addresses; /* what the VMM has moved; NULL: it cannot */
	struct mapping_set *mappings;   /* of other processes; NULL: none ever */
	const bool *unregistered;     /* under remove_lock: what is moved now is let go; or NULL */
	pthread_mutex_t *remove_lock; /* NULL without remove events */
	_Atomic uint64_t *pages_left; /* of the lane, 4 KiB */
	_Atomic uint64_t
	        *doubtful; /* units that a dead daemon may have placed (recovery.h), or NULL */
	struct stats *stats;
	const uint8_t *zeros; /* for memory without UFFDIO_ZEROPAGE */
	const struct placer_callbacks *callbacks;
	void *user;
	bool warned_unexpected;
	bool warned_unmapped;
	bool warned_memory;
};

/*
 * Place n_units units from first on, all in region r. Units that are claimed or
 * final are dropped and counted. 0, -ESRCH (the VMM is gone), -ECANCELED
 * (stopped), or -errno (reported as PLACEMENT_FAILED); what was not placed is
 * MISSING again then, and what the ledger has is POISONED.
 */
int placement_data(struct placer *p, const struct region *r, uint64_t first, uint64_t n_units,
                   const uint8_t *bytes);
int placement_zero(struct placer *p, const struct region *r, uint64_t first, uint64_t n_units);
int placement_poison(struct placer *p, const struct region *r, uint64_t first, uint64_t n_units,
                     enum ledger_reason reason);

/*
 * For recovery.h, of a unit that is claimed: set the marker of one that the ledger
 * has; end the claim of one that is WRITTEN, by mapping it. 0 or as above; a unit that
 * could not be mapped stays WRITTEN.
 */
int placement_poison_again(struct placer *p, const struct region *r, uint64_t unit);
int placement_map_written(struct placer *p, const struct region *r, uint64_t unit);

/*
 * Local answers: the fault is for a unit that needs no round trip in state s
 * (PRESENT, POISONED, REMOVED). Whatever happens, the faulting threads run
 * again; when the answer could not be given now, they fault again.
 */
void placement_answer(struct placer *p, const struct region *r, uint64_t unit, enum page_state s,
                      bool minor);

/* The same for a fault in another process's mapping, at hva there. */
void placement_answer_mapping(struct placer *p, struct mapping *m, hva_t hva,
                              const struct region *r, enum page_state s, bool minor);

/*
 * Where unit is in the VMM, and in *ret_n how many of n_units, one region's, lie together from
 * there on. False: nowhere, *ret_n of them. With remove_lock held, or on the thread that reads
 * the events.
 */
bool placement_where(const struct placer *p, const struct region *r, uint64_t unit,
                     uint64_t n_units, hva_t *ret_hva, uint64_t *ret_n);

/* Whoever waits for one of these units, in any process, faults again. One region's. */
void placement_wake(struct placer *p, const struct region *r, uint64_t first, uint64_t n_units);

/*
 * For a mapping that has just been added: set the markers of what is lost, and let every
 * thread that waits there fault again. Again at the end, before it is unregistered: a
 * marker that went meanwhile (MADV_DONTNEED) would not come back any more.
 */
void placement_catch_up(struct placer *p, struct mapping *m);

/* The guest gave this unit back (EVENT_REMOVE, EVENT_UNMAP). With remove_lock held. */
void placement_remove(struct placer *p, const struct region *r, uint64_t unit);

#endif
