/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a daemon answers, to bytes. Called by both daemons. Texts may quote
 * anything: what a client's terminal must not see is replaced.
 */
#include "wire/control_message.h"

#include <errno.h>
#include <string.h>

#include "control.pb-c.h"
#include "wire/body.h"
#include "wire/control_numbers.h"

typedef Postcopy__Control__V1__Migration PbMigration;
typedef Postcopy__Control__V1__Response PbResponse;

/* Arena bytes for one of each, texts of the greatest length included. */
#define BYTES_FIXED 4096
#define BYTES_MIGRATION 4096
#define BYTES_REGION 512
#define BYTES_POISONED 1024
#define BYTES_PROBE_RESULT 2048

/* A text array of from, cleaned, into the field of the same name; false when the arena is full. */
#define PUT_TEXT(a, from, to, field) \
	((to)->field = body_text_put(a, (from)->field, sizeof((from)->field)), (to)->field != NULL)

static int region_put(struct wire_arena *a, const struct control_region *from,
                      Postcopy__Control__V1__Region *to)
{
	postcopy__control__v1__region__init(to);
	to->guest_physical_address = from->gpa.addr;
	to->length = from->length_bytes;
	to->page_size = from->page_size_bytes;
	to->lane = from->lane;
	to->pieces = from->pieces;
	if (!PUT_TEXT(a, from, to, backing) || !PUT_TEXT(a, from, to, mode))
		return -ENOMEM;
	return body_string_put(from->name, sizeof(from->name), TEXT_NAME, &to->name);
}

static int poisoned_put(struct wire_arena *a, const struct control_poisoned *from,
                        Postcopy__Control__V1__PoisonedRange *to)
{
	postcopy__control__v1__poisoned_range__init(to);
	to->offset = from->offset_bytes;
	to->guest_physical_address = from->gpa.addr;
	to->lost = from->lost_bytes;
	to->time_us = from->time_us;
	if (!PUT_TEXT(a, from, to, region) || !PUT_TEXT(a, from, to, reason) ||
	    !PUT_TEXT(a, from, to, reporter))
		return -ENOMEM;
	return 0;
}

static int regions_put(struct wire_arena *a, const struct control_migration *from, PbMigration *to)
{
	size_t n = from->n_regions;
	Postcopy__Control__V1__Region *regions = wire_arena_alloc(a, n, sizeof(*regions));
	int r = 0;

	to->regions = wire_arena_alloc(a, n, sizeof(*to->regions));
	if (!regions || !to->regions)
		return -ENOMEM;
	to->n_regions = n;
	for (size_t i = 0; r == 0 && i < n; i++) {
		to->regions[i] = &regions[i];
		r = region_put(a, &from->regions[i], &regions[i]);
	}
	return r;
}

static int poisoned_list_put(struct wire_arena *a, const struct control_migration *from,
                             PbMigration *to)
{
	size_t n = from->n_poisoned;
	Postcopy__Control__V1__PoisonedRange *ranges = wire_arena_alloc(a, n, sizeof(*ranges));
	int r = 0;

	to->poisoned = wire_arena_alloc(a, n, sizeof(*to->poisoned));
	if (!ranges || !to->poisoned)
		return -ENOMEM;
	to->n_poisoned = n;
	for (size_t i = 0; r == 0 && i < n; i++) {
		to->poisoned[i] = &ranges[i];
		r = poisoned_put(a, &from->poisoned[i], &ranges[i]);
	}
	return r;
}

static void latency_put(const struct control_migration *from, PbMigration *to)
{
	size_t n = HISTOGRAM_LOG2_BUCKETS;

	while (n > 0 && from->latency_log2_us[n - 1] == 0)
		n--;
	to->latency_log2_us = (uint64_t *)from->latency_log2_us;
	to->n_latency_log2_us = n;
}

static int migration_put(struct wire_arena *a, const struct control_migration *from,
                         PbMigration *to)
{
	int r;

	postcopy__control__v1__migration__init(to);
	to->migration_id.data = (uint8_t *)from->migration_id.bytes;
	to->migration_id.len = sizeof(from->migration_id.bytes);
	if (!PUT_TEXT(a, from, to, state) || !PUT_TEXT(a, from, to, state_text) ||
	    !PUT_TEXT(a, from, to, peer) || !PUT_TEXT(a, from, to, peer_identity))
		return -ENOMEM;
#define PUT_NUMBER(name) to->name = from->name;
	CONTROL_MIGRATION_NUMBERS(PUT_NUMBER)
#undef PUT_NUMBER
	latency_put(from, to);
	r = regions_put(a, from, to);
	return r < 0 ? r : poisoned_list_put(a, from, to);
}

static int migrations_put(struct wire_arena *a, const struct control_response *from,
                          Postcopy__Control__V1__MigrationList *to)
{
	size_t n = from->n_migrations;
	PbMigration *migrations = wire_arena_alloc(a, n, sizeof(*migrations));
	int r = 0;

	to->migrations = wire_arena_alloc(a, n, sizeof(*to->migrations));
	if (!migrations || !to->migrations)
		return -ENOMEM;
	to->n_migrations = n;
	for (size_t i = 0; r == 0 && i < n; i++) {
		to->migrations[i] = &migrations[i];
		r = migration_put(a, &from->migrations[i], &migrations[i]);
	}
	return r;
}

