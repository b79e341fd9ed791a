/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a client of the control socket asked, decoded and checked. Called by
 * both daemons. Whether the migration exists and may be changed is theirs.
 */
#include "wire/control_message.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "control.pb-c.h"
#include "wire/body.h"

typedef Postcopy__Control__V1__Request PbRequest;

static int id_get(const ProtobufCBinaryData *in, bool required, struct control_request *ret,
                  struct error *err)
{
	int r;

	if (in->len == 0 && !required)
		return 0;
	r = body_uuid_get(in, "migration_id", &ret->migration_id, err);
	if (r == 0)
		ret->has_migration_id = true;
	return r;
}

static int lost_policy_get(int in, enum lost_policy *ret, struct error *err)
{
	if (in < 0 || in > LOST_POLICY_KILL)
		return error_set(err, -EBADMSG,
		                 "lost_policy is %d, expected 1 (hold), 2 (poison) or 3 (kill)",
		                 in);
	*ret = in == 0 ? LOST_POLICY_HOLD : (enum lost_policy)in;
	return 0;
}

static int decode_start(const Postcopy__Control__V1__StartMigration *in,
                        struct control_request *ret, struct error *err)
{
	int r = id_get(&in->migration_id, true, ret, err);

	if (r == 0)
		r = body_required_get(in->source, sizeof(ret->start.source), TEXT_GRAPHIC, "source",
		                      ret->start.source, err);
	if (r == 0)
		r = body_required_get(in->peer_identity, sizeof(ret->start.peer_identity),
		                      TEXT_GRAPHIC, "peer_identity", ret->start.peer_identity, err);
	if (r == 0)
		r = body_token_get(&in->token, "token", ret->start.token, &ret->start.token_len,
		                   err);
	if (r == 0)
		r = lost_policy_get((int)in->lost_policy, &ret->start.lost_policy, err);
	if (r == 0)
		r = text_get(in->firecracker_socket, sizeof(ret->start.firecracker_socket),
		             TEXT_GRAPHIC, "firecracker_socket", ret->start.firecracker_socket,
		             err);
	ret->start.lost_deadline_us = in->lost_deadline_us;
	ret->start.bandwidth = in->bandwidth;
	ret->start.stop_on_poison = in->stop_on_poison;
	return r;
}

static int decode_recover(const Postcopy__Control__V1__Recover *in, struct control_request *ret,
                          struct error *err)
{
	int r = id_get(&in->migration_id, true, ret, err);

	if (r < 0)
		return r;
	return text_get(in->source, sizeof(ret->recover.source), TEXT_GRAPHIC, "source",
	                ret->recover.source, err);
}

/* Of a region, as they come: a page size of 0 is 4096. */
static int lengths_get(uint64_t length, uint64_t page_size, uint64_t *ret_length,
                       uint64_t *ret_page_size, struct error *err)
{
	if (length == 0)
		return error_set(err, -EBADMSG, "length is 0");
	if (page_size && (!is_power_of_two(page_size) || page_size < WIRE_PAGE_SIZE))
		return error_set(err, -EBADMSG,
		                 "page_size %" PRIu64 " is not a power of two of at least 4096",
		                 page_size);
	*ret_length = length;
	*ret_page_size = page_size ? page_size : WIRE_PAGE_SIZE;
	return 0;
}

static int process_range_get(const Postcopy__Control__V1__ExportProcess__Range *in,
                             struct process_range *to, struct error *err)
{
	int r = text_get(in->name, sizeof(to->name), TEXT_NAME, "name", to->name, err);

	if (r < 0)
		return r;
	to->gpa.addr = in->guest_physical_address;
	to->hva.addr = in->host_virtual_address;
	return lengths_get(in->length, in->page_size, &to->length_bytes, &to->page_size_bytes, err);
}

static int decode_process_ranges(const Postcopy__Control__V1__ExportProcess *in,
                                 struct control_request *ret, struct error *err)
{
	struct process_range *ranges;

