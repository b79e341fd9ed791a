/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Counters of one thread of a lane. One thread adds; any thread may read at
 * any time (relaxed atomics). Pages are 4 KiB wire pages.
 */
#ifndef DAEMON_STATS_H
#define DAEMON_STATS_H

#include <stdatomic.h>
#include <stdint.h>

#include "core/histogram.h"

/* X(name): all counters, in the order of struct stats. */
#define STATS_COUNTERS(X)                                                          \
	X(faults)           /* userfaultfd page-fault messages read */             \
	X(faults_coalesced) /* of these: for a unit that was asked for already */  \
	X(faults_local)     /* of these: answered without a round trip */          \
	X(faults_minor)     /* of these: with UFFD_PAGEFAULT_FLAG_MINOR */         \
	X(requests)         /* PageRequests sent */                                \
	X(pages_data)       /* placed with bytes */                                \
	X(pages_zero)       /* placed as zeros */                                  \
	X(pages_poisoned)   /* poisoned */                                         \
	X(pages_removed)    /* given back by the guest, or unmapped */             \
	X(pages_duplicate)  /* received, but placed or claimed already: dropped */ \
	X(pages_unexpected) /* found mapped where nothing should be (EEXIST) */    \
	X(poison_unplaced)  /* poisoned, but the kernel lacks UFFDIO_POISON */     \
	X(retries)          /* ioctls repeated (EAGAIN) */                         \
	X(no_memory)        /* ioctls that waited for memory (ENOMEM) */           \
	X(bytes_received)   /* page bytes that came */

struct stats {
#define X(name) _Atomic uint64_t name;
	STATS_COUNTERS(X)
#undef X
	struct histogram fault_ns; /* read from the uffd until placed, with a round trip */
};

/* What a reader gets: plain numbers. */
struct stats_sum {
#define X(name) uint64_t name;
	STATS_COUNTERS(X)
#undef X
	struct histogram fault_ns;
};

#define stats_add(s, name, n)                                                          \
	atomic_store_explicit(&(s)->name,                                              \
	                      atomic_load_explicit(&(s)->name, memory_order_relaxed) + \
	                              (uint64_t)(n),                                   \
	                      memory_order_relaxed)

/* Add s to sum (zero sum first). */
void stats_sum(const struct stats *s, struct stats_sum *sum);

#endif
