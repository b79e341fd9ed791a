/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Metrics in the Prometheus text format. Called by the status server.
 *
 * The daemon's totals never decrease: an ended migration's counters stay in
 * them. Series with a migration label exist only while it is live, so that
 * their number is bounded by [migrations] max.
 */
#include "daemon/metrics.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "core/histogram.h"

#define LATENCY_BUCKETS 24 /* up to 2^24 us, 17 s; the rest is +Inf */

const char *metrics_escape(const char *value, char *buf, size_t buf_len)
{
	size_t n = 0;

	for (; *value; value++) {
		char c = *value;
		bool pair = c == '\\' || c == '"' || c == '\n';

		if (n + (pair ? 2 : 1) >= buf_len)
			break;
		if (pair)
			buf[n++] = '\\';
		if (c == '\n')
			c = 'n';
		buf[n++] = (unsigned char)c < ' ' || c == 0x7f ? '?' : c;
	}
	buf[n] = '\0';
	return buf;
}

static void put_head(struct evbuffer *out, const char *name, const char *type, const char *help)
{
	evbuffer_add_printf(out, "# HELP postcopyd_%s %s\n# TYPE postcopyd_%s %s\n", name, help,
	                    name, type);
}

static void put_counter(struct evbuffer *out, const char *name, const char *help, uint64_t value)
{
	put_head(out, name, "counter", help);
	evbuffer_add_printf(out, "postcopyd_%s %" PRIu64 "\n", name, value);
}

/* labels: "" or "a=\"b\"," (with the last comma). */
static void put_histogram(struct evbuffer *out, const char *name, const char *labels,
                          const struct histogram *h)
{
	uint64_t log2[HISTOGRAM_LOG2_BUCKETS], count = 0;

	histogram_log2(h, 1000, log2);
	for (unsigned i = 0; i < HISTOGRAM_LOG2_BUCKETS; i++) {
		count += log2[i];
		if (i < LATENCY_BUCKETS)
			evbuffer_add_printf(out, "postcopyd_%s_bucket{%sle=\"%.9g\"} %" PRIu64 "\n",
			                    name, labels, (double)(UINT64_C(2) << i) / 1e6, count);
	}
	/* The count of the buckets, not h->count: a fault may be on its way in between. */
	evbuffer_add_printf(out, "postcopyd_%s_bucket{%sle=\"+Inf\"} %" PRIu64 "\n", name, labels,
	                    count);
	size_t len = strlen(labels);
	const char *open = len ? "{" : "", *close = len ? "}" : "";

	len -= len > 0; /* without the comma */
	evbuffer_add_printf(
	        out, "postcopyd_%s_sum%s%.*s%s %.9f\npostcopyd_%s_count%s%.*s%s %" PRIu64 "\n",
	        name, open, (int)len, labels, close, (double)h->sum / 1e9, name, open, (int)len,
	        labels, close, count);
}

static void put_pages(struct evbuffer *out, const char *name, const char *labels,
                      const struct migration_sums *s)
{
	const struct {
		const char *kind;
		uint64_t value;
	} kinds[] = {
	        {"data", s->urgent.pages_data + s->bulk.pages_data},
	        {"zero", s->urgent.pages_zero + s->bulk.pages_zero},
	        {"poisoned", s->urgent.pages_poisoned + s->bulk.pages_poisoned},
	        {"removed", s->urgent.pages_removed + s->bulk.pages_removed},
	};

	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++)
		evbuffer_add_printf(out, "postcopyd_%s{%skind=\"%s\"} %" PRIu64 "\n", name, labels,
		                    kinds[i].kind, kinds[i].value);
}

