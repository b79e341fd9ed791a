/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Names of the page protocol's messages and error codes, for logs and error
 * texts, and the proof that our enums equal the protocol's.
 */
#include "wire/page_message.h"

#include <assert.h>

#include "postcopy.pb-c.h"

static_assert((int)PAGE_KIND_DATA == POSTCOPY__V1__RUN_KIND__RUN_KIND_DATA, "kinds");
static_assert((int)PAGE_KIND_ZERO == POSTCOPY__V1__RUN_KIND__RUN_KIND_ZERO, "kinds");
static_assert((int)PAGE_KIND_POISONED == POSTCOPY__V1__RUN_KIND__RUN_KIND_POISONED, "kinds");
static_assert((int)LINK_ROLE_URGENT == POSTCOPY__V1__ROLE__ROLE_URGENT, "roles");
static_assert((int)LINK_ROLE_BULK == POSTCOPY__V1__ROLE__ROLE_BULK, "roles");
static_assert((int)POISON_REASON_REPORTED == POSTCOPY__V1__POISON_REASON__POISON_REASON_REPORTED,
              "reasons");
static_assert((int)POISON_REASON_INHERITED == POSTCOPY__V1__POISON_REASON__POISON_REASON_INHERITED,
              "reasons");
static_assert((int)WIRE_ERROR_PROTOCOL == POSTCOPY__V1__ERROR_CODE__ERROR_CODE_PROTOCOL, "errors");
static_assert((int)WIRE_ERROR_INTERNAL == POSTCOPY__V1__ERROR_CODE__ERROR_CODE_INTERNAL, "errors");

/* encode and decode take a message's type for its field number in the oneof. */
static_assert((int)PAGE_MESSAGE_HELLO == POSTCOPY__V1__FRAME__MESSAGE_HELLO, "types");
static_assert((int)PAGE_MESSAGE_HELLO_ACK == POSTCOPY__V1__FRAME__MESSAGE_HELLO_ACK, "types");
static_assert((int)PAGE_MESSAGE_FROZEN == POSTCOPY__V1__FRAME__MESSAGE_FROZEN, "types");
static_assert((int)PAGE_MESSAGE_PAGE_REQUEST == POSTCOPY__V1__FRAME__MESSAGE_PAGE_REQUEST, "types");
static_assert((int)PAGE_MESSAGE_PAGES == POSTCOPY__V1__FRAME__MESSAGE_PAGES, "types");
static_assert((int)PAGE_MESSAGE_POISON_NOTICE == POSTCOPY__V1__FRAME__MESSAGE_POISON_NOTICE,
              "types");
static_assert((int)PAGE_MESSAGE_STREAM_CONTROL == POSTCOPY__V1__FRAME__MESSAGE_STREAM_CONTROL,
              "types");
static_assert((int)PAGE_MESSAGE_PROGRESS == POSTCOPY__V1__FRAME__MESSAGE_PROGRESS, "types");
static_assert((int)PAGE_MESSAGE_RESUME == POSTCOPY__V1__FRAME__MESSAGE_RESUME, "types");
static_assert((int)PAGE_MESSAGE_COMPLETE == POSTCOPY__V1__FRAME__MESSAGE_COMPLETE, "types");
static_assert((int)PAGE_MESSAGE_COMPLETE_ACK == POSTCOPY__V1__FRAME__MESSAGE_COMPLETE_ACK, "types");
static_assert((int)PAGE_MESSAGE_PING == POSTCOPY__V1__FRAME__MESSAGE_PING, "types");
static_assert((int)PAGE_MESSAGE_PONG == POSTCOPY__V1__FRAME__MESSAGE_PONG, "types");
static_assert((int)PAGE_MESSAGE_ERROR == POSTCOPY__V1__FRAME__MESSAGE_ERROR, "types");

static const char *const message_names[] = {
        [PAGE_MESSAGE_NONE] = "none",
        [PAGE_MESSAGE_HELLO] = "Hello",
        [PAGE_MESSAGE_HELLO_ACK] = "HelloAck",
        [PAGE_MESSAGE_FROZEN] = "Frozen",
        [PAGE_MESSAGE_PAGE_REQUEST] = "PageRequest",
        [PAGE_MESSAGE_PAGES] = "Pages",
        [PAGE_MESSAGE_POISON_NOTICE] = "PoisonNotice",
        [PAGE_MESSAGE_STREAM_CONTROL] = "StreamControl",
        [PAGE_MESSAGE_PROGRESS] = "Progress",
        [PAGE_MESSAGE_RESUME] = "Resume",
        [PAGE_MESSAGE_COMPLETE] = "Complete",
        [PAGE_MESSAGE_COMPLETE_ACK] = "CompleteAck",
        [PAGE_MESSAGE_PING] = "Ping",
        [PAGE_MESSAGE_PONG] = "Pong",
        [PAGE_MESSAGE_ERROR] = "Error",
};
static_assert(ARRAY_SIZE(message_names) == PAGE_MESSAGE_TYPES_, "a name for each message");

static const char *const error_names[] = {
        [WIRE_ERROR_PROTOCOL] = "PROTOCOL",
        [WIRE_ERROR_VERSION] = "VERSION",
        [WIRE_ERROR_UNKNOWN_MIGRATION] = "UNKNOWN_MIGRATION",
        [WIRE_ERROR_DENIED] = "DENIED",
        [WIRE_ERROR_NOT_FROZEN] = "NOT_FROZEN",
        [WIRE_ERROR_BAD_PAGE] = "BAD_PAGE",
        [WIRE_ERROR_BUSY] = "BUSY",
        [WIRE_ERROR_SOURCE_GONE] = "SOURCE_GONE",
        [WIRE_ERROR_CANCELLED] = "CANCELLED",
        [WIRE_ERROR_INTERNAL] = "INTERNAL",
};
static_assert(ARRAY_SIZE(error_names) == WIRE_ERROR_INTERNAL + 1, "a name for each code");

const char *page_message_type_name(enum page_message_type type)
{
	if ((unsigned int)type >= ARRAY_SIZE(message_names))
		return "unknown";
	return message_names[type];
}

const char *wire_error_code_name(enum wire_error_code code)
{
	if ((unsigned int)code >= ARRAY_SIZE(error_names) || !error_names[code])
		return "unknown";
	return error_names[code];
}
