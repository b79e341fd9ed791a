/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the guest gives back (UFFD_EVENT_REMOVE: balloon, MADV_DONTNEED, a hole in
 * its file; UFFD_EVENT_UNMAP): it reads as zeros from then on, and what the source
 * still has of it is not wanted any more.
 */
#ifndef DAEMON_REMOVAL_H
#define DAEMON_REMOVAL_H

#include <linux/userfaultfd.h>

#include "daemon/placement.h"

bool removal_is(const struct uffd_msg *msg);

/*
 * Note a removal for every unit of this lane's regions that it covers. On the thread
 * that reads the events, with the other placers' lock held. Twice is the same as once.
 */
void removal_take(struct placer *p, uint32_t lane, const struct uffd_msg *msg);

#endif
