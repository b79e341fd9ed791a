/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Common parts of the attach and control codecs; called by these only.
 *
 * These messages are rare, so each decode has an arena of its own; its size
 * grows with the message and has an upper bound, whatever the message claims.
 */
#include "wire/body.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "core/fdpass.h"

/*
 * A record of a few bytes becomes a struct, its pointers and its share of the
 * parser's scratch memory: 32 times covers all that the encoders here make.
 */
#define ARENA_BYTES_PER_BYTE 32
#define ARENA_BYTES_MIN (64 * 1024)
#define ARENA_BYTES_MAX (16 * 1024 * 1024)

static size_t arena_bytes(size_t len)
{
	return MIN((size_t)ARENA_BYTES_MAX, ARENA_BYTES_MIN + len * ARENA_BYTES_PER_BYTE);
}

int body_unpack(struct wire_arena *a, const ProtobufCMessageDescriptor *type, const uint8_t *buf,
                size_t len, ProtobufCMessage **ret, struct error *err)
{
	ProtobufCMessage *m;
	int r;

	if (len > FDPASS_MESSAGE_MAX)
		return error_set(err, -EBADMSG, "%s of %zu bytes, the limit is %u",
		                 type->short_name, len, (unsigned int)FDPASS_MESSAGE_MAX);
	if (wire_arena_init(a, arena_bytes(len)) < 0)
		return error_set(err, -ENOMEM, "no memory to decode %s of %zu bytes",
		                 type->short_name, len);
	m = protobuf_c_message_unpack(type, &a->allocator, len, buf);
	if (!m) {
		r = error_set(err, -EBADMSG, "%s of %zu bytes is %s", type->short_name, len,
		              a->exhausted ? "too large to decode" : "not a valid message");
		wire_arena_fini(a);
		return r;
	}
	*ret = m;
	return 0;
}

int body_pack(const ProtobufCMessage *m, uint8_t **ret, size_t *ret_len)
{
	size_t len = protobuf_c_message_get_packed_size(m);
	uint8_t *buf;

	if (len > FDPASS_MESSAGE_MAX)
		return -EMSGSIZE;
	buf = malloc(len ? len : 1);
	if (!buf)
		return -ENOMEM;
	*ret_len = protobuf_c_message_pack(m, buf);
	*ret = buf;
	return 0;
}

int body_uuid_get(const ProtobufCBinaryData *in, const char *field, struct uuid *ret,
                  struct error *err)
{
	if (in->len != sizeof(ret->bytes))
		return error_set(err, -EBADMSG, "%s has %zu bytes, expected 16", field, in->len);
	memcpy(ret->bytes, in->data, sizeof(ret->bytes));
	return 0;
}

int body_token_get(const ProtobufCBinaryData *in, const char *field, uint8_t ret[TOKEN_BYTES_MAX],
                   size_t *ret_len, struct error *err)
{
	if (in->len < TOKEN_BYTES_MIN || in->len > TOKEN_BYTES_MAX)
		return error_set(err, -EBADMSG, "%s has %zu bytes, expected %d to %d", field,
		                 in->len, TOKEN_BYTES_MIN, TOKEN_BYTES_MAX);
	memcpy(ret, in->data, in->len);
	*ret_len = in->len;
	return 0;
}

int body_errno_get(int32_t in, const char *field, int *ret, struct error *err)
{
	if (in < 0 || in > ERRNO_LARGEST)
		return error_set(err, -EBADMSG, "%s is %" PRId32 ", expected 0 or an errno", field,
		                 in);
	*ret = in;
	return 0;
}

int body_pages_check(uint64_t gpa, uint64_t length_bytes, struct error *err)
{
	if (length_bytes == 0 || !is_aligned(gpa | length_bytes, WIRE_PAGE_SIZE) ||
	    gpa > UINT64_MAX - length_bytes)
		return error_set(err, -EBADMSG,
		                 "%#" PRIx64 " + %#" PRIx64
		                 " is empty, wraps, or is not a multiple of 4096",
		                 gpa, length_bytes);
	return 0;
}

int body_required_get(const char *s, size_t cap, enum text_rule rule, const char *field, char *ret,
                      struct error *err)
{
	if (wire_arena_string_len(s) == 0)
		return error_set(err, -EBADMSG, "%s is empty", field);
	return text_get(s, cap, rule, field, ret, err);
}

int body_token_put(const uint8_t *token, size_t len, ProtobufCBinaryData *ret)
{
	if (len < TOKEN_BYTES_MIN || len > TOKEN_BYTES_MAX)
		return -EINVAL;
	*ret = (ProtobufCBinaryData){.len = len, .data = (uint8_t *)token};
	return 0;
}

int body_string_put(const char *s, size_t cap, enum text_rule rule, char **ret)
{
	int r = text_own_check(s, cap, rule);

	if (r < 0)
		return r;
	*ret = (char *)s;
	return 0;
}

char *body_text_put(struct wire_arena *a, const char *s, size_t cap)
{
	char *copy = wire_arena_alloc(a, strnlen(s, cap - 1) + 1, 1);

	if (copy)
		text_clean(s, cap, copy);
	return copy;
}
