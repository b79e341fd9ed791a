/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The record of a migration as a plain struct: what a restarted postcopyd reads
 * back of what it had been told. proto/state.proto tells the meaning of every field.
 *
 * It comes from a process of our own, but another file may lie where it was
 * expected: decode trusts nothing. No I/O here.
 */
#ifndef WIRE_STATE_MESSAGE_H
#define WIRE_STATE_MESSAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "core/error.h"
#include "wire/attach_message.h"
#include "wire/control_message.h"

#define STATE_MAPPINGS_MAX 8

enum state_ended {
	STATE_ENDED_NOT = 0,
	STATE_ENDED_COMPLETED = 1,
	STATE_ENDED_FAILED = 2,
	STATE_ENDED_CANCELLED = 3,
};

struct state_mapping {
	uint32_t id;                  /* below STATE_MAPPINGS_MAX, each once */
	struct attach_request attach; /* ATTACH_REQUEST_ATTACH_MAPPING */
	pid_t pid;
};

struct state_message {
	char program_version[CONTROL_WORD_MAX];
	struct control_request start; /* CONTROL_REQUEST_START, with a migration_id */
	struct attach_request attach; /* ATTACH_REQUEST_ATTACH; ATTACH_REQUEST_NONE: none yet */
	pid_t vmm_pid;
	bool served;
	bool abandoned;
	bool completing;
	bool unregistered;
	enum state_ended ended;
	char ended_text[WIRE_ERROR_TEXT_MAX];
	uint64_t started_us;
	uint64_t paused_us;
	uint64_t paused_since_us;
	uint64_t reconnects;
	uint64_t ended_us;
	uint64_t ended_remaining;
	struct state_mapping mappings[STATE_MAPPINGS_MAX];
	size_t n_mappings;
};

/*
 * -EBADMSG with a text that names the field and what was wrong, or -ENOMEM. After
 * success both requests are of one migration, and whatever needs an Attach has it.
 */
int state_message_decode(const uint8_t *buf, size_t len, struct state_message *ret,
                         struct error *err);
/* Its arrays, not itself; also of a zeroed struct. */
void state_message_free(struct state_message *m);

/* Into a malloc()ed body. 0, -ENOMEM, -EINVAL for a struct that breaks the limits, -EMSGSIZE. */
int state_message_encode(const struct state_message *m, uint8_t **ret, size_t *ret_len);

#endif
