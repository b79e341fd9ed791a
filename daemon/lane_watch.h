/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The part of the watchdog that proves that lanes work, not only the main loop: see
 * lane_ping() and lane_alive().
 */
#ifndef DAEMON_LANE_WATCH_H
#define DAEMON_LANE_WATCH_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/migration_table.h"

/* Zeroed at the start. */
struct lane_watch {
	uint64_t clock_us; /* the time that the main loop was there to see */
	uint64_t last_us;
};

/*
 * Ask all lanes, and judge what they were asked before: whether each has done something
 * in the last allowed_us. Logs each that stands, once. To be called several times in allowed_us.
 */
bool lane_watch_all(struct lane_watch *w, const struct migration_table *t, uint64_t now_us,
                    uint64_t allowed_us);

#endif
