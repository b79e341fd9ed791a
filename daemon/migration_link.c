/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The lanes' links to the source: what the lanes report becomes the
 * migration's state; lost links are connected again, with backoff.
 *
 * Called by the lanes (by way of the main loop) and by the retry timers.
 */
#include "daemon/migration_parts.h"

#include <errno.h>
#include <stdlib.h>

#include "core/log.h"
#include "core/message_ids.h"

/* A lane needs its link while pages are missing; lane 0 also to tell the end. */
static bool slot_needs_link(const struct lane_slot *slot)
{
	return !slot->finished || slot == &slot->migration->lanes[0];
}

static bool all_serving(const struct migration *m)
{
	for (uint32_t i = 0; i < m->n_lanes; i++) {
		const struct lane_slot *slot = &m->lanes[i];

		if (!slot->finished && !(slot->connected && slot->frozen))
			return false;
	}
	return true;
}

void lane_slot_connect(struct lane_slot *slot)
{
	slot->connecting = true;
	lane_connect(slot->lane, slot->migration->source);
}

void migration_connect(struct migration *m)
{
	if (migration_state_final(m->state))
		return;
	for (uint32_t i = 0; i < m->n_lanes; i++)
		lane_slot_connect(&m->lanes[i]);
}

/* min * 2^attempts up to max, a quarter more or less so that many do not come at once. */
static uint64_t backoff_us(const struct settings *settings, unsigned attempts)
{
	uint64_t us = settings->reconnect_min_us;

	for (unsigned i = 0; i < attempts && us < settings->reconnect_max_us; i++)
		us *= 2;
	us = MIN(us, settings->reconnect_max_us);
	return us - us / 4 + (uint64_t)((double)us / 2 / 65536 * arc4random_uniform(65536));
}

void lane_slot_retry_later(struct lane_slot *slot)
{
	uint64_t us = backoff_us(migration_table_settings(slot->migration->table), slot->attempts);

	slot->attempts++;
	timer_start(slot->retry_timer, us);
}

void lane_slot_on_retry(evutil_socket_t fd, short what, void *arg)
{
	struct lane_slot *slot = arg;

	(void)fd;
	(void)what;
	if (!migration_state_final(slot->migration->state) && !slot->connecting)
		lane_slot_connect(slot);
}

void migration_check_serving(struct migration *m)
{
	if (!all_serving(m) || m->state == MIGRATION_POSTCOPY_ACTIVE)
		return;
	migration_lost_stop(m);
	if (m->state == MIGRATION_POSTCOPY_PAUSED)
		migration_set_state(m, MIGRATION_POSTCOPY_RECOVER, "connected again");
	migration_set_state(m, MIGRATION_POSTCOPY_ACTIVE, "%s", "");
}

static void warn_unplaceable(struct migration *m)
{
	if (m->poison_warned)
		return;
	m->poison_warned = true;
	log_event(LOG_ERR, MESSAGE_POISON_UNPLACEABLE,
	          LOG_FIELDS({"MIGRATION_ID", m->id_text}, {"PEER", m->peer_identity},
	                     {"PEER_ADDRESS", m->source},
	                     {"VMM_PID", LOG_U64((uint64_t)m->vmm_pid)}),
	          "migration %s: this kernel has no UFFDIO_POISON: a guest access to a "
	          "poisoned page will wait; see kernel-patches/",
	          m->id_text);
}

/*
 * There is poison that this kernel cannot place. Before the source serves, the
 * guest can still go on there: true if that ends the migration. Later it cannot.
 */
static bool poison_unsupported(struct migration *m, uint64_t n_pages)
{
	if (n_pages == 0 || m->poison_supported)
		return false;
	if (m->served || m->stop_on_poison) {
		warn_unplaceable(m);
		return false;
	}
	migration_end(
	        m, MIGRATION_FAILED,
	        "the source has %llu poisoned pages, and the kernel of this host has no "
	        "UFFDIO_POISON to place them: it needs Linux 6.6 or later, or Linux 6.1 with the "
	        "series in kernel-patches/; or start the migration with stop-on-poison",
	        (unsigned long long)n_pages);
	return true;
}

