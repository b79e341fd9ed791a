/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a client asks, to bytes. Called by postcopyctl and by tests. Only what
 * the wire cannot carry is refused here; the daemon judges the rest.
 */
#include "wire/control_message.h"

#include <errno.h>

#include "control.pb-c.h"
#include "wire/body.h"

typedef Postcopy__Control__V1__Request PbRequest;

static ProtobufCBinaryData id_put(const struct control_request *r)
{
	if (!r->has_migration_id)
		return (ProtobufCBinaryData){.len = 0};
	return (ProtobufCBinaryData){sizeof(r->migration_id.bytes),
	                             (uint8_t *)r->migration_id.bytes};
}

static int encode_start(const struct control_request *r, PbRequest *out, uint8_t **ret,
                        size_t *ret_len)
{
	Postcopy__Control__V1__StartMigration m = POSTCOPY__CONTROL__V1__START_MIGRATION__INIT;
	int result = body_token_put(r->start.token, r->start.token_len, &m.token);

	if (result == 0)
		result = body_string_put(r->start.source, sizeof(r->start.source), TEXT_GRAPHIC,
		                         &m.source);
	if (result == 0)
		result = body_string_put(r->start.peer_identity, sizeof(r->start.peer_identity),
		                         TEXT_GRAPHIC, &m.peer_identity);
	if (result == 0 && r->start.firecracker_socket[0])
		result = body_string_put(r->start.firecracker_socket,
		                         sizeof(r->start.firecracker_socket), TEXT_GRAPHIC,
		                         &m.firecracker_socket);
	if (result < 0)
		return result;
	m.migration_id = id_put(r);
	m.lost_policy = (Postcopy__Control__V1__LostPolicy)r->start.lost_policy;
	m.lost_deadline_us = r->start.lost_deadline_us;
	m.bandwidth = r->start.bandwidth;
	m.stop_on_poison = r->start.stop_on_poison;
	out->start = &m;
	return body_pack(&out->base, ret, ret_len);
}

static int encode_recover(const struct control_request *r, PbRequest *out, uint8_t **ret,
                          size_t *ret_len)
{
	Postcopy__Control__V1__Recover m = POSTCOPY__CONTROL__V1__RECOVER__INIT;
	int result = body_string_put(r->recover.source, sizeof(r->recover.source), TEXT_GRAPHIC,
	                             &m.source);

	if (result < 0)
		return result;
	m.migration_id = id_put(r);
	out->recover = &m;
	return body_pack(&out->base, ret, ret_len);
}

static int encode_export_process(const struct control_request *r, PbRequest *out, uint8_t **ret,
                                 size_t *ret_len)
{
	Postcopy__Control__V1__ExportProcess m = POSTCOPY__CONTROL__V1__EXPORT_PROCESS__INIT;
	Postcopy__Control__V1__ExportProcess__Range ranges[REGIONS_MAX];
	Postcopy__Control__V1__ExportProcess__Range *ptrs[REGIONS_MAX];
	int result = body_token_put(r->export_process.token, r->export_process.token_len, &m.token);

	if (r->export_process.n_ranges > REGIONS_MAX)
		return -EINVAL;
	if (result == 0)
		result = body_string_put(r->export_process.peer_identity,
		                         sizeof(r->export_process.peer_identity), TEXT_GRAPHIC,
		                         &m.peer_identity);
	for (size_t i = 0; result == 0 && i < r->export_process.n_ranges; i++) {
		const struct process_range *from = &r->export_process.ranges[i];

		postcopy__control__v1__export_process__range__init(&ranges[i]);
		ranges[i].guest_physical_address = from->gpa.addr;
		ranges[i].host_virtual_address = from->hva.addr;
		ranges[i].length = from->length_bytes;
		ranges[i].page_size = from->page_size_bytes;
		ptrs[i] = &ranges[i];
		result =
		        body_string_put(from->name, sizeof(from->name), TEXT_NAME, &ranges[i].name);
	}
	if (result < 0)
		return result;
	m.migration_id = id_put(r);
	m.pid = r->export_process.pid;
	m.ranges = ptrs;
	m.n_ranges = r->export_process.n_ranges;
	out->export_process = &m;
	return body_pack(&out->base, ret, ret_len);
}

/* The message's array of these, in the arena, which is made here. -EINVAL, -ENOMEM. */
static int poison_ranges_put(const struct poison_range *from, size_t n, struct wire_arena *a,
                             Postcopy__Control__V1__Poison__Range ***ret)
{
	Postcopy__Control__V1__Poison__Range *ranges;

	if (n > POISON_RANGES_MAX)
		return -EINVAL;
	if (wire_arena_init(a, n * (sizeof(*ranges) + sizeof(**ret)) + 256) < 0)
		return -ENOMEM;
	ranges = wire_arena_alloc(a, n, sizeof(*ranges));
	*ret = wire_arena_alloc(a, n, sizeof(**ret));
	for (size_t i = 0; i < n; i++) {
		postcopy__control__v1__poison__range__init(&ranges[i]);
		ranges[i].guest_physical_address = from[i].gpa.addr;
		ranges[i].length = from[i].length_bytes;
		(*ret)[i] = &ranges[i];
	}
	return 0;
}

