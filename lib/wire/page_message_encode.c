/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Page messages to bytes. Called by both daemons for everything they send, on
 * the fault path too: all scratch memory is on the stack (some 50 KiB, of which
 * only what the message needs is touched), nothing is allocated or shared.
 */
#include "wire/page_message.h"

#include <errno.h>
#include <string.h>

#include "postcopy.pb-c.h"
#include "wire/text.h"

/* Everything that the protobuf message of one frame may point to. */
struct scratch {
	Postcopy__V1__Frame frame;
	union {
		Postcopy__V1__Hello hello;
		Postcopy__V1__HelloAck hello_ack;
		Postcopy__V1__Frozen frozen;
		Postcopy__V1__PageRequest page_request;
		Postcopy__V1__Pages pages;
		Postcopy__V1__PoisonNotice poison_notice;
		Postcopy__V1__StreamControl stream_control;
		Postcopy__V1__Progress progress;
		Postcopy__V1__Resume resume;
		Postcopy__V1__Complete complete;
		Postcopy__V1__CompleteAck complete_ack;
		Postcopy__V1__Ping ping;
		Postcopy__V1__Pong pong;
		Postcopy__V1__Error error;
	};
	union {
		struct {
			Postcopy__V1__Run runs[PAGE_RUNS_MAX];
			Postcopy__V1__Run *run_ptrs[PAGE_RUNS_MAX];
		};
		struct {
			Postcopy__V1__Region regions[REGIONS_MAX];
			Postcopy__V1__Region *region_ptrs[REGIONS_MAX];
		};
		char text[WIRE_ERROR_TEXT_MAX];
	};
};

static int encode_runs(struct scratch *s, const struct page_runs *runs, size_t *ret_n,
                       Postcopy__V1__Run ***ret)
{
	if (runs->n_runs > PAGE_RUNS_MAX)
		return -EMSGSIZE;
	for (size_t i = 0; i < runs->n_runs; i++) {
		Postcopy__V1__Run *run = &s->runs[i];

		postcopy__v1__run__init(run);
		run->first = runs->runs[i].first;
		run->count = runs->runs[i].count;
		run->kind = (Postcopy__V1__RunKind)runs->runs[i].kind;
		s->run_ptrs[i] = run;
	}
	*ret_n = runs->n_runs;
	*ret = s->run_ptrs;
	return 0;
}

static int encode_hello(const struct page_message *m, struct scratch *s)
{
	if (m->hello.token_len > TOKEN_BYTES_MAX)
		return -EMSGSIZE;
	postcopy__v1__hello__init(&s->hello);
	s->hello.version = m->hello.version;
	s->hello.version_min = m->hello.version_min;
	s->hello.migration_id.data = (uint8_t *)m->hello.migration_id.bytes;
	s->hello.migration_id.len = sizeof(m->hello.migration_id.bytes);
	s->hello.token.data = (uint8_t *)m->hello.token;
	s->hello.token.len = m->hello.token_len;
	s->hello.role = (Postcopy__V1__Role)m->hello.role;
	s->hello.lane = m->hello.lane;
	return 0;
}

static int encode_hello_ack(const struct page_message *m, struct scratch *s)
{
	size_t n = m->hello_ack.n_regions;

	if (n > REGIONS_MAX)
		return -EMSGSIZE;
	for (size_t i = 0; i < n; i++) {
		const struct wire_region *from = &m->hello_ack.regions[i];
		Postcopy__V1__Region *to = &s->regions[i];

		if (!memchr(from->name, '\0', sizeof(from->name)))
			return -EMSGSIZE;
		postcopy__v1__region__init(to);
		to->name = (char *)from->name;
		to->guest_physical_address = from->gpa.addr;
		to->length = from->length_bytes;
		to->page_size = from->page_size_bytes;
		s->region_ptrs[i] = to;
	}
	postcopy__v1__hello_ack__init(&s->hello_ack);
	s->hello_ack.version = m->hello_ack.version;
	s->hello_ack.regions = s->region_ptrs;
	s->hello_ack.n_regions = n;
	s->hello_ack.frozen = m->hello_ack.frozen;
	s->hello_ack.poisoned_pages = m->hello_ack.poisoned_pages;
	return 0;
}

static int encode_page_request(const struct page_message *m, struct scratch *s)
{
	postcopy__v1__page_request__init(&s->page_request);
	s->page_request.id = m->page_request.id;
	return encode_runs(s, &m->page_request.runs, &s->page_request.n_runs,
	                   &s->page_request.runs);
}

static int encode_pages(const struct page_message *m, struct scratch *s)
{
	postcopy__v1__pages__init(&s->pages);
	s->pages.id = m->pages.id;
	return encode_runs(s, &m->pages.runs, &s->pages.n_runs, &s->pages.runs);
}

static int encode_poison_notice(const struct page_message *m, struct scratch *s)
{
	postcopy__v1__poison_notice__init(&s->poison_notice);
	s->poison_notice.reason = (Postcopy__V1__PoisonReason)m->poison_notice.reason;
	return encode_runs(s, &m->poison_notice.runs, &s->poison_notice.n_runs,
	                   &s->poison_notice.runs);
}