static int probe_result_put(struct wire_arena *a, const struct control_probe_result *from,
                            Postcopy__Control__V1__ProbeResult *to)
{
	postcopy__control__v1__probe_result__init(to);
	if (!PUT_TEXT(a, from, to, memory) || !PUT_TEXT(a, from, to, poison) ||
	    !PUT_TEXT(a, from, to, sigbus) || !PUT_TEXT(a, from, to, copy_overwrites_poison) ||
	    !PUT_TEXT(a, from, to, remedy))
		return -ENOMEM;
	return 0;
}

static int probe_put(struct wire_arena *a, const struct control_response *from,
                     Postcopy__Control__V1__ProbeReport *to)
{
	size_t n = from->n_probe_results;
	Postcopy__Control__V1__ProbeResult *results = wire_arena_alloc(a, n, sizeof(*results));
	int r = 0;

	to->results = wire_arena_alloc(a, n, sizeof(*to->results));
	if (!results || !to->results || !PUT_TEXT(a, from, to, userfaultfd) ||
	    !PUT_TEXT(a, from, to, remedy))
		return -ENOMEM;
	to->n_results = n;
	for (size_t i = 0; r == 0 && i < n; i++) {
		to->results[i] = &results[i];
		r = probe_result_put(a, &from->probe_results[i], &results[i]);
	}
	return r;
}

static int encode_body(struct wire_arena *a, const struct control_response *from, PbResponse *out,
                       uint8_t **ret, size_t *ret_len)
{
	Postcopy__Control__V1__MigrationList list = POSTCOPY__CONTROL__V1__MIGRATION_LIST__INIT;
	Postcopy__Control__V1__ProbeReport probe = POSTCOPY__CONTROL__V1__PROBE_REPORT__INIT;
	Postcopy__Control__V1__Event event = POSTCOPY__CONTROL__V1__EVENT__INIT;
	int r = migrations_put(a, from, &list);

	if (r == 0)
		r = probe_put(a, from, &probe);
	if (r < 0)
		return r;
	if (from->type == CONTROL_RESPONSE_LIST) {
		out->response_case = POSTCOPY__CONTROL__V1__RESPONSE__RESPONSE_LIST;
		out->list = &list;
	} else if (from->type == CONTROL_RESPONSE_MIGRATION) {
		out->response_case = POSTCOPY__CONTROL__V1__RESPONSE__RESPONSE_MIGRATION;
		out->migration = list.migrations[0];
	} else if (from->type == CONTROL_RESPONSE_PROBE) {
		out->response_case = POSTCOPY__CONTROL__V1__RESPONSE__RESPONSE_PROBE;
		out->probe = &probe;
	} else if (from->type == CONTROL_RESPONSE_EVENT) {
		event.migration = list.migrations[0];
		event.state_changed = from->state_changed;
		out->response_case = POSTCOPY__CONTROL__V1__RESPONSE__RESPONSE_EVENT;
		out->event = &event;
	}
	return body_pack(&out->base, ret, ret_len);
}

/* The arena that the response needs; -EINVAL when it breaks a limit. */
static int response_measure(const struct control_response *r, size_t *ret_bytes)
{
	bool one = r->type == CONTROL_RESPONSE_MIGRATION || r->type == CONTROL_RESPONSE_EVENT;
	size_t bytes = BYTES_FIXED + r->n_migrations * BYTES_MIGRATION +
	               r->n_probe_results * BYTES_PROBE_RESULT;

	if (r->error < 0 || r->error > ERRNO_LARGEST || r->n_migrations > CONTROL_MIGRATIONS_MAX ||
	    r->n_probe_results > CONTROL_PROBE_RESULTS_MAX || (one && r->n_migrations != 1))
		return -EINVAL;
	for (size_t i = 0; i < r->n_migrations; i++) {
		const struct control_migration *m = &r->migrations[i];

		if (m->n_regions > REGIONS_MAX || m->n_poisoned > POISON_RANGES_MAX)
			return -EINVAL;
		bytes += m->n_regions * BYTES_REGION + m->n_poisoned * BYTES_POISONED;
	}
	*ret_bytes = bytes;
	return 0;
}

int control_response_encode(const struct control_response *r, uint8_t **ret, size_t *ret_len)
{
	PbResponse out = POSTCOPY__CONTROL__V1__RESPONSE__INIT;
	struct wire_arena a;
	size_t bytes;
	int result = response_measure(r, &bytes);

	if (result < 0)
		return result;
	if (wire_arena_init(&a, bytes) < 0)
		return -ENOMEM;
	out.id = r->id;
	out.error = r->error;
	if (PUT_TEXT(&a, r, &out, text))
		result = encode_body(&a, r, &out, ret, ret_len);
	else
		result = -ENOMEM;
	wire_arena_fini(&a);
	return result;
}
