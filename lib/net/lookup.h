/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Look a name up without ever waiting for it: the look-up has a thread of its
 * own, and who asked can forget it at any time.
 */
#ifndef NET_LOOKUP_H
#define NET_LOOKUP_H

#include <netdb.h>

#include "core/error.h"

struct lookup;

/*
 * The end of a look-up, on its own thread: the list is the receiver's, or NULL
 * and err says why. Brief, and without lookup_cancel().
 */
typedef void (*lookup_fn)(struct addrinfo *list, const struct error *err, void *user);

/* Any thread. fn is called once, unless cancelled. Release with lookup_cancel(). -errno. */
int lookup_start(const char *address, lookup_fn fn, void *user, struct lookup **ret,
                 struct error *err);

/*
 * Before, during or after the end: fn is not called after this. Waits for a fn
 * that is running, not for the name's servers. Always NULL.
 */
struct lookup *lookup_cancel(struct lookup *l);

#endif
