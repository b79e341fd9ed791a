/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Role: answer page faults. Runs on a lane's urgent thread; this file has the connection,
 * the main thread's orders, and its beginning and end. A fault travels through the files
 * that fault_path_parts.h names.
 *
 * Always holds: a unit in the state REQUESTED has an entry in the in-flight
 * table, or is about to be placed by the stream; so every fault that was read
 * is answered, whatever happens to the connection.
 */
#include "daemon/fault_path.h"

#include <errno.h>
#include <inttypes.h>

#include "daemon/fault_path_parts.h"

#define IN_FLIGHT_MAX 4096
#define HUGE_OUTSTANDING_BYTES (UINT64_C(32) << 20) /* of the huge pages' buffers, but for one */

void fault_complain(struct fault_path *fp, const char *what, uint64_t address)
{
	struct error e;

	if (fp->complained)
		return; /* a VMM must not be able to fill the log */
	fp->complained = true;
	error_set(&e, -EPROTO, "%s (0x%" PRIx64 "); ignoring this and any like it", what, address);
	fp->params.callbacks->on_warning(&e, fp->params.user);
}

/* ---- messages ---- */

static void start_serving(struct fault_path *fp)
{
	fp->serving = true;
	fault_request_unsent(fp);
}

static int take_frozen(struct fault_path *fp, struct error *err)
{
	if (fp->serving)
		return error_set(err, -EPROTO, "the source says twice that it is frozen");
	start_serving(fp);
	fp->params.callbacks->on_frozen(fp->params.user);
	return 0;
}

static int on_message(const struct page_message *m, struct error *err, void *user)
{
	struct fault_path *fp = user;

	switch (m->type) {
	case PAGE_MESSAGE_PAGES:
		return fault_answer_pages(fp, m, err);
	case PAGE_MESSAGE_POISON_NOTICE:
		return fault_answer_poison(fp, m, err);
	case PAGE_MESSAGE_FROZEN:
		return take_frozen(fp, err);
	case PAGE_MESSAGE_COMPLETE_ACK:
		fp->params.callbacks->on_complete_ack(fp->params.user);
		return 0;
	default:
		return error_set(err, -EPROTO, "the source sent %s on the urgent connection",
		                 page_message_type_name(m->type));
	}
}

/* ---- the connection ---- */

static int on_welcome(const struct page_message *m, struct error *err, void *user)
{
	struct fault_path *fp = user;
	int rc = source_link_match(m, fp->params.regions, err);

	if (rc < 0)
		return rc;
	fp->params.callbacks->on_connected(m->hello_ack.poisoned_pages, m->hello_ack.frozen,
	                                   fp->params.user);
	if (m->hello_ack.frozen)
		start_serving(fp);
	return 0;
}

static void on_lost(const struct error *err, bool retriable, void *user)
{
	struct fault_path *fp = user;
	struct error e = *err; /* the link's own copy goes with it */

	fault_path_disconnect(fp);
	fp->params.callbacks->on_lost(&e, retriable, fp->params.user);
}

void fault_path_connect(struct fault_path *fp, const struct source_link_params *link,
                        const struct addrinfo *address)
{
	static const struct source_link_callbacks callbacks = {
	        .on_welcome = on_welcome, .on_message = on_message, .on_lost = on_lost};
	struct source_link_params params = *link;
	struct error err = {0};

	fault_path_disconnect(fp);
	params.callbacks = &callbacks;
	params.user = fp;
	if (source_link_new(&params, address, &fp->link, &err) < 0)
		fp->params.callbacks->on_lost(&err, true, fp->params.user);
}

void fault_path_disconnect(struct fault_path *fp)
{
	struct in_flight_entry *e;
	uint32_t cursor = 0;

	fp->link = source_link_free(fp->link);
	fp->serving = false;
	fp->batch_len = 0;
	while ((e = in_flight_next(fp->in_flight, &cursor))) {
		fault_request_release(fp, e);
		fp->n_unsent += e->sent;
		e->sent = false;
		in_flight_renew(fp->in_flight, e); /* an old answer must not fit */
	}
}

