/* SPDX-License-Identifier: Apache-2.0 */
/* /metrics: the Prometheus text format. */
#ifndef DAEMON_METRICS_H
#define DAEMON_METRICS_H

#include <event2/buffer.h>
#include <stddef.h>

#include "daemon/migration_table.h"

/* Append all metrics. 0 or -ENOMEM. */
int metrics_write(const struct migration_table *table, struct evbuffer *out);

/*
 * A label's value with backslash, quote and newline escaped, other control
 * characters as '?'; cut to fit buf, always terminated. Returns buf.
 */
const char *metrics_escape(const char *value, char *buf, size_t buf_len);

#endif
