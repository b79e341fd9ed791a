/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a VMM asks, to bytes. Called by libpostcopy. Only what the wire cannot
 * carry is refused here; the daemon judges the rest and says why.
 */
#include "wire/attach_message.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "attach.pb-c.h"
#include "wire/body.h"

/* attach_request_decode() and this file take a request's type for its field number. */
#define PB_CASE(name) POSTCOPY__ATTACH__V1__ATTACH_REQUEST__REQUEST_##name
static_assert((int)ATTACH_REQUEST_ATTACH == PB_CASE(ATTACH), "types");
static_assert((int)ATTACH_REQUEST_EXPORT == PB_CASE(EXPORT), "types");
static_assert((int)ATTACH_REQUEST_FREEZE == PB_CASE(FREEZE), "types");
static_assert((int)ATTACH_REQUEST_REPORT_POISON == PB_CASE(REPORT_POISON), "types");
static_assert((int)ATTACH_REQUEST_WITHDRAW == PB_CASE(WITHDRAW), "types");
static_assert((int)ATTACH_REQUEST_LIST_POISON == PB_CASE(LIST_POISON), "types");
static_assert((int)ATTACH_REQUEST_ATTACH_MAPPING == PB_CASE(ATTACH_MAPPING), "types");
static_assert((int)ATTACH_REQUEST_POPULATED == PB_CASE(POPULATED), "types");

/* Room for n records of one array: each a message and a pointer, with their heads. */
#define ARENA_BYTES(n, message) ((n) * (sizeof(message) + sizeof(void *) + 32) + 256)

static int attach_region_put(const struct attach_region *from,
                             Postcopy__Attach__V1__AttachRegion *to)
{
	postcopy__attach__v1__attach_region__init(to);
	to->guest_physical_address = from->gpa.addr;
	to->host_virtual_address = from->hva.addr;
	to->length = from->length_bytes;
	to->page_size = from->page_size_bytes;
	to->backing = (Postcopy__Attach__V1__Backing)from->backing;
	to->mode = (Postcopy__Attach__V1__Mode)from->mode;
	to->uffd = from->uffd;
	to->has_fd = from->has_fd;
	to->fd = from->fd;
	to->fd_offset = from->fd_offset.off;
	to->registered = from->registered;
	to->fully_allocated = from->fully_allocated;
	return body_string_put(from->name, sizeof(from->name), TEXT_NAME, &to->name);
}

static int export_region_put(const struct export_region *from,
                             Postcopy__Attach__V1__ExportRegion *to)
{
	postcopy__attach__v1__export_region__init(to);
	to->guest_physical_address = from->gpa.addr;
	to->length = from->length_bytes;
	to->page_size = from->page_size_bytes;
	to->backing = (Postcopy__Attach__V1__Backing)from->backing;
	to->fd = from->fd;
	to->fd_offset = from->fd_offset.off;
	return body_string_put(from->name, sizeof(from->name), TEXT_NAME, &to->name);
}

static int encode_attach(const struct attach_request *r, Postcopy__Attach__V1__AttachRequest *out,
                         uint8_t **ret, size_t *ret_len)
{
	Postcopy__Attach__V1__Attach attach = POSTCOPY__ATTACH__V1__ATTACH__INIT;
	Postcopy__Attach__V1__AttachRegion regions[REGIONS_MAX];
	Postcopy__Attach__V1__AttachRegion *ptrs[REGIONS_MAX];
	int result = body_token_put(r->token, r->token_len, &attach.token);

	for (size_t i = 0; result == 0 && i < r->attach.n_regions; i++) {
		ptrs[i] = &regions[i];
		result = attach_region_put(&r->attach.regions[i], &regions[i]);
	}
	if (result < 0)
		return result;
	attach.version = r->version;
	attach.migration_id.data = (uint8_t *)r->migration_id.bytes;
	attach.migration_id.len = sizeof(r->migration_id.bytes);
	attach.uffds = r->attach.n_uffds;
	attach.regions = ptrs;
	attach.n_regions = r->attach.n_regions;
	if (r->type == ATTACH_REQUEST_ATTACH)
		out->attach = &attach;
	else
		out->attach_mapping = &attach;
	return body_pack(&out->base, ret, ret_len);
}

static int encode_export(const struct attach_request *r, Postcopy__Attach__V1__AttachRequest *out,
                         uint8_t **ret, size_t *ret_len)
{
	Postcopy__Attach__V1__Export export = POSTCOPY__ATTACH__V1__EXPORT__INIT;
	Postcopy__Attach__V1__ExportRegion regions[REGIONS_MAX];
	Postcopy__Attach__V1__ExportRegion *ptrs[REGIONS_MAX];
	int result = body_token_put(r->token, r->token_len, &export.token);

	if (result == 0)
		result = body_string_put(r->export.peer_identity, sizeof(r->export.peer_identity),
		                         TEXT_GRAPHIC, &export.peer_identity);
	for (size_t i = 0; result == 0 && i < r->export.n_regions; i++) {
		ptrs[i] = &regions[i];
		result = export_region_put(&r->export.regions[i], &regions[i]);
	}
	if (result < 0)
		return result;
	export.version = r->version;
	export.migration_id.data = (uint8_t *)r->migration_id.bytes;
	export.migration_id.len = sizeof(r->migration_id.bytes);
	export.regions = ptrs;
	export.n_regions = r->export.n_regions;
	if (r->export.inbound) {
		out->request_case = PB_CASE(EXPORT_INBOUND);
		out->export_inbound = &export;
	} else {
		out->export = &export;
	}
	return body_pack(&out->base, ret, ret_len);
}

