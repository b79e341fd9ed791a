/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Role: hold a lane together: its two threads and what they share. Called by
 * the migration on the main thread. What runs on the threads is in
 * lane_urgent.c and lane_bulk.c; how they talk, in lane_post.c.
 */
#include "daemon/lane_private.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "core/thread.h"
#include "daemon/uffd.h"

#define SETTLE_MS 1000
#define ZEROS_BYTES (2UL * 1024 * 1024)

/* ---- what both threads use ---- */

struct source_link_params lane_link_params(struct lane *lane, enum link_role role,
                                           struct loop *loop)
{
	struct source_link_params p;

	pthread_mutex_lock(&lane->tls_lock);
	p = lane->link;
	tls_context_ref(p.tls);
	pthread_mutex_unlock(&lane->tls_lock);
	p.loop = loop;
	p.role = role;
	p.event_priority = 1; /* behind the uffd */
	return p;
}

/* One address an attempt: a name with several is tried in turn. */
const struct addrinfo *lane_pick_address(const struct addrinfo *list, uint64_t attempt)
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

void lane_on_report(enum placement_report what, uint64_t unit, const struct error *err, void *user)
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
	lane_post_event(lane, 0, &e);
}

/* ---- threads ---- */

static void thread_init(struct lane_thread *t, struct lane *lane)
{
	t->lane = lane;
	t->orders_tail = &t->orders;
	pthread_mutex_init(&t->lock, NULL);
}

