/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The end of the daemon while guests depend on it: it goes on with these, takes no
 * new one, and ends when the last of them needs it no more.
 */
#ifndef DAEMON_DRAIN_H
#define DAEMON_DRAIN_H

#include <stddef.h>

#include "daemon/migration_table.h"

/* Enough for drain_names(). */
#define DRAIN_NAMES_MAX 256

/*
 * Migrations that an end now would break off: a VMM has attached, and it has not ended;
 * or it has, and the journal lacks records of its lost pages.
 */
unsigned drain_count(const struct migration_table *t);

/* The first of them by id and state, and how many more: into buf, returned. */
const char *drain_names(const struct migration_table *t, char *buf, size_t buf_len);

/* Refuse whatever would make more of them, and name them in the log. */
void drain_begin(struct migration_table *t);

#endif
