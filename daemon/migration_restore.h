/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A started daemon finds what the one before it has left in the FD store
 * (migration_keep.h), and goes on with it.
 */
#ifndef DAEMON_MIGRATION_RESTORE_H
#define DAEMON_MIGRATION_RESTORE_H

#include "core/error.h"
#include "daemon/migration_table.h"

/*
 * Take what the service manager passed of migrations (net/activation.h), and make
 * these again: lanes run, and their faults wait for the source. The VMMs'
 * connections wait in migration_keep.connection_fd, and nothing is connected yet.
 *
 * What cannot be taken up becomes a failed migration; its descriptors stay in the
 * store, so that its guest waits, and a daemon that can read them may still come.
 * -ENOMEM only.
 */
int migration_restore_all(struct migration_table *table, struct error *err);

#endif
