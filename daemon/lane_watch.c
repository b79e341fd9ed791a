/* SPDX-License-Identifier: Apache-2.0 */
/* Called by the daemon when the watchdog is to be fed. Main thread. */
#include "daemon/lane_watch.h"

#include "core/log.h"
#include "core/message_ids.h"

/* More than the time between two calls is no time in which a lane was asked. */
#define STEPS_IN_ALLOWED 2

/*
 * A process that was stopped, or a main loop that was busy, had no ears for a lane's
 * answers: that time does not count against it.
 */
static uint64_t clock_advance(struct lane_watch *w, uint64_t now_us, uint64_t allowed_us)
{
	if (w->last_us)
		w->clock_us += MIN(now_us - w->last_us, allowed_us / STEPS_IN_ALLOWED);
	w->last_us = now_us;
	return w->clock_us;
}

static void log_stands(const struct migration *m, uint32_t lane, const char *why)
{
	log_event(LOG_CRIT, MESSAGE_LANE_STANDS,
	          LOG_FIELDS({"MIGRATION_ID", m->id_text},
	                     {"VMM_PID", LOG_U64((uint64_t)m->vmm_pid)}, {"LANE", LOG_U64(lane)},
	                     {"REASON", why}),
	          "migration %s: lane %u stands still: %s; the watchdog is not fed any more",
	          m->id_text, lane, why);
}

static bool slot_works(struct lane_slot *slot, uint64_t clock_us, uint64_t allowed_us)
{
	struct error error = {0};
	enum lane_pulse_result result;

	lane_ping(slot->lane, !slot->finished && !slot->unregistered, clock_us);
	result = lane_alive(slot->lane, clock_us, allowed_us, &error);
	if (result == LANE_STANDS)
		log_stands(slot->migration, lane_index(slot->lane), error.text);
	return result == LANE_WORKS;
}

bool lane_watch_all(struct lane_watch *w, const struct migration_table *t, uint64_t now_us,
                    uint64_t allowed_us)
{
	uint64_t clock_us = clock_advance(w, now_us, allowed_us);
	bool all = true;

	for (struct migration *m = migration_table_next(t, NULL); m; m = migration_table_next(t, m))
		for (uint32_t i = 0; i < m->n_lanes; i++)
			if (m->lanes[i].lane)
				all &= slot_works(&m->lanes[i], clock_us, allowed_us);
	return all;
}
