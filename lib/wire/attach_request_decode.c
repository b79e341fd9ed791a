/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a VMM asked on the attach or export socket, decoded and checked. Called
 * by both daemons. Addresses, overlaps and descriptors are theirs to check:
 * only they know the memory.
 */
#include "wire/attach_message.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "attach.pb-c.h"
#include "wire/body.h"

typedef Postcopy__Attach__V1__AttachRequest PbRequest;

static int check_count(size_t n, size_t max, const char *field, struct error *err)
{
	if (n == 0 || n > max)
		return error_set(err, -EBADMSG, "%s has %zu entries, expected 1 to %zu", field, n,
		                 max);
	return 0;
}

static int check_memory(uint64_t length_bytes, uint64_t page_size_bytes, int backing,
                        struct error *err)
{
	if (length_bytes == 0)
		return error_set(err, -EBADMSG, "length is 0");
	if (!is_power_of_two(page_size_bytes) || page_size_bytes < WIRE_PAGE_SIZE)
		return error_set(err, -EBADMSG,
		                 "page_size %" PRIu64 " is not a power of two of at least 4096",
		                 page_size_bytes);
	if (backing < BACKING_ANONYMOUS || backing > BACKING_HUGETLB)
		return error_set(err, -EBADMSG,
		                 "backing is %d, expected 1 (anonymous), 2 (memfd) or 3 (hugetlb)",
		                 backing);
	return 0;
}

static int check_fd_index(uint32_t fd, struct error *err)
{
	if (fd >= ATTACH_FDS_MAX)
		return error_set(err, -EBADMSG, "fd is %" PRIu32 ", expected an index below %d", fd,
		                 ATTACH_FDS_MAX);
	return 0;
}

static int attach_region_get(const Postcopy__Attach__V1__AttachRegion *in, uint32_t n_uffds,
                             struct attach_region *to, struct error *err)
{
	int mode = (int)in->mode;
	int r = text_get(in->name, sizeof(to->name), TEXT_NAME, "name", to->name, err);

	if (r == 0)
		r = check_memory(in->length, in->page_size, (int)in->backing, err);
	if (r == 0 && in->has_fd)
		r = check_fd_index(in->fd, err);
	if (r < 0)
		return r;
	if (mode != UFFD_MODE_MISSING && mode != UFFD_MODE_MINOR)
		return error_set(err, -EBADMSG, "mode is %d, expected 1 (missing) or 2 (minor)",
		                 mode);
	if (in->uffd >= n_uffds)
		return error_set(err, -EBADMSG,
		                 "uffd is %" PRIu32
		                 ", expected an index below Attach.uffds %" PRIu32,
		                 in->uffd, n_uffds);
	to->gpa.addr = in->guest_physical_address;
	to->hva.addr = in->host_virtual_address;
	to->length_bytes = in->length;
	to->page_size_bytes = in->page_size;
	to->backing = (enum backing)in->backing;
	to->mode = (enum uffd_mode)mode;
	to->uffd = in->uffd;
	to->has_fd = in->has_fd;
	to->fd = in->fd;
	to->fd_offset.off = in->fd_offset;
	to->registered = in->registered;
	to->fully_allocated = in->fully_allocated;
	return 0;
}

static int export_region_get(const Postcopy__Attach__V1__ExportRegion *in, struct export_region *to,
                             struct error *err)
{
	int r = text_get(in->name, sizeof(to->name), TEXT_NAME, "name", to->name, err);

	if (r == 0)
		r = check_memory(in->length, in->page_size, (int)in->backing, err);
	if (r == 0)
		r = check_fd_index(in->fd, err);
	if (r < 0)
		return r;
	to->gpa.addr = in->guest_physical_address;
	to->length_bytes = in->length;
	to->page_size_bytes = in->page_size;
	to->backing = (enum backing)in->backing;
	to->fd = in->fd;
	to->fd_offset.off = in->fd_offset;
	return 0;
}

static int check_version(uint32_t version, const char *field, struct error *err)
{
	if (version == 0)
		return error_set(err, -EBADMSG, "%s is 0, expected at least 1", field);
	return 0;
}

static int decode_attach(const Postcopy__Attach__V1__Attach *in, struct attach_request *ret,
                         struct error *err)
{
	int r = check_version(in->version, "Attach.version", err);

