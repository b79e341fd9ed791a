/* SPDX-License-Identifier: Apache-2.0 */
/*
 * JSON of the status interface: the names of proto/control.proto's fields.
 * Called by the status server.
 */
#include "daemon/status_json.h"

#include <string.h>

#include "core/clock.h"
#include "daemon/migration_view.h"

static json_t *number(uint64_t value)
{
	return json_integer((json_int_t)value);
}

/* json_object_set_new() takes the value also when it fails, and refuses NULL. */
static int put_number(json_t *o, const char *key, uint64_t value)
{
	return json_object_set_new(o, key, number(value));
}

/* Texts may come from peers: what is no UTF-8 is shown byte by byte as '?'. */
static int put_text(json_t *o, const char *key, const char *value)
{
	json_t *text = json_string(value);

	if (!text) {
		char clean[WIRE_ERROR_TEXT_MAX];
		size_t n = 0;

		for (; n < sizeof(clean) - 1 && value[n]; n++)
			clean[n] = (unsigned char)value[n] < 0x80 ? value[n] : '?';
		clean[n] = '\0';
		text = json_string(clean);
	}
	return json_object_set_new(o, key, text);
}

#define NUMBER(field)                                             \
	{                                                         \
#field, offsetof(struct control_migration, field) \
	}

static const struct {
	const char *key;
	size_t offset;
} numbers[] = {
        NUMBER(started_us),   NUMBER(total_time_us),    NUMBER(downtime_us),
        NUMBER(memory_total), NUMBER(memory_remaining), NUMBER(memory_processed),
        NUMBER(memory_bps),   NUMBER(bandwidth),        NUMBER(pages_data),
        NUMBER(pages_zero),   NUMBER(pages_poisoned),   NUMBER(pages_removed),
        NUMBER(pages_urgent), NUMBER(pages_stream),     NUMBER(postcopy_requests),
        NUMBER(faults),       NUMBER(faults_local),     NUMBER(fault_p50_ns),
        NUMBER(fault_p99_ns), NUMBER(fault_p999_ns),    NUMBER(fault_max_ns),
        NUMBER(lost_bytes),   NUMBER(reconnects),       NUMBER(eta_us),
        NUMBER(lost_left_us),
};

static json_t *latency_json(const struct control_migration *v)
{
	json_t *a = json_array();
	unsigned n = HISTOGRAM_LOG2_BUCKETS;

	while (n > 0 && v->latency_log2_us[n - 1] == 0)
		n--;
	for (unsigned i = 0; i < n; i++)
		json_array_append_new(a, number(v->latency_log2_us[i]));
	return a;
}

static json_t *regions_json(const struct control_migration *v)
{
	json_t *a = json_array();

	for (size_t i = 0; i < v->n_regions; i++) {
		const struct control_region *r = &v->regions[i];
		json_t *o = json_object();

		put_text(o, "name", r->name);
		put_number(o, "guest_physical_address", r->gpa.addr);
		put_number(o, "length", r->length_bytes);
		put_number(o, "page_size", r->page_size_bytes);
		put_text(o, "backing", r->backing);
		put_text(o, "mode", r->mode);
		put_number(o, "lane", r->lane);
		put_number(o, "pieces", r->pieces);
		json_array_append_new(a, o);
	}
	return a;
}

static json_t *view_json(const struct control_migration *v)
{
	json_t *o = json_object();
	char id[UUID_TEXT_LEN];

	put_text(o, "migration_id", uuid_format(&v->migration_id, id));
	put_text(o, "state", v->state);
	put_text(o, "state_text", v->state_text);
	put_text(o, "peer", v->peer);
	put_text(o, "peer_identity", v->peer_identity);
	put_number(o, "lanes", v->lanes);
	for (size_t i = 0; i < ARRAY_SIZE(numbers); i++) {
		uint64_t value;

		memcpy(&value, (const char *)v + numbers[i].offset, sizeof(value));
		put_number(o, numbers[i].key, value);
	}
	json_object_set_new(o, "latency_log2_us", latency_json(v));
	return o;
}

json_t *status_json_migration(const struct migration *m)
{
	struct control_migration v;
	json_t *o;

	if (migration_view(m, MIGRATION_VIEW_REGIONS, &v, NULL) < 0)
		return NULL;
	o = view_json(&v);
	json_object_set_new(o, "regions", regions_json(&v));
	control_migration_free(&v);
	return o;
}

json_t *status_json_migrations(const struct migration_table *table)
{
	json_t *o = json_object(), *a = json_array();

	for (struct migration *m = migration_table_next(table, NULL); m;
	     m = migration_table_next(table, m)) {
		struct control_migration v;

		if (migration_view(m, 0, &v, NULL) < 0)
			continue;
		json_array_append_new(a, view_json(&v));
		control_migration_free(&v);
	}
	json_object_set_new(o, "migrations", a);
	return o;
}

static json_t *poisoned_json(const struct control_poisoned *p)
{
	json_t *o = json_object();

	put_text(o, "region", p->region);
	put_number(o, "offset", p->offset_bytes);
	put_number(o, "guest_physical_address", p->gpa.addr);
	put_number(o, "lost", p->lost_bytes);
	put_text(o, "reason", p->reason);
	put_text(o, "reporter", p->reporter);
	put_number(o, "time_us", p->time_us);
	return o;
}

json_t *status_json_poison(const struct migration *m)
{
	struct control_migration v;
	uint64_t all = 0;
	json_t *o, *a;

	if (migration_view(m, MIGRATION_VIEW_POISONED, &v, &all) < 0)
		return NULL;
	o = json_object();
	a = json_array();
	for (size_t i = 0; i < v.n_poisoned; i++)
		json_array_append_new(a, poisoned_json(&v.poisoned[i]));
	put_text(o, "migration_id", m->id_text);
	put_number(o, "entries", all);
	put_number(o, "lost_bytes", v.lost_bytes);
	json_object_set_new(o, "truncated", json_boolean(all > v.n_poisoned));
	json_object_set_new(o, "poisoned", a);
	control_migration_free(&v);
	return o;
}

json_t *status_json_daemon(const struct migration_table *table, uint64_t started_us)
{
	json_t *o = json_object(), *states = json_object();
	unsigned counts[MIGRATION_STATES_] = {0};

	for (struct migration *m = migration_table_next(table, NULL); m;
	     m = migration_table_next(table, m))
		counts[m->state]++;
	for (enum migration_state s = 0; s < MIGRATION_STATES_; s++)
		put_number(states, migration_state_name(s), counts[s]);
	put_text(o, "program", "postcopyd");
	put_text(o, "version", PROJECT_VERSION);
	put_number(o, "started_us", started_us);
	put_number(o, "uptime_us", clock_realtime_us() - started_us);
	put_number(o, "migrations_live", migration_table_count_live(table));
	json_object_set_new(o, "migrations", states);
	return o;
}

json_t *status_json_error(int status, const char *text)
{
	json_t *o = json_object();

	put_number(o, "status", (uint64_t)status);
	put_text(o, "error", text);
	return o;
}
