/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A migration's numbers: read from the lanes while it lives, from what
 * migration_end() kept afterwards. Called by the view, the metrics, the table.
 */
#include "daemon/migration_parts.h"

#include <string.h>

#include "core/clock.h"

void migration_sum(const struct migration *m, struct migration_sums *ret)
{
	if (migration_state_final(m->state)) {
		*ret = m->final_sums;
		return;
	}
	memset(ret, 0, sizeof(*ret));
	for (uint32_t i = 0; i < m->n_lanes; i++)
		if (m->lanes[i].lane)
			lane_stats(m->lanes[i].lane, &ret->urgent, &ret->bulk);
}

uint64_t migration_total_bytes(const struct migration *m)
{
	return m->regions ? m->regions->total_bytes : 0;
}

uint64_t migration_remaining_bytes(const struct migration *m)
{
	uint64_t bytes = 0;

	if (migration_state_final(m->state))
		return m->final_remaining;
	for (uint32_t i = 0; i < m->n_lanes; i++)
		if (m->lanes[i].lane)
			bytes += lane_remaining_bytes(m->lanes[i].lane);
	return bytes;
}

uint64_t migration_lost_bytes(const struct migration *m)
{
	if (migration_state_final(m->state))
		return m->final_lost_bytes;
	return m->memory ? ledger_lost_bytes(&m->memory->ledger) : 0;
}

uint64_t migration_paused_us(const struct migration *m)
{
	return m->paused_us + (m->paused_since_us ? clock_monotonic_us() - m->paused_since_us : 0);
}

uint64_t migration_poisoned_shown(const struct migration *m, uint64_t *ret_all)
{
	uint64_t all;

	if (migration_state_final(m->state)) {
		*ret_all = m->n_final_entries_all;
		return m->n_final_entries;
	}
	all = m->memory ? ledger_count(&m->memory->ledger) : 0;
	*ret_all = all;
	return MIN(all, (uint64_t)MIGRATION_POISONED_SHOWN_MAX);
}

const struct ledger_entry *migration_poisoned_get(const struct migration *m, uint64_t i)
{
	if (migration_state_final(m->state))
		return &m->final_entries[i];
	/* Entries may have come since the count was taken: newest first, of now. */
	return ledger_get(&m->memory->ledger, ledger_count(&m->memory->ledger) - 1 - i);
}

void migration_sample(struct migration *m, uint64_t now_us)
{
	uint64_t processed;

	if (migration_state_final(m->state) || !m->regions)
		return;
	processed = migration_total_bytes(m) - migration_remaining_bytes(m);
	if (m->sample_mono_us && now_us > m->sample_mono_us && processed >= m->sample_processed)
		m->rate_bps =
		        (processed - m->sample_processed) * 1000000 / (now_us - m->sample_mono_us);
	m->sample_mono_us = now_us;
	m->sample_processed = processed;
}
