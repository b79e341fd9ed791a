/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The fault path of a lane: a fault's journey out to the source and back, on
 * the urgent thread. fault_path_parts.h tells by which files.
 */
#ifndef DAEMON_FAULT_PATH_H
#define DAEMON_FAULT_PATH_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "daemon/in_flight.h"
#include "daemon/placement.h"
#include "daemon/recovery.h"
#include "daemon/source_link.h"

#define FAULT_BATCH 16 /* uffd messages a read; more gain nothing */
#define FAULT_NO_PAGE UINT64_MAX

struct fault_path;

struct fault_path_callbacks {
	/* The source's table matches; frozen: it serves already. */
	void (*on_connected)(uint64_t poisoned_pages, bool frozen, void *user);
	void (*on_frozen)(void *user);
	void (*on_lost)(const struct error *err, bool retriable, void *user);
	void (*on_complete_ack)(void *user);
	void (*on_warning)(const struct error *err, void *user);
};

struct fault_path_params {
	struct loop *loop;
	int uffd;    /* borrowed */
	int stop_fd; /* becomes readable when the lane is being stopped */
	uint32_t lane;
	/*
	 * FAULT_BATCH of them, where what is read stays if the process dies before it
	 * has acted (a removal does not come twice); NULL: nowhere.
	 */
	struct uffd_msg *events;
	struct region_table *regions;      /* this thread's own */
	struct placer placer;              /* copied; its callbacks, too */
	_Atomic uint64_t *last_fault_page; /* for the stream to follow */
	_Atomic uint64_t *n_reads;         /* how often the uffd had something, for the watchdog */
	const struct fault_path_callbacks *callbacks;
	void *user;
};

/* On any thread; then all on the urgent one. Reads faults as soon as the loop runs. */
int fault_path_new(const struct fault_path_params *params, struct fault_path **ret);
struct fault_path *fault_path_free(struct fault_path *fp); /* always NULL */
DEFINE_CLEANUP(struct fault_path, fault_path_free)

/*
 * Read the faults of a further mapping, which is in the placers' set, and answer them as
 * the VMM's own; first of all, set the markers of what is lost there.
 */
int fault_path_map(struct fault_path *fp, uint32_t id);
/* Its process has ended: also out of the set. */
void fault_path_unmap(struct fault_path *fp, uint32_t id);

/* Connect the urgent link; drops one that is there. on_connected or on_lost follows. */
void fault_path_connect(struct fault_path *fp, const struct source_link_params *link,
                        const struct addrinfo *address);
/* Without on_lost. What was asked for is asked again after the next connect. */
void fault_path_disconnect(struct fault_path *fp);

/*
 * What a dead daemon left, put in order: before the loop runs. 0, or -errno, which has
 * been reported by the placer's callbacks unless it is -ECANCELED.
 */
int fault_path_recover(struct fault_path *fp, struct recovery *ret);

/* Poison what is not here yet. -errno, which the callbacks have been told: not all of it is. */
int fault_path_poison(struct fault_path *fp, uint64_t first_unit, uint64_t n_units,
                      enum ledger_reason reason);

/* Complete, or Error. 0 or -ENOTCONN. */
int fault_path_send(struct fault_path *fp, const struct page_message *m);

/* placer_callbacks.wait_retry of the urgent thread; user is the fault path. */
bool fault_path_wait_retry(struct fault_path *fp, bool changing);

#endif
