/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The messages of the page protocol as plain structs: encode and bounded
 * decode. proto/PROTOCOL.md tells their meaning; this is the only way to the
 * generated protobuf code.
 *
 * Everything that decode returns has been checked for what can be checked
 * without knowing the migration: lengths, counts, enums, overflow of first +
 * count, payload length against the DATA runs, overlap of runs within the
 * message. Whether pages exist and were asked for is the caller's to check.
 */
#ifndef WIRE_PAGE_MESSAGE_H
#define WIRE_PAGE_MESSAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "core/cleanup.h"
#include "core/error.h"
#include "core/units.h"
#include "core/uuid.h"
#include "wire/frame.h"

#define PAGE_PROTOCOL_VERSION 1
#define PAGE_PROTOCOL_VERSION_MIN 1
#define PAGE_PROTOCOL_ALPN "postcopy/1"

#define TOKEN_BYTES_MIN 16
#define TOKEN_BYTES_MAX 64
#define REGION_NAME_MAX 64 /* with the final NUL */
#define REGIONS_MAX 512    /* in one migration */
#define PAGE_RUNS_MAX 1024 /* in one message */
#define PAGE_PAYLOAD_PAGES_MAX (FRAME_PAYLOAD_MAX / WIRE_PAGE_SIZE)
#define WIRE_ERROR_TEXT_MAX 512

enum page_message_type {
	PAGE_MESSAGE_NONE,
	PAGE_MESSAGE_HELLO,
	PAGE_MESSAGE_HELLO_ACK,
	PAGE_MESSAGE_FROZEN,
	PAGE_MESSAGE_PAGE_REQUEST,
	PAGE_MESSAGE_PAGES,
	PAGE_MESSAGE_POISON_NOTICE,
	PAGE_MESSAGE_STREAM_CONTROL,
	PAGE_MESSAGE_PROGRESS,
	PAGE_MESSAGE_RESUME,
	PAGE_MESSAGE_COMPLETE,
	PAGE_MESSAGE_COMPLETE_ACK,
	PAGE_MESSAGE_PING,
	PAGE_MESSAGE_PONG,
	PAGE_MESSAGE_ERROR,
	PAGE_MESSAGE_TYPES_
};

/* "PageRequest" ..., the protocol's own names; "unknown" for anything else. */
const char *page_message_type_name(enum page_message_type type);

/* Values equal those of the protocol. */
enum page_kind {
	PAGE_KIND_UNSPECIFIED = 0,
	PAGE_KIND_DATA = 1,
	PAGE_KIND_ZERO = 2,
	PAGE_KIND_POISONED = 3,
};

enum link_role {
	LINK_ROLE_URGENT = 1,
	LINK_ROLE_BULK = 2,
};

enum poison_reason {
	POISON_REASON_REPORTED = 1,
	POISON_REASON_READ_ERROR = 2,
	POISON_REASON_INHERITED = 3,
};

enum wire_error_code {
	WIRE_ERROR_PROTOCOL = 1,
	WIRE_ERROR_VERSION = 2,
	WIRE_ERROR_UNKNOWN_MIGRATION = 3,
	WIRE_ERROR_DENIED = 4,
	WIRE_ERROR_NOT_FROZEN = 5,
	WIRE_ERROR_BAD_PAGE = 6,
	WIRE_ERROR_BUSY = 7,
	WIRE_ERROR_SOURCE_GONE = 8,
	WIRE_ERROR_CANCELLED = 9,
	WIRE_ERROR_INTERNAL = 10,
};

const char *wire_error_code_name(enum wire_error_code code);

/* Wire pages first .. first + count - 1. */
struct page_run {
	uint64_t first;
	uint32_t count;
	enum page_kind kind;
};

struct wire_region {
	char name[REGION_NAME_MAX];
	gpa_t gpa;
	uint64_t length_bytes;
	uint64_t page_size_bytes;
};

struct page_runs {
	const struct page_run *runs;
	size_t n_runs;
};

struct page_message {
	enum page_message_type type;
	union {
		struct {
			uint32_t version;
			uint32_t version_min;
			struct uuid migration_id;
			uint8_t token[TOKEN_BYTES_MAX];
			size_t token_len;
			enum link_role role;
			uint32_t lane;
		} hello;
		struct {
			uint32_t version;
			const struct wire_region *regions;
			size_t n_regions;
			bool frozen;
			uint64_t poisoned_pages;
		} hello_ack;
		struct {
			uint64_t id;
			struct page_runs runs; /* kinds UNSPECIFIED */
		} page_request;
		struct {
			uint64_t id; /* 0 in the stream */
			struct page_runs runs;
			const uint8_t *bytes; /* the DATA runs' pages, in order; unaligned */
			size_t bytes_len;
		} pages;
		struct {
			struct page_runs runs; /* kinds UNSPECIFIED */
			enum poison_reason reason;
		} poison_notice;
		struct {
			bool has_position;
			uint64_t position;
			uint32_t window;
			bool has_bandwidth;
			uint64_t bandwidth; /* bytes a second, 0: no limit */
		} stream_control;
		struct {
			uint64_t sent;
			bool end;
		} progress;
		struct {
			uint64_t first;
			uint64_t count;      /* 0 only in the last one: nothing wanted */
			uint32_t unit_pages; /* a power of two; divides count */
			bool last;
			const uint8_t *bitmap; /* bit i: unit i wanted; NULL: all */
			size_t bitmap_len;
		} resume;
		struct {
			uint64_t present;
			uint64_t zero;
			uint64_t poisoned;
			uint64_t removed;
		} complete;
		struct {
			uint64_t cookie;
		} ping; /* and pong */
		struct {
			enum wire_error_code code;
			char text[WIRE_ERROR_TEXT_MAX];
		} error;
	};
};

/*
 * Decodes one frame at a time without malloc() per message: an arena of fixed
 * size bounds what a hostile header can make us allocate. One thread.
 */
struct page_decoder;

int page_decoder_new(struct page_decoder **ret);
struct page_decoder *page_decoder_free(struct page_decoder *d); /* always NULL */
DEFINE_CLEANUP(struct page_decoder, page_decoder_free)

/*
 * Fill *ret, whose pointers are valid until the next decode with d, and as long
 * as the frame's buffer. -EBADMSG with a text that names the message and field
 * for anything malformed, -EPROTO for a message of unknown type.
 */
int page_message_decode(struct page_decoder *d, const struct frame *frame, struct page_message *ret,
                        struct error *err);

/*
 * Write prefix and header of the message to buf; the payload (Pages: bytes_len,
 * Resume: bitmap_len) is counted in the prefix and goes after it, by the
 * caller. Returns the bytes written, -ENOSPC when cap is too small, -EMSGSIZE
 * when the message exceeds the protocol's limits, -EINVAL for no known type. Values
 * are not judged: that is decode's part. PAGE_MESSAGE_HEAD_MAX always
 * suffices for a message with at most PAGE_RUNS_MAX runs. Any thread.
 */
#define PAGE_MESSAGE_HEAD_MAX (FRAME_PREFIX_BYTES + FRAME_HEADER_MAX)
ssize_t page_message_encode(const struct page_message *m, uint8_t *buf, size_t cap);

#endif
