/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a VMM says to the attach and export sockets, as plain structs. Used by
 * libpostcopy and by both daemons; proto/attach.proto tells the meaning.
 *
 * Decode checks lengths, counts, enums and names; addresses and descriptors
 * are the daemons' to check. No I/O here.
 */
#ifndef WIRE_ATTACH_MESSAGE_H
#define WIRE_ATTACH_MESSAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "core/error.h"
#include "core/units.h"
#include "core/uuid.h"
#include "wire/page_message.h"

#define ATTACH_PROTOCOL_VERSION 1
#define ATTACH_UFFDS_MAX 16
#define ATTACH_FDS_MAX 64      /* uffds and memory files together */
#define PEER_IDENTITY_MAX 256  /* with the final NUL */
#define ATTACH_STATE_MAX 32    /* with the final NUL */
#define POISON_RANGES_MAX 4096 /* in one message */
#define POISON_LIST_MAX 128    /* in one reply: it stays below the client's 4096 bytes */

enum backing {
	BACKING_ANONYMOUS = 1,
	BACKING_MEMFD = 2,
	BACKING_HUGETLB = 3,
};

enum uffd_mode {
	UFFD_MODE_MISSING = 1,
	UFFD_MODE_MINOR = 2,
};

const char *backing_name(enum backing backing);  /* "anonymous", "memfd", "hugetlb" */
const char *uffd_mode_name(enum uffd_mode mode); /* "missing", "minor" */

struct attach_region {
	char name[REGION_NAME_MAX];
	gpa_t gpa;
	hva_t hva;
	uint64_t length_bytes;
	uint64_t page_size_bytes;
	enum backing backing;
	enum uffd_mode mode;
	uint32_t uffd;
	bool has_fd;
	uint32_t fd;
	backing_off_t fd_offset;
	bool registered;
	bool fully_allocated;
};

struct export_region {
	char name[REGION_NAME_MAX];
	gpa_t gpa;
	uint64_t length_bytes;
	uint64_t page_size_bytes;
	enum backing backing;
	uint32_t fd;
	backing_off_t fd_offset;
};

struct poison_range {
	gpa_t gpa;
	uint64_t length_bytes;
};

/* Of pages that were on their way to the host of an inbound export. */
enum page_fate {
	PAGE_FATE_HERE = 1,
	PAGE_FATE_POISONED = 2,
	PAGE_FATE_LOST = 3,
	PAGE_FATE_NOT_YET = 4,
};

struct populated_range {
	struct poison_range range;
	enum page_fate fate;
};

/* The first of n ascending ranges that ends behind this address; n if none does. */
size_t poison_range_find(const struct poison_range *ranges, size_t n, gpa_t from);

enum attach_request_type {
	ATTACH_REQUEST_NONE,
	ATTACH_REQUEST_ATTACH,
	ATTACH_REQUEST_EXPORT,
	ATTACH_REQUEST_FREEZE,
	ATTACH_REQUEST_REPORT_POISON,
	ATTACH_REQUEST_WITHDRAW,
	ATTACH_REQUEST_LIST_POISON,
	ATTACH_REQUEST_ATTACH_MAPPING, /* in attach, as ATTACH_REQUEST_ATTACH */
	ATTACH_REQUEST_POPULATED = 8,  /* 9 is an Export with .inbound */
};

struct attach_request {
	enum attach_request_type type;
	uint32_t id;      /* the sender's number, comes back in the answer; 0: none */
	uint32_t version; /* both kinds of attach, export; so the next two */
	struct uuid migration_id;
	uint8_t token[TOKEN_BYTES_MAX];
	size_t token_len;
	union {
		struct {
			uint32_t n_uffds;
			struct attach_region *regions;
			size_t n_regions;
		} attach;
		struct {
			char peer_identity[PEER_IDENTITY_MAX];
			struct export_region *regions;
			size_t n_regions;
			bool inbound; /* read no page before a Populated has said that it is here */
		} export;
		struct {
			struct poison_range *ranges;
			size_t n_ranges;
		} report_poison;
		struct {
			bool force;
		} withdraw;
		struct {
			gpa_t from;
		} list_poison;
		struct {
			uint32_t number;                /* of the Populate; 0: unasked */
			struct populated_range *ranges; /* at most POISON_RANGES_MAX */
			size_t n_ranges;
			bool all;
		} populated;
	};
};

enum attach_reply_type {
	ATTACH_REPLY_NONE,
	ATTACH_REPLY_ACK,
	ATTACH_REPLY_STATE,
	ATTACH_REPLY_POISON_LIST,
	ATTACH_REPLY_POPULATE,
};

struct attach_reply {
	enum attach_reply_type type;
	uint32_t id;                  /* ack, poison list: the request's; 0: none */
	int error;                    /* ack: 0 or a positive errno */
	char state[ATTACH_STATE_MAX]; /* state */
	bool final;                   /* state */
	bool restarted;               /* state: by a daemon that took the connection over */
	char text[WIRE_ERROR_TEXT_MAX];
	/*
	 * Poison list: wire pages, ascending, not overlapping; more only with a range.
	 * Populate: wire pages, at least one range.
	 */
	struct poison_range ranges[POISON_LIST_MAX];
	size_t n_ranges;
	bool more;
	uint32_t number; /* populate */
	bool urgent;     /* populate */
};

/*
 * Decode a message body (without its length prefix). The request's arrays are
 * malloc()ed; attach_request_free() releases them (also of a zeroed struct).
 * -EBADMSG with a text that names what was wrong.
 */
int attach_request_decode(const uint8_t *buf, size_t len, struct attach_request *ret,
                          struct error *err);
void attach_request_free(struct attach_request *r);
int attach_reply_decode(const uint8_t *buf, size_t len, struct attach_reply *ret,
                        struct error *err);

/* Encode into a malloc()ed body. 0, -ENOMEM, -EINVAL for a struct that breaks the limits. */
int attach_request_encode(const struct attach_request *r, uint8_t **ret, size_t *ret_len);
int attach_reply_encode(const struct attach_reply *r, uint8_t **ret, size_t *ret_len);

#endif
