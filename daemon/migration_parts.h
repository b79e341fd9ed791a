/* SPDX-License-Identifier: Apache-2.0 */
/* What the migration_*.c files use of each other; nobody else includes it. */
#ifndef DAEMON_MIGRATION_PARTS_H
#define DAEMON_MIGRATION_PARTS_H

#include "daemon/migration.h"
#include "daemon/migration_table.h"

/* migration.c */

/*
 * The one way to change the state: checks the transition, logs, counts, tells
 * the listeners. The text says why and may be empty.
 */
void migration_set_state(struct migration *m, enum migration_state state, const char *fmt, ...)
        __attribute__((format(printf, 3, 4)));

/*
 * A new text for the same state; logged, and listeners are told, if it differs.
 * message_id: of core/message_ids.h, or NULL.
 */
void migration_set_text(struct migration *m, int log_level, const char *message_id, const char *fmt,
                        ...) __attribute__((format(printf, 4, 5)));

/*
 * Enter a final state: keep the counters, tell everybody, and release lanes
 * and descriptors from the loop (callers may be inside a lane's callback).
 */
void migration_end(struct migration *m, enum migration_state state, const char *fmt, ...)
        __attribute__((format(printf, 3, 4)));

/* Copy the newest ledger entries, for what shows it afterwards. The state is not final yet. */
void migration_keep_poisoned(struct migration *m);

/* A timer of the migration, 0 or -ENOMEM. */
int migration_timer_new(struct migration *m, event_callback_fn fn, void *arg, struct event **ret);
void timer_start(struct event *timer, uint64_t us);

/* A lane's share of the limit; 0 only if there is none. */
static inline uint64_t migration_lane_bandwidth(uint64_t bandwidth, uint32_t n_lanes)
{
	uint64_t share = bandwidth / n_lanes;

	return bandwidth > 0 && share == 0 ? 1 : share;
}

/* migration_link.c */
void migration_on_lane_event(struct lane *lane, const struct lane_event *event, void *user);
void lane_slot_connect(struct lane_slot *slot);
void lane_slot_on_retry(evutil_socket_t fd, short what, void *arg);
void lane_slot_retry_later(struct lane_slot *slot);
/* postcopy-active once every lane serves or has finished. */
void migration_check_serving(struct migration *m);

/* migration_lost.c */
void migration_lost_start(struct migration *m);
void migration_lost_stop(struct migration *m);
void migration_on_lost_deadline(evutil_socket_t fd, short what, void *arg);
void migration_poison_all(struct migration *m, enum ledger_reason reason);

/* migration_poison.c */

/* A lane has done one order of this request, or could not. */
void migration_poison_answered(struct migration *m, uint64_t id, const struct error *error);
/* The state is final. */
void migration_poison_end(struct migration *m);

/* migration_vmm.c */
int migration_vmm_watch(struct migration *m, pid_t pid, int pidfd, struct error *err);
/* Text for people: "was killed", "could not be killed: ...". */
void migration_vmm_kill(struct migration *m, char *text, size_t text_len);
void migration_on_vmm_alive(evutil_socket_t fd, short what, void *arg);

/* Logs the end of the VMM's process. */
void migration_vmm_log_gone(const struct migration *m);

/* migration_audit.c */

/* The ledger may have grown: records follow, from the loop. */
void migration_audit(struct migration *m);
/* The rest of them now, however long that takes: the ledger goes. */
void migration_audit_all(struct migration *m);
void migration_on_audit(evutil_socket_t fd, short what, void *arg);

/* migration_complete.c */
void migration_check_finished(struct migration *m);
void migration_complete_acked(struct migration *m);
/* Lane 0's link came up, or was lost, while the source is being told. */
void migration_complete_connected(struct migration *m);
void migration_complete_lost(struct migration *m, const char *why);
/* End it as completed although the source did not confirm. */
void migration_complete_untold(struct migration *m, const char *why);
void migration_on_completion_timeout(evutil_socket_t fd, short what, void *arg);

#endif
