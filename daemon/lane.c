/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Role: hold a lane together: its two threads, what they share, and the order
 * in which they connect. Called by the migration on the main thread.
 *
 * Orders travel as functions posted to the threads' loops; what happened
 * travels back the same way. The urgent thread coordinates: the bulk thread
 * resolves the address (that may block), the urgent link connects, then the
 * bulk link. If either is lost, both go, and one LINK_LOST is reported.
 */
#include "daemon/lane.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "daemon/bulk_stream.h"
#include "daemon/fault_path.h"
#include "daemon/thread_tuning.h"
#include "daemon/uffd.h"
#include "net/address.h"
#include "wire/attach_message.h"

#define ZEROS_BYTES (2UL * 1024 * 1024)

enum order_kind {
	ORDER_CONNECT,        /* main -> bulk: resolve */
	ORDER_CONNECT_URGENT, /* bulk -> urgent */
	ORDER_CONNECT_BULK,   /* urgent -> bulk */
	ORDER_BULK_CONNECTED, /* bulk -> urgent */
	ORDER_BULK_LOST,      /* bulk -> urgent */
	ORDER_DISCONNECT,     /* main -> both, urgent -> bulk */
	ORDER_BANDWIDTH,      /* main -> bulk */
	ORDER_POISON,         /* main -> urgent */
	ORDER_COMPLETE,       /* main -> urgent */
};

/* A message between the lane's threads. Belongs to the queue, so that none is lost at the end. */
struct order {
	struct order *next;
	enum order_kind kind;
	uint64_t generation;
	struct error error;
	bool retriable;
	union {
		char address[ADDRESS_TEXT_MAX];
		struct addrinfo *resolved; /* ORDER_CONNECT_URGENT: the receiver's */
		uint64_t bandwidth;
		struct {
			uint64_t first_unit, n_units;
			enum ledger_reason reason;
		} poison;
		struct page_message complete;
	};
};

struct lane_thread {
	struct lane *lane;
	struct loop *loop;
	pthread_t thread;
	bool started;
	pthread_mutex_t lock; /* orders */
	struct order *orders, **orders_tail;
	void (*take_order)(struct lane *lane, struct order *o);
};

/* What a posted event points to: it may arrive when the lane is gone. */
struct lane_handle {
	_Atomic unsigned references;
	struct lane *lane; /* main thread only; NULL after lane_free() */
};

struct lane {
	struct loop *main_loop;
	lane_event_fn on_event;
	void *user;
	struct lane_handle *handle;
	uint32_t index;
	int uffd;
	int stop_fd;
	struct lane_tuning tuning;
	char *urgent_cpus, *bulk_cpus;

	/* What a link needs. tls changes under tls_lock. */
	struct source_link_params link;
	uint8_t token[TOKEN_BYTES_MAX];
	char peer_identity[PEER_IDENTITY_MAX];
	pthread_mutex_t tls_lock;

	struct region_table *regions; /* the main thread's */
	struct region_table *urgent_regions, *bulk_regions;
	struct stats urgent_stats, bulk_stats;
	_Atomic uint64_t pages_left;
	_Atomic uint64_t last_fault_page;
	_Atomic bool poisoned_pending;
	pthread_mutex_t remove_lock;
	uint8_t *zeros;
	uint64_t zeros_bytes;

	struct lane_thread urgent, bulk;
	struct fault_path *faults;  /* urgent thread's while it runs */
	struct bulk_stream *stream; /* bulk thread's */

	/* Counts connects and disconnects: what belongs to an older one is dropped. */
	_Atomic uint64_t generation;

	/* Urgent thread: the state of the two links. */
	uint64_t urgent_generation;
	struct addrinfo *address; /* handed to the bulk thread with CONNECT_BULK */
	bool links_up;            /* none was lost in this generation */
	bool bulk_connected;
	struct lane_event connected; /* what CONNECTED will say */

	/* Bulk thread. */
	uint64_t bulk_generation;
};

/* ---- events to the main thread ---- */

struct posted_event {
	struct lane_handle *handle;
	uint64_t generation; /* 0: of no connection, never dropped */
	struct lane_event event;
};

static void handle_unref(struct lane_handle *h)
{
	if (atomic_fetch_sub(&h->references, 1) == 1)
		free(h);
}

