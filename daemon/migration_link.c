/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The lanes' links to the source: what the lanes report becomes the
 * migration's state; lost links are connected again, with backoff.
 *
 * Called by the lanes (by way of the main loop) and by the retry timers.
 */
#include "daemon/migration_parts.h"

#include <stdlib.h>

#include "core/log.h"

/* A page each is worth a line in the log up to here; the ledger has them all. */
#define POISON_LOGGED_MAX 64

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
	log_migration(LOG_ERR, m->id_text,
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
	m->served = true;
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
		migration_set_text(m, LOG_INFO, "connected; waiting for the source to be frozen");
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
		migration_set_text(m, LOG_WARNING, "%s; %s", why, next);
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

static void log_poisoned(const struct migration *m, const struct ledger_entry *e)
{
	log_migration(LOG_WARNING, m->id_text,
	              "migration %s: poisoned: region %s, offset 0x%llx, guest-physical 0x%llx, "
	              "%llu bytes (%s)",
	              m->id_text, m->regions->regions[e->region].name,
	              (unsigned long long)e->offset_bytes, (unsigned long long)e->gpa.addr,
	              (unsigned long long)e->lost_bytes, ledger_reason_name(e->reason));
}

/* New entries in the ledger: the first ones go to the log, too. */
static void on_poisoned(struct lane_slot *slot)
{
	struct migration *m = slot->migration;
	const struct ledger *ledger = &m->memory->ledger;
	uint64_t count = ledger_count(ledger);

	for (; m->n_poison_logged < MIN(count, (uint64_t)POISON_LOGGED_MAX); m->n_poison_logged++)
		log_poisoned(m, ledger_get(ledger, m->n_poison_logged));
	if (count > POISON_LOGGED_MAX && m->n_poison_logged == POISON_LOGGED_MAX) {
		m->n_poison_logged++;
		log_migration(LOG_WARNING, m->id_text,
		              "migration %s: more poisoned pages are in the ledger, not in the log",
		              m->id_text);
	}
	if (slot->connected || m->served) /* otherwise CONNECTED comes, and decides */
		(void)poison_unsupported(m, poisoned_pages(m));
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
	case LANE_EVENT_WARNING:
		log_migration(LOG_WARNING, m->id_text, "migration %s: lane %u: %s", m->id_text,
		              lane_index(slot->lane), event->error.text);
		break;
	}
}
