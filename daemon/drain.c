/* SPDX-License-Identifier: Apache-2.0 */
/* Called by daemon.c when a signal wants it to end, and by status_line.c. No state. */
#include "daemon/drain.h"

#include <stdio.h>

#include "core/log.h"
#include "core/message_ids.h"

#define NAMED_MAX 3

static bool depends(const struct migration *m)
{
	if (migration_state_final(m->state))
		return m->memory; /* its lanes, or its audit, are not done */
	return m->state != MIGRATION_SETUP;
}

/* The next one that depends on the daemon; NULL: after the last. */
static struct migration *drain_next(const struct migration_table *t, const struct migration *after)
{
	struct migration *m = migration_table_next(t, after);

	while (m && !depends(m))
		m = migration_table_next(t, m);
	return m;
}

unsigned drain_count(const struct migration_table *t)
{
	unsigned n = 0;

	for (const struct migration *m = drain_next(t, NULL); m; m = drain_next(t, m))
		n++;
	return n;
}

const char *drain_names(const struct migration_table *t, char *buf, size_t buf_len)
{
	unsigned n = 0;
	size_t len = 0;

	buf[0] = '\0';
	for (const struct migration *m = drain_next(t, NULL); m; m = drain_next(t, m)) {
		if (n++ < NAMED_MAX)
			len += (size_t)snprintf(buf + len, buf_len - len, "%s%s (%s)",
			                        n > 1 ? ", " : "", m->id_text,
			                        migration_state_name(m->state));
	}
	if (n > NAMED_MAX)
		snprintf(buf + len, buf_len - len, " and %u more", n - NAMED_MAX);
	return buf;
}

static void log_waits(const struct migration *m)
{
	unsigned long long remaining_bytes = migration_remaining_bytes(m);
	bool final = migration_state_final(m->state);
	char why[128];

	if (final)
		snprintf(why, sizeof(why), "not all of its lost pages are in the journal yet");
	else
		snprintf(why, sizeof(why),
		         "its guest depends on this daemon (%s, %llu bytes missing)",
		         migration_state_name(m->state), remaining_bytes);
	log_event(LOG_WARNING, MESSAGE_STOP_WAITS,
	          LOG_FIELDS({"MIGRATION_ID", m->id_text},
	                     {"MIGRATION_STATE", migration_state_name(m->state)},
	                     {"PEER", m->peer_identity}, {"PEER_ADDRESS", m->source},
	                     {"VMM_PID", LOG_U64((uint64_t)m->vmm_pid)},
	                     {"REMAINING_BYTES", LOG_U64(remaining_bytes)}),
	          "migration %s: %s: the end waits for it%s", m->id_text, why,
	          final ? "" : "; a second signal would not");
}

void drain_begin(struct migration_table *t)
{
	migration_table_set_draining(t);
	for (const struct migration *m = drain_next(t, NULL); m; m = drain_next(t, m))
		log_waits(m);
}