static int file_ranges_put(const struct control_request *r,
                           Postcopy__Control__V1__ExportFile__Range *ranges,
                           Postcopy__Control__V1__ExportFile__Range **ptrs)
{
	int result = 0;

	for (size_t i = 0; result == 0 && i < r->export_file.n_ranges; i++) {
		const struct file_range *from = &r->export_file.ranges[i];

		postcopy__control__v1__export_file__range__init(&ranges[i]);
		ranges[i].guest_physical_address = from->gpa.addr;
		ranges[i].offset = from->offset.off;
		ranges[i].length = from->length_bytes;
		ranges[i].page_size = from->page_size_bytes;
		ptrs[i] = &ranges[i];
		result =
		        body_string_put(from->name, sizeof(from->name), TEXT_NAME, &ranges[i].name);
	}
	return result;
}

static int encode_export_file(const struct control_request *r, PbRequest *out, uint8_t **ret,
                              size_t *ret_len)
{
	Postcopy__Control__V1__ExportFile m = POSTCOPY__CONTROL__V1__EXPORT_FILE__INIT;
	Postcopy__Control__V1__ExportFile__Range ranges[REGIONS_MAX];
	Postcopy__Control__V1__ExportFile__Range *ptrs[REGIONS_MAX];
	struct wire_arena a;
	int result = body_token_put(r->export_file.token, r->export_file.token_len, &m.token);

	if (r->export_file.n_ranges > REGIONS_MAX)
		return -EINVAL;
	if (result == 0)
		result = body_string_put(r->export_file.peer_identity,
		                         sizeof(r->export_file.peer_identity), TEXT_GRAPHIC,
		                         &m.peer_identity);
	if (result == 0)
		result = file_ranges_put(r, ranges, ptrs);
	if (result == 0)
		result = poison_ranges_put(r->export_file.poisoned, r->export_file.n_poisoned, &a,
		                           &m.poisoned);
	if (result < 0)
		return result;
	m.migration_id = id_put(r);
	m.ranges = ptrs;
	m.n_ranges = r->export_file.n_ranges;
	m.n_poisoned = r->export_file.n_poisoned;
	out->export_file = &m;
	result = body_pack(&out->base, ret, ret_len);
	wire_arena_fini(&a);
	return result;
}

static int encode_poison(const struct control_request *r, PbRequest *out, uint8_t **ret,
                         size_t *ret_len)
{
	Postcopy__Control__V1__Poison m = POSTCOPY__CONTROL__V1__POISON__INIT;
	struct wire_arena a;
	int result = poison_ranges_put(r->poison.ranges, r->poison.n_ranges, &a, &m.ranges);

	if (result < 0)
		return result;
	m.n_ranges = r->poison.n_ranges;
	m.migration_id = id_put(r);
	out->poison = &m;
	result = body_pack(&out->base, ret, ret_len);
	wire_arena_fini(&a);
	return result;
}

/* The requests of a number or two, all in one place. */
static int encode_small(const struct control_request *r, PbRequest *out, uint8_t **ret,
                        size_t *ret_len)
{
	Postcopy__Control__V1__List list = POSTCOPY__CONTROL__V1__LIST__INIT;
	Postcopy__Control__V1__Get get = POSTCOPY__CONTROL__V1__GET__INIT;
	Postcopy__Control__V1__Cancel cancel = POSTCOPY__CONTROL__V1__CANCEL__INIT;
	Postcopy__Control__V1__SetLimits limits = POSTCOPY__CONTROL__V1__SET_LIMITS__INIT;
	Postcopy__Control__V1__Watch watch = POSTCOPY__CONTROL__V1__WATCH__INIT;
	Postcopy__Control__V1__Probe probe = POSTCOPY__CONTROL__V1__PROBE__INIT;
	Postcopy__Control__V1__Freeze freeze = POSTCOPY__CONTROL__V1__FREEZE__INIT;

	get.migration_id = cancel.migration_id = limits.migration_id = id_put(r);
	watch.migration_id = freeze.migration_id = id_put(r);
	if (r->type == CONTROL_REQUEST_LIST) {
		out->list = &list;
	} else if (r->type == CONTROL_REQUEST_GET) {
		out->get = &get;
	} else if (r->type == CONTROL_REQUEST_CANCEL) {
		cancel.force = r->cancel.force;
		out->cancel = &cancel;
	} else if (r->type == CONTROL_REQUEST_SET_LIMITS) {
		limits.bandwidth = r->set_limits.bandwidth;
		out->set_limits = &limits;
	} else if (r->type == CONTROL_REQUEST_WATCH) {
		watch.interval_us = r->watch.interval_us;
		out->watch = &watch;
	} else if (r->type == CONTROL_REQUEST_PROBE) {
		out->probe = &probe;
	} else if (r->type == CONTROL_REQUEST_FREEZE) {
		out->freeze = &freeze;
	} else {
		return -EINVAL;
	}
	return body_pack(&out->base, ret, ret_len);
}

int control_request_encode(const struct control_request *r, uint8_t **ret, size_t *ret_len)
{
	PbRequest out = POSTCOPY__CONTROL__V1__REQUEST__INIT;

	out.id = r->id;
	out.request_case = (Postcopy__Control__V1__Request__RequestCase)(r->type + 1);
	switch (r->type) {
	case CONTROL_REQUEST_START:
		return encode_start(r, &out, ret, ret_len);
	case CONTROL_REQUEST_RECOVER:
		return encode_recover(r, &out, ret, ret_len);
	case CONTROL_REQUEST_EXPORT_PROCESS:
		return encode_export_process(r, &out, ret, ret_len);
	case CONTROL_REQUEST_POISON:
		return encode_poison(r, &out, ret, ret_len);
	case CONTROL_REQUEST_EXPORT_FILE:
		return encode_export_file(r, &out, ret, ret_len);
	default:
		return encode_small(r, &out, ret, ret_len);
	}
}
