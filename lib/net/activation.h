/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The descriptors that the service manager passed when it started the program
 * (sd_listen_fds(3)): listening sockets of .socket units, and what an earlier
 * run left in the FD store. Each has a name and is taken once.
 *
 * They belong to the process, as its environment does, so the table is the
 * process's, too. Main thread only. Without a service manager it is empty.
 */
#ifndef NET_ACTIVATION_H
#define NET_ACTIVATION_H

#include <stdbool.h>
#include <sys/types.h>

#include "core/error.h"

/* One that nobody has taken yet. The name is good until activation_end(). */
struct activated;

/*
 * At the start of the program, once. All are close-on-exec afterwards, and the
 * environment names them no more. -EINVAL: it contradicts itself.
 */
int activation_begin(struct error *err);

/* After everybody took what is theirs: warns of each that is left, and leaves it open. */
void activation_end(void);

/* Those that are not taken, in the order they were passed; previous NULL: the first. NULL: no more. */
struct activated *activation_next(const struct activated *previous);
const char *activated_name(const struct activated *a);
/* Not taken: to look at. */
int activated_fd(const struct activated *a);
/* The descriptor is the caller's from here on; activation_next(a) still works. */
int activated_take(struct activated *a);

/*
 * The listening UNIX stream socket of that name, now non-blocking; the caller's.
 * -ENOENT if none was passed, -EINVAL if it is something else (err).
 */
int activation_take_listener(const char *name, struct error *err);

/*
 * The socket that was passed under the name, else one of our own at path, see
 * unix_listen(). *ret_own: the file is ours to remove. Logs where it comes from.
 */
int activation_listen(const char *name, const char *path, mode_t mode, bool *ret_own,
                      struct error *err);

#endif
