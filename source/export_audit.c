/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The audit of what an export has lost: a journal record for each run of pages,
 * in the order in which they became known. Main loop only, so many in a turn: a
 * link's thread, which has faults to answer, never waits for the journal.
 */
#include <inttypes.h>

#include "core/log.h"
#include "core/message_ids.h"
#include "source/export_table.h"

#define RUNS_PER_TURN 64

static void write_record(const struct export *e, const struct page_run *run,
                         enum poison_reason reason)
{
	const struct source_region *r = region_table_find_page(e->regions, run->first);
	uint64_t offset_bytes = (run->first - r->first_page) << WIRE_PAGE_SHIFT;

	log_event(LOG_WARNING, MESSAGE_PAGES_LOST,
	          LOG_FIELDS({"MIGRATION_ID", e->id_text}, {"REGION", r->name},
	                     {"PAGE_OFFSET", LOG_U64(offset_bytes)},
	                     {"GUEST_PHYSICAL_ADDRESS", LOG_HEX(r->gpa.addr + offset_bytes)},
	                     {"LOST_BYTES", LOG_U64((uint64_t)run->count << WIRE_PAGE_SHIFT)},
	                     {"REASON", poison_reason_name(reason)}),
	          "%" PRIu32 " page(s) at offset %" PRIu64 " of region %s are lost (%s)",
	          run->count, offset_bytes, r->name, poison_reason_name(reason));
}

/* Whether there may be more. */
static bool write_records(struct export *e)
{
	struct page_run runs[RUNS_PER_TURN];
	enum poison_reason reason;
	uint64_t behind;
	size_t n =
	        poison_set_read(e->poison, e->audit_cursor, runs, RUNS_PER_TURN, &reason, &behind);

	for (size_t i = 0; i < n; i++) {
		write_record(e, &runs[i], reason);
		/* Afterwards: a record may come twice over a crash, but none is missing. */
		e->audit_cursor += runs[i].count;
		poison_set_audited(e->poison, e->audit_cursor);
	}
	return n > 0;
}

static void start(struct export_table *t)
{
	/* Without delay, but what waits on sockets has its turn in between. */
	static const struct timeval now = {0};

	if (!event_pending(t->audit_timer, EV_TIMEOUT, NULL))
		event_add(t->audit_timer, &now);
}

void export_table_on_audit(evutil_socket_t fd, short what, void *arg)
{
	struct export_table *t = arg;
	struct export *e, *next;
	bool more = false;

	(void)fd;
	(void)what;
	HASH_ITER (hh, t->by_id, e, next)
		more |= write_records(e);
	if (more)
		start(t);
}

void export_audit(struct export *e)
{
	start(e->table);
}

void export_audit_all(struct export *e)
{
	while (e->poison && write_records(e))
		;
}
