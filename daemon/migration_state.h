/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The states of a migration, with QEMU's names, and which may follow which.
 *
 *   setup            started by the operator; no VMM attached yet
 *   active           attached; the source is not frozen yet, or not reached yet
 *   postcopy-active  pages are being served
 *   postcopy-paused  a link to the source is lost; faults wait
 *   postcopy-recover the link is being set up again
 *   completed, failed, cancelled: final
 */
#ifndef DAEMON_MIGRATION_STATE_H
#define DAEMON_MIGRATION_STATE_H

#include <stdbool.h>

enum migration_state {
	MIGRATION_SETUP,
	MIGRATION_ACTIVE,
	MIGRATION_POSTCOPY_ACTIVE,
	MIGRATION_POSTCOPY_PAUSED,
	MIGRATION_POSTCOPY_RECOVER,
	MIGRATION_COMPLETED,
	MIGRATION_FAILED,
	MIGRATION_CANCELLED,
	MIGRATION_STATES_
};

const char *migration_state_name(enum migration_state s);
bool migration_state_final(enum migration_state s);
bool migration_transition_allowed(enum migration_state from, enum migration_state to);

#endif
