/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A migration as its users see it. Called by control, watch and status; works
 * for live and ended ones alike.
 */
#include "daemon/migration_view.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/clock.h"

#define NS_PER_US 1000

static void view_identity(const struct migration *m, struct control_migration *v)
{
	v->migration_id = m->id;
	snprintf(v->state, sizeof(v->state), "%s", migration_state_name(m->state));
	snprintf(v->state_text, sizeof(v->state_text), "%s", m->state_text);
	snprintf(v->peer, sizeof(v->peer), "%s", m->source);
	snprintf(v->peer_identity, sizeof(v->peer_identity), "%s", m->peer_identity);
	v->lanes = m->n_lanes;
	v->started_us = m->started_us;
	v->total_time_us =
	        (migration_state_final(m->state) ? m->ended_mono_us : clock_monotonic_us()) -
	        m->started_mono_us;
	v->downtime_us = migration_paused_us(m);
	v->bandwidth = m->bandwidth;
	v->reconnects = m->reconnects;
	v->lost_left_us = migration_lost_left_us(m);
}

static void view_memory(const struct migration *m, struct control_migration *v)
{
	v->memory_total = migration_total_bytes(m);
	v->memory_remaining = migration_remaining_bytes(m);
	v->memory_processed = v->memory_total - v->memory_remaining;
	v->memory_bps = m->rate_bps;
	if (m->rate_bps > 0 && v->memory_remaining > 0)
		v->eta_us = (uint64_t)((double)v->memory_remaining / (double)m->rate_bps * 1e6);
	v->lost_bytes = migration_lost_bytes(m);
}

static uint64_t pages_placed(const struct stats_sum *s)
{
	return s->pages_data + s->pages_zero + s->pages_poisoned;
}

static void view_counters(const struct migration *m, struct control_migration *v)
{
	struct migration_sums s;

	migration_sum(m, &s);
	v->pages_data = s.urgent.pages_data + s.bulk.pages_data;
	v->pages_zero = s.urgent.pages_zero + s.bulk.pages_zero;
	v->pages_poisoned = s.urgent.pages_poisoned + s.bulk.pages_poisoned;
	v->pages_removed = s.urgent.pages_removed + s.bulk.pages_removed;
	v->pages_urgent = pages_placed(&s.urgent);
	v->pages_stream = pages_placed(&s.bulk);
	v->postcopy_requests = s.urgent.requests;
	v->faults = s.urgent.faults;
	v->faults_local = s.urgent.faults_local;
	v->fault_p50_ns = histogram_quantile(&s.urgent.fault_ns, 0.5);
	v->fault_p99_ns = histogram_quantile(&s.urgent.fault_ns, 0.99);
	v->fault_p999_ns = histogram_quantile(&s.urgent.fault_ns, 0.999);
	v->fault_max_ns = s.urgent.fault_ns.max;
	histogram_log2(&s.urgent.fault_ns, NS_PER_US, v->latency_log2_us);
}

/* n pieces of one region, of which r is the first. */
static void view_region(const struct region *r, size_t n, struct control_region *c)
{
	const struct region *last = r + n - 1;

	snprintf(c->name, sizeof(c->name), "%s", r->name);
	c->gpa = r->gpa;
	c->length_bytes = last->piece_offset_bytes + last->length_bytes;
	c->page_size_bytes = region_unit_bytes(r);
	snprintf(c->backing, sizeof(c->backing), "%s", region_backing_name(r->backing));
	snprintf(c->mode, sizeof(c->mode), "%s", region_mode_name(r->mode));
	c->lane = r->lane;
	c->pieces = (uint32_t)n;
}

static int view_regions(const struct migration *m, struct control_migration *v)
{
	const struct region_table *t = m->regions;

	if (!t)
		return 0;
	v->regions = calloc(t->n_regions, sizeof(*v->regions));
	if (!v->regions)
		return -ENOMEM;
	for (size_t i = 0, n; i < t->n_regions; i += n) {
		n = region_n_pieces(t, i);
		view_region(&t->regions[i], n, &v->regions[v->n_regions++]);
	}
	return 0;
}

static int view_poisoned(const struct migration *m, struct control_migration *v, uint64_t *ret_all)
{
	uint64_t all, n = migration_poisoned_shown(m, &all);

	if (ret_all)
		*ret_all = all;
	if (n == 0)
		return 0;
	v->poisoned = calloc(n, sizeof(*v->poisoned));
	if (!v->poisoned)
		return -ENOMEM;
	v->n_poisoned = n;
	for (uint64_t i = 0; i < n; i++) {
		const struct ledger_entry *e = migration_poisoned_get(m, i);
		struct control_poisoned *p = &v->poisoned[i];

		if (m->regions && e->region < m->regions->n_regions)
			snprintf(p->region, sizeof(p->region), "%s",
			         m->regions->regions[e->region].name);
		p->offset_bytes = e->offset_bytes;
		p->gpa = e->gpa;
		p->lost_bytes = e->lost_bytes;
		snprintf(p->reason, sizeof(p->reason), "%s", ledger_reason_name(e->reason));
		snprintf(p->reporter, sizeof(p->reporter), "%s",
		         migration_poison_reporter(m, e->reason));
		p->time_us = e->time_us;
	}
	return 0;
}

int migration_view(const struct migration *m, unsigned what, struct control_migration *ret,
                   uint64_t *ret_poisoned_all)
{
	struct control_migration v = {0};
	int r = 0;

	view_identity(m, &v);
	view_memory(m, &v);
	view_counters(m, &v);
	if (what & MIGRATION_VIEW_REGIONS)
		r = view_regions(m, &v);
	if (r == 0 && (what & MIGRATION_VIEW_POISONED))
		r = view_poisoned(m, &v, ret_poisoned_all);
	if (r < 0) {
		control_migration_free(&v);
		return r;
	}
	*ret = v;
	return 0;
}
