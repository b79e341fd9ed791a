/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The frame of the page protocol: u32 header length, u32 payload length
 * (little endian), protobuf header, raw payload. Bytes in, frames out; no I/O.
 */
#ifndef WIRE_FRAME_H
#define WIRE_FRAME_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "core/error.h"

#define FRAME_PREFIX_BYTES 8
#define FRAME_HEADER_MAX (64 * 1024)
#define FRAME_PAYLOAD_MAX (256 * 1024) /* 64 pages */
#define FRAME_MAX (FRAME_PREFIX_BYTES + FRAME_HEADER_MAX + FRAME_PAYLOAD_MAX)

/* A view into the caller's buffer. */
struct frame {
	const uint8_t *header;
	size_t header_len;
	const uint8_t *payload;
	size_t payload_len;
};

/*
 * Look at the len bytes at buf. Returns the whole frame's length when it is
 * there (and fills *ret), 0 when more bytes are needed, -EMSGSIZE with a text
 * as soon as the prefix shows a length over the limit, -EBADMSG for an empty header.
 */
ssize_t frame_parse(const uint8_t *buf, size_t len, struct frame *ret, struct error *err);

void frame_prefix_write(uint8_t prefix[FRAME_PREFIX_BYTES], size_t header_len, size_t payload_len);

#endif
