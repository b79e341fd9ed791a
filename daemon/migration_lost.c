/* SPDX-License-Identifier: Apache-2.0 */
/*
 * When the source stays away: the policy's deadline. It runs from the first
 * postcopy-paused until the migration is postcopy-active again.
 */
#include "daemon/migration_parts.h"

#include "core/log.h"
#include "core/message_ids.h"

void migration_lost_start(struct migration *m)
{
	if (m->lost_policy == LOST_POLICY_HOLD || event_pending(m->lost_timer, EV_TIMEOUT, NULL))
		return;
	timer_start(m->lost_timer, m->lost_deadline_us);
}

void migration_lost_stop(struct migration *m)
{
	event_del(m->lost_timer);
}

uint64_t migration_lost_left_us(const struct migration *m)
{
	struct timeval due, now, left;
	uint64_t left_us;

	if (!m->lost_timer || !event_pending(m->lost_timer, EV_TIMEOUT, &due))
		return 0;
	evutil_gettimeofday(&now, NULL); /* libevent tells it in this clock, to a millisecond */
	evutil_timersub(&due, &now, &left);
	if (left.tv_sec < 0) /* it acts as soon as this returns */
		return 1;
	left_us = (uint64_t)left.tv_sec * 1000000 + (uint64_t)left.tv_usec;
	return MAX(MIN(left_us, m->lost_deadline_us), UINT64_C(1));
}

void migration_poison_all(struct migration *m, enum ledger_reason reason)
{
	for (size_t i = 0; i < m->regions->n_regions; i++) {
		const struct region *r = &m->regions->regions[i];

		lane_poison_units(m->lanes[r->lane].lane, r->first_unit, region_n_units(r), reason,
		                  0);
	}
}

static void lost_poison(struct migration *m, const char *waited)
{
	uint64_t remaining = migration_remaining_bytes(m);

	m->abandoned = true;
	migration_keep_change(m);
	migration_set_text(m, LOG_ERR, MESSAGE_SOURCE_ABANDONED,
	                   "the source was away for %s: %llu bytes that are not here yet are now "
	                   "poisoned (policy poison)",
	                   waited, (unsigned long long)remaining);
	migration_poison_all(m, LEDGER_SOURCE_LOST);
}

static void lost_kill(struct migration *m, const char *waited)
{
	char killed[256];

	migration_vmm_kill(m, killed, sizeof(killed));
	migration_end(m, MIGRATION_FAILED, "the source was away for %s (policy kill): %s", waited,
	              killed);
}

void migration_on_lost_deadline(evutil_socket_t fd, short what, void *arg)
{
	struct migration *m = arg;
	char waited[32];

	(void)fd;
	(void)what;
	units_format_duration(waited, sizeof(waited), m->lost_deadline_us);
	if (m->lost_policy == LOST_POLICY_POISON)
		lost_poison(m, waited);
	else if (m->lost_policy == LOST_POLICY_KILL)
		lost_kill(m, waited);
}
