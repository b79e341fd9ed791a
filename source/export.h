/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An export: the memory of one guest that leaves this host, who may have it,
 * and what is known to be lost of it.
 *
 * The main loop owns it. Functions marked "any thread" may be called by the
 * links' threads too, which hold it alive by being counted in n_links.
 */
#ifndef SOURCE_EXPORT_H
#define SOURCE_EXPORT_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uthash.h>

#include "core/error.h"
#include "core/uuid.h"
#include "source/export_keep.h"
#include "source/inbound.h"
#include "source/poison_set.h"
#include "source/region_table.h"
#include "source/want.h"
#include "wire/attach_message.h"

#define EXPORT_LANES_MAX ATTACH_UFFDS_MAX
#define EXPORT_PEER_MAX 272

enum export_state {
	EXPORT_EXPORTED,  /* the guest may still run here */
	EXPORT_FROZEN,    /* it stands still; nobody has asked for a page yet */
	EXPORT_SERVING,   /* a destination takes pages */
	EXPORT_RELEASED,  /* final: the destination has everything */
	EXPORT_FAILED,    /* final: the memory has gone */
	EXPORT_WITHDRAWN, /* final: the guest stays here, or was given up */
	EXPORT_STATES_
};

const char *export_state_name(enum export_state state);

static inline bool export_state_final(enum export_state state)
{
	return state >= EXPORT_RELEASED;
}

/* Pages of 4 KiB. Any thread adds and reads, relaxed. */
struct export_stats {
	_Atomic uint64_t pages_data;
	_Atomic uint64_t pages_zero;
	_Atomic uint64_t pages_poisoned;
	_Atomic uint64_t pages_urgent;
	_Atomic uint64_t pages_stream;
	_Atomic uint64_t requests;
	_Atomic uint64_t bytes_sent;
	_Atomic uint64_t links_accepted;
};

struct export_table;
struct link;

/* Main loop: send it to the VMM of an inbound export. */
typedef void (*export_ask_fn)(void *user, const struct attach_reply *ask);

struct export
{
	struct uuid id;
	char id_text[UUID_TEXT_LEN];
	uint8_t token[TOKEN_BYTES_MAX]; /* wiped with the object: Complete may be repeated */
	size_t token_len;
	char peer_identity[PEER_IDENTITY_MAX];
	struct region_table *regions;
	struct poison_set *poison;
	struct inbound *inbound; /* what is known of memory that still arrives; NULL: all is here */
	struct export_stats stats;
	struct export_keep keep;

	/* What each lane's stream has left; made when its first link comes, then constant. */
	_Atomic(struct want *) want[EXPORT_LANES_MAX];

	_Atomic int state; /* enum export_state; changes under the lock */
	pthread_mutex_t lock;
	char state_text[ERROR_TEXT_MAX];
	atomic_bool poison_posted;
	atomic_bool change_posted;
	atomic_bool round_posted;
	atomic_bool ask_posted;
	atomic_uint round; /* how many destinations gave up; changes under the lock */

	/* The main loop's alone. */
	struct export_table *table;
	unsigned refs; /* the table, each link, the exporter's connection */
	enum export_state announced;
	export_ask_fn ask; /* NULL: its VMM has hung up, or all is here anyway */
	void *ask_user;
	char exporter[64];                       /* "pid 12 uid 0", for people */
	struct link *links[2][EXPORT_LANES_MAX]; /* [role - 1][lane] */
	unsigned n_links;                        /* also those that are just ending */
	char peer[EXPORT_PEER_MAX];              /* of the newest link */
	uint64_t started_us;                     /* since the epoch */
	uint64_t started_ns;                     /* monotonic, as the next */
	uint64_t ended_ns;
	uint64_t audit_cursor; /* in the poison set: the journal has what is before it */
	UT_hash_handle hh;
};

/* Any thread. */
enum export_state export_state(const struct export *e);
void export_state_text(struct export *e, char *buf, size_t buf_len);

/* Main loop: exported -> frozen; frozen and serving stay. -ESHUTDOWN when it has ended. */
int export_freeze(struct export *e, struct error *err);

/*
 * Main loop: end the export. -EBUSY when a destination has taken pages and
 * force is false. Withdrawing twice is no error.
 */
int export_withdraw(struct export *e, bool force, const char *who, struct error *err);

/* Main loop: these pages are lost. All ranges are checked before any is taken over. */
int export_report_poison(struct export *e, const struct poison_range *ranges, size_t n_ranges,
                         enum poison_reporter by, struct error *err);

/*
 * export_inbound.c. Main loop: its VMM tells what has become of pages that were still on
 * their way. All ranges are checked before any is taken over. -EINVAL, -ERANGE.
 */
int export_populated(struct export *e, const struct attach_request *q, struct error *err);
/* Main loop: how to ask it; NULL when it has hung up. */
void export_set_ask(struct export *e, export_ask_fn fn, void *user);
/* Any thread: there is something to ask. */
void export_ask(struct export *e);

/* Main loop: the process that exported it has hung up. */
void export_exporter_left(struct export *e);

/* Main loop: a link has come or has ended. */
void export_link_joined(struct export *e, const char *peer);
void export_link_left(struct export *e);

/*
 * Any thread. A link takes the round when it starts and names it in what it
 * does; when its destination has given up the round is over, and the link's part with it.
 */
static inline unsigned export_round(const struct export *e)
{
	return atomic_load_explicit(&e->round, memory_order_acquire);
}

/*
 * Any thread, before the first page is served: frozen -> serving. -EAGAIN
 * while it is not frozen, -ESHUTDOWN when it has ended, -ECANCELED when the
 * round is over.
 */
int export_start_serving(struct export *e, unsigned round);

/* Any thread: the destination has everything. Also 0 when it was released before. Errors as above. */
int export_complete(struct export *e, unsigned round, const char *text);

/*
 * Any thread: the destination has said that its guest is gone. Back to frozen:
 * nobody depends on the export any more, so its VMM may withdraw it. The round
 * is over; nothing if it was already.
 */
void export_given_up(struct export *e, unsigned round, const char *why);

/* Any thread: the memory has gone. */
void export_fail(struct export *e, const char *text);

/* Any thread: these pages could not be read. -ENOMEM. */
int export_read_error(struct export *e, uint64_t first, uint64_t count);

/* Any thread: answered on an urgent link, no stream needs to send them. */
void export_drop_wanted(struct export *e, uint64_t first, uint64_t count);

/* Main loop: its links have a look at it. */
void export_wake_links(struct export *e, bool urgent_only);
/* Any thread: have fn(e) called on the main loop, unless *posted says that it is on its way. */
void export_post_once(struct export *e, atomic_bool *posted, void (*fn)(void *));

/* Main loop. -ENOMEM. */
int export_want_prepare(struct export *e, unsigned lane);

/* Main loop. unref: always NULL. */
struct export *export_ref(struct export *e);
struct export *export_unref(struct export *e);

#endif
