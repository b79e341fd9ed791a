/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The audit of lost pages: one journal record for each entry of the ledger, in its
 * order. Called when a lane says that the ledger has grown, and when the
 * migration's memory is to go.
 *
 * Always holds: records are written by the main thread only, so many in a turn of
 * its loop, and the ledger stays until the last one is written. How far they are
 * is kept in the ledger's memory: a restarted daemon goes on from there.
 */
#include "daemon/migration_parts.h"

#include "core/log.h"
#include "core/message_ids.h"

#define RECORDS_PER_TURN 64

const char *migration_poison_reporter(const struct migration *m, enum ledger_reason reason)
{
	if (reason == LEDGER_OPERATOR)
		return "operator";
	if (reason == LEDGER_SOURCE_LOST)
		return "policy";
	return m->peer_identity;
}

static void write_record(const struct migration *m, uint64_t i)
{
	const struct ledger_entry *e = ledger_get(&m->memory->ledger, i);
	const struct region *r = &m->regions->regions[e->region];
	const char *reason = ledger_reason_name(e->reason);

	log_event(LOG_WARNING, MESSAGE_PAGE_POISONED,
	          LOG_FIELDS({"MIGRATION_ID", m->id_text}, {"LEDGER_ENTRY", LOG_U64(i)},
	                     {"REGION", r->name}, {"PAGE_OFFSET", LOG_U64(e->offset_bytes)},
	                     {"GUEST_PHYSICAL_ADDRESS", LOG_HEX(e->gpa.addr)},
	                     {"LOST_BYTES", LOG_U64(e->lost_bytes)}, {"REASON", reason},
	                     {"REPORTED_BY", migration_poison_reporter(m, e->reason)},
	                     {"PEER", m->peer_identity}, {"LANE", LOG_U64(r->lane)},
	                     {"POISONED_USEC", LOG_U64(e->time_us)}),
	          "migration %s: poisoned: region %s, offset 0x%llx, guest-physical 0x%llx, "
	          "%llu bytes (%s)",
	          m->id_text, r->name, (unsigned long long)e->offset_bytes,
	          (unsigned long long)e->gpa.addr, (unsigned long long)e->lost_bytes, reason);
}

/* At most so many records; whether others are left. */
static bool write_records(struct migration *m, uint64_t max)
{
	struct ledger *ledger = &m->memory->ledger;
	uint64_t count = ledger_count(ledger);
	uint64_t i = ledger_audited(ledger);
	uint64_t end = i + MIN(count - i, max);

	while (i < end) {
		write_record(m, i);
		ledger_set_audited(ledger, ++i);
	}
	return end < count;
}

/* Lanes and records are done with it. What the next daemon shows of the ledger stays in the store. */
static void memory_end(struct migration *m)
{
	if (poison_list_update(&m->final_lost, &m->memory->ledger) < 0)
		log_migration(LOG_WARNING, m->id_text,
		              "migration %s: no memory for the list of what it has lost: processes "
		              "that map its memory from now on are refused",
		              m->id_text);
	state_memfd_drop_map(m->memory);
	m->memory = state_memfd_free(m->memory);
	migration_keep_end(m);
}

/* A timer without delay: what waits on sockets has its turn in between. */
void migration_on_audit(evutil_socket_t fd, short what, void *arg)
{
	struct migration *m = arg;

	(void)fd;
	(void)what;
	if (write_records(m, RECORDS_PER_TURN))
		timer_start(m->audit_timer, 0);
	else if (m->released)
		memory_end(m);
}

void migration_audit(struct migration *m)
{
	if (!event_pending(m->audit_timer, EV_TIMEOUT, NULL))
		timer_start(m->audit_timer, 0);
}

void migration_audit_all(struct migration *m)
{
	if (m->memory)
		(void)write_records(m, UINT64_MAX);
}