static void put_states(struct evbuffer *out, const struct migration_table *table,
                       const struct migration_totals *totals)
{
	unsigned live[MIGRATION_STATES_] = {0};
	const struct migration *m;

	for (m = migration_table_next(table, NULL); m; m = migration_table_next(table, m))
		live[m->state]++;
	put_head(out, "migrations", "gauge", "Live migrations by state.");
	for (enum migration_state s = 0; s < MIGRATION_STATES_; s++)
		if (!migration_state_final(s))
			evbuffer_add_printf(out, "postcopyd_migrations{state=\"%s\"} %u\n",
			                    migration_state_name(s), live[s]);
	put_head(out, "migration_state_entries_total", "counter",
	         "How often migrations entered each state.");
	for (enum migration_state s = 0; s < MIGRATION_STATES_; s++)
		evbuffer_add_printf(
		        out, "postcopyd_migration_state_entries_total{state=\"%s\"} %" PRIu64 "\n",
		        migration_state_name(s), totals->entered[s]);
}

static void put_totals(struct evbuffer *out, const struct migration_totals *t)
{
	const struct stats_sum *u = &t->sums.urgent, *b = &t->sums.bulk;

	put_counter(out, "migrations_started_total", "Migrations started.", t->started);
	put_counter(out, "reconnects_total", "Links to sources that were set up again.",
	            t->reconnects);
	put_counter(out, "faults_total", "Page faults read from userfaultfds.", u->faults);
	put_counter(out, "faults_coalesced_total", "Page faults for pages asked for already.",
	            u->faults_coalesced);
	put_counter(out, "faults_local_total", "Page faults answered without the source.",
	            u->faults_local);
	put_counter(out, "faults_minor_total", "Page faults of mode minor.", u->faults_minor);
	put_counter(out, "page_requests_total", "Requests sent to sources.",
	            u->requests + b->requests);
	put_head(out, "pages_total", "counter", "Pages of 4 KiB dealt with, by kind.");
	put_pages(out, "pages_total", "", &t->sums);
	put_counter(out, "pages_duplicate_total", "Pages received that were here already.",
	            u->pages_duplicate + b->pages_duplicate);
	put_counter(out, "pages_unexpected_total", "Pages found mapped where nothing should be.",
	            u->pages_unexpected + b->pages_unexpected);
	put_counter(out, "pages_poison_unplaced_total",
	            "Poisoned pages that this kernel cannot place.",
	            u->poison_unplaced + b->poison_unplaced);
	put_counter(out, "ioctl_retries_total", "Userfaultfd ioctls repeated.",
	            u->retries + b->retries);
	put_counter(out, "memory_waits_total", "Userfaultfd ioctls that waited for memory.",
	            u->no_memory + b->no_memory);
	put_counter(out, "received_bytes_total", "Bytes received from sources.",
	            u->bytes_received + b->bytes_received);
	put_counter(out, "lost_bytes_total", "Guest memory that is poisoned.", t->lost_bytes);
	put_head(out, "fault_duration_seconds", "histogram",
	         "From reading a fault to placing its page, with a round trip to the source.");
	put_histogram(out, "fault_duration_seconds", "", &u->fault_ns);
}

typedef void (*migration_put_fn)(struct evbuffer *out, const char *name, const char *labels,
                                 const struct migration *m, const struct migration_sums *s);

static void put_value(struct evbuffer *out, const char *name, const char *labels, double value)
{
	evbuffer_add_printf(out, "postcopyd_%s{%.*s} %.15g\n", name, (int)strlen(labels) - 1,
	                    labels, value);
}

#define PUT_FN(fn, value)                                                          \
	static void fn(struct evbuffer *out, const char *name, const char *labels, \
	               const struct migration *m, const struct migration_sums *s)  \
	{                                                                          \
		(void)m;                                                           \
		(void)s;                                                           \
		put_value(out, name, labels, (double)(value));                     \
	}

PUT_FN(put_memory, migration_total_bytes(m))
PUT_FN(put_remaining, migration_remaining_bytes(m))
PUT_FN(put_lost, migration_lost_bytes(m))
PUT_FN(put_rate, m->rate_bps)
PUT_FN(put_limit, m->bandwidth)
PUT_FN(put_lanes, m->n_lanes)
PUT_FN(put_paused, (double)migration_paused_us(m) / 1e6)
PUT_FN(put_reconnects, m->reconnects)
PUT_FN(put_faults, s->urgent.faults)
PUT_FN(put_requests, s->urgent.requests + s->bulk.requests)
PUT_FN(put_received, s->urgent.bytes_received + s->bulk.bytes_received)

