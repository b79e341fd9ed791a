/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The service manager's FD store (sd_notify(3), FDSTORE=1): descriptors that outlive
 * the process and come back by name when the next one starts (net/activation.h). systemd
 * keeps it over a crash, a watchdog's kill, `systemctl restart`, daemon-reload and
 * daemon-reexec; `systemctl stop` empties it. Any supervisor that speaks the same
 * protocol will do.
 *
 * The manager drops what is beyond FileDescriptorStoreMax= without a word, so it is
 * counted here; so are the names' bytes, for all of them are passed in one variable of
 * the environment ($LISTEN_FDNAMES), and no program can be started with one of more
 * than 128 KiB (MAX_ARG_STRLEN of Linux). Where there is no store everything succeeds and nothing is kept.
 * One thread.
 */
#ifndef NET_FD_STORE_H
#define NET_FD_STORE_H

#include <stdbool.h>
#include <stddef.h>

#include "core/cleanup.h"
#include "core/error.h"

#define FD_STORE_NAME_MAX 256 /* with the 0; systemd's limit */

struct fd_store;

/*
 * max: FileDescriptorStoreMax= of the unit; $FDSTORE, which systemd sets from 254 on,
 * counts more. There is no store without $NOTIFY_SOCKET, or when it is 0. -ENOMEM.
 */
int fd_store_new(unsigned max, struct fd_store **ret);
struct fd_store *fd_store_free(struct fd_store *s); /* always NULL; what is kept stays kept */
DEFINE_CLEANUP(struct fd_store, fd_store_free)

bool fd_store_present(const struct fd_store *s);
unsigned fd_store_max(const struct fd_store *s);
unsigned fd_store_used(const struct fd_store *s);

/*
 * -ENOSPC with a text that says what to do, unless n more have room; the names' bytes are
 * looked at when they are added.
 */
int fd_store_check_room(const struct fd_store *s, size_t n, struct error *err);

/*
 * Keep a duplicate of fd. Names are unique, without ':' and control characters. The manager does
 * not take one open file twice. -ENOSPC, -EEXIST, or -errno of the message.
 */
int fd_store_add(struct fd_store *s, const char *name, int fd, struct error *err);

/* It was passed to this process under that name, so it is in the store. -ENOMEM, -EEXIST. */
int fd_store_passed(struct fd_store *s, const char *name);

/* Waits, a few seconds at most, until the manager has dealt with all that was sent before. */
int fd_store_barrier(const struct fd_store *s, struct error *err);

/* Nothing if it is not there; a message that cannot be sent is logged. */
void fd_store_remove(struct fd_store *s, const char *name);

#endif
