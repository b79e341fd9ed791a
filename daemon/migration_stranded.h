/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A migration that another daemon has left and this one cannot take up: damaged,
 * of a version that it does not know, or incomplete. It is shown as failed, and what
 * is kept of it stays in the FD store: the guest waits, and reads no zeros.
 */
#ifndef DAEMON_MIGRATION_STRANDED_H
#define DAEMON_MIGRATION_STRANDED_H

#include "daemon/migration_found.h"
#include "daemon/migration_table.h"

/* *m: what could be made of it, or NULL; it is one afterwards. -ENOMEM. */
int migration_strand(struct migration_table *table, struct migration_found *f, pid_t vmm_pid,
                     const char *why, struct migration **m, struct error *err);

/* An operator gives it up: -EBUSY with a text unless forced. */
int migration_stranded_cancel(struct migration *m, bool force, struct error *err);

/* Its VMM has ended. */
void migration_stranded_vmm_gone(struct migration *m);

#endif
