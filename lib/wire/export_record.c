/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An export's record to bytes and back. Called by postcopy-sourced when an export
 * changes, and when it starts and finds the records of the one before it.
 *
 * The request inside is bytes of the attach interface: what was checked when it came
 * is checked by the same code when it comes back.
 */
#include "wire/export_record.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "core/cleanup.h"
#include "state.pb-c.h"
#include "wire/body.h"

typedef Postcopy__State__V1__ExportRecord PbRecord;

#define PB_STATE(name) POSTCOPY__STATE__V1__EXPORT_STATE__EXPORT_STATE_##name
static_assert((int)EXPORT_RECORD_EXPORTED == PB_STATE(EXPORTED), "states");
static_assert((int)EXPORT_RECORD_FROZEN == PB_STATE(FROZEN), "states");
static_assert((int)EXPORT_RECORD_SERVING == PB_STATE(SERVING), "states");
static_assert((int)EXPORT_RECORD_RELEASED == PB_STATE(RELEASED), "states");
static_assert((int)EXPORT_RECORD_FAILED == PB_STATE(FAILED), "states");
static_assert((int)EXPORT_RECORD_WITHDRAWN == PB_STATE(WITHDRAWN), "states");

/* The same in both directions. */
static int check(const struct export_record *r, struct error *err)
{
	size_t n = r->export.export.n_regions;

	if (n == 0)
		return error_set(err, -EBADMSG, "ExportRecord.export has no regions");
	if (r->n_memory == 0 || r->n_memory > ATTACH_FDS_MAX)
		return error_set(err, -EBADMSG,
		                 "ExportRecord.memory_fds is %" PRIu32 ", expected 1 to %d",
		                 r->n_memory, ATTACH_FDS_MAX);
	for (size_t i = 0; i < n; i++)
		if (r->export.export.regions[i].fd >= r->n_memory)
			return error_set(err, -EBADMSG,
			                 "ExportRecord.export: region %zu has descriptor %" PRIu32
			                 " of %" PRIu32,
			                 i, r->export.export.regions[i].fd, r->n_memory);
	return 0;
}

static int export_get(const ProtobufCBinaryData *in, struct attach_request *ret, struct error *err)
{
	int r;

	if (in->len == 0)
		return error_set(err, -EBADMSG, "ExportRecord.export is missing");
	r = attach_request_decode(in->data, in->len, ret, err);
	if (r == 0 && ret->type != ATTACH_REQUEST_EXPORT)
		r = error_set(err, -EBADMSG, "is a request of type %d, expected an Export",
		              (int)ret->type);
	if (r < 0)
		error_prefix(err, "ExportRecord.export");
	return r;
}

static int state_get(int in, enum export_record_state *ret, struct error *err)
{
	if (in < EXPORT_RECORD_EXPORTED || in > EXPORT_RECORD_WITHDRAWN)
		return error_set(err, -EBADMSG,
		                 "ExportRecord.state is %d, expected 0 (exported), 1 (frozen), 2 "
		                 "(serving), 3 (released), 4 (failed) or 5 (withdrawn)",
		                 in);
	*ret = (enum export_record_state)in;
	return 0;
}

static int record_get(const PbRecord *in, struct export_record *ret, struct error *err)
{
	int r = body_required_get(in->program_version, sizeof(ret->program_version), TEXT_GRAPHIC,
	                          "ExportRecord.program_version", ret->program_version, err);

	ret->n_memory = in->memory_fds;
	ret->started_us = in->started_us;
	ret->ended_us = in->ended_us;
	if (r == 0)
		r = export_get(&in->export, &ret->export, err);
	if (r == 0)
		r = text_get(in->exporter, sizeof(ret->exporter), TEXT_FREE,
		             "ExportRecord.exporter", ret->exporter, err);
	if (r == 0)
		r = state_get((int)in->state, &ret->state, err);
	if (r == 0)
		r = text_get(in->state_text, sizeof(ret->state_text), TEXT_FREE,
		             "ExportRecord.state_text", ret->state_text, err);
	return r == 0 ? check(ret, err) : r;
}

int export_record_decode(const uint8_t *buf, size_t len, struct export_record *ret,
                         struct error *err)
{
	struct export_record m = {.state = EXPORT_RECORD_EXPORTED};
	struct wire_arena a;
	ProtobufCMessage *in;
	int r = body_unpack(&a, &postcopy__state__v1__export_record__descriptor, buf, len, &in,
	                    err);

	if (r < 0)
		return r;
	r = record_get((const PbRecord *)in, &m, err);
	wire_arena_fini(&a);
	if (r < 0)
		export_record_free(&m);
	else
		*ret = m;
	return r;
}

void export_record_free(struct export_record *r)
{
	explicit_bzero(r->export.token, sizeof(r->export.token));
	attach_request_free(&r->export);
	*r = (struct export_record){.state = EXPORT_RECORD_EXPORTED};
}

static bool encodable(const struct export_record *r)
{
	return r->program_version[0] && r->export.type == ATTACH_REQUEST_EXPORT &&
	       (unsigned int)r->state <= EXPORT_RECORD_WITHDRAWN && check(r, NULL) == 0;
}

int export_record_encode(const struct export_record *r, uint8_t **ret, size_t *ret_len)
{
	PbRecord out = POSTCOPY__STATE__V1__EXPORT_RECORD__INIT;
	char exporter[EXPORT_RECORD_WORD_MAX], state_text[WIRE_ERROR_TEXT_MAX];
	uint8_t *export = NULL;
	int rc;

	if (!encodable(r))
		return -EINVAL;
	rc = body_string_put(r->program_version, sizeof(r->program_version), TEXT_GRAPHIC,
	                     &out.program_version);
	if (rc == 0)
		rc = attach_request_encode(&r->export, &export, &out.export.len);
	if (rc < 0)
		return rc;
	out.export.data = export;
	text_clean(r->exporter, sizeof(r->exporter), exporter);
	text_clean(r->state_text, sizeof(r->state_text), state_text);
	out.exporter = exporter;
	out.state_text = state_text;
	out.memory_fds = r->n_memory;
	out.state = (Postcopy__State__V1__ExportState)r->state;
	out.started_us = r->started_us;
	out.ended_us = r->ended_us;
	rc = body_pack(&out.base, ret, ret_len);
	explicit_bzero(export, out.export.len); /* it has the token */
	free(export);
	return rc;
}
