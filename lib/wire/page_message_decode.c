/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bytes to page messages. Called by both daemons for every frame of a peer.
 *
 * All memory comes from the decoder's arena, which each decode starts anew.
 * *ret is written only when the whole message is good. Nothing is believed:
 * what the header promises about a message is checked here, once.
 */
#include "wire/page_message.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "postcopy.pb-c.h"
#include "wire/arena.h"
#include "wire/page_runs.h"
#include "wire/text.h"

#define DECODER_ARENA_BYTES (512 * 1024)

struct page_decoder {
	struct wire_arena arena;
};

int page_decoder_new(struct page_decoder **ret)
{
	struct page_decoder *d = calloc(1, sizeof(*d));

	if (!d)
		return -ENOMEM;
	if (wire_arena_init(&d->arena, DECODER_ARENA_BYTES) < 0) {
		free(d);
		return -ENOMEM;
	}
	*ret = d;
	return 0;
}

struct page_decoder *page_decoder_free(struct page_decoder *d)
{
	if (d)
		wire_arena_fini(&d->arena);
	free(d);
	return NULL;
}

static int check_versions(const Postcopy__V1__Hello *in, struct error *err)
{
	if (in->version == 0)
		return error_set(err, -EBADMSG, "Hello.version is 0, expected at least 1");
	if (in->version_min == 0 || in->version_min > in->version)
		return error_set(err, -EBADMSG,
		                 "Hello.version_min is %" PRIu32 ", expected 1 to version %" PRIu32,
		                 in->version_min, in->version);
	return 0;
}

static int decode_hello(const Postcopy__V1__Hello *in, struct page_message *ret, struct error *err)
{
	int r = check_versions(in, err);

	if (r < 0)
		return r;
	if (in->migration_id.len != sizeof(ret->hello.migration_id.bytes))
		return error_set(err, -EBADMSG, "Hello.migration_id has %zu bytes, expected 16",
		                 in->migration_id.len);
	if (in->token.len < TOKEN_BYTES_MIN || in->token.len > TOKEN_BYTES_MAX)
		return error_set(err, -EBADMSG, "Hello.token has %zu bytes, expected %d to %d",
		                 in->token.len, TOKEN_BYTES_MIN, TOKEN_BYTES_MAX);
	if ((int)in->role != LINK_ROLE_URGENT && (int)in->role != LINK_ROLE_BULK)
		return error_set(err, -EBADMSG, "Hello.role is %d, expected 1 (urgent) or 2 (bulk)",
		                 (int)in->role);
	ret->hello.version = in->version;
	ret->hello.version_min = in->version_min;
	memcpy(ret->hello.migration_id.bytes, in->migration_id.data, in->migration_id.len);
	memcpy(ret->hello.token, in->token.data, in->token.len);
	ret->hello.token_len = in->token.len;
	ret->hello.role = (enum link_role)in->role;
	ret->hello.lane = in->lane;
	return 0;
}

static int check_region_sizes(const Postcopy__V1__Region *in, struct error *err)
{
	if (in->length == 0 || !is_aligned(in->length, WIRE_PAGE_SIZE))
		return error_set(err, -EBADMSG,
		                 "length %" PRIu64 " is not a positive multiple of 4096",
		                 in->length);
	if (!is_aligned(in->guest_physical_address, WIRE_PAGE_SIZE))
		return error_set(err, -EBADMSG,
		                 "guest_physical_address 0x%" PRIx64 " is not a multiple of 4096",
		                 in->guest_physical_address);
	if (in->length - 1 > UINT64_MAX - in->guest_physical_address)
		return error_set(err, -EBADMSG,
		                 "guest_physical_address 0x%" PRIx64 " + length %" PRIu64
		                 " wraps around",
		                 in->guest_physical_address, in->length);
	if (!is_power_of_two(in->page_size) || in->page_size < WIRE_PAGE_SIZE)
		return error_set(err, -EBADMSG,
		                 "page_size %" PRIu64 " is not a power of two of at least 4096",
		                 in->page_size);
	if (!is_aligned(in->length, in->page_size))
		return error_set(err, -EBADMSG,
		                 "length %" PRIu64 " is not a multiple of page_size %" PRIu64,
		                 in->length, in->page_size);
	return 0;
}