	if (in->n_ranges == 0 || in->n_ranges > REGIONS_MAX)
		return error_set(err, -EBADMSG, "%zu ranges, expected 1 to %d", in->n_ranges,
		                 REGIONS_MAX);
	ranges = calloc(in->n_ranges, sizeof(*ranges));
	if (!ranges)
		return error_set(err, -ENOMEM, "no memory for %zu ranges", in->n_ranges);
	ret->export_process.ranges = ranges;
	ret->export_process.n_ranges = in->n_ranges;
	for (size_t i = 0; i < in->n_ranges; i++) {
		int r = process_range_get(in->ranges[i], &ranges[i], err);

		if (r < 0) {
			error_prefix(err, "ranges[%zu]", i);
			return r;
		}
	}
	return 0;
}

static int decode_export_process(const Postcopy__Control__V1__ExportProcess *in,
                                 struct control_request *ret, struct error *err)
{
	int r = id_get(&in->migration_id, true, ret, err);

	if (r == 0)
		r = body_token_get(&in->token, "token", ret->export_process.token,
		                   &ret->export_process.token_len, err);
	if (r == 0)
		r = body_required_get(in->peer_identity, sizeof(ret->export_process.peer_identity),
		                      TEXT_GRAPHIC, "peer_identity",
		                      ret->export_process.peer_identity, err);
	if (r == 0 && in->pid <= 0)
		r = error_set(err, -EBADMSG, "pid is %" PRId32 ", expected a process id", in->pid);
	ret->export_process.pid = in->pid;
	return r < 0 ? r : decode_process_ranges(in, ret, err);
}

/* *ret_ranges is to be freed, also on failure. */
static int poison_ranges_get(Postcopy__Control__V1__Poison__Range **in, size_t n, const char *field,
                             struct poison_range **ret_ranges, size_t *ret_n, struct error *err)
{
	struct poison_range *ranges;

	if (n > POISON_RANGES_MAX)
		return error_set(err, -EBADMSG, "%zu %s, expected at most %d", n, field,
		                 POISON_RANGES_MAX);
	ranges = calloc(n ? n : 1, sizeof(*ranges));
	if (!ranges)
		return error_set(err, -ENOMEM, "no memory for %zu %s", n, field);
	*ret_ranges = ranges;
	*ret_n = n;
	for (size_t i = 0; i < n; i++) {
		if (in[i]->length == 0)
			return error_set(err, -EBADMSG, "%s[%zu].length is 0", field, i);
		ranges[i].gpa.addr = in[i]->guest_physical_address;
		ranges[i].length_bytes = in[i]->length;
	}
	return 0;
}

static int decode_poison(const Postcopy__Control__V1__Poison *in, struct control_request *ret,
                         struct error *err)
{
	int r = id_get(&in->migration_id, true, ret, err);

	if (r < 0)
		return r;
	if (in->n_ranges == 0)
		return error_set(err, -EBADMSG, "0 ranges, expected 1 to %d", POISON_RANGES_MAX);
	return poison_ranges_get(in->ranges, in->n_ranges, "ranges", &ret->poison.ranges,
	                         &ret->poison.n_ranges, err);
}

static int file_range_get(const Postcopy__Control__V1__ExportFile__Range *in, struct file_range *to,
                          struct error *err)
{
	int r = text_get(in->name, sizeof(to->name), TEXT_NAME, "name", to->name, err);

	if (r < 0)
		return r;
	to->gpa.addr = in->guest_physical_address;
	to->offset.off = in->offset;
	return lengths_get(in->length, in->page_size, &to->length_bytes, &to->page_size_bytes, err);
}

static int file_ranges_get(const Postcopy__Control__V1__ExportFile *in, struct control_request *ret,
                           struct error *err)
{
	struct file_range *ranges;

	if (in->n_ranges == 0 || in->n_ranges > REGIONS_MAX)
		return error_set(err, -EBADMSG, "%zu ranges, expected 1 to %d", in->n_ranges,
		                 REGIONS_MAX);
	ranges = calloc(in->n_ranges, sizeof(*ranges));
	if (!ranges)
		return error_set(err, -ENOMEM, "no memory for %zu ranges", in->n_ranges);
	ret->export_file.ranges = ranges;
	ret->export_file.n_ranges = in->n_ranges;
	for (size_t i = 0; i < in->n_ranges; i++) {
		int r = file_range_get(in->ranges[i], &ranges[i], err);

		if (r < 0) {
			error_prefix(err, "ranges[%zu]", i);
			return r;
		}
	}
	return 0;
}

