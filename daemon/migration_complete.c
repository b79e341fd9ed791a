/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The end of a migration that went well: every unit is placed, the source is
 * told, the memory is unregistered. Called on the lanes' events.
 *
 * Once every unit is placed the guest needs the source no more: a link that is
 * lost now costs it nothing, we only try to let the source know.
 */
#include "daemon/migration_parts.h"

#include "core/log.h"

/* In wire pages, adding up to the whole of memory. */
struct page_counts {
	uint64_t present;
	uint64_t zero;
	uint64_t poisoned;
	uint64_t removed;
};

static bool all_finished(const struct migration *m)
{
	for (uint32_t i = 0; i < m->n_lanes; i++)
		if (!m->lanes[i].finished)
			return false;
	return true;
}

static struct page_counts count_pages(const struct migration *m)
{
	struct page_counts counts = {0};
	struct migration_sums sums;
	uint64_t rest = migration_total_bytes(m) >> WIRE_PAGE_SHIFT;

	for (size_t i = 0; i < m->regions->n_regions; i++) {
		const struct region *r = &m->regions->regions[i];
		uint64_t pages = region_unit_pages(r);

		counts.poisoned += pages * page_map_count(&m->memory->map, r->first_unit,
		                                          region_n_units(r), PAGE_POISONED);
		counts.removed += pages * page_map_count(&m->memory->map, r->first_unit,
		                                         region_n_units(r), PAGE_REMOVED);
	}
	rest -= MIN(rest, counts.poisoned + counts.removed);
	migration_sum(m, &sums);
	/* A zero page may have been removed later: then it counts as that. */
	counts.zero = MIN(rest, sums.urgent.pages_zero + sums.bulk.pages_zero);
	counts.present = rest - counts.zero;
	return counts;
}

/* For the next daemon they count as unregistered before they are: never the other way round. */
static void unregister_note(struct migration *m)
{
	for (uint32_t i = 0; i < m->n_lanes; i++)
		if (!m->lanes[i].unregistered) {
			m->unregistering = true;
			migration_keep_change(m);
			return;
		}
}

static void unregister_all(struct migration *m)
{
	unregister_note(m);
	for (uint32_t i = 0; i < m->n_lanes; i++) {
		struct lane_slot *slot = &m->lanes[i];
		struct error error = {0};

		if (slot->unregistered)
			continue;
		slot->unregistered = true;
		if (lane_unregister(slot->lane, &error) < 0)
			log_migration(LOG_WARNING, m->id_text,
			              "migration %s: lane %u: %s; ignoring", m->id_text, i,
			              error.text);
	}
}

void migration_complete_untold(struct migration *m, const char *why)
{
	unregister_all(m);
	migration_end(m, MIGRATION_COMPLETED,
	              "all memory is here, but the source was not told, or did not confirm: %s",
	              why);
}

static void send_complete(struct migration *m)
{
	struct page_counts c = count_pages(m);

	lane_send_complete(m->lanes[0].lane, c.present, c.zero, c.poisoned, c.removed);
}

void migration_complete_connected(struct migration *m)
{
	send_complete(m);
}

void migration_complete_lost(struct migration *m, const char *why)
{
	struct lane_slot *slot = &m->lanes[0];

	unregister_all(m);
	if (slot->refused) {
		migration_complete_untold(m, why);
		return;
	}
	migration_set_text(m, LOG_WARNING, NULL,
	                   "all memory is here; telling the source: %s; retrying", why);
	lane_slot_retry_later(slot);
}

void migration_complete_acked(struct migration *m)
{
	if (!m->completing)
		return;
	unregister_all(m);
	migration_end(m, MIGRATION_COMPLETED, "%s", "");
}

void migration_on_completion_timeout(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	migration_complete_untold(arg, "no answer in time");
}

static void fail_unplaced(struct migration *m, uint64_t n_pages)
{
	migration_end(
	        m, MIGRATION_FAILED,
	        "%severything else is here, but %llu poisoned pages could not be placed: the "
	        "kernel of this host has no UFFDIO_POISON (Linux 6.6 or later, or 6.1 with the "
	        "series in kernel-patches/); a guest access to one of them waits for ever",
	        m->stop_on_poison ? "stop the guest: " : "", (unsigned long long)n_pages);
}

void migration_check_finished(struct migration *m)
{
	struct migration_sums sums;
	uint64_t unplaced;

	if (m->completing)
		return;
	if (!all_finished(m)) {
		migration_check_serving(m); /* perhaps only this lane's link was missing */
		return;
	}
	migration_sum(m, &sums);
	unplaced = sums.urgent.poison_unplaced + sums.bulk.poison_unplaced;
	if (unplaced > 0) {
		fail_unplaced(m, unplaced);
		return;
	}
	m->completing = true;
	migration_keep_change(m);
	migration_lost_stop(m);
	if (m->abandoned && !m->lanes[0].connected) {
		migration_complete_untold(m, "it was away for too long (policy poison)");
		return;
	}
	timer_start(m->completion_timer, migration_table_settings(m->table)->completion_timeout_us);
	if (m->lanes[0].connected)
		send_complete(m);
	else if (!m->lanes[0].connecting)
		migration_complete_lost(m, "the link is down");
}
