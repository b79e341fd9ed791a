/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Framing of the page protocol. Called by the channel for every received
 * chunk and by page_message_encode().
 *
 * A length is compared with its limit as soon as its four bytes are there:
 * nobody is made to buffer for a frame that will be refused.
 */
#include "wire/frame.h"

#include <endian.h>
#include <errno.h>
#include <string.h>

static uint32_t frame_u32(const uint8_t *at)
{
	uint32_t v;

	memcpy(&v, at, sizeof(v));
	return le32toh(v);
}

static int frame_check_header_len(uint32_t len, struct error *err)
{
	if (len == 0)
		return error_set(err, -EBADMSG, "frame with an empty header (header length 0)");
	if (len > FRAME_HEADER_MAX)
		return error_set(err, -EMSGSIZE, "frame header of %u bytes, the limit is %u", len,
		                 (unsigned int)FRAME_HEADER_MAX);
	return 0;
}

ssize_t frame_parse(const uint8_t *buf, size_t len, struct frame *ret, struct error *err)
{
	uint32_t header_len, payload_len;
	size_t total;
	int r;

	if (len < sizeof(uint32_t))
		return 0;
	header_len = frame_u32(buf);
	r = frame_check_header_len(header_len, err);
	if (r < 0)
		return r;
	if (len < FRAME_PREFIX_BYTES)
		return 0;
	payload_len = frame_u32(buf + sizeof(uint32_t));
	if (payload_len > FRAME_PAYLOAD_MAX)
		return error_set(err, -EMSGSIZE, "frame payload of %u bytes, the limit is %u",
		                 payload_len, (unsigned int)FRAME_PAYLOAD_MAX);
	total = FRAME_PREFIX_BYTES + (size_t)header_len + payload_len;
	if (len < total)
		return 0;
	ret->header = buf + FRAME_PREFIX_BYTES;
	ret->header_len = header_len;
	ret->payload = ret->header + header_len;
	ret->payload_len = payload_len;
	return (ssize_t)total;
}

void frame_prefix_write(uint8_t prefix[FRAME_PREFIX_BYTES], size_t header_len, size_t payload_len)
{
	uint32_t v[2] = {htole32((uint32_t)header_len), htole32((uint32_t)payload_len)};

	memcpy(prefix, v, sizeof(v));
}
