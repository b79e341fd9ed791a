/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The transition table of migrations: pure. Called by migration_set_state()
 * only. Nothing follows a final state, and no state follows itself.
 */
#include "daemon/migration_state.h"

#include "core/cleanup.h"

#define TO(s) (1U << MIGRATION_##s)
#define TO_ANY_END (TO(FAILED) | TO(CANCELLED))

static const struct {
	const char *name;
	unsigned next; /* TO() bits */
} states[] = {
        [MIGRATION_SETUP] = {"setup", TO(ACTIVE) | TO_ANY_END},
        /*
	 * From active to paused: one lane served already, another one lost its link.
	 * To completed: all pages poisoned by the operator or given back by the guest
	 * before every lane had said that it serves.
	 */
        [MIGRATION_ACTIVE] = {"active", TO(POSTCOPY_ACTIVE) | TO(POSTCOPY_PAUSED) | TO(COMPLETED) |
                                                TO_ANY_END},
        [MIGRATION_POSTCOPY_ACTIVE] = {"postcopy-active",
                                       TO(POSTCOPY_PAUSED) | TO(COMPLETED) | TO_ANY_END},
        /* The lost policy can complete a migration without its source. */
        [MIGRATION_POSTCOPY_PAUSED] = {"postcopy-paused",
                                       TO(POSTCOPY_RECOVER) | TO(COMPLETED) | TO_ANY_END},
        [MIGRATION_POSTCOPY_RECOVER] = {"postcopy-recover", TO(POSTCOPY_ACTIVE) |
                                                                    TO(POSTCOPY_PAUSED) |
                                                                    TO(COMPLETED) | TO_ANY_END},
        [MIGRATION_COMPLETED] = {"completed", 0},
        [MIGRATION_FAILED] = {"failed", 0},
        [MIGRATION_CANCELLED] = {"cancelled", 0},
};
_Static_assert(ARRAY_SIZE(states) == MIGRATION_STATES_, "a state lacks its row");

const char *migration_state_name(enum migration_state s)
{
	return s < MIGRATION_STATES_ ? states[s].name : "unknown";
}

bool migration_state_final(enum migration_state s)
{
	return s >= MIGRATION_STATES_ || states[s].next == 0;
}

bool migration_transition_allowed(enum migration_state from, enum migration_state to)
{
	return from < MIGRATION_STATES_ && to < MIGRATION_STATES_ && (states[from].next >> to & 1);
}