static int decode_region(const Postcopy__V1__Region *in, struct wire_region *to, struct error *err)
{
	int r = text_get(in->name, sizeof(to->name), TEXT_NAME, "name", to->name, err);

	if (r == 0)
		r = check_region_sizes(in, err);
	if (r < 0)
		return r;
	to->gpa.addr = in->guest_physical_address;
	to->length_bytes = in->length;
	to->page_size_bytes = in->page_size;
	return 0;
}

/* What concerns all regions so far: names are unique, page numbers do not overflow. */
static int check_region_table(const struct wire_region *regions, size_t n, uint64_t *total_bytes,
                              struct error *err)
{
	const struct wire_region *last = &regions[n - 1];

	if (__builtin_add_overflow(*total_bytes, last->length_bytes, total_bytes))
		return error_set(err, -EBADMSG, "all regions together have over 2^64 bytes");
	for (size_t i = 0; i < n - 1; i++) {
		if (strcmp(regions[i].name, last->name) == 0)
			return error_set(err, -EBADMSG, "name \"%s\" is also that of region %zu",
			                 last->name, i);
	}
	return 0;
}

static int decode_hello_ack(struct page_decoder *d, const Postcopy__V1__HelloAck *in,
                            struct page_message *ret, struct error *err)
{
	struct wire_region *regions;
	uint64_t total_bytes = 0;

	if (in->version == 0)
		return error_set(err, -EBADMSG, "HelloAck.version is 0, expected at least 1");
	if (in->n_regions == 0 || in->n_regions > REGIONS_MAX)
		return error_set(err, -EBADMSG, "HelloAck has %zu regions, expected 1 to %d",
		                 in->n_regions, REGIONS_MAX);
	regions = wire_arena_alloc(&d->arena, in->n_regions, sizeof(*regions));
	if (!regions)
		return error_set(err, -EBADMSG, "HelloAck is too large to decode");
	for (size_t i = 0; i < in->n_regions; i++) {
		int r = decode_region(in->regions[i], &regions[i], err);

		if (r == 0)
			r = check_region_table(regions, i + 1, &total_bytes, err);
		if (r < 0) {
			error_prefix(err, "HelloAck.regions[%zu]", i);
			return r;
		}
	}
	ret->hello_ack.version = in->version;
	ret->hello_ack.regions = regions;
	ret->hello_ack.n_regions = in->n_regions;
	ret->hello_ack.frozen = in->frozen;
	ret->hello_ack.poisoned_pages = in->poisoned_pages;
	return 0;
}

static int decode_page_request(struct page_decoder *d, const Postcopy__V1__PageRequest *in,
                               struct page_message *ret, struct error *err)
{
	if (in->id == 0)
		return error_set(err, -EBADMSG, "PageRequest.id is 0, which is the stream's");
	ret->page_request.id = in->id;
	return page_runs_decode(&d->arena, "PageRequest", in->runs, in->n_runs, false,
	                        &ret->page_request.runs, NULL, err);
}

static int decode_pages(struct page_decoder *d, const Postcopy__V1__Pages *in,
                        const struct frame *frame, struct page_message *ret, struct error *err)
{
	uint64_t data_pages = 0;
	int r = page_runs_decode(&d->arena, "Pages", in->runs, in->n_runs, true, &ret->pages.runs,
	                         &data_pages, err);

	if (r < 0)
		return r;
	if (frame->payload_len != data_pages * WIRE_PAGE_SIZE)
		return error_set(err, -EBADMSG,
		                 "Pages has a payload of %zu bytes, expected %" PRIu64
		                 " for its %" PRIu64 " data pages",
		                 frame->payload_len, data_pages * WIRE_PAGE_SIZE, data_pages);
	ret->pages.id = in->id;
	ret->pages.bytes = frame->payload;
	ret->pages.bytes_len = frame->payload_len;
	return 0;
}

static int decode_poison_notice(struct page_decoder *d, const Postcopy__V1__PoisonNotice *in,
                                struct page_message *ret, struct error *err)
{
	int reason = (int)in->reason;

