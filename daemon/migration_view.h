/* SPDX-License-Identifier: Apache-2.0 */
/* What others get to see of a migration: the control interface, watchers, the status pages. */
#ifndef DAEMON_MIGRATION_VIEW_H
#define DAEMON_MIGRATION_VIEW_H

#include "daemon/migration.h"
#include "wire/control_message.h"

#define MIGRATION_VIEW_REGIONS (1U << 0)
#define MIGRATION_VIEW_POISONED (1U << 1) /* the newest MIGRATION_POISONED_SHOWN_MAX */

/*
 * Fill *ret; its arrays are released with control_migration_free(). -ENOMEM.
 * When the list of poisoned pages is cut, *ret_poisoned_all (may be NULL) is
 * more than ret->n_poisoned.
 */
int migration_view(const struct migration *m, unsigned what, struct control_migration *ret,
                   uint64_t *ret_poisoned_all);

#endif
