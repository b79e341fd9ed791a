/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Private to lib/wire: what the codecs of the local sockets share. A body is a
 * whole message without its length prefix.
 */
#ifndef WIRE_BODY_H
#define WIRE_BODY_H

#include <stdint.h>

#include "core/error.h"
#include "core/uuid.h"
#include "wire/arena.h"
#include "wire/page_message.h"
#include "wire/text.h"

#define ERRNO_LARGEST 4095

/*
 * Start the arena with a size bounded by that of the body, and unpack into it.
 * -EBADMSG, or -ENOMEM; on failure the arena is released.
 */
int body_unpack(struct wire_arena *a, const ProtobufCMessageDescriptor *type, const uint8_t *buf,
                size_t len, ProtobufCMessage **ret, struct error *err);

/* Into malloc()ed memory. -ENOMEM; -EMSGSIZE over FDPASS_MESSAGE_MAX. */
int body_pack(const ProtobufCMessage *m, uint8_t **ret, size_t *ret_len);

int body_uuid_get(const ProtobufCBinaryData *in, const char *field, struct uuid *ret,
                  struct error *err);
int body_token_get(const ProtobufCBinaryData *in, const char *field, uint8_t ret[TOKEN_BYTES_MAX],
                   size_t *ret_len, struct error *err);
/* 0 or a positive errno. */
int body_errno_get(int32_t in, const char *field, int *ret, struct error *err);

/* A range of wire pages: not empty, aligned, and without wrapping around. */
int body_pages_check(uint64_t gpa, uint64_t length_bytes, struct error *err);

/* text_get() for a string that must not be empty. */
int body_required_get(const char *s, size_t cap, enum text_rule rule, const char *field, char *ret,
                      struct error *err);

/* For encode: the field, or -EINVAL when the struct breaks a limit. */
int body_token_put(const uint8_t *token, size_t len, ProtobufCBinaryData *ret);
int body_string_put(const char *s, size_t cap, enum text_rule rule, char **ret);
/* text_clean() into the arena. NULL when that is full. */
char *body_text_put(struct wire_arena *a, const char *s, size_t cap);

#endif
