/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An accepted page connection: a thread and a loop of its own, its channel, and
 * what it owes the destination. The main loop makes and ends links; everything
 * under "its own thread's" is touched by that thread alone.
 */
#ifndef SOURCE_LINK_H
#define SOURCE_LINK_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/cpu_list.h"
#include "net/channel.h"
#include "net/loop.h"
#include "source/export.h"
#include "source/serve_stream.h"
#include "source/serve_urgent.h"
#include "wire/page_message.h"

#define LINK_FINGERPRINT_BYTES 32
/* The stream waits when more than this is queued; on_drained comes at this mark. */
#define LINK_STREAM_LOW_WATER_BYTES (256 * 1024)

struct links;

/* How a link's thread is scheduled. */
struct link_tuning {
	bool urgent_realtime; /* ask for SCHED_FIFO */
	int bulk_nice;        /* 0..19 */
	struct cpu_list urgent_cpus;
	struct cpu_list bulk_cpus;
};

struct link {
	struct links *links;
	struct export *export;
	enum link_role role;
	unsigned lane;
	uint8_t fingerprint[LINK_FINGERPRINT_BYTES];
	struct loop *loop;
	struct channel *channel;
	atomic_bool wake_posted;
	atomic_bool stopping; /* close without a word */
	unsigned round;       /* the export's when it started; constant while it runs */

	/* The main loop's. */
	struct link *prev, *next;
	pthread_t thread;
	bool running;
	struct link *successor;    /* starts when this one has ended */
	struct link_tuning tuning; /* before its thread starts, then that's */

	/* Its own thread's. */
	struct page_decoder *decoder;
	bool greeted;
	bool closing;
	bool frozen_told;
	bool pong_due;
	bool ack_due;
	bool end_due; /* Progress */
	uint64_t pong_cookie;
	uint64_t poison_cursor;
	struct serve_urgent urgent; /* of the role's two, one is in use */
	struct serve_stream stream;
};

struct links_options {
	unsigned max;              /* all links together */
	uint64_t stream_bandwidth; /* bytes a second for each stream; 0: no limit */
	struct link_tuning tuning;
};

/* Main loop. */
int links_new(struct loop *main_loop, const struct links_options *options, struct links **ret);
/* Ends and joins all. Always NULL. */
struct links *links_free(struct links *ls);
void links_set_options(struct links *ls, const struct links_options *options);
unsigned links_count(const struct links *ls);

/*
 * Give a connection whose Hello was found good to a link of its own; the
 * channel is detached and taken on success. A link with the same role, lane and
 * certificate is replaced. On failure *ret_code is what to tell the peer.
 */
int links_accept(struct links *ls, struct export *e, enum link_role role, unsigned lane,
                 struct channel *channel, enum wire_error_code *ret_code, struct error *err);

/* Main loop: the export changed, have a look. */
void link_wake(struct link *link);

/* Its own thread. Say why and close; ignored when it is closing already. */
void link_fail(struct link *link, enum wire_error_code code, const char *fmt, ...)
        __attribute__((format(printf, 3, 4)));

/*
 * Its own thread: what a -errno from serving means for the link: -ESRCH fails
 * the whole export.
 */
void link_serve_failed(struct link *link, int error);

/* Its own thread: has its destination given up, on another link? Then it serves no page. */
static inline bool link_given_up(const struct link *link)
{
	return export_round(link->export) != link->round;
}

/* Its own thread: may pages be served? Otherwise the link is failed, and false. */
bool link_may_serve(struct link *link, const char *asked);

/* Its own thread: send what is owed besides pages, as far as there is room. */
void link_flush(struct link *link);

/* The link's loop runs this (link_run.c). */
void *link_thread(void *arg);
/* Posted to the main loop by the thread as its last act. */
void link_on_ended(void *arg);
/* Posted to the link's loop. */
void link_on_wake(void *arg);

#endif
