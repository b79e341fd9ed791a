/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Role: the bulk thread's side of a lane: have the source's address resolved,
 * and run the stream. Every loss goes to the urgent thread, which coordinates.
 */
#include "core/thread_tuning.h"
#include "daemon/lane_private.h"

/* On the look-up's thread, which has started after the generation was set. */
static void on_looked_up(struct addrinfo *list, const struct error *err, void *user)
{
	struct lane *lane = user;
	struct order *o =
	        order_new(list ? ORDER_CONNECT_URGENT : ORDER_BULK_LOST, lane->lookup_generation);

	if (list) {
		o->resolved = list;
	} else {
		o->error = *err;
		o->retriable = true;
	}
	order_post(&lane->urgent, o);
}

/* The name may need DNS, which nobody here waits for: the lane may end meanwhile. */
static void resolve_address(struct lane *lane, struct order *o)
{
	struct error err = {0};

	if (o->generation != atomic_load(&lane->generation))
		return;
	lane->bulk_generation = o->generation;
	bulk_stream_disconnect(lane->stream);
	lane->lookup = lookup_cancel(lane->lookup);
	lane->lookup_generation = o->generation;
	if (lookup_start(o->address, on_looked_up, lane, &lane->lookup, &err) < 0)
		on_looked_up(NULL, &err, lane);
}

static void connect_bulk(struct lane *lane, struct order *o)
{
	struct source_link_params params;

	if (o->generation != atomic_load(&lane->generation))
		return;
	params = lane_link_params(lane, LINK_ROLE_BULK, lane->bulk.loop);
	bulk_stream_connect(lane->stream, &params, lane_pick_address(o->resolved, o->generation));
	tls_context_unref(params.tls);
}

static void on_bulk_connected(void *user)
{
	struct lane *lane = user;

	order_post(&lane->urgent, order_new(ORDER_BULK_CONNECTED, lane->bulk_generation));
}

static void on_bulk_lost(const struct error *err, bool retriable, void *user)
{
	struct lane *lane = user;
	struct order *o = order_new(ORDER_BULK_LOST, lane->bulk_generation);

	o->error = *err;
	o->retriable = retriable;
	order_post(&lane->urgent, o);
}

static void take_order(struct lane *lane, struct order *o)
{
	switch (o->kind) {
	case ORDER_CONNECT:
		resolve_address(lane, o);
		break;
	case ORDER_CONNECT_BULK:
		connect_bulk(lane, o);
		break;
	case ORDER_DISCONNECT:
		if (o->generation >= lane->bulk_generation)
			bulk_stream_disconnect(lane->stream);
		break;
	case ORDER_BANDWIDTH:
		bulk_stream_set_bandwidth(lane->stream, o->bandwidth);
		break;
	case ORDER_PING:
		lane_pong(&lane->bulk);
		break;
	default:
		break;
	}
}

static bool bulk_wait_retry(bool changing, void *user)
{
	struct lane *lane = user;

	return bulk_stream_wait_retry(lane->stream, changing);
}

static void on_warning(const struct error *err, void *user)
{
	lane_post_warning(user, err);
}

void *lane_bulk_main(void *arg)
{
	struct lane *lane = arg;
	struct error err = {0};

	if (thread_set_cpus(&lane->tuning.bulk_cpus, &err) < 0)
		lane_post_warning(lane, &err);
	if (thread_set_nice(lane->tuning.bulk_nice, &err) < 0)
		lane_post_warning(lane, &err);
	loop_run(lane->bulk.loop);
	return NULL;
}

int lane_bulk_make(struct lane *lane, const struct placer *placer, uint64_t bandwidth)
{
	static const struct placer_callbacks placer_callbacks = {.wait_retry = bulk_wait_retry,
	                                                         .report = lane_on_report};
	static const struct bulk_stream_callbacks callbacks = {.on_connected = on_bulk_connected,
	                                                       .on_lost = on_bulk_lost,
	                                                       .on_warning = on_warning};
	struct bulk_stream_params p = {
	        .loop = lane->bulk.loop,
	        .stop_fd = lane->stop_fd,
	        .lane = lane->index,
	        .regions = lane->bulk_regions,
	        .placer = *placer,
	        .last_fault_page = &lane->last_fault_page,
	        .window_pages = lane->tuning.stream_window_pages,
	        .callbacks = &callbacks,
	        .user = lane,
	};
	int rc;

	p.placer.callbacks = &placer_callbacks;
	p.placer.stats = &lane->bulk_stats;
	p.placer.regions = lane->bulk_regions;
	lane->bulk.take_order = take_order;
	rc = bulk_stream_new(&p, &lane->stream);
	if (rc == 0)
		bulk_stream_set_bandwidth(lane->stream, bandwidth);
	return rc;
}