static int thread_start(struct lane_thread *t, void *(*fn)(void *), const char *name)
{
	char text[16];
	int rc = thread_create_quiet(&t->thread, NULL, fn, t->lane);

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
	t->loop = loop_free(t->loop);
	orders_free(t);
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

static struct placer make_placer(struct lane *lane, const struct lane_params *params)
{
	return (struct placer){
	        .uffd = lane->uffd,
	        .poison_supported = params->poison_supported,
	        .map = params->map,
	        .ledger = params->ledger,
	        .mappings = &lane->mappings,
	        .addresses = params->addresses,
	        .unregistered = &lane->unregistered,
	        .remove_lock =
	                params->remove_events || params->addresses ? &lane->remove_lock : NULL,
	        .pages_left = &lane->pages_left,
	        .doubtful = &lane->doubtful,
	        .zeros = lane->zeros,
	        .user = lane,
	};
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
	/*
	 * Maps the kernel's one page of zeros everywhere. A COPY from memory that
	 * is not mapped yet takes a second huge page while it looks again; without
	 * this a pool of exactly the guest's size would run short.
	 */
	(void)madvise(lane->zeros, lane->zeros_bytes, MADV_POPULATE_READ);
	return 0;
}

static int make_fds(struct lane *lane, int uffd)
{
	lane->uffd = fcntl(uffd, F_DUPFD_CLOEXEC, 3);
	lane->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	return lane->uffd < 0 || lane->stop_fd < 0 ? -errno : 0;
}

static int make_sides(struct lane *lane, const struct lane_params *params)
{
	int rc = loop_new(&lane->urgent.loop);

	lane->placer = make_placer(lane, params);
	if (rc == 0)
		rc = loop_new(&lane->bulk.loop);
	if (rc == 0)
		rc = lane_urgent_make(lane, &lane->placer);
	if (rc == 0)
		rc = lane_bulk_make(lane, &lane->placer, params->bandwidth);
	return rc;
}

static int lane_build(struct lane *lane, const struct lane_params *params)
{
	int rc = make_fds(lane, params->uffd);

	lane->tuning = *params->tuning;
	lane->events = params->events;
	lane->adopted = params->adopted;
	if (rc == 0)
		rc = copy_link(lane, params);
	if (rc == 0)
		rc = make_memory(lane, params);
	if (rc == 0)
		rc = make_sides(lane, params);
	if (rc == 0)
		rc = thread_start(&lane->urgent, lane_urgent_main, "urgent");
	if (rc == 0)
		rc = thread_start(&lane->bulk, lane_bulk_main, "bulk");
	return rc;
}

/*
 * The urgent thread must never wait behind who is less urgent than the bulk
 * thread: that one, while it holds the lock, has the priority of who waits for
 * it, and cannot take it again before it.
 */
static void remove_lock_init(pthread_mutex_t *lock)
{
	pthread_mutexattr_t attr;

	pthread_mutexattr_init(&attr);
	pthread_mutexattr_setprotocol(&attr, PTHREAD_PRIO_INHERIT);
	pthread_mutex_init(lock, &attr);
	pthread_mutexattr_destroy(&attr);
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
	remove_lock_init(&lane->remove_lock);
	mapping_set_init(&lane->mappings);
	thread_init(&lane->urgent, lane);
	thread_init(&lane->bulk, lane);
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

/* The threads have ended: the link is this thread's now. The last words need no loop. */
static void say_give_up(struct lane *lane)
{
	struct page_message m = {.type = PAGE_MESSAGE_ERROR};

	if (!lane->faults || !lane->give_up_text[0])
		return;
	m.error.code = WIRE_ERROR_CANCELLED;
	snprintf(m.error.text, sizeof(m.error.text), "%s", lane->give_up_text);
	(void)fault_path_send(lane->faults, &m); /* a lost link loses this, too */
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
	lane->lookup = lookup_cancel(lane->lookup);
	say_give_up(lane);
	lane->handle->lane = NULL;
	lane_handle_unref(lane->handle);
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
	explicit_bzero(lane->token, sizeof(lane->token));
	pthread_mutex_destroy(&lane->tls_lock);
	pthread_mutex_destroy(&lane->remove_lock);
	mapping_set_fini(&lane->mappings);
	close_fd(&lane->uffd);
	close_fd(&lane->stop_fd);
	free(lane);
	return NULL;
}

/* ---- the main thread's orders ---- */

void lane_give_up(struct lane *lane, const char *why)
{
	snprintf(lane->give_up_text, sizeof(lane->give_up_text), "%s", why);
}

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
                       enum ledger_reason reason, uint64_t id)
{
	struct order *o = order_new(ORDER_POISON, 0);

	o->poison.first_unit = first_unit;
	o->poison.n_units = n_units;
	o->poison.reason = reason;
	o->poison.id = id;
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

void lane_map(struct lane *lane, struct mapping *mapping)
{
	struct order *o = order_new(ORDER_MAP, 0);

	o->mapping = mapping->id;
	mapping_set_add(&lane->mappings, mapping);
	order_post(&lane->urgent, o);
}

void lane_unmap(struct lane *lane, uint32_t id)
{
	struct order *o = order_new(ORDER_UNMAP, 0);

	o->mapping = id;
	order_post(&lane->urgent, o);
}

/* The markers stay. A process that has gone needs nothing. */
static void unregister_mapping(struct mapping *m, void *arg)
{
	placement_catch_up(arg, m);
	for (size_t i = 0; i < m->n_parts; i++)
		(void)uffd_unregister(m->uffd, m->parts[i].hva,
		                      m->parts[i].n_units << m->parts[i].unit_shift);
}

/* Wherever the VMM has it now. */
static int unregister_region(struct lane *lane, const struct region *r)
{
	uint64_t done = 0, n;
	hva_t hva;
	int rc = 0;

	pthread_mutex_lock(&lane->remove_lock);
	lane->unregistered = true;
	for (; done < region_n_units(r); done += n) {
		int part = 0;

		if (placement_where(&lane->placer, r, r->first_unit + done,
		                    region_n_units(r) - done, &hva, &n))
			part = uffd_unregister(lane->uffd, hva, n << r->unit_shift);
		rc = rc < 0 ? rc : part;
	}
	pthread_mutex_unlock(&lane->remove_lock);
	return rc;
}

/*
 * Nobody reads the uffd when the lane is gone, and who had begun to change the memory would
 * wait for ever: while the VMM has the uffd, too, its end ends no wait. No more can begin.
 * The urgent thread reads what was begun; nothing tells when that is over.
 */
static void changes_settle(const struct lane *lane)
{
	const struct timespec moment = {.tv_nsec = 1000000};

	for (int i = 0; i < SETTLE_MS && lane->urgent.started && uffd_changing(lane->uffd); i++)
		nanosleep(&moment, NULL);
}

static int regions_unregister(struct lane *lane, struct error *err)
{
	for (size_t i = 0; i < lane->regions->n_regions; i++) {
		const struct region *r = &lane->regions->regions[i];
		int rc;

		if (r->lane != lane->index)
			continue;
		rc = unregister_region(lane, r);
		if (rc < 0 && rc != -ESRCH && rc != -ENOMEM) /* the VMM is gone */
			return error_set_errno(err, rc, "unregister region %s", r->name);
	}
	return 0;
}

int lane_unregister(struct lane *lane, struct error *err)
{
	int rc;

	mapping_set_each(&lane->mappings, unregister_mapping, &lane->placer);
	rc = regions_unregister(lane, err);
	changes_settle(lane);
	return rc;
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