static void deliver_event(void *arg)
{
	struct posted_event *p = arg;
	struct lane *lane = p->handle->lane;

	if (lane && p->event.type == LANE_EVENT_POISONED)
		atomic_store(&lane->poisoned_pending, false);
	if (lane && (p->generation == 0 || p->generation == atomic_load(&lane->generation)))
		lane->on_event(lane, &p->event, lane->user);
	handle_unref(p->handle);
	free(p);
}

static void post_event(struct lane *lane, uint64_t generation, const struct lane_event *event)
{
	struct posted_event *p = malloc(sizeof(*p));

	if (!p)
		abort(); /* a state change that nobody hears of would strand the guest */
	*p = (struct posted_event){
	        .handle = lane->handle, .generation = generation, .event = *event};
	atomic_fetch_add(&lane->handle->references, 1);
	if (loop_post(lane->main_loop, deliver_event, p) < 0)
		abort();
}

static void post_lost(struct lane *lane, const struct error *err, bool retriable)
{
	struct lane_event e = {.type = LANE_EVENT_LINK_LOST, .error = *err, .retriable = retriable};

	post_event(lane, lane->urgent_generation, &e);
}

/* ---- orders between the threads ---- */

static struct order *order_pop(struct lane_thread *t)
{
	struct order *o;

	pthread_mutex_lock(&t->lock);
	o = t->orders;
	if (o) {
		t->orders = o->next;
		if (!t->orders)
			t->orders_tail = &t->orders;
	}
	pthread_mutex_unlock(&t->lock);
	return o;
}

static void order_free(struct order *o)
{
	if (o->kind == ORDER_CONNECT_URGENT || o->kind == ORDER_CONNECT_BULK)
		if (o->resolved)
			freeaddrinfo(o->resolved);
	free(o);
}

static void run_order(void *arg)
{
	struct lane_thread *t = arg;
	struct order *o = order_pop(t);

	if (!o)
		return;
	t->take_order(t->lane, o);
	order_free(o);
}

static struct order *order_new(enum order_kind kind, uint64_t generation)
{
	struct order *o = calloc(1, sizeof(*o));

	if (!o)
		abort(); /* see post_event() */
	o->kind = kind;
	o->generation = generation;
	return o;
}

static void order_post(struct lane_thread *t, struct order *o)
{
	pthread_mutex_lock(&t->lock);
	*t->orders_tail = o;
	t->orders_tail = &o->next;
	pthread_mutex_unlock(&t->lock);
	if (loop_post(t->loop, run_order, t) < 0)
		abort();
}

/* ---- connecting ---- */

static struct source_link_params link_params(struct lane *lane, enum link_role role,
                                             struct loop *loop)
{
	struct source_link_params p = lane->link;

	p.loop = loop;
	p.role = role;
	p.event_priority = 1; /* behind the uffd */
	pthread_mutex_lock(&lane->tls_lock);
	p.tls = tls_context_ref(lane->link.tls);
	pthread_mutex_unlock(&lane->tls_lock);
	return p;
}

/* Bulk thread: the name may need DNS, and this thread may wait. */
static void resolve_address(struct lane *lane, struct order *o)
{
	struct order *next;
	struct error err = {0};

	if (o->generation != atomic_load(&lane->generation))
		return;
	lane->bulk_generation = o->generation;
	bulk_stream_disconnect(lane->stream);
	next = order_new(ORDER_CONNECT_URGENT, o->generation);
	if (address_resolve(o->address, false, &next->resolved, &err) < 0) {
		next->kind = ORDER_BULK_LOST;
		next->resolved = NULL;
		next->error = err;
		next->retriable = true;
	}
	order_post(&lane->urgent, next);
}

/* One address an attempt: a name with several is tried in turn. */
static const struct addrinfo *pick_address(const struct addrinfo *list, uint64_t attempt)
{
	const struct addrinfo *a = list;
	uint64_t n = 0;

	for (; a; a = a->ai_next)
		n++;
	a = list;
	for (uint64_t i = (attempt - 1) % n; i > 0; i--)
		a = a->ai_next;
	return a;
}

static void connect_urgent(struct lane *lane, struct order *o)
{
	struct source_link_params params;

	if (o->generation != atomic_load(&lane->generation))
		return;
	lane->urgent_generation = o->generation;
	lane->links_up = true;
	lane->bulk_connected = false;
	if (lane->address)
		freeaddrinfo(lane->address);
	lane->address = TAKE_PTR(o->resolved);
	params = link_params(lane, LINK_ROLE_URGENT, lane->urgent.loop);
	fault_path_connect(lane->faults, &params, pick_address(lane->address, o->generation));
	tls_context_unref(params.tls);
}