/* ---- orders from the main thread, by way of the lane ---- */

int fault_path_poison(struct fault_path *fp, uint64_t first_unit, uint64_t n_units,
                      enum ledger_reason reason)
{
	uint64_t unit = first_unit, end = first_unit + n_units;
	int rc = 0;

	while (unit < end && rc == 0) {
		const struct region *r = region_find_unit(fp->params.regions, unit);
		uint64_t n;

		if (!r)
			return -ERANGE;
		n = MIN(end - unit, region_n_units(r) - (unit - r->first_unit));
		if (r->lane == fp->params.lane)
			rc = placement_poison(&fp->placer, r, unit, n, reason);
		unit += n;
	}
	return rc;
}

int fault_path_send(struct fault_path *fp, const struct page_message *m)
{
	return fp->link ? source_link_send(fp->link, m) : -ENOTCONN;
}

/* ---- life ---- */

static uint64_t largest_unit(const struct fault_path *fp)
{
	uint64_t bytes = 0;

	for (size_t i = 0; i < fp->params.regions->n_regions; i++)
		if (fp->params.regions->regions[i].lane == fp->params.lane)
			bytes = MAX(bytes, region_unit_bytes(&fp->params.regions->regions[i]));
	return bytes;
}

static int make_assemblies(struct fault_path *fp)
{
	uint64_t unit_bytes = largest_unit(fp);
	uint64_t n;

	if (unit_bytes <= WIRE_PAGE_SIZE)
		return 0;
	n = MIN(HUGE_OUTSTANDING_BYTES / unit_bytes, (uint64_t)HUGE_OUTSTANDING_MAX);
	for (uint64_t i = 0; i < MAX(n, UINT64_C(1)); i++) {
		int rc = assembly_new(unit_bytes, &fp->assemblies[i]);

		if (rc < 0)
			return rc;
		fp->n_free_assemblies++;
	}
	return 0;
}

static int watch_uffd(struct fault_path *fp)
{
	fp->uffd_event = event_new(loop_base(fp->params.loop), fp->params.uffd,
	                           EV_READ | EV_PERSIST, fault_event_on_readable, fp);
	if (!fp->uffd_event || event_priority_set(fp->uffd_event, 0) < 0 ||
	    event_add(fp->uffd_event, NULL) < 0)
		return -ENOMEM;
	return 0;
}

int fault_path_new(const struct fault_path_params *params, struct fault_path **ret)
{
	_cleanup_(cleanup_fault_path_free) struct fault_path *fp = calloc(1, sizeof(*fp));
	int rc;

	if (!fp)
		return -ENOMEM;
	fp->params = *params;
	fp->placer = params->placer;
	rc = in_flight_new(IN_FLIGHT_MAX, &fp->in_flight);
	if (rc == 0)
		rc = make_assemblies(fp);
	if (rc == 0)
		rc = watch_uffd(fp);
	if (rc < 0)
		return rc;
	*ret = TAKE_PTR(fp);
	return 0;
}

int fault_path_recover(struct fault_path *fp, struct recovery *ret)
{
	const struct fault_path_params *p = &fp->params;

	return recovery_run(&fp->placer, p->lane, p->events, p->events ? FAULT_BATCH : 0, ret);
}

struct fault_path *fault_path_free(struct fault_path *fp)
{
	if (!fp)
		return NULL;
	if (fp->in_flight)
		fault_path_disconnect(fp);
	if (fp->uffd_event)
		event_free(fp->uffd_event);
	for (size_t i = 0; i < MAPPINGS_MAX; i++)
		fault_mapping_free(fp->mapped[i]);
	for (size_t i = 0; i < HUGE_OUTSTANDING_MAX; i++)
		assembly_free(fp->assemblies[i]);
	in_flight_free(fp->in_flight);
	free(fp);
	return NULL;
}
