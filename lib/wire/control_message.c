/* SPDX-License-Identifier: Apache-2.0 */
/* Names used on the control interface, and the proof that enums equal the protocol's. */
#include "wire/control_message.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "control.pb-c.h"

#define PB_POLICY(name) POSTCOPY__CONTROL__V1__LOST_POLICY__LOST_POLICY_##name
static_assert((int)LOST_POLICY_HOLD == PB_POLICY(HOLD), "policies");
static_assert((int)LOST_POLICY_POISON == PB_POLICY(POISON), "policies");
static_assert((int)LOST_POLICY_KILL == PB_POLICY(KILL), "policies");

/* The codec takes field number - 1 for a request's type. */
#define PB_REQUEST(name)                                                      \
	static_assert((int)CONTROL_REQUEST_##name + 1 ==                      \
	                      POSTCOPY__CONTROL__V1__REQUEST__REQUEST_##name, \
	              "types")
PB_REQUEST(START);
PB_REQUEST(LIST);
PB_REQUEST(GET);
PB_REQUEST(CANCEL);
PB_REQUEST(RECOVER);
PB_REQUEST(SET_LIMITS);
PB_REQUEST(WATCH);
PB_REQUEST(PROBE);
PB_REQUEST(EXPORT_PROCESS);
PB_REQUEST(FREEZE);
PB_REQUEST(POISON);
PB_REQUEST(EXPORT_FILE);

static const char *const policy_names[] = {
        [LOST_POLICY_HOLD] = "hold",
        [LOST_POLICY_POISON] = "poison",
        [LOST_POLICY_KILL] = "kill",
};
static_assert(ARRAY_SIZE(policy_names) == LOST_POLICY_KILL + 1, "a name for each");

static const char *const request_names[] = {
        [CONTROL_REQUEST_NONE] = "none",
        [CONTROL_REQUEST_START] = "StartMigration",
        [CONTROL_REQUEST_LIST] = "List",
        [CONTROL_REQUEST_GET] = "Get",
        [CONTROL_REQUEST_CANCEL] = "Cancel",
        [CONTROL_REQUEST_RECOVER] = "Recover",
        [CONTROL_REQUEST_SET_LIMITS] = "SetLimits",
        [CONTROL_REQUEST_WATCH] = "Watch",
        [CONTROL_REQUEST_PROBE] = "Probe",
        [CONTROL_REQUEST_EXPORT_PROCESS] = "ExportProcess",
        [CONTROL_REQUEST_FREEZE] = "Freeze",
        [CONTROL_REQUEST_POISON] = "Poison",
        [CONTROL_REQUEST_EXPORT_FILE] = "ExportFile",
};
static_assert(ARRAY_SIZE(request_names) == CONTROL_REQUEST_EXPORT_FILE + 1, "a name for each");

const char *lost_policy_name(enum lost_policy policy)
{
	if ((unsigned int)policy >= ARRAY_SIZE(policy_names) || !policy_names[policy])
		return "unknown";
	return policy_names[policy];
}

int lost_policy_parse(const char *text)
{
	for (int i = LOST_POLICY_HOLD; i <= LOST_POLICY_KILL; i++) {
		if (strcmp(text, policy_names[i]) == 0)
			return i;
	}
	return -EINVAL;
}

const char *control_request_type_name(enum control_request_type type)
{
	if ((unsigned int)type >= ARRAY_SIZE(request_names))
		return "unknown";
	return request_names[type];
}