/* What has come here already, in wire pages. */
static uint64_t poisoned_pages(const struct migration *m)
{
	return ledger_lost_bytes(&m->memory->ledger) >> WIRE_PAGE_SHIFT;
}

static void on_frozen(struct lane_slot *slot)
{
	struct migration *m = slot->migration;

	slot->frozen = true;
	if (!m->served) {
		m->served = true;
		migration_keep_change(m);
	}
	migration_check_serving(m);
}

static void on_connected(struct lane_slot *slot, const struct lane_event *event)
{
	struct migration *m = slot->migration;
	bool again = slot->frozen;

	slot->connecting = false;
	slot->connected = true;
	slot->refused = false;
	slot->attempts = 0;
	event_del(slot->retry_timer);
	if (again) {
		m->reconnects++;
		migration_table_reconnected(m->table);
	}
	if (m->completing) {
		if (slot == &m->lanes[0])
			migration_complete_connected(m);
		return;
	}
	if (poison_unsupported(m, MAX(event->source_poisoned_pages, poisoned_pages(m))))
		return;
	if (m->state == MIGRATION_POSTCOPY_PAUSED)
		migration_set_state(m, MIGRATION_POSTCOPY_RECOVER, "connected again to %s",
		                    m->source);
	slot->frozen = event->frozen;
	if (event->frozen)
		on_frozen(slot);
	else if (m->state == MIGRATION_ACTIVE)
		migration_set_text(m, LOG_INFO, NULL, "%s", CONTROL_TEXT_SOURCE_REACHED);
}

/* Says what the operator can do, or what happens next. */
static void lost_text(struct migration *m, const char *why, bool refused)
{
	const char *next =
	        refused ? "refused by the source: run postcopyctl recover when that is mended"
	                : "retrying";

	if (m->state == MIGRATION_POSTCOPY_ACTIVE || m->state == MIGRATION_POSTCOPY_RECOVER ||
	    (m->state == MIGRATION_ACTIVE && m->served))
		migration_set_state(m, MIGRATION_POSTCOPY_PAUSED, "%s; %s", why, next);
	else
		migration_set_text(m, LOG_WARNING, NULL, "%s; %s", why, next);
}

/* It refused us, or its certificate is not the one that this migration names. */
static void log_refused(const struct lane_slot *slot, const char *why)
{
	const struct migration *m = slot->migration;

	log_event(LOG_ERR, MESSAGE_SOURCE_REFUSED,
	          LOG_FIELDS({"MIGRATION_ID", m->id_text}, {"PEER", m->peer_identity},
	                     {"PEER_ADDRESS", m->source}, {"LANE", LOG_U64(lane_index(slot->lane))},
	                     {"REASON", why}),
	          "migration %s: lane %u cannot be connected to %s: %s", m->id_text,
	          lane_index(slot->lane), m->source, why);
}

static void on_link_lost(struct lane_slot *slot, const struct lane_event *event)
{
	struct migration *m = slot->migration;

	slot->connecting = false;
	slot->connected = false;
	slot->refused = !event->retriable;
	if (!slot_needs_link(slot))
		return;
	if (m->completing) {
		migration_complete_lost(m, event->error.text);
		return;
	}
	if (slot->refused)
		log_refused(slot, event->error.text);
	if (slot->refused && !m->served) {
		migration_end(m, MIGRATION_FAILED, "source %s: %s", m->source, event->error.text);
		return;
	}
	if (!slot->finished) {
		lost_text(m, event->error.text, slot->refused);
		if (m->state == MIGRATION_POSTCOPY_PAUSED)
			migration_lost_start(m);
	}
	if (!slot->refused)
		lane_slot_retry_later(slot);
}