static int encode_stream_control(const struct page_message *m, struct scratch *s)
{
	postcopy__v1__stream_control__init(&s->stream_control);
	s->stream_control.has_position = m->stream_control.has_position;
	s->stream_control.position = m->stream_control.position;
	s->stream_control.window = m->stream_control.window;
	s->stream_control.has_bandwidth = m->stream_control.has_bandwidth;
	s->stream_control.bandwidth = m->stream_control.bandwidth;
	return 0;
}

static int encode_progress(const struct page_message *m, struct scratch *s)
{
	postcopy__v1__progress__init(&s->progress);
	s->progress.sent = m->progress.sent;
	s->progress.end = m->progress.end;
	return 0;
}

static int encode_resume(const struct page_message *m, struct scratch *s)
{
	postcopy__v1__resume__init(&s->resume);
	s->resume.first = m->resume.first;
	s->resume.count = m->resume.count;
	s->resume.unit_pages = m->resume.unit_pages;
	s->resume.last = m->resume.last;
	return 0;
}

static int encode_complete(const struct page_message *m, struct scratch *s)
{
	postcopy__v1__complete__init(&s->complete);
	s->complete.present = m->complete.present;
	s->complete.zero = m->complete.zero;
	s->complete.poisoned = m->complete.poisoned;
	s->complete.removed = m->complete.removed;
	return 0;
}

/* An error must always reach the peer: unfit characters are replaced, not refused. */
static int encode_error(const struct page_message *m, struct scratch *s)
{
	text_clean(m->error.text, sizeof(m->error.text), s->text);
	postcopy__v1__error__init(&s->error);
	s->error.code = (Postcopy__V1__ErrorCode)m->error.code;
	s->error.text = s->text;
	return 0;
}

/* Fill the message behind s->frame. */
static int encode_body(const struct page_message *m, struct scratch *s)
{
	switch (m->type) {
	case PAGE_MESSAGE_HELLO:
		return encode_hello(m, s);
	case PAGE_MESSAGE_HELLO_ACK:
		return encode_hello_ack(m, s);
	case PAGE_MESSAGE_FROZEN:
		postcopy__v1__frozen__init(&s->frozen);
		return 0;
	case PAGE_MESSAGE_PAGE_REQUEST:
		return encode_page_request(m, s);
	case PAGE_MESSAGE_PAGES:
		return encode_pages(m, s);
	case PAGE_MESSAGE_POISON_NOTICE:
		return encode_poison_notice(m, s);
	case PAGE_MESSAGE_STREAM_CONTROL:
		return encode_stream_control(m, s);
	case PAGE_MESSAGE_PROGRESS:
		return encode_progress(m, s);
	case PAGE_MESSAGE_RESUME:
		return encode_resume(m, s);
	case PAGE_MESSAGE_COMPLETE:
		return encode_complete(m, s);
	case PAGE_MESSAGE_COMPLETE_ACK:
		postcopy__v1__complete_ack__init(&s->complete_ack);
		return 0;
	case PAGE_MESSAGE_PING:
		postcopy__v1__ping__init(&s->ping);
		s->ping.cookie = m->ping.cookie;
		return 0;
	case PAGE_MESSAGE_PONG:
		postcopy__v1__pong__init(&s->pong);
		s->pong.cookie = m->ping.cookie;
		return 0;
	case PAGE_MESSAGE_ERROR:
		return encode_error(m, s);
	case PAGE_MESSAGE_NONE:
	case PAGE_MESSAGE_TYPES_:
		break;
	}
	return -EINVAL;
}

static size_t payload_len(const struct page_message *m)
{
	if (m->type == PAGE_MESSAGE_PAGES)
		return m->pages.bytes_len;
	if (m->type == PAGE_MESSAGE_RESUME)
		return m->resume.bitmap_len;
	return 0;
}

ssize_t page_message_encode(const struct page_message *m, uint8_t *buf, size_t cap)
{
	struct scratch s; /* not initialised: only what the message needs is */
	size_t header_len, payload = payload_len(m);
	int r;

	if (payload > FRAME_PAYLOAD_MAX)
		return -EMSGSIZE;
	r = encode_body(m, &s);
	if (r < 0)
		return r;
	postcopy__v1__frame__init(&s.frame);
	/* The types are numbered as the fields of the oneof are (page_message.c). */
	s.frame.message_case = (Postcopy__V1__Frame__MessageCase)m->type;
	s.frame.hello = &s.hello; /* every member of the oneof is such a pointer */
	header_len = postcopy__v1__frame__get_packed_size(&s.frame);
	if (header_len > FRAME_HEADER_MAX)
		return -EMSGSIZE;
	if (cap < FRAME_PREFIX_BYTES + header_len)
		return -ENOSPC;
	frame_prefix_write(buf, header_len, payload);
	postcopy__v1__frame__pack(&s.frame, buf + FRAME_PREFIX_BYTES);
	return (ssize_t)(FRAME_PREFIX_BYTES + header_len);
}