static int encode_report_poison(const struct attach_request *r,
                                Postcopy__Attach__V1__AttachRequest *out, uint8_t **ret,
                                size_t *ret_len)
{
	Postcopy__Attach__V1__ReportPoison report = POSTCOPY__ATTACH__V1__REPORT_POISON__INIT;
	size_t n = r->report_poison.n_ranges;
	Postcopy__Attach__V1__PoisonRange *ranges;
	struct wire_arena a;
	int result;

	if (n > POISON_RANGES_MAX)
		return -EINVAL;
	if (wire_arena_init(&a, ARENA_BYTES(n, *ranges)) < 0)
		return -ENOMEM;
	ranges = wire_arena_alloc(&a, n, sizeof(*ranges));
	report.ranges = wire_arena_alloc(&a, n, sizeof(*report.ranges));
	report.n_ranges = n;
	for (size_t i = 0; i < n; i++) {
		postcopy__attach__v1__poison_range__init(&ranges[i]);
		ranges[i].guest_physical_address = r->report_poison.ranges[i].gpa.addr;
		ranges[i].length = r->report_poison.ranges[i].length_bytes;
		report.ranges[i] = &ranges[i];
	}
	out->report_poison = &report;
	result = body_pack(&out->base, ret, ret_len);
	wire_arena_fini(&a);
	return result;
}

static int encode_populated(const struct attach_request *r,
                            Postcopy__Attach__V1__AttachRequest *out, uint8_t **ret,
                            size_t *ret_len)
{
	Postcopy__Attach__V1__Populated populated = POSTCOPY__ATTACH__V1__POPULATED__INIT;
	size_t n = r->populated.n_ranges;
	Postcopy__Attach__V1__PopulatedRange *ranges;
	struct wire_arena a;
	int result;

	if (n > POISON_RANGES_MAX)
		return -EINVAL;
	if (wire_arena_init(&a, ARENA_BYTES(n, *ranges)) < 0)
		return -ENOMEM;
	ranges = wire_arena_alloc(&a, n, sizeof(*ranges));
	populated.ranges = wire_arena_alloc(&a, n, sizeof(*populated.ranges));
	populated.n_ranges = n;
	for (size_t i = 0; i < n; i++) {
		const struct populated_range *from = &r->populated.ranges[i];

		postcopy__attach__v1__populated_range__init(&ranges[i]);
		ranges[i].guest_physical_address = from->range.gpa.addr;
		ranges[i].length = from->range.length_bytes;
		ranges[i].fate = (Postcopy__Attach__V1__Fate)from->fate;
		populated.ranges[i] = &ranges[i];
	}
	populated.number = r->populated.number;
	populated.all = r->populated.all;
	out->populated = &populated;
	result = body_pack(&out->base, ret, ret_len);
	wire_arena_fini(&a);
	return result;
}

int attach_request_encode(const struct attach_request *r, uint8_t **ret, size_t *ret_len)
{
	Postcopy__Attach__V1__AttachRequest out = POSTCOPY__ATTACH__V1__ATTACH_REQUEST__INIT;
	Postcopy__Attach__V1__Freeze freeze = POSTCOPY__ATTACH__V1__FREEZE__INIT;
	Postcopy__Attach__V1__Withdraw withdraw = POSTCOPY__ATTACH__V1__WITHDRAW__INIT;
	Postcopy__Attach__V1__ListPoison list = POSTCOPY__ATTACH__V1__LIST_POISON__INIT;

	out.request_case = (Postcopy__Attach__V1__AttachRequest__RequestCase)r->type;
	out.id = r->id;
	switch (r->type) {
	case ATTACH_REQUEST_ATTACH:
	case ATTACH_REQUEST_ATTACH_MAPPING:
		if (r->attach.n_regions > REGIONS_MAX || r->attach.n_uffds > ATTACH_UFFDS_MAX)
			return -EINVAL;
		return encode_attach(r, &out, ret, ret_len);
	case ATTACH_REQUEST_EXPORT:
		if (r->export.n_regions > REGIONS_MAX)
			return -EINVAL;
		return encode_export(r, &out, ret, ret_len);
	case ATTACH_REQUEST_FREEZE:
		out.freeze = &freeze;
		return body_pack(&out.base, ret, ret_len);
	case ATTACH_REQUEST_REPORT_POISON:
		return encode_report_poison(r, &out, ret, ret_len);
	case ATTACH_REQUEST_WITHDRAW:
		withdraw.force = r->withdraw.force;
		out.withdraw = &withdraw;
		return body_pack(&out.base, ret, ret_len);
	case ATTACH_REQUEST_LIST_POISON:
		list.guest_physical_address = r->list_poison.from.addr;
		out.list_poison = &list;
		return body_pack(&out.base, ret, ret_len);
	case ATTACH_REQUEST_POPULATED:
		return encode_populated(r, &out, ret, ret_len);
	case ATTACH_REQUEST_NONE:
		break;
	}
	return -EINVAL;
}
