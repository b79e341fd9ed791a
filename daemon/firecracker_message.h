/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The one message that Firecracker sends to a page fault handler: a JSON array of its
 * guest's memory regions (v1.1 to v1.16: src/vmm/src/persist.rs, GuestRegionUffdMapping).
 * No length goes before it, so whoever reads it has to see for himself when it is whole.
 */
#ifndef DAEMON_FIRECRACKER_MESSAGE_H
#define DAEMON_FIRECRACKER_MESSAGE_H

#include <stddef.h>

#include "core/error.h"
#include "wire/attach_message.h"

/*
 * Regions as any attach has them: by offset, called mem0, mem1 ..., with the offset in
 * the snapshot's memory file in the place of the guest-physical address, which the
 * message does not tell. *ret is malloc()ed. -EAGAIN: more is to come; -EBADMSG with a
 * text; -ENOMEM.
 */
int firecracker_message_decode(const char *text, size_t len, struct attach_region **ret,
                               size_t *ret_n, struct error *err);

#endif