static void put_migration_pages(struct evbuffer *out, const char *name, const char *labels,
                                const struct migration *m, const struct migration_sums *s)
{
	(void)m;
	put_pages(out, name, labels, s);
}

static void put_migration_latency(struct evbuffer *out, const char *name, const char *labels,
                                  const struct migration *m, const struct migration_sums *s)
{
	(void)m;
	put_histogram(out, name, labels, &s->urgent.fault_ns);
}

static void put_state(struct evbuffer *out, const char *name, const char *labels,
                      const struct migration *m, const struct migration_sums *s)
{
	(void)s;
	evbuffer_add_printf(out, "postcopyd_%s{%sstate=\"%s\"} 1\n", name, labels,
	                    migration_state_name(m->state));
}

static const struct {
	const char *name;
	const char *type;
	const char *help;
	migration_put_fn put;
} migration_metrics[] = {
        {"migration_state", "gauge", "The migration's present state.", put_state},
        {"migration_memory_bytes", "gauge", "The guest's memory.", put_memory},
        {"migration_remaining_bytes", "gauge", "Memory that is not here yet.", put_remaining},
        {"migration_lost_bytes", "gauge", "Memory that is poisoned.", put_lost},
        {"migration_rate_bytes", "gauge", "Memory that came in the last second.", put_rate},
        {"migration_bandwidth_limit_bytes", "gauge", "Limit of a second's stream, 0 for none.",
         put_limit},
        {"migration_lanes", "gauge", "Userfaultfds that are served.", put_lanes},
        {"migration_paused_seconds_total", "counter", "Time in postcopy-paused.", put_paused},
        {"migration_reconnects_total", "counter", "Links that were set up again.", put_reconnects},
        {"migration_faults_total", "counter", "Page faults.", put_faults},
        {"migration_page_requests_total", "counter", "Requests sent to the source.", put_requests},
        {"migration_received_bytes_total", "counter", "Bytes received from the source.",
         put_received},
        {"migration_pages_total", "counter", "Pages of 4 KiB dealt with, by kind.",
         put_migration_pages},
        {"migration_fault_duration_seconds", "histogram",
         "From reading a fault to placing its page, with a round trip to the source.",
         put_migration_latency},
};

/* A live migration and its counters, summed once. */
struct live {
	const struct migration *m;
	struct migration_sums sums;
};

static int put_migrations(struct evbuffer *out, const struct migration_table *table)
{
	unsigned n = migration_table_count_live(table), n_live = 0;
	_cleanup_free_ struct live *live = calloc(n + 1, sizeof(*live));
	const struct migration *m;

	if (!live)
		return -ENOMEM;
	for (m = migration_table_next(table, NULL); m && n_live < n;
	     m = migration_table_next(table, m)) {
		if (migration_state_final(m->state))
			continue;
		live[n_live].m = m;
		migration_sum(m, &live[n_live++].sums);
	}
	for (size_t i = 0; n_live > 0 && i < ARRAY_SIZE(migration_metrics); i++) {
		put_head(out, migration_metrics[i].name, migration_metrics[i].type,
		         migration_metrics[i].help);
		for (unsigned j = 0; j < n_live; j++) {
			char id[2 * UUID_TEXT_LEN], labels[3 * UUID_TEXT_LEN];

			metrics_escape(live[j].m->id_text, id, sizeof(id));
			snprintf(labels, sizeof(labels), "migration=\"%s\",", id);
			migration_metrics[i].put(out, migration_metrics[i].name, labels, live[j].m,
			                         &live[j].sums);
		}
	}
	return 0;
}

int metrics_write(const struct migration_table *table, struct evbuffer *out)
{
	_cleanup_free_ struct migration_totals *totals = malloc(sizeof(*totals));

	if (!totals)
		return -ENOMEM;
	migration_table_totals(table, totals);
	put_head(out, "build_info", "gauge", "The program's version.");
	evbuffer_add_printf(out, "postcopyd_build_info{version=\"%s\"} 1\n", PROJECT_VERSION);
	put_states(out, table, totals);
	put_totals(out, totals);
	return put_migrations(out, table);
}