/* New entries in the ledger. */
static void on_poisoned(struct lane_slot *slot)
{
	struct migration *m = slot->migration;

	migration_audit(m);
	if (slot->connected || m->served) /* otherwise CONNECTED comes, and decides */
		(void)poison_unsupported(m, poisoned_pages(m));
}

static void log_recovered(const struct lane_slot *slot, const struct recovery *found)
{
	const struct migration *m = slot->migration;

	log_event(LOG_NOTICE, MESSAGE_MIGRATION_ADOPTED,
	          LOG_FIELDS({"MIGRATION_ID", m->id_text}, {"PEER", m->peer_identity},
	                     {"PEER_ADDRESS", m->source},
	                     {"VMM_PID", LOG_U64((uint64_t)m->vmm_pid)},
	                     {"LANE", LOG_U64(lane_index(slot->lane))}),
	          "migration %s: lane %u goes on after a restart: %llu units are missing; %llu "
	          "were being asked for, %llu being placed, %llu being mapped, %llu poisoned "
	          "again, %llu removals read again",
	          m->id_text, lane_index(slot->lane), (unsigned long long)found->n_left,
	          (unsigned long long)found->n_requested, (unsigned long long)found->n_placing,
	          (unsigned long long)found->n_written, (unsigned long long)found->n_poisoned,
	          (unsigned long long)found->n_removed);
}

/* The lanes' warnings have no kind but their error. */
static const char *warning_message(int code)
{
	switch (code) {
	case -ENOMEM:
		return MESSAGE_NO_MEMORY;
	case -EEXIST:
		return MESSAGE_UNEXPECTED_PAGE;
	case -ENOENT:
		return MESSAGE_MEMORY_UNMAPPED;
	default:
		return NULL;
	}
}

static void log_warned(const struct lane_slot *slot, const struct error *warning)
{
	const struct migration *m = slot->migration;

	log_event(LOG_WARNING, warning_message(warning->code),
	          LOG_FIELDS({"MIGRATION_ID", m->id_text},
	                     {"VMM_PID", LOG_U64((uint64_t)m->vmm_pid)},
	                     {"LANE", LOG_U64(lane_index(slot->lane))}, {"REASON", warning->text}),
	          "migration %s: lane %u: %s", m->id_text, lane_index(slot->lane), warning->text);
}

void migration_on_lane_event(struct lane *lane, const struct lane_event *event, void *user)
{
	struct lane_slot *slot = user;
	struct migration *m = slot->migration;

	(void)lane;
	if (migration_state_final(m->state))
		return; /* what was on its way when it ended */
	switch (event->type) {
	case LANE_EVENT_CONNECTED:
		on_connected(slot, event);
		break;
	case LANE_EVENT_FROZEN:
		on_frozen(slot);
		break;
	case LANE_EVENT_LINK_LOST:
		on_link_lost(slot, event);
		break;
	case LANE_EVENT_FINISHED:
		slot->finished = true;
		migration_check_finished(m);
		break;
	case LANE_EVENT_COMPLETE_ACKED:
		migration_complete_acked(m);
		break;
	case LANE_EVENT_VMM_GONE:
		migration_vmm_log_gone(m);
		migration_end(m, m->completing ? MIGRATION_COMPLETED : MIGRATION_FAILED,
		              "VMM exited (pid %d)", (int)m->vmm_pid);
		break;
	case LANE_EVENT_FAILED:
		if (m->completing)
			migration_complete_untold(m, event->error.text);
		else
			migration_end(m, MIGRATION_FAILED, "%s", event->error.text);
		break;
	case LANE_EVENT_POISONED:
		on_poisoned(slot);
		break;
	case LANE_EVENT_POISON_DONE:
		migration_poison_answered(m, event->poison_id, &event->error);
		break;
	case LANE_EVENT_RECOVERED:
		log_recovered(slot, &event->recovery);
		migration_audit(m); /* what the daemon before this one had not written */
		break;
	case LANE_EVENT_WARNING:
		log_warned(slot, &event->error);
		break;
	}
}
