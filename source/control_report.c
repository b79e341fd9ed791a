/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What postcopyctl sees of an export. Called by the control server on the main
 * loop; the counters belong to the links and are read as they are.
 */
#include "source/control_report.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "core/clock.h"

/* One message has room for so many; lost_bytes counts all. */
#define REPORT_POISONED_MAX 2048

static int report_regions(const struct export *e, struct control_migration *m)
{
	const struct region_table *t = e->regions;

	m->regions = calloc(t->n_regions, sizeof(*m->regions));
	if (!m->regions)
		return -ENOMEM;
	m->n_regions = t->n_regions;
	for (size_t i = 0; i < t->n_regions; i++) {
		const struct source_region *r = &t->regions[i];
		struct control_region *to = &m->regions[i];

		memcpy(to->name, r->name, sizeof(to->name));
		to->gpa = r->gpa;
		to->length_bytes = r->length_bytes;
		to->page_size_bytes = r->page_size_bytes;
		to->pieces = 1;
		(void)snprintf(to->backing, sizeof(to->backing), "%s", backing_name(r->backing));
		(void)snprintf(to->mode, sizeof(to->mode), "%s",
		               r->memory.kind == MEMORY_FILE ? "file" : "process");
	}
	return 0;
}

static void report_entry(const struct export *e, const struct poison_entry *from,
                         struct control_poisoned *to)
{
	const struct source_region *r = region_table_find_page(e->regions, from->first);

	memcpy(to->region, r->name, sizeof(to->region));
	to->offset_bytes = (from->first - r->first_page) << WIRE_PAGE_SHIFT;
	to->gpa.addr = r->gpa.addr + to->offset_bytes;
	to->lost_bytes = from->count << WIRE_PAGE_SHIFT;
	to->time_us = from->time_us;
	(void)snprintf(to->reason, sizeof(to->reason), "%s", poison_reason_name(from->reason));
	(void)snprintf(to->reporter, sizeof(to->reporter), "%s", poison_reporter_name(from->by));
}

static int report_poisoned(const struct export *e, struct control_migration *m)
{
	_cleanup_free_ struct poison_entry *entries = NULL;
	size_t n;

	if (poison_set_copy(e->poison, &entries, &n) < 0)
		return -ENOMEM;
	n = MIN(n, (size_t)REPORT_POISONED_MAX);
	if (n == 0)
		return 0;
	m->poisoned = calloc(n, sizeof(*m->poisoned));
	if (!m->poisoned)
		return -ENOMEM;
	m->n_poisoned = n;
	for (size_t i = 0; i < n; i++)
		report_entry(e, &entries[i], &m->poisoned[i]);
	return 0;
}

/* What the streams still have to send; all of it before they begin. */
static uint64_t pages_remaining(const struct export *e)
{
	uint64_t n = 0;

	if (export_state(e) == EXPORT_RELEASED)
		return 0;
	if (atomic_load(&e->stats.pages_stream) == 0)
		return e->regions->n_pages;
	for (unsigned lane = 0; lane < EXPORT_LANES_MAX; lane++) {
		const struct want *w = atomic_load(&e->want[lane]);

		n += w ? want_count(w) : 0;
	}
	return MIN(n, e->regions->n_pages);
}

static void report_numbers(const struct export *e, struct control_migration *m)
{
	const struct export_stats *s = &e->stats;
	uint64_t end_ns = e->ended_ns ? e->ended_ns : clock_monotonic_ns();

	for (unsigned lane = 0; lane < EXPORT_LANES_MAX; lane++)
		m->lanes += e->links[LINK_ROLE_URGENT - 1][lane] != NULL;
	m->started_us = e->started_us;
	m->total_time_us = (end_ns - e->started_ns) / 1000;
	m->memory_total = e->regions->n_pages << WIRE_PAGE_SHIFT;
	m->memory_remaining = pages_remaining(e) << WIRE_PAGE_SHIFT;
	m->memory_processed = m->memory_total - m->memory_remaining;
	m->pages_data = atomic_load(&s->pages_data);
	m->pages_zero = atomic_load(&s->pages_zero);
	m->pages_poisoned = poison_set_count(e->poison);
	m->pages_urgent = atomic_load(&s->pages_urgent);
	m->pages_stream = atomic_load(&s->pages_stream);
	m->postcopy_requests = atomic_load(&s->requests);
	m->lost_bytes = poison_set_count(e->poison) << WIRE_PAGE_SHIFT;
}

int control_report(struct export *e, enum control_detail detail, struct control_migration *ret)
{
	struct control_migration m = {.migration_id = e->id};
	int r = 0;

	(void)snprintf(m.state, sizeof(m.state), "%s", export_state_name(export_state(e)));
	export_state_text(e, m.state_text, sizeof(m.state_text));
	(void)snprintf(m.peer, sizeof(m.peer), "%s", e->peer);
	(void)snprintf(m.peer_identity, sizeof(m.peer_identity), "%s", e->peer_identity);
	report_numbers(e, &m);
	if (detail == CONTROL_FULL) {
		r = report_regions(e, &m);
		if (r == 0)
			r = report_poisoned(e, &m);
	}
	if (r < 0)
		control_migration_free(&m);
	else
		*ret = m;
	return r;
}
