/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of the fault path share; nobody else includes it. All of it is the
 * urgent thread's.
 *
 *   out:  fault_event.c    uffd_read -> region_find        (fault_mapping.c: a further mapping)
 *         fault_request.c  in-flight add -> request -> channel
 *   back: fault_answer.c   channel -> in-flight match -> placement (claim, ioctl, set)
 */
#ifndef DAEMON_FAULT_PATH_PARTS_H
#define DAEMON_FAULT_PATH_PARTS_H

#include "daemon/assembly.h"
#include "daemon/fault_path.h"

#define HUGE_OUTSTANDING_MAX 8 /* huge pages asked for at a time: each has a buffer */
#define REQUEST_BYTES_MAX 64   /* one encoded PageRequest of one run */

/* A further mapping whose faults are read; the mapping is the placer's set's. */
struct mapped {
	struct fault_path *fp;
	struct mapping *mapping;
	struct event *event;
};

struct fault_path {
	struct fault_path_params params;
	struct placer placer;
	struct in_flight *in_flight;
	struct event *uffd_event;
	struct mapped *mapped[MAPPINGS_MAX]; /* by the mapping's id; NULL: none */
	struct source_link *link;
	bool complained;
	unsigned n_strays; /* since the last fault with a unit */
	bool serving;      /* connected and the source is frozen: requests may go out */
	struct assembly *assemblies[HUGE_OUTSTANDING_MAX]; /* free ones first .. n_free - 1 */
	size_t n_free_assemblies;
	size_t n_unsent; /* entries that wait for a connection or a free assembly */
	uint8_t batch[FAULT_BATCH * REQUEST_BYTES_MAX];
	size_t batch_len;
};

/* A warning, once: a VMM must not be able to fill the log. */
void fault_complain(struct fault_path *fp, const char *what, uint64_t address);

/* ---- fault_request.c ---- */

/*
 * The unit is asked for if nobody has done so, with the next flush. What is known of it
 * already; PAGE_MISSING, PAGE_REQUESTED ...: nothing is left to do.
 */
enum page_state fault_request_unit(struct fault_path *fp, const struct region *r, uint64_t unit,
                                   uint64_t now_ns);
/* What waits for a connection or a buffer, if there is one now. */
void fault_request_unsent(struct fault_path *fp);
/* The whole unit, or of a very large one as much as may be on its way at a time. */
void fault_request_pieces(struct fault_path *fp, const struct region *r, struct in_flight_entry *e);
/* What was asked for has come. */
bool fault_request_is_answered(const struct in_flight_entry *e);
/* The entry's buffer, if it has one. */
void fault_request_release(struct fault_path *fp, struct in_flight_entry *e);
/* To the channel, as one record. */
void fault_request_flush(struct fault_path *fp);

/* ---- fault_event.c ---- */

void fault_event_on_readable(evutil_socket_t fd, short what, void *arg);
/* Returns whether it is a minor one. */
bool fault_event_count(struct fault_path *fp, const struct uffd_msg *msg);

/* ---- fault_mapping.c ---- */

struct mapped *fault_mapping_free(struct mapped *mapped); /* always NULL */

/* ---- fault_answer.c ---- */

/* A Pages or a PoisonNotice. -EPROTO with a text, or what placement says. */
int fault_answer_pages(struct fault_path *fp, const struct page_message *m, struct error *err);
int fault_answer_poison(struct fault_path *fp, const struct page_message *m, struct error *err);

#endif
