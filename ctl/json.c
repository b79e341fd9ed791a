/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Migrations and probe results as JSON. Called by the commands. Names are those
 * of proto/control.proto; identifiers are UUID text, sizes bytes, times us or ns
 * as their names say.
 */
#include <jansson.h>

#include "core/cleanup.h"
#include "ctl/print.h"

/* Takes the value over. Text that is not UTF-8 becomes null rather than nothing at all. */
static void set(json_t *object, const char *name, json_t *value)
{
	json_object_set_new(object, name, value ? value : json_null());
}

static void set_number(json_t *object, const char *name, uint64_t value)
{
	set(object, name, json_integer((json_int_t)value));
}

static json_t *region_json(const struct control_region *r)
{
	json_t *o = json_object();

	set(o, "name", json_string(r->name));
	set_number(o, "guest_physical_address", r->gpa.addr);
	set_number(o, "length", r->length_bytes);
	set_number(o, "page_size", r->page_size_bytes);
	set(o, "backing", json_string(r->backing));
	set(o, "mode", json_string(r->mode));
	set_number(o, "lane", r->lane);
	set_number(o, "pieces", r->pieces);
	return o;
}

static json_t *poisoned_json(const struct control_poisoned *p)
{
	json_t *o = json_object();

	set(o, "region", json_string(p->region));
	set_number(o, "offset", p->offset_bytes);
	set_number(o, "guest_physical_address", p->gpa.addr);
	set_number(o, "lost", p->lost_bytes);
	set(o, "reason", json_string(p->reason));
	set(o, "reporter", json_string(p->reporter));
	set_number(o, "time_us", p->time_us);
	return o;
}

#define NUMBER(field)                                             \
	{                                                         \
#field, offsetof(struct control_migration, field) \
	}

static const struct {
	const char *name;
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

static json_t *latency_json(const uint64_t counts[HISTOGRAM_LOG2_BUCKETS])
{
	json_t *array = json_array();
	size_t n = HISTOGRAM_LOG2_BUCKETS;

	while (n > 0 && counts[n - 1] == 0)
		n--;
	for (size_t i = 0; i < n; i++)
		json_array_append_new(array, json_integer((json_int_t)counts[i]));
	return array;
}

static json_t *migration_json(const struct control_migration *m)
{
	char id[UUID_TEXT_LEN];
	json_t *o = json_object(), *regions = json_array(), *poisoned = json_array();

	set(o, "migration_id", json_string(uuid_format(&m->migration_id, id)));
	set(o, "state", json_string(m->state));
	set(o, "state_text", json_string(m->state_text));
	set(o, "peer", json_string(m->peer));
	set(o, "peer_identity", json_string(m->peer_identity));
	set_number(o, "lanes", m->lanes);
	for (size_t i = 0; i < ARRAY_SIZE(numbers); i++)
		set_number(o, numbers[i].name,
		           *(const uint64_t *)(const void *)((const char *)m + numbers[i].offset));
	set(o, "latency_log2_us", latency_json(m->latency_log2_us));
	for (size_t i = 0; i < m->n_regions; i++)
		json_array_append_new(regions, region_json(&m->regions[i]));
	set(o, "regions", regions);
	for (size_t i = 0; i < m->n_poisoned; i++)
		json_array_append_new(poisoned, poisoned_json(&m->poisoned[i]));
	set(o, "poisoned", poisoned);
	return o;
}

static void print_and_free(FILE *out, json_t *value)
{
	json_dumpf(value, out, JSON_INDENT(2));
	fputc('\n', out);
	json_decref(value);
}

void json_print_list(FILE *out, const struct control_migration *m, size_t n)
{
	json_t *array = json_array();

	for (size_t i = 0; i < n; i++)
		json_array_append_new(array, migration_json(&m[i]));
	print_and_free(out, array);
}

void json_print_migration(FILE *out, const struct control_migration *m)
{
	print_and_free(out, migration_json(m));
}

void json_print_probe(FILE *out, const struct probe_report *report)
{
	json_t *o = json_object(), *results = json_array();

	set(o, "userfaultfd", json_string(report->userfaultfd));
	set(o, "remedy", json_string(report->remedy));
	for (size_t i = 0; i < report->n_results; i++) {
		const struct control_probe_result *r = &report->results[i];
		json_t *result = json_object();

		set(result, "memory", json_string(r->memory));
		set(result, "poison", json_string(r->poison));
		set(result, "sigbus", json_string(r->sigbus));
		set(result, "copy_overwrites_poison", json_string(r->copy_overwrites_poison));
		set(result, "remedy", json_string(r->remedy));
		json_array_append_new(results, result);
	}
	set(o, "results", results);
	print_and_free(out, o);
}
