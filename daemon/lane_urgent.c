/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Role: the urgent thread's side of a lane. It also coordinates: when the bulk
 * thread has resolved the source's address, the urgent link connects, then the
 * bulk link; if either is lost, both go, and one LINK_LOST is reported. After Complete
 * only the urgent link counts.
 */
#include <errno.h>

#include "core/thread_tuning.h"
#include "daemon/lane_private.h"

static void post_lost(struct lane *lane, const struct error *err, bool retriable)
{
	struct lane_event e = {.type = LANE_EVENT_LINK_LOST, .error = *err, .retriable = retriable};

	lane_post_event(lane, lane->urgent_generation, &e);
}

static void connect_urgent(struct lane *lane, struct order *o)
{
	struct source_link_params params;

	if (o->generation != atomic_load(&lane->generation))
		return;
	lane->urgent_generation = o->generation;
	lane->links_up = true;
	lane->bulk_connected = false;
	lane->complete_sent = false;
	if (lane->address)
		freeaddrinfo(lane->address);
	lane->address = TAKE_PTR(o->resolved);
	params = lane_link_params(lane, LINK_ROLE_URGENT, lane->urgent.loop);
	fault_path_connect(lane->faults, &params, lane_pick_address(lane->address, o->generation));
	tls_context_unref(params.tls);
}

static void disconnect_bulk(struct lane *lane)
{
	order_post(&lane->bulk, order_new(ORDER_DISCONNECT, lane->urgent_generation));
}

static void on_urgent_connected(uint64_t poisoned_pages, bool frozen, void *user)
{
	struct lane *lane = user;
	struct order *o = order_new(ORDER_CONNECT_BULK, lane->urgent_generation);

	lane->connected = (struct lane_event){.type = LANE_EVENT_CONNECTED,
	                                      .source_poisoned_pages = poisoned_pages,
	                                      .frozen = frozen};
	o->resolved = TAKE_PTR(lane->address);
	order_post(&lane->bulk, o);
}

static void on_urgent_frozen(void *user)
{
	struct lane *lane = user;
	struct lane_event e = {.type = LANE_EVENT_FROZEN};

	lane->connected.frozen = true;
	if (lane->bulk_connected)
		lane_post_event(lane, lane->urgent_generation, &e);
}

static void on_urgent_lost(const struct error *err, bool retriable, void *user)
{
	struct lane *lane = user;

	if (!lane->links_up)
		return;
	lane->links_up = false;
	disconnect_bulk(lane);
	post_lost(lane, err, retriable);
}

static void on_complete_ack(void *user)
{
	struct lane *lane = user;
	struct lane_event e = {.type = LANE_EVENT_COMPLETE_ACKED};

	lane_post_event(lane, 0, &e);
}

static void on_warning(const struct error *err, void *user)
{
	struct lane_event e = {.type = LANE_EVENT_WARNING, .error = *err};

	lane_post_event(user, 0, &e);
}

static void bulk_is_connected(struct lane *lane, const struct order *o)
{
	if (o->generation != lane->urgent_generation || !lane->links_up)
		return;
	lane->bulk_connected = true;
	lane_post_event(lane, lane->urgent_generation, &lane->connected);
}

static void bulk_is_lost(struct lane *lane, const struct order *o)
{
	/* A name that could not be resolved is lost before there was an urgent link. */
	if (o->generation > lane->urgent_generation) {
		lane->urgent_generation = o->generation;
		lane->links_up = true;
	}
	/* A source that has been told that all is here ends both, in any order. */
	if (o->generation != lane->urgent_generation || !lane->links_up || lane->complete_sent)
		return;
	lane->links_up = false;
	fault_path_disconnect(lane->faults);
	post_lost(lane, &o->error, o->retriable);
}

static void send_complete(struct lane *lane, const struct order *o)
{
	struct error err = {0};

	if (fault_path_send(lane->faults, &o->complete) == 0) {
		lane->complete_sent = true;
		return;
	}
	if (!lane->links_up)
		return; /* LINK_LOST was or will be told */
	error_set(&err, -ENOTCONN, "cannot send Complete");
	fault_path_disconnect(lane->faults);
	on_urgent_lost(&err, true, lane);
}