	if (r == 0)
		r = body_uuid_get(&in->migration_id, "Attach.migration_id", &ret->migration_id,
		                  err);
	if (r == 0)
		r = body_token_get(&in->token, "Attach.token", ret->token, &ret->token_len, err);
	if (r == 0)
		r = check_count(in->n_regions, REGIONS_MAX, "Attach.regions", err);
	if (r < 0)
		return r;
	if (in->uffds == 0 || in->uffds > ATTACH_UFFDS_MAX)
		return error_set(err, -EBADMSG, "Attach.uffds is %" PRIu32 ", expected 1 to %d",
		                 in->uffds, ATTACH_UFFDS_MAX);
	ret->version = in->version;
	ret->attach.n_uffds = in->uffds;
	ret->attach.regions = calloc(in->n_regions, sizeof(*ret->attach.regions));
	if (!ret->attach.regions)
		return error_set(err, -ENOMEM, "no memory for %zu regions", in->n_regions);
	ret->attach.n_regions = in->n_regions;
	for (size_t i = 0; r == 0 && i < in->n_regions; i++) {
		r = attach_region_get(in->regions[i], in->uffds, &ret->attach.regions[i], err);
		if (r < 0)
			error_prefix(err, "Attach.regions[%zu]", i);
	}
	return r;
}

static int decode_export(const Postcopy__Attach__V1__Export *in, struct attach_request *ret,
                         struct error *err)
{
	int r = check_version(in->version, "Export.version", err);

	if (r == 0)
		r = body_uuid_get(&in->migration_id, "Export.migration_id", &ret->migration_id,
		                  err);
	if (r == 0)
		r = body_token_get(&in->token, "Export.token", ret->token, &ret->token_len, err);
	if (r == 0)
		r = body_required_get(in->peer_identity, sizeof(ret->export.peer_identity),
		                      TEXT_GRAPHIC, "Export.peer_identity",
		                      ret->export.peer_identity, err);
	if (r == 0)
		r = check_count(in->n_regions, REGIONS_MAX, "Export.regions", err);
	if (r < 0)
		return r;
	ret->version = in->version;
	ret->export.regions = calloc(in->n_regions, sizeof(*ret->export.regions));
	if (!ret->export.regions)
		return error_set(err, -ENOMEM, "no memory for %zu regions", in->n_regions);
	ret->export.n_regions = in->n_regions;
	for (size_t i = 0; r == 0 && i < in->n_regions; i++) {
		r = export_region_get(in->regions[i], &ret->export.regions[i], err);
		if (r < 0)
			error_prefix(err, "Export.regions[%zu]", i);
	}
	return r;
}

static int decode_report_poison(const Postcopy__Attach__V1__ReportPoison *in,
                                struct attach_request *ret, struct error *err)
{
	struct poison_range *ranges;
	int r = check_count(in->n_ranges, POISON_RANGES_MAX, "ReportPoison.ranges", err);

	if (r < 0)
		return r;
	ranges = calloc(in->n_ranges, sizeof(*ranges));
	if (!ranges)
		return error_set(err, -ENOMEM, "no memory for %zu ranges", in->n_ranges);
	ret->report_poison.ranges = ranges;
	ret->report_poison.n_ranges = in->n_ranges;
	for (size_t i = 0; i < in->n_ranges; i++) {
		if (in->ranges[i]->length == 0)
			return error_set(err, -EBADMSG, "ReportPoison.ranges[%zu].length is 0", i);
		ranges[i].gpa.addr = in->ranges[i]->guest_physical_address;
		ranges[i].length_bytes = in->ranges[i]->length;
	}
	return 0;
}

static int populated_range_get(const Postcopy__Attach__V1__PopulatedRange *in,
                               struct populated_range *to, struct error *err)
{
	uint64_t gpa = in->guest_physical_address;
	int fate = (int)in->fate, r = body_pages_check(gpa, in->length, err);

	if (r < 0)
		return r;
	if (fate < PAGE_FATE_HERE || fate > PAGE_FATE_NOT_YET)
		return error_set(err, -EBADMSG,
		                 "fate is %d, expected 1 (here), 2 (poisoned), 3 (lost) or 4 (not "
		                 "yet)",
		                 fate);
	to->range = (struct poison_range){{gpa}, in->length};
	to->fate = (enum page_fate)fate;
	return 0;
}

