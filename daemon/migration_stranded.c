/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Keeps what could not be taken up, until nobody needs it. Called by the restore,
 * by an operator's cancel, and when the VMM ends.
 *
 * Always holds: a stranded migration is failed, and nothing of its memory is touched.
 */
#include "daemon/migration_stranded.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "core/log.h"
#include "core/message_ids.h"
#include "daemon/migration_parts.h"

/* For a record that cannot be read. */
static int nameless_new(struct migration_table *table, const struct uuid *id,
                        struct migration **ret, struct error *err)
{
	static const uint8_t no_token[TOKEN_BYTES_MIN];
	const struct migration_params params = {
	        .id = *id,
	        .source = "unknown",
	        .peer_identity = "unknown",
	        .token = no_token,
	        .token_len = sizeof(no_token),
	        .lost_policy = LOST_POLICY_HOLD,
	};

	return migration_new(table, &params, ret, err);
}

static void log_stranded(const struct migration *m, const char *why)
{
	log_event(LOG_ERR, MESSAGE_MIGRATION_STRANDED,
	          LOG_FIELDS({"MIGRATION_ID", m->id_text},
	                     {"VMM_PID", m->vmm_pid ? LOG_U64((uint64_t)m->vmm_pid) : NULL},
	                     {"REASON", why}),
	          "migration %s: %s", m->id_text, m->state_text);
}

int migration_strand(struct migration_table *table, struct migration_found *f, pid_t vmm_pid,
                     const char *why, struct migration **m, struct error *err)
{
	struct error error = {0};
	int r = *m ? 0 : nameless_new(table, &f->id, m, err);

	if (r < 0)
		return r;
	if (f->vmm >= 0 && migration_vmm_watch(*m, vmm_pid, TAKE_FD(f->vmm), &error) < 0)
		log_migration(LOG_WARNING, (*m)->id_text, "migration %s: %s", (*m)->id_text,
		              error.text);
	memcpy((*m)->keep.protocol, f->protocol, sizeof(f->protocol));
	(*m)->keep.stranded = true;
	(*m)->released = true;
	(*m)->state = MIGRATION_FAILED;
	snprintf((*m)->state_text, sizeof((*m)->state_text),
	         "not taken up after a restart of the daemon, its guest waits: %s; what is kept of "
	         "it stays in the FD store until its VMM ends, or until postcopyctl cancel "
	         "--force",
	         why);
	log_stranded(*m, why);
	return 0;
}

int migration_stranded_cancel(struct migration *m, bool force, struct error *err)
{
	if (!force)
		return error_set(err, -EBUSY,
		                 "the guest of migration %s waits for memory that is kept for "
		                 "another daemon: force it to give that up for good",
		                 m->id_text);
	log_migration(LOG_NOTICE, m->id_text,
	              "migration %s: given up by an operator: what was kept of it leaves the FD "
	              "store; accesses of its guest wait as long as the VMM holds its "
	              "userfaultfds",
	              m->id_text);
	migration_keep_forget(m);
	return 0;
}

void migration_stranded_vmm_gone(struct migration *m)
{
	migration_vmm_log_gone(m);
	migration_keep_forget(m);
}
