/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A migration: the control object of one guest that comes to this host. It
 * knows the source, the policy, the lanes and the VMM; it decides, the lanes
 * do. Everything here belongs to the main thread, and nothing here blocks.
 *
 * When a migration has reached a final state it stays in the table for a while
 * (for list and show) without its memory: lanes and descriptors go as soon as
 * the event that ended it has been dealt with. The token stays: who maps the
 * memory of a completed one is told what it has lost.
 */
#ifndef DAEMON_MIGRATION_H
#define DAEMON_MIGRATION_H

#include <event2/event.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <uthash.h>

#include "core/cleanup.h"
#include "core/error.h"
#include "core/uuid.h"
#include "daemon/lane.h"
#include "daemon/migration_keep.h"
#include "daemon/migration_state.h"
#include "daemon/poison_list.h"
#include "daemon/region.h"
#include "daemon/state_memfd.h"
#include "daemon/stats.h"
#include "wire/attach_message.h"
#include "wire/control_message.h"

#define MIGRATION_POISONED_SHOWN_MAX 4096 /* newest ledger entries that are shown */

struct migration_table;
struct migration_mapping;

struct migration_params {
	struct uuid id;
	const char *source; /* HOST:PORT */
	const char *peer_identity;
	const uint8_t *token;
	size_t token_len;
	enum lost_policy lost_policy;
	uint64_t lost_deadline_us; /* for poison and kill */
	uint64_t bandwidth;        /* bytes a second, 0: no limit */
	bool stop_on_poison;
	const char *firecracker_socket; /* path; NULL, "": none */
};

/* A lane and what the main thread knows of it. */
struct lane_slot {
	struct migration *migration;
	struct lane *lane;
	int uffd;
	bool connecting;
	bool connected;
	bool frozen; /* the source has said that it serves this lane */
	bool finished;
	bool unregistered;
	bool refused; /* by the source, for good: no more attempts before Recover */
	unsigned attempts;
	struct event *retry_timer;
};

/* The counters of all lanes by kind of thread. */
struct migration_sums {
	struct stats_sum urgent;
	struct stats_sum bulk;
};

struct migration {
	struct migration_table *table;
	UT_hash_handle hh;
	struct migration *ended_prev, *ended_next; /* the table's list of ended ones */
	struct uuid id;
	char id_text[UUID_TEXT_LEN];

	char source[CONTROL_ADDRESS_MAX];
	char peer_identity[PEER_IDENTITY_MAX];
	uint8_t token[TOKEN_BYTES_MAX];
	size_t token_len;
	enum lost_policy lost_policy;
	uint64_t lost_deadline_us;
	uint64_t bandwidth;
	bool stop_on_poison;
	char firecracker_socket[CONTROL_PATH_MAX];

	enum migration_state state;
	char state_text[WIRE_ERROR_TEXT_MAX];
	uint64_t started_us; /* real time */
	uint64_t started_mono_us;
	uint64_t ended_mono_us;
	uint64_t paused_since_us; /* monotonic; 0: not paused */
	uint64_t paused_us;       /* in postcopy-paused so far */
	uint64_t reconnects;

	/* From the attach on. */
	struct region_table *regions;
	struct state_memfd *memory;
	struct lane_slot lanes[ATTACH_UFFDS_MAX];
	uint32_t n_lanes;
	int memory_fds[ATTACH_FDS_MAX];
	size_t n_memory_fds;
	bool poison_supported;
	bool poison_warned;
	bool served;        /* a lane has been frozen: the guest may have read pages */
	bool abandoned;     /* the policy has poisoned what the lost source still had */
	bool completing;    /* every page is here; the source is being told */
	bool unregistering; /* the lanes' memory is being, or has been, unregistered */

	pid_t vmm_pid;
	int vmm_pidfd;
	struct event *vmm_exit_event;
	struct event *vmm_alive_timer; /* after its connection ended */
	struct event *lost_timer;      /* the lost policy's deadline */
	struct event *completion_timer;
	struct event *release_event; /* frees the lanes, from the loop */
	struct event *audit_timer;   /* the ledger has entries without a record in the journal */
	bool released;               /* the lanes are gone; the memory goes after the audit */

	struct migration_mapping *mappings[MAPPINGS_MAX]; /* by id; NULL: none */

	struct migration_keep keep; /* for the next daemon */

	struct poison_request *poison_requests; /* that the lanes have not done yet */
	uint64_t last_poison_id;