static void connect_bulk(struct lane *lane, struct order *o)
{
	struct source_link_params params;

	if (o->generation != atomic_load(&lane->generation))
		return;
	params = link_params(lane, LINK_ROLE_BULK, lane->bulk.loop);
	bulk_stream_connect(lane->stream, &params, pick_address(o->resolved, o->generation));
	tls_context_unref(params.tls);
}

static void disconnect_bulk(struct lane *lane)
{
	order_post(&lane->bulk, order_new(ORDER_DISCONNECT, lane->urgent_generation));
}

/* ---- the urgent thread ---- */

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
		post_event(lane, lane->urgent_generation, &e);
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

	post_event(lane, 0, &e);
}

static void on_warning(const struct error *err, void *user)
{
	struct lane_event e = {.type = LANE_EVENT_WARNING, .error = *err};

	post_event(user, 0, &e);
}

static void bulk_is_connected(struct lane *lane, const struct order *o)
{
	if (o->generation != lane->urgent_generation || !lane->links_up)
		return;
	lane->bulk_connected = true;
	post_event(lane, lane->urgent_generation, &lane->connected);
}

static void bulk_is_lost(struct lane *lane, const struct order *o)
{
	/* A name that could not be resolved is lost before there was an urgent link. */
	if (o->generation > lane->urgent_generation) {
		lane->urgent_generation = o->generation;
		lane->links_up = true;
	}
	if (o->generation != lane->urgent_generation || !lane->links_up)
		return;
	lane->links_up = false;
	fault_path_disconnect(lane->faults);
	post_lost(lane, &o->error, o->retriable);
}

static void send_complete(struct lane *lane, const struct order *o)
{
	struct error err = {0};

	if (fault_path_send_complete(lane->faults, &o->complete) == 0 || !lane->links_up)
		return; /* when the link is down, LINK_LOST was or will be told */
	error_set(&err, -ENOTCONN, "cannot send Complete");
	fault_path_disconnect(lane->faults);
	on_urgent_lost(&err, true, lane);
}

static void urgent_take_order(struct lane *lane, struct order *o)
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
		fault_path_poison(lane->faults, o->poison.first_unit, o->poison.n_units,
		                  o->poison.reason);
		break;
	case ORDER_COMPLETE:
		send_complete(lane, o);
		break;
	default:
		break;
	}
}

/* ---- the bulk thread ---- */

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

static void bulk_take_order(struct lane *lane, struct order *o)
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
	default:
		break;
	}
}

/* ---- what the placers of both threads say ---- */

static bool urgent_wait_retry(bool changing, void *user)
{
	struct lane *lane = user;

	return fault_path_wait_retry(lane->faults, changing);
}

static bool bulk_wait_retry(bool changing, void *user)
{
	struct lane *lane = user;

	return bulk_stream_wait_retry(lane->stream, changing);
}

static void on_report(enum placement_report what, uint64_t unit, const struct error *err,
                      void *user)
{
	static const enum lane_event_type types[] = {
	        [PLACEMENT_FINISHED] = LANE_EVENT_FINISHED,
	        [PLACEMENT_POISONED] = LANE_EVENT_POISONED,
	        [PLACEMENT_WARNING] = LANE_EVENT_WARNING,
	        [PLACEMENT_VMM_GONE] = LANE_EVENT_VMM_GONE,
	        [PLACEMENT_FAILED] = LANE_EVENT_FAILED,
	};
	struct lane *lane = user;
	struct lane_event e = {.type = types[what]};

	(void)unit;
	if (what == PLACEMENT_POISONED && atomic_exchange(&lane->poisoned_pending, true))
		return; /* one is under way; its receiver will find this entry too */
	if (err)
		e.error = *err;
	post_event(lane, 0, &e);
}

/* ---- threads ---- */

static void warn_if(struct lane *lane, int rc, const struct error *err)
{
	if (rc < 0)
		on_warning(err, lane);
}

static void *urgent_main(void *arg)
{
	struct lane *lane = arg;
	struct error err = {0};

	warn_if(lane, thread_set_cpus(lane->urgent_cpus, &err), &err);
	warn_if(lane, thread_set_realtime(lane->tuning.urgent_rt_priority, &err), &err);
	loop_run(lane->urgent.loop);
	return NULL;
}