static int decode_export_file(const Postcopy__Control__V1__ExportFile *in,
                              struct control_request *ret, struct error *err)
{
	int r = id_get(&in->migration_id, true, ret, err);

	if (r == 0)
		r = body_token_get(&in->token, "token", ret->export_file.token,
		                   &ret->export_file.token_len, err);
	if (r == 0)
		r = body_required_get(in->peer_identity, sizeof(ret->export_file.peer_identity),
		                      TEXT_GRAPHIC, "peer_identity", ret->export_file.peer_identity,
		                      err);
	if (r == 0)
		r = file_ranges_get(in, ret, err);
	if (r == 0)
		r = poison_ranges_get(in->poisoned, in->n_poisoned, "poisoned",
		                      &ret->export_file.poisoned, &ret->export_file.n_poisoned,
		                      err);
	return r;
}

static int decode_body(const PbRequest *in, struct control_request *ret, struct error *err)
{
	switch (ret->type) {
	case CONTROL_REQUEST_START:
		return decode_start(in->start, ret, err);
	case CONTROL_REQUEST_GET:
		return id_get(&in->get->migration_id, true, ret, err);
	case CONTROL_REQUEST_CANCEL:
		ret->cancel.force = in->cancel->force;
		return id_get(&in->cancel->migration_id, true, ret, err);
	case CONTROL_REQUEST_RECOVER:
		return decode_recover(in->recover, ret, err);
	case CONTROL_REQUEST_SET_LIMITS:
		ret->set_limits.bandwidth = in->set_limits->bandwidth;
		return id_get(&in->set_limits->migration_id, true, ret, err);
	case CONTROL_REQUEST_WATCH:
		ret->watch.interval_us = in->watch->interval_us;
		return id_get(&in->watch->migration_id, false, ret, err);
	case CONTROL_REQUEST_EXPORT_PROCESS:
		return decode_export_process(in->export_process, ret, err);
	case CONTROL_REQUEST_FREEZE:
		return id_get(&in->freeze->migration_id, true, ret, err);
	case CONTROL_REQUEST_POISON:
		return decode_poison(in->poison, ret, err);
	case CONTROL_REQUEST_EXPORT_FILE:
		return decode_export_file(in->export_file, ret, err);
	default: /* List and Probe have no fields */
		return 0;
	}
}

int control_request_decode(const uint8_t *buf, size_t len, struct control_request *ret,
                           struct error *err)
{
	struct control_request request = {.type = CONTROL_REQUEST_NONE};
	const PbRequest *in;
	struct wire_arena a;
	ProtobufCMessage *m;
	int r = body_unpack(&a, &postcopy__control__v1__request__descriptor, buf, len, &m, err);

	if (r < 0)
		return r;
	in = (const PbRequest *)m;
	request.id = in->id;
	if (in->request_case == POSTCOPY__CONTROL__V1__REQUEST__REQUEST__NOT_SET) {
		r = error_set(err, -EBADMSG, "Request of unknown type %u",
		              m->n_unknown_fields ? m->unknown_fields[0].tag : 0);
	} else {
		request.type = (enum control_request_type)(in->request_case - 1);
		r = decode_body(in, &request, err);
		if (r < 0)
			error_prefix(err, "%s", control_request_type_name(request.type));
	}
	wire_arena_fini(&a);
	if (r < 0)
		control_request_free(&request);
	else
		*ret = request;
	return r;
}

uint64_t control_request_id(const uint8_t *buf, size_t len)
{
	struct wire_arena a;
	ProtobufCMessage *m;
	uint64_t id;

	if (body_unpack(&a, &postcopy__control__v1__request__descriptor, buf, len, &m, NULL) < 0)
		return 0;
	id = ((const PbRequest *)m)->id;
	wire_arena_fini(&a);
	return id;
}

void control_request_free(struct control_request *r)
{
	if (r->type == CONTROL_REQUEST_EXPORT_PROCESS) {
		free(r->export_process.ranges);
	} else if (r->type == CONTROL_REQUEST_POISON) {
		free(r->poison.ranges);
	} else if (r->type == CONTROL_REQUEST_EXPORT_FILE) {
		free(r->export_file.ranges);
		free(r->export_file.poisoned);
	}
	*r = (struct control_request){.type = CONTROL_REQUEST_NONE};
}
