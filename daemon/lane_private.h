/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of a lane share: lane.c (life, the main thread's orders),
 * lane_urgent.c and lane_bulk.c (what runs on the two threads), lane_post.c
 * (how the three threads talk to each other), lane_pulse.c (whether they live).
 * Nobody else includes this.
 */
#ifndef DAEMON_LANE_PRIVATE_H
#define DAEMON_LANE_PRIVATE_H

#include <pthread.h>
#include <stdatomic.h>

#include "daemon/bulk_stream.h"
#include "daemon/fault_path.h"
#include "daemon/lane.h"
#include "net/address.h"
#include "net/lookup.h"
#include "wire/attach_message.h"

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
	ORDER_PING,           /* main -> both */
	ORDER_MAP,            /* main -> urgent */
	ORDER_UNMAP,          /* main -> urgent */
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
			uint64_t id; /* 0: nobody waits for it */
		} poison;
		struct page_message complete;
		uint32_t mapping; /* ORDER_MAP, ORDER_UNMAP: its id */
	};
};

/* The main thread's, but for what it counts. At most one ping is on its way. */
struct lane_pulse {
	uint64_t n_pings;
	_Atomic uint64_t n_pongs; /* by the thread */
	uint64_t since_us;        /* the latest was sent, or the thread was seen at work */
	uint64_t activity;        /* sum of its counters then */
};

struct lane_thread {
	struct lane *lane;
	struct loop *loop;
	pthread_t thread;
	bool started;
	pthread_mutex_t lock; /* orders */
	struct order *orders, **orders_tail;
	void (*take_order)(struct lane *lane, struct order *o);
	struct lane_pulse pulse;
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

	/* What a link needs. tls changes under tls_lock. */
	struct source_link_params link;
	uint8_t token[TOKEN_BYTES_MAX];
	char peer_identity[PEER_IDENTITY_MAX];
	pthread_mutex_t tls_lock;

	struct placer
	        placer; /* what both threads' have in common; main thread: for unregistering */
	struct region_table *regions; /* the main thread's */
	struct region_table *urgent_regions, *bulk_regions;
	struct stats urgent_stats, bulk_stats;
	_Atomic uint64_t pages_left;
	_Atomic uint64_t doubtful;
	struct uffd_msg *events;
	bool adopted;
	bool unregistered; /* changes under remove_lock */
	_Atomic uint64_t last_fault_page;
	_Atomic bool poisoned_pending;
	_Atomic uint64_t n_reads; /* of the uffd that brought something, by the urgent thread */
	pthread_mutex_t remove_lock;
	struct mapping_set mappings;
	uint8_t *zeros;
	uint64_t zeros_bytes;

	struct lane_thread urgent, bulk;
	struct fault_path *faults;  /* urgent thread's while it runs */
	struct bulk_stream *stream; /* bulk thread's */

	/* Main thread: what lane_alive() judges. */
	uint64_t n_reads_seen;
	bool uffd_waits; /* there is something to read, and it was not read, since */
	uint64_t uffd_since_us;
	bool stands;

	char give_up_text[ERROR_TEXT_MAX]; /* "": the end of the link says nothing */

	/* Counts connects and disconnects: what belongs to an older one is dropped. */
	_Atomic uint64_t generation;

	/* Urgent thread: the state of the two links. */
	uint64_t urgent_generation;
	struct addrinfo *address; /* handed to the bulk thread with CONNECT_BULK */
	bool links_up;            /* none was lost in this generation */
	bool bulk_connected;
	bool complete_sent;          /* on this urgent link: the bulk link has nothing more to do */
	struct lane_event connected; /* what CONNECTED will say */

	/* Bulk thread. */
	uint64_t bulk_generation;
	struct lookup *lookup;      /* under way or over; NULL: none */
	uint64_t lookup_generation; /* constant while it is under way */
};

/* ---- lane_post.c ---- */

/* To the main thread. generation 0: of no connection, never dropped. Any thread. */
void lane_post_event(struct lane *lane, uint64_t generation, const struct lane_event *event);
void lane_post_warning(struct lane *lane, const struct error *err);
void lane_handle_unref(struct lane_handle *h);

/* Between the lane's threads. An order that was posted belongs to the queue. Any thread. */
struct order *order_new(enum order_kind kind, uint64_t generation);
void order_post(struct lane_thread *t, struct order *o);
/* What is left when the thread has ended. */
void orders_free(struct lane_thread *t);

/* ---- lane_pulse.c ---- */

/* The thread takes ORDER_PING. */
void lane_pong(struct lane_thread *t);

/* ---- lane_urgent.c, lane_bulk.c ---- */

/* The thread's side of a lane: made on the main thread, before the thread starts. */
int lane_urgent_make(struct lane *lane, const struct placer *placer);
int lane_bulk_make(struct lane *lane, const struct placer *placer, uint64_t bandwidth);

/* Start routines; arg is the lane. */
void *lane_urgent_main(void *arg);
void *lane_bulk_main(void *arg);

/* What a link of this role needs; release with tls_context_unref(params.tls). */
struct source_link_params lane_link_params(struct lane *lane, enum link_role role,
                                           struct loop *loop);

/* One address an attempt: a name with several is tried in turn. */
const struct addrinfo *lane_pick_address(const struct addrinfo *list, uint64_t attempt);

/* placer_callbacks.report of both threads; user is the lane. */
void lane_on_report(enum placement_report what, uint64_t unit, const struct error *err, void *user);

#endif