	if (reason < POISON_REASON_REPORTED || reason > POISON_REASON_INHERITED)
		return error_set(err, -EBADMSG,
		                 "PoisonNotice.reason is %d, expected 1 (reported), 2 (read error) "
		                 "or 3 (inherited)",
		                 reason);
	ret->poison_notice.reason = (enum poison_reason)reason;
	return page_runs_decode(&d->arena, "PoisonNotice", in->runs, in->n_runs, false,
	                        &ret->poison_notice.runs, NULL, err);
}

static int decode_stream_control(const Postcopy__V1__StreamControl *in, struct page_message *ret,
                                 struct error *err)
{
	if (in->has_position && in->position >= PAGE_NUMBER_LIMIT)
		return error_set(err, -EBADMSG,
		                 "StreamControl.position %" PRIu64
		                 " is over the largest page number",
		                 in->position);
	ret->stream_control.has_position = in->has_position;
	ret->stream_control.position = in->position;
	ret->stream_control.window = in->window;
	ret->stream_control.has_bandwidth = in->has_bandwidth;
	ret->stream_control.bandwidth = in->bandwidth;
	return 0;
}

static int check_resume_range(const Postcopy__V1__Resume *in, struct error *err)
{
	if (!is_power_of_two(in->unit_pages))
		return error_set(err, -EBADMSG,
		                 "Resume.unit_pages is %" PRIu32 ", expected a power of two",
		                 in->unit_pages);
	if (!is_aligned(in->count, in->unit_pages))
		return error_set(err, -EBADMSG,
		                 "Resume.count %" PRIu64
		                 " is not a multiple of unit_pages %" PRIu32,
		                 in->count, in->unit_pages);
	if (in->first > PAGE_NUMBER_LIMIT || in->count > PAGE_NUMBER_LIMIT - in->first)
		return error_set(err, -EBADMSG,
		                 "Resume: first %" PRIu64 " + count %" PRIu64
		                 " is over the largest page number",
		                 in->first, in->count);
	if (in->count == 0 && !in->last)
		return error_set(err, -EBADMSG,
		                 "Resume.count is 0, allowed only in the last Resume");
	return 0;
}

static int check_resume_bitmap(const Postcopy__V1__Resume *in, const struct frame *frame,
                               struct error *err)
{
	uint64_t units = in->count / in->unit_pages;
	uint64_t expected = units / 8 + (units % 8 != 0);

	if (frame->payload_len == 0)
		return 0;
	if (frame->payload_len != expected)
		return error_set(err, -EBADMSG,
		                 "Resume has a bitmap of %zu bytes, expected none or %" PRIu64
		                 " for %" PRIu64 " units",
		                 frame->payload_len, expected, units);
	if (units % 8 && frame->payload[frame->payload_len - 1] >> (units % 8))
		return error_set(err, -EBADMSG, "Resume has bits set after its %" PRIu64 " units",
		                 units);
	return 0;
}

static int decode_resume(const Postcopy__V1__Resume *in, const struct frame *frame,
                         struct page_message *ret, struct error *err)
{
	int r = check_resume_range(in, err);

	if (r == 0)
		r = check_resume_bitmap(in, frame, err);
	if (r < 0)
		return r;
	ret->resume.first = in->first;
	ret->resume.count = in->count;
	ret->resume.unit_pages = in->unit_pages;
	ret->resume.last = in->last;
	ret->resume.bitmap = frame->payload_len ? frame->payload : NULL;
	ret->resume.bitmap_len = frame->payload_len;
	return 0;
}

static int decode_complete(const Postcopy__V1__Complete *in, struct page_message *ret)
{
	ret->complete.present = in->present;
	ret->complete.zero = in->zero;
	ret->complete.poisoned = in->poisoned;
	ret->complete.removed = in->removed;
	return 0;
}

