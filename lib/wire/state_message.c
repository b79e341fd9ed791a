/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A migration's record to bytes and back. Called by postcopyd when a migration
 * changes, and when it starts and finds the records of the one before it.
 *
 * The two requests inside are bytes of the control and the attach interface: what
 * was checked when they came is checked by the same code when they come back.
 */
#include "wire/state_message.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "core/cleanup.h"
#include "state.pb-c.h"
#include "wire/body.h"

typedef Postcopy__State__V1__MigrationRecord PbRecord;

#define PB_ENDED(name) POSTCOPY__STATE__V1__ENDED__ENDED_##name
static_assert((int)STATE_ENDED_NOT == PB_ENDED(NOT), "how it ended");
static_assert((int)STATE_ENDED_COMPLETED == PB_ENDED(COMPLETED), "how it ended");
static_assert((int)STATE_ENDED_FAILED == PB_ENDED(FAILED), "how it ended");
static_assert((int)STATE_ENDED_CANCELLED == PB_ENDED(CANCELLED), "how it ended");

/* Why the parts do not belong together; NULL if they do. The same in both directions. */
static const char *contradiction(const struct state_message *m)
{
	bool attached = m->attach.type == ATTACH_REQUEST_ATTACH;

	if (attached && !uuid_equal(&m->attach.migration_id, &m->start.migration_id))
		return "start and attach are of different migrations";
	if (!attached && (m->vmm_pid || m->served || m->abandoned || m->completing ||
	                  m->unregistered || m->n_mappings))
		return "it tells of a VMM's memory, but has no attach";
	for (size_t i = 0; i < m->n_mappings; i++)
		if (!uuid_equal(&m->mappings[i].attach.migration_id, &m->start.migration_id))
			return "start and a mapping are of different migrations";
	return NULL;
}

static int start_get(const ProtobufCBinaryData *in, struct control_request *ret, struct error *err)
{
	int r;

	if (in->len == 0)
		return error_set(err, -EBADMSG, "MigrationRecord.start is missing");
	r = control_request_decode(in->data, in->len, ret, err);
	if (r == 0 && ret->type != CONTROL_REQUEST_START)
		r = error_set(err, -EBADMSG, "is a %s, expected a StartMigration",
		              control_request_type_name(ret->type));
	if (r < 0)
		error_prefix(err, "MigrationRecord.start");
	return r;
}

static int attach_get(const ProtobufCBinaryData *in, enum attach_request_type type,
                      struct attach_request *ret, struct error *err)
{
	int r = attach_request_decode(in->data, in->len, ret, err);

	if (r == 0 && ret->type != type)
		r = error_set(err, -EBADMSG, "is a request of type %d, expected an %s",
		              (int)ret->type,
		              type == ATTACH_REQUEST_ATTACH ? "Attach" : "attach_mapping");
	return r;
}

static int vmm_pid_get(int32_t in, pid_t *ret, struct error *err)
{
	if (in < 0)
		return error_set(err, -EBADMSG,
		                 "MigrationRecord.vmm_pid is %" PRId32 ", expected a process id",
		                 in);
	*ret = in;
	return 0;
}

static int mapping_get(const Postcopy__State__V1__MappingRecord *in, struct state_message *m,
                       struct error *err)
{
	struct state_mapping *to = &m->mappings[m->n_mappings];
	int r;

	if (in->id >= STATE_MAPPINGS_MAX)
		return error_set(err, -EBADMSG, "id is %" PRIu32 ", expected less than %d", in->id,
		                 STATE_MAPPINGS_MAX);
	for (size_t i = 0; i < m->n_mappings; i++)
		if (m->mappings[i].id == in->id)
			return error_set(err, -EBADMSG, "two have the id %" PRIu32, in->id);
	to->id = in->id;
	m->n_mappings++; /* state_message_free() has it from here on */
	r = attach_get(&in->attach, ATTACH_REQUEST_ATTACH_MAPPING, &to->attach, err);
	return r < 0 ? r : vmm_pid_get(in->pid, &to->pid, err);
}

static int mappings_get(const PbRecord *in, struct state_message *ret, struct error *err)
{
	int r = 0;

	if (in->n_mappings > STATE_MAPPINGS_MAX)
		return error_set(err, -EBADMSG,
		                 "MigrationRecord.mappings has %zu entries, at most %d",
		                 in->n_mappings, STATE_MAPPINGS_MAX);
	for (size_t i = 0; i < in->n_mappings && r == 0; i++) {
		r = mapping_get(in->mappings[i], ret, err);
		if (r < 0)
			error_prefix(err, "MigrationRecord.mappings[%zu]", i);
	}
	return r;
}

static int ended_get(int in, enum state_ended *ret, struct error *err)
{
	if (in < STATE_ENDED_NOT || in > STATE_ENDED_CANCELLED)
		return error_set(err, -EBADMSG,
		                 "MigrationRecord.ended is %d, expected 0 (not), 1 (completed), 2 "
		                 "(failed) or 3 (cancelled)",
		                 in);
	*ret = (enum state_ended)in;
	return 0;
}

static void numbers_get(const PbRecord *in, struct state_message *ret)
{
	ret->served = in->served;
	ret->abandoned = in->abandoned;
	ret->completing = in->completing;
	ret->unregistered = in->unregistered;
	ret->started_us = in->started_us;
	ret->paused_us = in->paused_us;
	ret->paused_since_us = in->paused_since_us;
	ret->reconnects = in->reconnects;
	ret->ended_us = in->ended_us;
	ret->ended_remaining = in->ended_remaining;
}

