/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A userfaultfd that a VMM handed over: is it one, the API handshake, register,
 * read, unregister. The ioctls act on the memory of the process that created
 * it, so no capability is needed here.
 */
#ifndef DAEMON_UFFD_H
#define DAEMON_UFFD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/error.h"
#include "core/uffd_abi.h"
#include "core/units.h"

struct uffd_info {
	uint64_t features; /* what is on (from the handshake, or fdinfo when it was done before) */
	bool handshake_was_done; /* by the VMM */
	bool poison_supported;   /* UFFDIO_POISON works (asked of the kernel, not its version) */
	bool remove_events;
	bool remap_events;
};

/*
 * Make fd ready: check that it is a userfaultfd, do the handshake unless it
 * was done, set O_NONBLOCK (a blocking one always polls POLLERR). -EINVAL with
 * a text for another kind of file and for features that cannot be served
 * (fork, SIGBUS). The handshake turns the events of removals and moves on.
 */
int uffd_adopt(int fd, struct uffd_info *ret, struct error *err);

/*
 * The same for a further mapping, of which no events are wanted: what its process does to
 * its mapping is its own business, the memory is the VMM's. -EINVAL if any are on.
 */
int uffd_adopt_mapping(int fd, struct uffd_info *ret, struct error *err);

/*
 * UFFDIO_REGISTER; also of a range that the VMM registered on this uffd
 * already. minor registers MISSING beside MINOR: MINOR alone would let holes
 * read as zeros. *ret_ioctls: bits of what works there (_UFFDIO_COPY, ...).
 * -EBUSY: registered with another uffd; -ENOMEM: not mapped, or the VMM is gone;
 * -EINVAL: not a kind of memory that can be registered.
 */
int uffd_register(int fd, hva_t start, uint64_t length_bytes, bool minor, uint64_t *ret_ioctls,
                  struct error *err);
int uffd_unregister(int fd, hva_t start, uint64_t length_bytes);

/*
 * Has a thread of the process begun to change memory that was registered (mremap(), a
 * removal), and does it wait for its event to be read? UFFD_EVENT_UNMAP is not told so.
 */
bool uffd_changing(int fd);

/* Read up to max messages. Returns their number, -EAGAIN when there are none, -errno. */
int uffd_read(int fd, struct uffd_msg *msgs, size_t max);

#endif
