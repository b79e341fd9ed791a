/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What an operator declares lost. Called by the control server, by the lanes' events, and
 * when the migration ends.
 *
 * Always holds: a request is answered when each lane has done its part, and the ledger
 * has it: what was acknowledged is lost for every daemon to come.
 */
#include "daemon/migration_parts.h"

#include <errno.h>
#include <stdlib.h>
#include <utlist.h>

#include "core/log.h"

struct poison_request {
	struct poison_request *prev, *next;
	struct migration *migration;
	uint64_t id;     /* by which the lanes' answers know it */
	size_t n_orders; /* that have not been answered */
	struct error error;
	migration_poison_fn fn; /* NULL: nobody waits any more */
	void *user;
};

/* The part of a range that lies in one region; NULL where there is none. */
static const struct region *range_part(const struct migration *m, gpa_t gpa, uint64_t length_bytes,
                                       uint64_t *ret_bytes)
{
	const struct region *r = region_find_gpa(m->regions, gpa);

	if (r)
		*ret_bytes = MIN(length_bytes, r->gpa.addr + r->length_bytes - gpa.addr);
	return r;
}

static int check_range(const struct migration *m, const struct poison_range *range,
                       struct error *err)
{
	gpa_t gpa = range->gpa;
	uint64_t left = range->length_bytes;

	if (left == 0 || gpa.addr + left < gpa.addr)
		return error_set(
		        err, -EINVAL,
		        "the range at guest-physical 0x%llx of %llu bytes is empty or wraps",
		        (unsigned long long)gpa.addr, (unsigned long long)left);
	while (left > 0) {
		uint64_t bytes;

		if (!range_part(m, gpa, left, &bytes))
			return error_set(
			        err, -ERANGE,
			        "no region at guest-physical 0x%llx (of the range 0x%llx, %llu "
			        "bytes)",
			        (unsigned long long)gpa.addr, (unsigned long long)range->gpa.addr,
			        (unsigned long long)range->length_bytes);
		gpa.addr += bytes;
		left -= bytes;
	}
	return 0;
}

static int check_request(const struct migration *m, const struct poison_range *ranges,
                         size_t n_ranges, struct error *err)
{
	int r = 0;

	if (migration_state_final(m->state))
		return error_set(err, -EALREADY, "migration %s has ended already: %s", m->id_text,
		                 migration_state_name(m->state));
	if (m->state == MIGRATION_SETUP)
		return error_set(err, -ENOTCONN, "no VMM is attached to migration %s yet",
		                 m->id_text);
	if (m->completing)
		return error_set(err, -EALREADY, "every page of migration %s is here already",
		                 m->id_text);
	if (n_ranges == 0)
		return error_set(err, -EINVAL, "no range to poison");
	for (size_t i = 0; r == 0 && i < n_ranges; i++)
		r = check_range(m, &ranges[i], err);
	return r;
}

static void order_range(struct poison_request *q, const struct poison_range *range)
{
	const struct migration *m = q->migration;
	gpa_t gpa = range->gpa;
	uint64_t left = range->length_bytes;

	while (left > 0) {
		uint64_t bytes = 0;
		const struct region *r = range_part(m, gpa, left, &bytes);
		uint64_t first = (gpa.addr - r->gpa.addr) >> r->unit_shift;
		uint64_t last = (gpa.addr + bytes - 1 - r->gpa.addr) >> r->unit_shift;

		q->n_orders++;
		lane_poison_units(m->lanes[r->lane].lane, r->first_unit + first, last - first + 1,
		                  LEDGER_OPERATOR, q->id);
		gpa.addr += bytes;
		left -= bytes;
	}
}

int migration_poison(struct migration *m, const struct poison_range *ranges, size_t n_ranges,
                     migration_poison_fn fn, void *user, struct poison_request **ret,
                     struct error *err)
{
	struct poison_request *q;
	int r = check_request(m, ranges, n_ranges, err);

	if (r < 0)
		return r;
	q = calloc(1, sizeof(*q));
	if (!q)
		return error_set(err, -ENOMEM, "not enough memory");
	q->migration = m;
	q->id = ++m->last_poison_id;
	q->fn = fn;
	q->user = user;
	DL_APPEND(m->poison_requests, q);
	for (size_t i = 0; i < n_ranges; i++)
		order_range(q, &ranges[i]);
	*ret = q;
	return 0;
}

void migration_poison_forget(struct poison_request *q)
{
	if (q)
		q->fn = NULL;
}

static void request_end(struct poison_request *q)
{
	DL_DELETE(q->migration->poison_requests, q);
	if (q->fn)
		q->fn(&q->error, q->user);
	free(q);
}

void migration_poison_answered(struct migration *m, uint64_t id, const struct error *error)
{
	struct poison_request *q;

	DL_SEARCH_SCALAR(m->poison_requests, q, id, id);
	if (!q)
		return; /* answered when the migration ended */
	if (q->error.code == 0)
		q->error = *error;
	if (--q->n_orders == 0)
		request_end(q);
}

void migration_poison_end(struct migration *m)
{
	struct poison_request *q, *next;

	DL_FOREACH_SAFE (m->poison_requests, q, next) {
		/* Completed: every page is placed or lost, so all of that has been done. */
		if (m->state != MIGRATION_COMPLETED)
			error_set(&q->error, -ECANCELED,
			          "migration %s has %s before all of that was poisoned: what was "
			          "is in its list of lost pages",
			          m->id_text,
			          m->state == MIGRATION_CANCELLED ? "been cancelled" : "failed");
		request_end(q);
	}
}
