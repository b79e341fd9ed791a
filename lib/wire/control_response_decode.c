/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a daemon answered on the control socket, decoded and checked. Called by
 * postcopyctl and by tests. All text in it is fit for a terminal as it is.
 */
#include "wire/control_message.h"

#include <errno.h>
#include <string.h>

#include "control.pb-c.h"
#include "wire/body.h"
#include "wire/control_numbers.h"

typedef Postcopy__Control__V1__Response PbResponse;

/* Free text into the array of the same name. */
#define GET_TEXT(in, to, field, err) \
	text_get((in)->field, sizeof((to)->field), TEXT_FREE, #field, (to)->field, err)

static int check_count(size_t n, size_t max, const char *field, struct error *err)
{
	if (n > max)
		return error_set(err, -EBADMSG, "%zu %s, expected at most %zu", n, field, max);
	return 0;
}

static int region_get(const Postcopy__Control__V1__Region *in, struct control_region *to,
                      struct error *err)
{
	int r = text_get(in->name, sizeof(to->name), TEXT_NAME, "name", to->name, err);

	if (r == 0)
		r = GET_TEXT(in, to, backing, err);
	if (r == 0)
		r = GET_TEXT(in, to, mode, err);
	to->gpa.addr = in->guest_physical_address;
	to->length_bytes = in->length;
	to->page_size_bytes = in->page_size;
	to->lane = in->lane;
	to->pieces = in->pieces;
	return r;
}

static int poisoned_get(const Postcopy__Control__V1__PoisonedRange *in, struct control_poisoned *to,
                        struct error *err)
{
	int r = GET_TEXT(in, to, region, err);

	if (r == 0)
		r = GET_TEXT(in, to, reason, err);
	if (r == 0)
		r = GET_TEXT(in, to, reporter, err);
	to->offset_bytes = in->offset;
	to->gpa.addr = in->guest_physical_address;
	to->lost_bytes = in->lost;
	to->time_us = in->time_us;
	return r;
}

static int regions_get(const Postcopy__Control__V1__Migration *in, struct control_migration *to,
                       struct error *err)
{
	int r = check_count(in->n_regions, REGIONS_MAX, "regions", err);

	if (r < 0 || in->n_regions == 0)
		return r;
	to->regions = calloc(in->n_regions, sizeof(*to->regions));
	if (!to->regions)
		return error_set(err, -ENOMEM, "no memory for %zu regions", in->n_regions);
	to->n_regions = in->n_regions;
	for (size_t i = 0; r == 0 && i < in->n_regions; i++) {
		r = region_get(in->regions[i], &to->regions[i], err);
		if (r < 0)
			error_prefix(err, "regions[%zu]", i);
	}
	return r;
}

static int poisoned_list_get(const Postcopy__Control__V1__Migration *in,
                             struct control_migration *to, struct error *err)
{
	int r = check_count(in->n_poisoned, POISON_RANGES_MAX, "poisoned ranges", err);

	if (r < 0 || in->n_poisoned == 0)
		return r;
	to->poisoned = calloc(in->n_poisoned, sizeof(*to->poisoned));
	if (!to->poisoned)
		return error_set(err, -ENOMEM, "no memory for %zu ranges", in->n_poisoned);
	to->n_poisoned = in->n_poisoned;
	for (size_t i = 0; r == 0 && i < in->n_poisoned; i++) {
		r = poisoned_get(in->poisoned[i], &to->poisoned[i], err);
		if (r < 0)
			error_prefix(err, "poisoned[%zu]", i);
	}
	return r;
}

static int migration_texts_get(const Postcopy__Control__V1__Migration *in,
                               struct control_migration *to, struct error *err)
{
	int r = GET_TEXT(in, to, state, err);

	if (r == 0)
		r = GET_TEXT(in, to, state_text, err);
	if (r == 0)
		r = GET_TEXT(in, to, peer, err);
	if (r == 0)
		r = GET_TEXT(in, to, peer_identity, err);
	return r;
}

/* *to is zeroed; the caller frees its arrays also after a failure. */
static int migration_get(const Postcopy__Control__V1__Migration *in, struct control_migration *to,
                         struct error *err)
{
	int r = body_uuid_get(&in->migration_id, "migration_id", &to->migration_id, err);

	if (r == 0)
		r = migration_texts_get(in, to, err);
	if (r == 0)
		r = check_count(in->n_latency_log2_us, HISTOGRAM_LOG2_BUCKETS, "latency_log2_us",
		                err);
	if (r < 0)
		return r;
#define GET_NUMBER(name) to->name = in->name;
	CONTROL_MIGRATION_NUMBERS(GET_NUMBER)
#undef GET_NUMBER
	if (in->n_latency_log2_us > 0)
		memcpy(to->latency_log2_us, in->latency_log2_us,
		       in->n_latency_log2_us * sizeof(to->latency_log2_us[0]));
	r = regions_get(in, to, err);
	return r < 0 ? r : poisoned_list_get(in, to, err);
}

static int migrations_get(Postcopy__Control__V1__Migration *const *in, size_t n,
                          struct control_response *ret, struct error *err)
{
	int r = check_count(n, CONTROL_MIGRATIONS_MAX, "migrations", err);

	if (r < 0 || n == 0)
		return r;
	ret->migrations = calloc(n, sizeof(*ret->migrations));
	if (!ret->migrations)
		return error_set(err, -ENOMEM, "no memory for %zu migrations", n);
	ret->n_migrations = n;
	for (size_t i = 0; r == 0 && i < n; i++) {
		r = migration_get(in[i], &ret->migrations[i], err);
		if (r < 0)
			error_prefix(err, "Migration %zu", i);
	}
	return r;
}

static int probe_result_get(const Postcopy__Control__V1__ProbeResult *in,
                            struct control_probe_result *to, struct error *err)
{
	int r = GET_TEXT(in, to, memory, err);

	if (r == 0)
		r = GET_TEXT(in, to, poison, err);
	if (r == 0)
		r = GET_TEXT(in, to, sigbus, err);
	if (r == 0)
		r = GET_TEXT(in, to, copy_overwrites_poison, err);
	return r < 0 ? r : GET_TEXT(in, to, remedy, err);
}

static int probe_get(const Postcopy__Control__V1__ProbeReport *in, struct control_response *ret,
                     struct error *err)
{
	int r = check_count(in->n_results, CONTROL_PROBE_RESULTS_MAX, "probe results", err);

	if (r == 0)
		r = GET_TEXT(in, ret, userfaultfd, err);
	if (r == 0)
		r = GET_TEXT(in, ret, remedy, err);
	if (r < 0 || in->n_results == 0)
		return r;
	ret->probe_results = calloc(in->n_results, sizeof(*ret->probe_results));
	if (!ret->probe_results)
		return error_set(err, -ENOMEM, "no memory for %zu results", in->n_results);
	ret->n_probe_results = in->n_results;
	for (size_t i = 0; r == 0 && i < in->n_results; i++) {
		r = probe_result_get(in->results[i], &ret->probe_results[i], err);
		if (r < 0)
			error_prefix(err, "ProbeReport.results[%zu]", i);
	}
	return r;
}

static int event_get(const Postcopy__Control__V1__Event *in, struct control_response *ret,
                     struct error *err)
{
	if (!in->migration)
		return error_set(err, -EBADMSG, "Event has no migration");
	ret->state_changed = in->state_changed;
	return migrations_get(&in->migration, 1, ret, err);
}

static int decode_body(const PbResponse *in, struct control_response *ret, struct error *err)
{
	switch (in->response_case) {
	case POSTCOPY__CONTROL__V1__RESPONSE__RESPONSE_LIST:
		ret->type = CONTROL_RESPONSE_LIST;
		return migrations_get(in->list->migrations, in->list->n_migrations, ret, err);
	case POSTCOPY__CONTROL__V1__RESPONSE__RESPONSE_MIGRATION:
		ret->type = CONTROL_RESPONSE_MIGRATION;
		return migrations_get(&in->migration, 1, ret, err);
	case POSTCOPY__CONTROL__V1__RESPONSE__RESPONSE_PROBE:
		ret->type = CONTROL_RESPONSE_PROBE;
		return probe_get(in->probe, ret, err);
	case POSTCOPY__CONTROL__V1__RESPONSE__RESPONSE_EVENT:
		ret->type = CONTROL_RESPONSE_EVENT;
		return event_get(in->event, ret, err);
	default:
		ret->type = CONTROL_RESPONSE_PLAIN;
		return 0;
	}
}

int control_response_decode(const uint8_t *buf, size_t len, struct control_response *ret,
                            struct error *err)
{
	struct control_response response = {.type = CONTROL_RESPONSE_PLAIN};
	const PbResponse *in;
	struct wire_arena a;
	ProtobufCMessage *m;
	int r = body_unpack(&a, &postcopy__control__v1__response__descriptor, buf, len, &m, err);

	if (r < 0)
		return r;
	in = (const PbResponse *)m;
	response.id = in->id;
	r = body_errno_get(in->error, "error", &response.error, err);
	if (r == 0)
		r = GET_TEXT(in, &response, text, err);
	if (r == 0)
		r = decode_body(in, &response, err);
	wire_arena_fini(&a);
	if (r < 0) {
		error_prefix(err, "Response");
		control_response_free(&response);
		return r;
	}
	*ret = response;
	return 0;
}

void control_migration_free(struct control_migration *m)
{
	free(m->regions);
	free(m->poisoned);
	m->regions = NULL;
	m->poisoned = NULL;
	m->n_regions = m->n_poisoned = 0;
}

void control_response_free(struct control_response *r)
{
	for (size_t i = 0; i < r->n_migrations; i++)
		control_migration_free(&r->migrations[i]);
	free(r->migrations);
	free(r->probe_results);
	r->migrations = NULL;
	r->probe_results = NULL;
	r->n_migrations = r->n_probe_results = 0;
}
