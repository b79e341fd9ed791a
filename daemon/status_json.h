/* SPDX-License-Identifier: Apache-2.0 */
/* The status interface's documents. Each returns a new reference, NULL without memory. */
#ifndef DAEMON_STATUS_JSON_H
#define DAEMON_STATUS_JSON_H

#include <jansson.h>

#include "daemon/migration_table.h"

json_t *status_json_daemon(const struct migration_table *table, uint64_t started_us);
json_t *status_json_migrations(const struct migration_table *table);
json_t *status_json_migration(const struct migration *m);
json_t *status_json_poison(const struct migration *m);
json_t *status_json_error(int status, const char *text);

#endif
