/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The record of an export as a plain struct: what a restarted postcopy-sourced reads
 * back of what it had been given. proto/state.proto tells the meaning of every field.
 *
 * It comes from a process of our own, but another file may lie where it was
 * expected: decode trusts nothing. No I/O here.
 */
#ifndef WIRE_EXPORT_RECORD_H
#define WIRE_EXPORT_RECORD_H

#include <stddef.h>
#include <stdint.h>

#include "core/error.h"
#include "wire/attach_message.h"

#define EXPORT_RECORD_WORD_MAX 64

enum export_record_state {
	EXPORT_RECORD_EXPORTED = 0,
	EXPORT_RECORD_FROZEN = 1,
	EXPORT_RECORD_SERVING = 2,
	EXPORT_RECORD_RELEASED = 3,
	EXPORT_RECORD_FAILED = 4,
	EXPORT_RECORD_WITHDRAWN = 5,
};

struct export_record {
	char program_version[EXPORT_RECORD_WORD_MAX];
	struct attach_request export; /* ATTACH_REQUEST_EXPORT with regions */
	uint32_t n_memory;            /* each region's fd is below it */
	char exporter[EXPORT_RECORD_WORD_MAX];
	enum export_record_state state;
	char state_text[WIRE_ERROR_TEXT_MAX];
	uint64_t started_us;
	uint64_t ended_us;
};

/* -EBADMSG with a text that names the field and what was wrong, or -ENOMEM. */
int export_record_decode(const uint8_t *buf, size_t len, struct export_record *ret,
                         struct error *err);
/* Its arrays and its token, not itself; also of a zeroed struct. */
void export_record_free(struct export_record *r);

/* Into a malloc()ed body. 0, -ENOMEM, -EINVAL for a struct that breaks the limits, -EMSGSIZE. */
int export_record_encode(const struct export_record *r, uint8_t **ret, size_t *ret_len);

#endif
