/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A lane: the data path of one uffd, shared-nothing. Two threads: URGENT reads
 * the uffd and asks the source (fault_*.c), BULK takes the stream in
 * (bulk_stream.c). Both place pages (placement.c) under the page map's claims.
 *
 * All functions here are the main thread's; events come back to it.
 */
#ifndef DAEMON_LANE_H
#define DAEMON_LANE_H

#include <stdbool.h>
#include <stdint.h>

#include "core/cleanup.h"
#include "core/cpu_list.h"
#include "core/error.h"
#include "core/uuid.h"
#include "daemon/ledger.h"
#include "daemon/mapping.h"
#include "daemon/page_map.h"
#include "daemon/recovery.h"
#include "daemon/region.h"
#include "daemon/stats.h"
#include "net/loop.h"
#include "net/tls.h"

struct lane;

enum lane_event_type {
	LANE_EVENT_CONNECTED, /* both connections are up, the region tables match */
	LANE_EVENT_FROZEN,    /* the source serves: faults are asked for now */
	LANE_EVENT_LINK_LOST, /* error says why; faults wait; lane_connect() again */
	LANE_EVENT_FINISHED,  /* no unit of this lane is missing; comes once */
	LANE_EVENT_COMPLETE_ACKED,
	LANE_EVENT_VMM_GONE,    /* the VMM's memory is gone (ESRCH) */
	LANE_EVENT_FAILED,      /* cannot go on; faults keep waiting; error says why */
	LANE_EVENT_POISONED,    /* the ledger has new entries; one event may stand for many */
	LANE_EVENT_POISON_DONE, /* an order of poison_id is in the ledger and placed, or error */
	LANE_EVENT_WARNING,     /* error->text for the operator */
	LANE_EVENT_RECOVERED,   /* of an adopted lane, before any other: what was found */
};

struct lane_event {
	enum lane_event_type type;
	struct error error;
	uint64_t source_poisoned_pages; /* CONNECTED: what the source said */
	bool frozen;                    /* CONNECTED: the source is frozen already */
	struct recovery recovery;       /* RECOVERED */
	uint64_t poison_id;             /* POISON_DONE */
	bool retriable; /* LINK_LOST: false if the source refused us for good (denied, unknown, version, tables differ) */
};

/* On the main thread. Never after lane_free(). */
typedef void (*lane_event_fn)(struct lane *lane, const struct lane_event *event, void *user);

/* Scheduling of the two threads; see the settings' documentation. */
struct lane_tuning {
	unsigned urgent_rt_priority; /* SCHED_FIFO 1..99, 0: leave */
	int bulk_nice;               /* 0..19 */
	struct cpu_list urgent_cpus;
	struct cpu_list bulk_cpus;
	unsigned
	        stream_window_pages; /* streamed after a faulted page before the stream goes back */
};

struct lane_params {
	struct loop *main_loop;
	lane_event_fn on_event;
	void *user;
	struct uuid migration_id;
	const uint8_t *token; /* copied */
	size_t token_len;
	const char *peer_identity; /* copied */
	struct tls_context *tls;   /* a reference is taken */
	uint32_t index;
	int uffd; /* duplicated; registered already */
	bool poison_supported;
	bool remove_events; /* UFFD_FEATURE_EVENT_REMOVE or _UNMAP is on */
	struct address_area
	        *addresses;      /* UFFD_FEATURE_EVENT_REMAP is on; outlives the lane; or NULL */
	bool adopted;            /* map, ledger and events are what a dead daemon left */
	struct uffd_msg *events; /* FAULT_BATCH of them, outlive the lane; or NULL (fault_path.h) */
	const struct region_table *regions; /* of the whole migration; copied */
	struct page_map *map;               /* outlives the lane */
	struct ledger *ledger;              /* outlives the lane */
	const struct lane_tuning *tuning;   /* copied */
	uint64_t bandwidth;                 /* bytes a second, 0: no limit */
};

/* Start both threads; faults are read at once and wait until the source serves. */
int lane_new(const struct lane_params *params, struct lane **ret, struct error *err);

/* Stop and join both threads. Memory stays registered: see lane_unregister(). Always NULL. */
struct lane *lane_free(struct lane *lane);
DEFINE_CLEANUP(struct lane, lane_free)

uint32_t lane_index(const struct lane *lane);

/*
 * Connect (again) to "HOST:PORT": both connections, Hello, region match, then
 * the missing pages are asked for. CONNECTED or LINK_LOST follows.
 */
void lane_connect(struct lane *lane, const char *address);

/* Drop the connections without an event. Faults wait. */
void lane_disconnect(struct lane *lane);

/* New key material for connections made from now on. */
void lane_set_tls(struct lane *lane, struct tls_context *tls);
void lane_set_bandwidth(struct lane *lane, uint64_t bytes_per_second);

/*
 * Poison those of these units that are not placed yet. POISONED events follow, and at last
 * POISON_DONE with this id, unless it is 0 or the lane goes.
 */
void lane_poison_units(struct lane *lane, uint64_t first_unit, uint64_t n_units,
                       enum ledger_reason reason, uint64_t id);

/* Tell the source that everything is here (lane 0). COMPLETE_ACKED or LINK_LOST follows. */
void lane_send_complete(struct lane *lane, uint64_t present, uint64_t zero, uint64_t poisoned,
                        uint64_t removed);

/*
 * This host gives the migration up, and why: lane_free() then tells the source,
 * if it can be reached, instead of just closing the link.
 */
void lane_give_up(struct lane *lane, const char *why);

/*
 * Another process maps memory of this lane: serve its faults, too, and have what is lost
 * poisoned there as well. The mapping, which is registered, is the lane's from here on. Until
 * the urgent thread gets there, whoever touches a missing page waits.
 */
void lane_map(struct lane *lane, struct mapping *mapping);
/* Its process has ended. An id that is not there is no matter. */
void lane_unmap(struct lane *lane, uint32_t id);

/*
 * After FINISHED: unregister the lane's regions, in all mappings. Poison stays. The uffd is not
 * read any more. 0 or -errno.
 */
int lane_unregister(struct lane *lane, struct error *err);

enum lane_pulse_result {
	LANE_WORKS,
	LANE_STANDS,       /* err says what of it; news */
	LANE_STANDS_STILL, /* as it was told before */
};

/*
 * Ask both threads for a sign of life, and look whether the uffd is read; unless
 * uffd_expected: what is in it need not be. now_us: any clock, the same in lane_alive().
 */
void lane_ping(struct lane *lane, bool uffd_expected, uint64_t now_us);

/*
 * After lane_ping(). A lane stands when for allowed_us a thread has neither answered
 * nor counted anything, or the uffd had something to read and was not read.
 */
enum lane_pulse_result lane_alive(struct lane *lane, uint64_t now_us, uint64_t allowed_us,
                                  struct error *err);

/* Units of this lane that are not placed yet. */
uint64_t lane_remaining_bytes(const struct lane *lane);

/* Add both threads' counters to *urgent and *bulk. */
void lane_stats(const struct lane *lane, struct stats_sum *urgent, struct stats_sum *bulk);

#endif