static int record_get(const PbRecord *in, struct state_message *ret, struct error *err)
{
	const char *why;
	int r = body_required_get(in->program_version, sizeof(ret->program_version), TEXT_GRAPHIC,
	                          "MigrationRecord.program_version", ret->program_version, err);

	numbers_get(in, ret);
	if (r == 0)
		r = start_get(&in->start, &ret->start, err);
	if (r == 0 && in->attach.len > 0) { /* else no VMM yet */
		r = attach_get(&in->attach, ATTACH_REQUEST_ATTACH, &ret->attach, err);
		if (r < 0)
			error_prefix(err, "MigrationRecord.attach");
	}
	if (r == 0)
		r = mappings_get(in, ret, err);
	if (r == 0)
		r = vmm_pid_get(in->vmm_pid, &ret->vmm_pid, err);
	if (r == 0)
		r = ended_get((int)in->ended, &ret->ended, err);
	if (r == 0)
		r = text_get(in->ended_text, sizeof(ret->ended_text), TEXT_FREE,
		             "MigrationRecord.ended_text", ret->ended_text, err);
	if (r < 0)
		return r;
	why = contradiction(ret);
	return why ? error_set(err, -EBADMSG, "MigrationRecord: %s", why) : 0;
}

int state_message_decode(const uint8_t *buf, size_t len, struct state_message *ret,
                         struct error *err)
{
	struct state_message m = {.ended = STATE_ENDED_NOT};
	struct wire_arena a;
	ProtobufCMessage *in;
	int r = body_unpack(&a, &postcopy__state__v1__migration_record__descriptor, buf, len, &in,
	                    err);

	if (r < 0)
		return r;
	r = record_get((const PbRecord *)in, &m, err);
	wire_arena_fini(&a);
	if (r < 0)
		state_message_free(&m);
	else
		*ret = m;
	return r;
}

void state_message_free(struct state_message *m)
{
	control_request_free(&m->start);
	attach_request_free(&m->attach);
	for (size_t i = 0; i < m->n_mappings; i++)
		attach_request_free(&m->mappings[i].attach);
	*m = (struct state_message){.ended = STATE_ENDED_NOT};
}

static void numbers_put(const struct state_message *m, PbRecord *out)
{
	out->vmm_pid = m->vmm_pid;
	out->served = m->served;
	out->abandoned = m->abandoned;
	out->completing = m->completing;
	out->unregistered = m->unregistered;
	out->ended = (Postcopy__State__V1__Ended)m->ended;
	out->started_us = m->started_us;
	out->paused_us = m->paused_us;
	out->paused_since_us = m->paused_since_us;
	out->reconnects = m->reconnects;
	out->ended_us = m->ended_us;
	out->ended_remaining = m->ended_remaining;
}

static bool encodable(const struct state_message *m)
{
	return m->start.type == CONTROL_REQUEST_START && m->start.has_migration_id &&
	       (m->attach.type == ATTACH_REQUEST_NONE || m->attach.type == ATTACH_REQUEST_ATTACH) &&
	       m->vmm_pid >= 0 && m->n_mappings <= STATE_MAPPINGS_MAX &&
	       (unsigned int)m->ended <= STATE_ENDED_CANCELLED && m->program_version[0] &&
	       !contradiction(m);
}

/* The bytes of those in out are the caller's to free, also on failure. */
static int mappings_put(const struct state_message *m, Postcopy__State__V1__MappingRecord *records,
                        Postcopy__State__V1__MappingRecord **pointers, PbRecord *out)
{
	int r = 0;

	out->mappings = pointers;
	for (size_t i = 0; i < m->n_mappings && r == 0; i++) {
		postcopy__state__v1__mapping_record__init(&records[i]);
		pointers[i] = &records[i];
		records[i].id = m->mappings[i].id;
		records[i].pid = m->mappings[i].pid;
		out->n_mappings++;
		r = attach_request_encode(&m->mappings[i].attach, &records[i].attach.data,
		                          &records[i].attach.len);
	}
	return r;
}

int state_message_encode(const struct state_message *m, uint8_t **ret, size_t *ret_len)
{
	PbRecord out = POSTCOPY__STATE__V1__MIGRATION_RECORD__INIT;
	Postcopy__State__V1__MappingRecord records[STATE_MAPPINGS_MAX];
	Postcopy__State__V1__MappingRecord *pointers[STATE_MAPPINGS_MAX];
	_cleanup_free_ uint8_t *start = NULL, *attach = NULL;
	char ended_text[WIRE_ERROR_TEXT_MAX];
	int r;

	if (!encodable(m))
		return -EINVAL;
	r = body_string_put(m->program_version, sizeof(m->program_version), TEXT_GRAPHIC,
	                    &out.program_version);
	if (r == 0)
		r = control_request_encode(&m->start, &start, &out.start.len);
	if (r == 0 && m->attach.type == ATTACH_REQUEST_ATTACH)
		r = attach_request_encode(&m->attach, &attach, &out.attach.len);
	if (r < 0)
		return r;
	r = mappings_put(m, records, pointers, &out);
	out.start.data = start;
	out.attach.data = attach;
	text_clean(m->ended_text, sizeof(m->ended_text), ended_text);
	out.ended_text = ended_text;
	numbers_put(m, &out);
	if (r == 0)
		r = body_pack(&out.base, ret, ret_len);
	for (size_t i = 0; i < out.n_mappings; i++)
		free(records[i].attach.data);
	return r;
}