static void *bulk_main(void *arg)
{
	struct lane *lane = arg;
	struct error err = {0};

	warn_if(lane, thread_set_cpus(lane->bulk_cpus, &err), &err);
	warn_if(lane, thread_set_nice(lane->tuning.bulk_nice, &err), &err);
	loop_run(lane->bulk.loop);
	return NULL;
}

static void thread_init(struct lane_thread *t, struct lane *lane,
                        void (*take_order)(struct lane *, struct order *))
{
	t->lane = lane;
	t->take_order = take_order;
	t->orders_tail = &t->orders;
	pthread_mutex_init(&t->lock, NULL);
}

static int thread_start(struct lane_thread *t, void *(*fn)(void *), const char *name)
{
	char text[16];
	int rc = -pthread_create(&t->thread, NULL, fn, t->lane);

	if (rc < 0)
		return rc;
	t->started = true;
	snprintf(text, sizeof(text), "%s/%u", name, t->lane->index);
	pthread_setname_np(t->thread, text);
	return 0;
}

static void thread_stop(struct lane_thread *t)
{
	if (!t->started)
		return;
	loop_stop(t->loop);
	pthread_join(t->thread, NULL);
	t->started = false;
}

static void thread_deinit(struct lane_thread *t)
{
	struct order *o;

	t->loop = loop_free(t->loop);
	while ((o = order_pop(t)))
		order_free(o);
	pthread_mutex_destroy(&t->lock);
}

/* ---- life ---- */

static uint64_t lane_pages(const struct lane *lane, uint64_t *ret_largest_unit)
{
	uint64_t pages = 0, largest = 0;

	for (size_t i = 0; i < lane->regions->n_regions; i++) {
		const struct region *r = &lane->regions->regions[i];

		if (r->lane != lane->index)
			continue;
		pages += region_n_pages(r);
		largest = MAX(largest, region_unit_bytes(r));
	}
	*ret_largest_unit = largest;
	return pages;
}

static struct placer make_placer(struct lane *lane, const struct lane_params *params,
                                 const struct region_table *regions, struct stats *stats,
                                 const struct placer_callbacks *callbacks)
{
	return (struct placer){
	        .uffd = lane->uffd,
	        .poison_supported = params->poison_supported,
	        .regions = regions,
	        .map = params->map,
	        .ledger = params->ledger,
	        .remove_lock = params->remove_events ? &lane->remove_lock : NULL,
	        .pages_left = &lane->pages_left,
	        .stats = stats,
	        .zeros = lane->zeros,
	        .zeros_bytes = lane->zeros_bytes,
	        .callbacks = callbacks,
	        .user = lane,
	};
}

static int make_fault_path(struct lane *lane, const struct lane_params *params)
{
	static const struct placer_callbacks placer_callbacks = {.wait_retry = urgent_wait_retry,
	                                                         .report = on_report};
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
	        .regions = lane->urgent_regions,
	        .placer = make_placer(lane, params, lane->urgent_regions, &lane->urgent_stats,
	                              &placer_callbacks),
	        .last_fault_page = &lane->last_fault_page,
	        .callbacks = &callbacks,
	        .user = lane,
	};

	return fault_path_new(&p, &lane->faults);
}

static int make_stream(struct lane *lane, const struct lane_params *params)
{
	static const struct placer_callbacks placer_callbacks = {.wait_retry = bulk_wait_retry,
	                                                         .report = on_report};
	static const struct bulk_stream_callbacks callbacks = {.on_connected = on_bulk_connected,
	                                                       .on_lost = on_bulk_lost,
	                                                       .on_warning = on_warning};
	struct bulk_stream_params p = {
	        .loop = lane->bulk.loop,
	        .stop_fd = lane->stop_fd,
	        .lane = lane->index,
	        .regions = lane->bulk_regions,
	        .placer = make_placer(lane, params, lane->bulk_regions, &lane->bulk_stats,
	                              &placer_callbacks),
	        .last_fault_page = &lane->last_fault_page,
	        .window_pages = lane->tuning.stream_window_pages,
	        .callbacks = &callbacks,
	        .user = lane,
	};
	int rc = bulk_stream_new(&p, &lane->stream);

	if (rc == 0)
		bulk_stream_set_bandwidth(lane->stream, params->bandwidth);
	return rc;
}