	/* The last second, for the rate. */
	uint64_t sample_mono_us;
	uint64_t sample_processed;
	uint64_t rate_bps;

	/* Taken when it ended. */
	struct migration_sums final_sums;
	uint64_t final_remaining;
	uint64_t final_lost_bytes;
	struct ledger_entry *final_entries; /* the newest */
	uint64_t n_final_entries;
	uint64_t n_final_entries_all;
	struct poison_list final_lost; /* all of it, for who maps the memory later */
};

int migration_new(struct migration_table *table, const struct migration_params *params,
                  struct migration **ret, struct error *err);
/* A new one, unlike one that is restored: tell the journal. */
void migration_log_started(const struct migration *m);
/*
 * Stops the lanes. A migration that is not completed leaves the memory
 * registered: the guest waits as long as the VMM holds its userfaultfds.
 */
struct migration *migration_free(struct migration *m); /* always NULL */
DEFINE_CLEANUP(struct migration, migration_free)

/* What a VMM hands over. Descriptors: uffds first, then memory files. */
struct attach_memory {
	const struct attach_region *regions;
	size_t n_regions;
	size_t n_uffds;
	int *fds; /* those that were taken are -1 afterwards */
	size_t n_fds;
	const char *protocol; /* of the connection, see attach_server.h */
	int connection_fd;    /* borrowed; -1: none that another daemon could go on with */
};

/*
 * The migration that whoever has this id and token may attach to now. -ENOKEY,
 * -EKEYREJECTED, -EBUSY with a text.
 */
int migration_find_for_attach(const struct migration_table *table, const struct uuid *id,
                              const uint8_t *token, size_t token_len, struct migration **ret,
                              struct error *err);

/*
 * Take the memory over: register every region, start the lanes, state active.
 * vmm_pidfd (-1: none) is owned from here on, also on failure; *memory is of no use
 * afterwards. On failure the migration and the VMM's memory are as before and err says why. On success the
 * VMM gets its answer first, then migration_connect().
 */
int migration_attach(struct migration *m, struct attach_memory *memory, pid_t vmm_pid,
                     int vmm_pidfd, struct error *err);
void migration_connect(struct migration *m);

/* The VMM's connection ended: its process may have, too. */
void migration_vmm_hung_up(struct migration *m);

/* The operator's commands: -errno with a text. */
int migration_cancel(struct migration *m, bool force, struct error *err);
int migration_recover(struct migration *m, const char *source, struct error *err);
int migration_set_bandwidth(struct migration *m, uint64_t bandwidth, struct error *err);

/* Code 0: what of the ranges was missing is lost, for every daemon to come. Main thread. */
typedef void (*migration_poison_fn)(const struct error *error, void *user);

/*
 * These pages are lost, unless they are here. The answer comes when the lanes have done it:
 * fn is called once, after this returns 0, at the latest when the migration ends; *ret is
 * valid until then. -errno with a text: fn is not called.
 */
struct poison_request;
int migration_poison(struct migration *m, const struct poison_range *ranges, size_t n_ranges,
                     migration_poison_fn fn, void *user, struct poison_request **ret,
                     struct error *err);
/* Nobody waits for the answer any more; it is done all the same. NULL is fine. */
void migration_poison_forget(struct poison_request *request);

void migration_set_tls(struct migration *m, struct tls_context *tls);

/* The counters: of the lanes, or as they were at the end. */
void migration_sum(const struct migration *m, struct migration_sums *ret);
uint64_t migration_total_bytes(const struct migration *m);
uint64_t migration_remaining_bytes(const struct migration *m);
uint64_t migration_lost_bytes(const struct migration *m);
uint64_t migration_paused_us(const struct migration *m);
/* While the source is away: until the lost policy acts; 0: it will not. */
uint64_t migration_lost_left_us(const struct migration *m);

/* The i-th newest ledger entry of n_shown (at most MIGRATION_POISONED_SHOWN_MAX) out of all. */
uint64_t migration_poisoned_shown(const struct migration *m, uint64_t *ret_all);
const struct ledger_entry *migration_poisoned_get(const struct migration *m, uint64_t i);
/* Who said so: "operator" or "policy" of this host, else the source by its certificate's name. */
const char *migration_poison_reporter(const struct migration *m, enum ledger_reason reason);

/* Once a second: note what came in, for the rate. */
void migration_sample(struct migration *m, uint64_t now_us);

#endif
