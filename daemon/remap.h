/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory that the VMM moves (mremap(), UFFD_EVENT_REMAP): from then on its pages are placed
 * where they are now. Without that event the kernel would take moved memory out of the
 * userfaultfd, and its missing pages would read as zeros.
 */
#ifndef DAEMON_REMAP_H
#define DAEMON_REMAP_H

#include <linux/userfaultfd.h>

#include "daemon/placement.h"

/*
 * Follow message number `index` of the lane's batch, if it is of a move. On the thread that
 * reads the events, with the placers' lock held. True: it was. What cannot be followed
 * fails the lane (PLACEMENT_FAILED): its guest waits.
 */
bool remap_take(struct placer *p, uint32_t lane, const struct uffd_msg *msg, size_t index);

#endif