static int copy_tuning(struct lane *lane, const struct lane_tuning *tuning)
{
	lane->tuning = *tuning;
	lane->urgent_cpus = strdup(tuning->urgent_cpus ? tuning->urgent_cpus : "");
	lane->bulk_cpus = strdup(tuning->bulk_cpus ? tuning->bulk_cpus : "");
	lane->tuning.urgent_cpus = lane->urgent_cpus;
	lane->tuning.bulk_cpus = lane->bulk_cpus;
	return lane->urgent_cpus && lane->bulk_cpus ? 0 : -ENOMEM;
}

static int copy_link(struct lane *lane, const struct lane_params *params)
{
	if (params->token_len > sizeof(lane->token) ||
	    strlen(params->peer_identity) >= sizeof(lane->peer_identity))
		return -EINVAL;
	memcpy(lane->token, params->token, params->token_len);
	strcpy(lane->peer_identity, params->peer_identity);
	lane->link = (struct source_link_params){
	        .tls = tls_context_ref(params->tls),
	        .migration_id = params->migration_id,
	        .token = lane->token,
	        .token_len = params->token_len,
	        .peer_identity = lane->peer_identity,
	        .lane = params->index,
	};
	return 0;
}

static int make_memory(struct lane *lane, const struct lane_params *params)
{
	uint64_t largest;
	int rc = region_table_copy(params->regions, &lane->regions);

	if (rc == 0)
		rc = region_table_copy(params->regions, &lane->urgent_regions);
	if (rc == 0)
		rc = region_table_copy(params->regions, &lane->bulk_regions);
	if (rc < 0)
		return rc;
	atomic_store(&lane->pages_left, lane_pages(lane, &largest));
	lane->zeros_bytes = MAX(ZEROS_BYTES, largest);
	lane->zeros = mmap(NULL, lane->zeros_bytes, PROT_READ,
	                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (lane->zeros == MAP_FAILED) {
		lane->zeros = NULL;
		return -ENOMEM;
	}
	return 0;
}

static int make_fds(struct lane *lane, int uffd)
{
	lane->uffd = fcntl(uffd, F_DUPFD_CLOEXEC, 3);
	lane->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	return lane->uffd < 0 || lane->stop_fd < 0 ? -errno : 0;
}

static int lane_build(struct lane *lane, const struct lane_params *params)
{
	int rc = make_fds(lane, params->uffd);

	if (rc == 0)
		rc = copy_tuning(lane, params->tuning);
	if (rc == 0)
		rc = copy_link(lane, params);
	if (rc == 0)
		rc = make_memory(lane, params);
	if (rc == 0)
		rc = loop_new(&lane->urgent.loop);
	if (rc == 0)
		rc = loop_new(&lane->bulk.loop);
	if (rc == 0)
		rc = make_fault_path(lane, params);
	if (rc == 0)
		rc = make_stream(lane, params);
	if (rc == 0)
		rc = thread_start(&lane->urgent, urgent_main, "urgent");
	if (rc == 0)
		rc = thread_start(&lane->bulk, bulk_main, "bulk");
	return rc;
}

static struct lane *lane_alloc(const struct lane_params *params)
{
	struct lane *lane = calloc(1, sizeof(*lane));

	if (!lane)
		return NULL;
	lane->handle = calloc(1, sizeof(*lane->handle));
	if (!lane->handle) {
		free(lane);
		return NULL;
	}
	atomic_store(&lane->handle->references, 1);
	lane->handle->lane = lane;
	lane->main_loop = params->main_loop;
	lane->on_event = params->on_event;
	lane->user = params->user;
	lane->index = params->index;
	lane->uffd = lane->stop_fd = -1;
	atomic_store(&lane->last_fault_page, FAULT_NO_PAGE);
	pthread_mutex_init(&lane->tls_lock, NULL);
	pthread_mutex_init(&lane->remove_lock, NULL);
	thread_init(&lane->urgent, lane, urgent_take_order);
	thread_init(&lane->bulk, lane, bulk_take_order);
	return lane;
}

int lane_new(const struct lane_params *params, struct lane **ret, struct error *err)
{
	_cleanup_(cleanup_lane_free) struct lane *lane = lane_alloc(params);
	int rc = lane ? lane_build(lane, params) : -ENOMEM;

	if (rc < 0)
		return error_set_errno(err, rc, "lane %u", params->index);
	*ret = TAKE_PTR(lane);
	return 0;
}

struct lane *lane_free(struct lane *lane)
{
	uint64_t one = 1;

	if (!lane)
		return NULL;
	/* Ends waits of the placers; a full counter would be readable as well. */
	if (lane->stop_fd >= 0 && write(lane->stop_fd, &one, sizeof(one)) < 0)
		assert(errno == EAGAIN);
	thread_stop(&lane->urgent);
	thread_stop(&lane->bulk);
	lane->handle->lane = NULL;
	handle_unref(lane->handle);
	fault_path_free(lane->faults);
	bulk_stream_free(lane->stream);
	thread_deinit(&lane->urgent);
	thread_deinit(&lane->bulk);
	if (lane->address)
		freeaddrinfo(lane->address);
	if (lane->zeros)
		munmap(lane->zeros, lane->zeros_bytes);
	region_table_free(lane->regions);
	region_table_free(lane->urgent_regions);
	region_table_free(lane->bulk_regions);
	tls_context_unref(lane->link.tls);
	OPENSSL_cleanse(lane->token, sizeof(lane->token));
	pthread_mutex_destroy(&lane->tls_lock);
	pthread_mutex_destroy(&lane->remove_lock);
	free(lane->urgent_cpus);
	free(lane->bulk_cpus);
	close_fd(&lane->uffd);
	close_fd(&lane->stop_fd);
	free(lane);
	return NULL;
}

/* ---- the main thread's orders ---- */

uint32_t lane_index(const struct lane *lane)
{
	return lane->index;
}

void lane_connect(struct lane *lane, const char *address)
{
	struct order *o = order_new(ORDER_CONNECT, atomic_fetch_add(&lane->generation, 1) + 1);

	snprintf(o->address, sizeof(o->address), "%s", address);
	order_post(&lane->bulk, o);
}

void lane_disconnect(struct lane *lane)
{
	uint64_t generation = atomic_fetch_add(&lane->generation, 1) + 1;

	order_post(&lane->urgent, order_new(ORDER_DISCONNECT, generation));
	order_post(&lane->bulk, order_new(ORDER_DISCONNECT, generation));
}

void lane_set_tls(struct lane *lane, struct tls_context *tls)
{
	struct tls_context *old;

	pthread_mutex_lock(&lane->tls_lock);
	old = lane->link.tls;
	lane->link.tls = tls_context_ref(tls);
	pthread_mutex_unlock(&lane->tls_lock);
	tls_context_unref(old);
}

void lane_set_bandwidth(struct lane *lane, uint64_t bytes_per_second)
{
	struct order *o = order_new(ORDER_BANDWIDTH, 0);

	o->bandwidth = bytes_per_second;
	order_post(&lane->bulk, o);
}

void lane_poison_units(struct lane *lane, uint64_t first_unit, uint64_t n_units,
                       enum ledger_reason reason)
{
	struct order *o = order_new(ORDER_POISON, 0);

	o->poison.first_unit = first_unit;
	o->poison.n_units = n_units;
	o->poison.reason = reason;
	order_post(&lane->urgent, o);
}

void lane_send_complete(struct lane *lane, uint64_t present, uint64_t zero, uint64_t poisoned,
                        uint64_t removed)
{
	struct order *o = order_new(ORDER_COMPLETE, 0);

	o->complete.type = PAGE_MESSAGE_COMPLETE;
	o->complete.complete.present = present;
	o->complete.complete.zero = zero;
	o->complete.complete.poisoned = poisoned;
	o->complete.complete.removed = removed;
	order_post(&lane->urgent, o);
}

int lane_unregister(struct lane *lane, struct error *err)
{
	for (size_t i = 0; i < lane->regions->n_regions; i++) {
		const struct region *r = &lane->regions->regions[i];
		int rc;

		if (r->lane != lane->index)
			continue;
		rc = uffd_unregister(lane->uffd, r->hva, r->length_bytes);
		if (rc < 0 && rc != -ESRCH && rc != -ENOMEM) /* the VMM is gone */
			return error_set_errno(err, rc, "unregister region %s", r->name);
	}
	return 0;
}

uint64_t lane_remaining_bytes(const struct lane *lane)
{
	return atomic_load(&lane->pages_left) << WIRE_PAGE_SHIFT;
}

void lane_stats(const struct lane *lane, struct stats_sum *urgent, struct stats_sum *bulk)
{
	stats_sum(&lane->urgent_stats, urgent);
	stats_sum(&lane->bulk_stats, bulk);
}