static int decode_populated(const Postcopy__Attach__V1__Populated *in, struct attach_request *ret,
                            struct error *err)
{
	int r = 0;

	if (in->n_ranges > POISON_RANGES_MAX)
		return error_set(err, -EBADMSG, "Populated.ranges has %zu entries, at most %d",
		                 in->n_ranges, POISON_RANGES_MAX);
	ret->populated.number = in->number;
	ret->populated.all = in->all;
	if (in->n_ranges == 0)
		return 0;
	ret->populated.ranges = calloc(in->n_ranges, sizeof(*ret->populated.ranges));
	if (!ret->populated.ranges)
		return error_set(err, -ENOMEM, "no memory for %zu ranges", in->n_ranges);
	ret->populated.n_ranges = in->n_ranges;
	for (size_t i = 0; r == 0 && i < in->n_ranges; i++) {
		r = populated_range_get(in->ranges[i], &ret->populated.ranges[i], err);
		if (r < 0)
			error_prefix(err, "Populated.ranges[%zu]", i);
	}
	return r;
}

static int decode_body(const PbRequest *in, struct attach_request *ret, struct error *err)
{
	/* The type first: attach_request_free() needs it to find what to release. */
	ret->type = (enum attach_request_type)in->request_case;
	ret->id = in->id;
	if (in->request_case == POSTCOPY__ATTACH__V1__ATTACH_REQUEST__REQUEST_EXPORT_INBOUND) {
		ret->type = ATTACH_REQUEST_EXPORT;
		ret->export.inbound = true;
		return decode_export(in->export_inbound, ret, err);
	}
	switch (ret->type) {
	case ATTACH_REQUEST_ATTACH:
		return decode_attach(in->attach, ret, err);
	case ATTACH_REQUEST_ATTACH_MAPPING:
		return decode_attach(in->attach_mapping, ret, err);
	case ATTACH_REQUEST_EXPORT:
		return decode_export(in->export, ret, err);
	case ATTACH_REQUEST_FREEZE:
		return 0;
	case ATTACH_REQUEST_REPORT_POISON:
		return decode_report_poison(in->report_poison, ret, err);
	case ATTACH_REQUEST_WITHDRAW:
		ret->withdraw.force = in->withdraw->force;
		return 0;
	case ATTACH_REQUEST_LIST_POISON:
		ret->list_poison.from.addr = in->list_poison->guest_physical_address;
		return 0;
	case ATTACH_REQUEST_POPULATED:
		return decode_populated(in->populated, ret, err);
	case ATTACH_REQUEST_NONE:
		break;
	}
	return error_set(err, -EBADMSG, "AttachRequest of unknown type %u",
	                 in->base.n_unknown_fields ? in->base.unknown_fields[0].tag : 0);
}

int attach_request_decode(const uint8_t *buf, size_t len, struct attach_request *ret,
                          struct error *err)
{
	struct attach_request request = {.type = ATTACH_REQUEST_NONE};
	struct wire_arena a;
	ProtobufCMessage *m;
	int r = body_unpack(&a, &postcopy__attach__v1__attach_request__descriptor, buf, len, &m,
	                    err);

	if (r < 0)
		return r;
	r = decode_body((const PbRequest *)m, &request, err);
	wire_arena_fini(&a);
	if (r < 0) {
		attach_request_free(&request);
		return r;
	}
	*ret = request;
	return 0;
}

void attach_request_free(struct attach_request *r)
{
	if (r->type == ATTACH_REQUEST_ATTACH || r->type == ATTACH_REQUEST_ATTACH_MAPPING)
		free(r->attach.regions);
	else if (r->type == ATTACH_REQUEST_EXPORT)
		free(r->export.regions);
	else if (r->type == ATTACH_REQUEST_REPORT_POISON)
		free(r->report_poison.ranges);
	else if (r->type == ATTACH_REQUEST_POPULATED)
		free(r->populated.ranges);
	*r = (struct attach_request){.type = ATTACH_REQUEST_NONE};
}