static int decode_error(const Postcopy__V1__Error *in, struct page_message *ret, struct error *err)
{
	int r = text_get(in->text, sizeof(ret->error.text), TEXT_FREE, "Error.text",
	                 ret->error.text, err);
	int code = (int)in->code;

	if (r < 0)
		return r;
	if (code < WIRE_ERROR_PROTOCOL || code > WIRE_ERROR_INTERNAL)
		return error_set(err, -EBADMSG,
		                 "Error.code is %d, expected 1 to %d; its text was: %s", code,
		                 WIRE_ERROR_INTERNAL, ret->error.text);
	ret->error.code = (enum wire_error_code)code;
	return 0;
}

static int decode_body(struct page_decoder *d, const Postcopy__V1__Frame *in,
                       const struct frame *frame, struct page_message *ret, struct error *err)
{
	switch (in->message_case) {
	case POSTCOPY__V1__FRAME__MESSAGE_HELLO:
		return decode_hello(in->hello, ret, err);
	case POSTCOPY__V1__FRAME__MESSAGE_HELLO_ACK:
		return decode_hello_ack(d, in->hello_ack, ret, err);
	case POSTCOPY__V1__FRAME__MESSAGE_PAGE_REQUEST:
		return decode_page_request(d, in->page_request, ret, err);
	case POSTCOPY__V1__FRAME__MESSAGE_PAGES:
		return decode_pages(d, in->pages, frame, ret, err);
	case POSTCOPY__V1__FRAME__MESSAGE_POISON_NOTICE:
		return decode_poison_notice(d, in->poison_notice, ret, err);
	case POSTCOPY__V1__FRAME__MESSAGE_STREAM_CONTROL:
		return decode_stream_control(in->stream_control, ret, err);
	case POSTCOPY__V1__FRAME__MESSAGE_PROGRESS:
		ret->progress.sent = in->progress->sent;
		ret->progress.end = in->progress->end;
		return 0;
	case POSTCOPY__V1__FRAME__MESSAGE_RESUME:
		return decode_resume(in->resume, frame, ret, err);
	case POSTCOPY__V1__FRAME__MESSAGE_COMPLETE:
		return decode_complete(in->complete, ret);
	case POSTCOPY__V1__FRAME__MESSAGE_PING:
		ret->ping.cookie = in->ping->cookie;
		return 0;
	case POSTCOPY__V1__FRAME__MESSAGE_PONG:
		ret->ping.cookie = in->pong->cookie;
		return 0;
	case POSTCOPY__V1__FRAME__MESSAGE_ERROR:
		return decode_error(in->error, ret, err);
	default: /* Frozen and CompleteAck have no fields; page_message_decode() knows the type */
		return 0;
	}
}

static int check_type(const Postcopy__V1__Frame *in, const struct frame *frame, struct error *err)
{
	enum page_message_type type = (enum page_message_type)in->message_case;
	bool may_have_payload = type == PAGE_MESSAGE_PAGES || type == PAGE_MESSAGE_RESUME;

	if (type == PAGE_MESSAGE_NONE)
		return error_set(err, -EPROTO, "frame with a message of unknown type %" PRIu32,
		                 in->base.n_unknown_fields ? in->base.unknown_fields[0].tag : 0);
	if (frame->payload_len != 0 && !may_have_payload)
		return error_set(err, -EBADMSG, "%s has a payload of %zu bytes, expected none",
		                 page_message_type_name(type), frame->payload_len);
	return 0;
}

int page_message_decode(struct page_decoder *d, const struct frame *frame, struct page_message *ret,
                        struct error *err)
{
	struct page_message m; /* each decode_X() fills its member */
	Postcopy__V1__Frame *in;
	int r;

	wire_arena_reset(&d->arena);
	in = postcopy__v1__frame__unpack(&d->arena.allocator, frame->header_len, frame->header);
	if (!in && d->arena.exhausted)
		return error_set(err, -EBADMSG, "frame header of %zu bytes is too large to decode",
		                 frame->header_len);
	if (!in)
		return error_set(err, -EBADMSG, "frame header of %zu bytes is not a valid message",
		                 frame->header_len);
	r = check_type(in, frame, err);
	if (r == 0)
		r = decode_body(d, in, frame, &m, err);
	if (r < 0)
		return r;
	m.type = (enum page_message_type)in->message_case;
	*ret = m;
	return 0;
}
