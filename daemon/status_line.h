/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What `systemctl status` says of the daemon (STATUS=): how many migrations there are, how
 * fast, what is missing, and while it drains, whom it waits for. It follows by itself,
 * with at most one message a second.
 */
#ifndef DAEMON_STATUS_LINE_H
#define DAEMON_STATUS_LINE_H

#include "core/cleanup.h"
#include "daemon/migration_table.h"

struct status_line;

/* -ENOMEM. The table must outlive it. Tells nothing yet. */
int status_line_new(struct migration_table *t, struct status_line **ret);
struct status_line *status_line_free(struct status_line *l); /* always NULL */
DEFINE_CLEANUP(struct status_line, status_line_free)

/* Now, whenever it was told last. */
void status_line_tell(struct status_line *l);

#endif