static void poison(struct lane *lane, const struct order *o)
{
	struct lane_event e = {.type = LANE_EVENT_POISON_DONE, .poison_id = o->poison.id};
	int r = fault_path_poison(lane->faults, o->poison.first_unit, o->poison.n_units,
	                          o->poison.reason);

	if (r < 0)
		error_set_errno(&e.error, r, "not all of that could be poisoned");
	if (o->poison.id)
		lane_post_event(lane, 0, &e);
}

static void map(struct lane *lane, const struct order *o)
{
	struct error err = {0};

	if (fault_path_map(lane->faults, o->mapping) == 0)
		return;
	error_set(&err, -ENOMEM,
	          "no memory for the faults of a further mapping: its process waits at the first "
	          "page that is missing there");
	lane_post_warning(lane, &err);
}

static void take_order(struct lane *lane, struct order *o)
{
	switch (o->kind) {
	case ORDER_CONNECT_URGENT:
		connect_urgent(lane, o);
		break;
	case ORDER_BULK_CONNECTED:
		bulk_is_connected(lane, o);
		break;
	case ORDER_BULK_LOST:
		bulk_is_lost(lane, o);
		break;
	case ORDER_DISCONNECT:
		lane->links_up = false;
		fault_path_disconnect(lane->faults);
		break;
	case ORDER_POISON:
		poison(lane, o);
		break;
	case ORDER_COMPLETE:
		send_complete(lane, o);
		break;
	case ORDER_PING:
		lane_pong(&lane->urgent);
		break;
	case ORDER_MAP:
		map(lane, o);
		break;
	case ORDER_UNMAP:
		fault_path_unmap(lane->faults, o->mapping);
		break;
	default:
		break;
	}
}

static bool urgent_wait_retry(bool changing, void *user)
{
	struct lane *lane = user;

	return fault_path_wait_retry(lane->faults, changing);
}

/* Nothing can be connected, and so nothing placed, before this thread runs its loop. */
static void recover(struct lane *lane)
{
	struct lane_event e = {.type = LANE_EVENT_RECOVERED};
	int rc = fault_path_recover(lane->faults, &e.recovery);

	if (rc < 0)
		return; /* VMM_GONE or FAILED has been told, or the lane is being stopped */
	lane_post_event(lane, 0, &e);
	if (e.recovery.n_left == 0)
		lane_on_report(PLACEMENT_FINISHED, 0, NULL, lane);
}

void *lane_urgent_main(void *arg)
{
	struct lane *lane = arg;
	struct error err = {0};

	if (thread_set_cpus(&lane->tuning.urgent_cpus, &err) < 0)
		lane_post_warning(lane, &err);
	if (thread_set_realtime(lane->tuning.urgent_rt_priority, &err) < 0)
		lane_post_warning(lane, &err);
	if (lane->adopted)
		recover(lane);
	loop_run(lane->urgent.loop);
	return NULL;
}

int lane_urgent_make(struct lane *lane, const struct placer *placer)
{
	static const struct placer_callbacks placer_callbacks = {.wait_retry = urgent_wait_retry,
	                                                         .report = lane_on_report};
	static const struct fault_path_callbacks callbacks = {
	        .on_connected = on_urgent_connected,
	        .on_frozen = on_urgent_frozen,
	        .on_lost = on_urgent_lost,
	        .on_complete_ack = on_complete_ack,
	        .on_warning = on_warning,
	};
	struct fault_path_params p = {
	        .loop = lane->urgent.loop,
	        .uffd = lane->uffd,
	        .stop_fd = lane->stop_fd,
	        .lane = lane->index,
	        .events = lane->events,
	        .regions = lane->urgent_regions,
	        .placer = *placer,
	        .last_fault_page = &lane->last_fault_page,
	        .n_reads = &lane->n_reads,
	        .callbacks = &callbacks,
	        .user = lane,
	};

	p.placer.callbacks = &placer_callbacks;
	p.placer.stats = &lane->urgent_stats;
	p.placer.regions = lane->urgent_regions;
	lane->urgent.take_order = take_order;
	return fault_path_new(&p, &lane->faults);
}
