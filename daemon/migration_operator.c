/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What an operator asks of a migration: cancel, recover, limits.
 * Called by the control server; every refusal has a text for the operator.
 */
#include "daemon/migration_parts.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "core/log.h"
#include "daemon/migration_stranded.h"
#include "daemon/source_address.h"

static int check_live(const struct migration *m, struct error *err)
{
	if (!migration_state_final(m->state))
		return 0;
	return error_set(err, -EALREADY, "migration %s has ended already: %s", m->id_text,
	                 migration_state_name(m->state));
}

/*
 * The lanes go without unregistering: as long as the VMM holds its userfaultfds
 * a guest access to a missing page waits, and never reads zeros.
 */
int migration_cancel(struct migration *m, bool force, struct error *err)
{
	uint64_t missing;
	char size[32];
	int r = m->keep.stranded ? migration_stranded_cancel(m, force, err) : check_live(m, err);

	if (r < 0 || migration_state_final(m->state))
		return r;
	if (m->completing) { /* nothing is left to cancel but telling the source */
		migration_complete_untold(m, "an operator cancelled that");
		return 0;
	}
	missing = migration_remaining_bytes(m);
	units_format_bytes(size, sizeof(size), missing);
	if (missing > 0 && !force)
		return error_set(
		        err, -EBUSY,
		        "the guest would lose %llu bytes (%s) that are still on the source: "
		        "force it to cancel nevertheless",
		        (unsigned long long)missing, size);
	if (missing > 0)
		migration_end(m, MIGRATION_CANCELLED,
		              "by an operator; %llu bytes (%s) of the guest's memory are missing, "
		              "and accesses to them wait",
		              (unsigned long long)missing, size);
	else
		migration_end(m, MIGRATION_CANCELLED, "by an operator");
	return 0;
}

/* Connect lanes without a link now; after a change of address all of them. */
static unsigned reconnect(struct migration *m, bool moved)
{
	unsigned n = 0;

	for (uint32_t i = 0; i < m->n_lanes; i++) {
		struct lane_slot *slot = &m->lanes[i];

		if (slot->connected || (slot->connecting && !moved) ||
		    (slot->finished && (i > 0 || !m->completing)))
			continue;
		event_del(slot->retry_timer);
		if (slot->connecting)
			lane_disconnect(slot->lane);
		slot->refused = false;
		slot->attempts = 0;
		lane_slot_connect(slot);
		n++;
	}
	return n;
}

int migration_recover(struct migration *m, const char *source, struct error *err)
{
	bool moved = *source && strcmp(source, m->source) != 0;
	int r = check_live(m, err);

	if (r == 0 && *source)
		r = source_address_check(source, err);
	if (r < 0)
		return r;
	if (m->state == MIGRATION_POSTCOPY_ACTIVE && !m->completing)
		return error_set(err, -EISCONN, "migration %s is connected to its source (%s)",
		                 m->id_text, m->source);
	if (moved)
		snprintf(m->source, sizeof(m->source), "%s", source);
	migration_keep_change(m);
	if (m->state == MIGRATION_SETUP) /* it connects when a VMM has attached */
		return 0;
	log_migration(LOG_NOTICE, m->id_text, "migration %s: recover from %s", m->id_text,
	              m->source);
	if (reconnect(m, moved) > 0 && m->state == MIGRATION_POSTCOPY_PAUSED)
		migration_set_state(m, MIGRATION_POSTCOPY_RECOVER, "connecting to %s", m->source);
	return 0;
}

int migration_set_bandwidth(struct migration *m, uint64_t bandwidth, struct error *err)
{
	int r = check_live(m, err);

	if (r < 0)
		return r;
	m->bandwidth = bandwidth;
	migration_keep_change(m);
	for (uint32_t i = 0; i < m->n_lanes; i++)
		lane_set_bandwidth(m->lanes[i].lane,
		                   migration_lane_bandwidth(bandwidth, m->n_lanes));
	log_migration(LOG_NOTICE, m->id_text, "migration %s: bandwidth limit %llu bytes a second",
	              m->id_text, (unsigned long long)bandwidth);
	return 0;
}
