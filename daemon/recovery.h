/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Recovery: what a daemon left of a lane when it died, put in order by the next
 * one. The kernel has finished every ioctl that had begun; what it had not been
 * told of is as before. In doubt is only what lies between an ioctl and its note in
 * the page map:
 *
 *   REQUESTED   the request died with its connection                -> MISSING
 *   PLACING     placed or not: nobody knows. Poison is in the ledger -> POISONED, again
 *               Data: COPY tells (EEXIST), and what the guest has
 *               written since stays                                 -> MISSING, in doubt
 *   WRITTEN     MINOR mode: the file has it all; CONTINUE maps it,
 *               or says that it is mapped                           -> PRESENT
 *   the rest    stays
 *
 * A removal that had been read but not noted is in the batch of events, which lies
 * in the state memfd. Faults that had been read come again: every thread is woken.
 */
#ifndef DAEMON_RECOVERY_H
#define DAEMON_RECOVERY_H

#include <linux/userfaultfd.h>

#include "daemon/placement.h"

/* Units, for the log. */
struct recovery {
	uint64_t n_requested;
	uint64_t n_placing;
	uint64_t n_written;
	uint64_t n_removed;
	uint64_t n_moves;    /* not units: stretches that the VMM had moved */
	uint64_t n_poisoned; /* of n_placing and n_requested: the ledger had them */
	uint64_t n_left;     /* neither here, poisoned nor removed */
};

/*
 * For the regions of one lane, on the thread that reads its events, before any other
 * thread places there. Sets *p->pages_left and *p->doubtful. 0, -ESRCH when the VMM has
 * gone, or what a placement ends with; it may be called again then.
 */
int recovery_run(struct placer *p, uint32_t lane, const struct uffd_msg *events, size_t n_events,
                 struct recovery *ret);

#endif
