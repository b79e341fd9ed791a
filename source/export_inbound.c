/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An inbound export's talk with its VMM: what is asked, and what the answers mean for
 * the lost pages and the links. Called by the links (to ask) and by the export socket.
 */
#include <errno.h>
#include <inttypes.h>

#include "core/log.h"
#include "source/export.h"
#include "source/export_table.h"

/* On the main loop, which has the connection. */
static void on_ask_posted(void *arg)
{
	struct export *e = arg;
	struct attach_reply ask;

	atomic_store(&e->ask_posted, false);
	/* Without a VMM there is nobody to ask, and the export has failed. */
	while (e->ask && inbound_take_ask(e->inbound, &ask))
		e->ask(e->ask_user, &ask);
}

void export_ask(struct export *e)
{
	export_post_once(e, &e->ask_posted, on_ask_posted);
}

void export_set_ask(struct export *e, export_ask_fn fn, void *user)
{
	e->ask = fn;
	e->ask_user = user;
}

/* What one range of a Populated means. */
struct told {
	struct export *e;
	enum page_fate fate;
	uint64_t lost; /* that nobody knew of */
};

static int told_piece(uint64_t first, uint64_t count, void *user)
{
	struct told *told = user;
	enum poison_reason reason = told->fate == PAGE_FATE_POISONED ? POISON_REASON_INHERITED
	                                                             : POISON_REASON_READ_ERROR;
	uint64_t added = 0;
	int r = 0;

	if (told->fate != PAGE_FATE_HERE)
		r = poison_set_add(told->e->poison, first, count, reason, POISON_BY_VMM, &added);
	told->lost += added;
	if (r == 0) /* after that: whoever knows them sees that they are lost */
		inbound_know(told->e->inbound, first, count);
	return r;
}

static int populated_check(const struct export *e, const struct attach_request *q,
                           struct error *err)
{
	int r = 0;

	if (!e->inbound)
		return error_set(err, -EINVAL,
		                 "Populated belongs to an inbound export, and %s is none: all its "
		                 "memory is here",
		                 e->id_text);
	for (size_t i = 0; i < q->populated.n_ranges && r == 0; i++)
		r = region_table_walk_gpa(e->regions, &q->populated.ranges[i].range, NULL, NULL,
		                          err);
	return r;
}

int export_populated(struct export *e, const struct attach_request *q, struct error *err)
{
	struct told told = {.e = e};
	int r = populated_check(e, q, err);

	for (size_t i = 0; i < q->populated.n_ranges && r == 0; i++) {
		told.fate = q->populated.ranges[i].fate;
		if (told.fate != PAGE_FATE_NOT_YET)
			r = region_table_walk_gpa(e->regions, &q->populated.ranges[i].range,
			                          told_piece, &told, err);
	}
	if (told.lost > 0) {
		log_migration(LOG_WARNING, e->id_text,
		              "%" PRIu64 " pages are lost that were to come to this host",
		              told.lost);
		export_audit(e);
	}
	if (r < 0)
		return r;
	if (q->populated.all && !inbound_all_known(e->inbound)) {
		inbound_know_all(e->inbound);
		log_migration(LOG_INFO, e->id_text,
		              "all that was to come to this host is here or lost");
	}
	inbound_answered(e->inbound, q->populated.number);
	export_wake_links(e, false);
	return 0;
}
