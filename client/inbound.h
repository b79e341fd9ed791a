/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An export of memory that itself is still on its way to this process: the agent asks
 * which pages are here, and has those fetched for which the next host's guest waits.
 *
 * A thread takes the agent's questions off the connection and answers what the page
 * tables tell at once, another one tells what is lost, and workers touch what has to be
 * fetched. A worker may wait in the kernel for as long as the first source is out of
 * reach, and cannot be woken: so nobody waits for a worker, and it holds what it needs.
 */
#ifndef CLIENT_INBOUND_H
#define CLIENT_INBOUND_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "client/internal.h"

/* Of the exported regions, what is needed to find a page. */
struct inbound_region {
	uint64_t gpa;
	uint64_t hva;
	uint64_t length_bytes;
	uint64_t page_size_bytes;
};

/* How the inbound migration stands. */
enum inbound_phase {
	INBOUND_ARRIVING,
	INBOUND_COMPLETED,
	INBOUND_FAILED, /* for good: what is not here will not come */
};

struct inbound_job; /* pages to be fetched; inbound_jobs.c */

struct inbound_jobs {
	struct inbound_job *urgent_head, **urgent_tail;
	struct inbound_job *bulk_head, **bulk_tail;
	struct inbound_job *running; /* a worker is in the kernel for each */
	size_t n_urgent;
	size_t n_bulk;
	unsigned n_workers;
	unsigned n_idle;
	unsigned max_workers;
	unsigned n_calling; /* workers that use the handle just now */
};

struct inbound_ask {
	struct inbound_ask *next;
	struct attach_reply populate;
};

struct inbound {
	struct postcopy *export; /* whose part this is */
	struct postcopy *from;   /* by which the memory comes here */
	struct inbound *next;    /* in from->exports */
	struct inbound_region *regions;
	size_t n_regions;
	int pagemap_fd;
	int event_fd; /* something to do for the answering thread */
	pthread_t answerer, teller;
	bool answerer_runs, teller_runs;
	struct populated_range *answer; /* the answering thread's */
	size_t n_answer;
	bool gave_up; /* the answering thread's: failed, and said so */

	pthread_mutex_t lock; /* the rest; after a handle's lock */
	pthread_cond_t changed;
	unsigned refs; /* the export's, the workers' */
	bool stopped;
	bool list_due;       /* tell what is lost */
	bool completed_seen; /* the list has been due for the last time, but for new agents */
	struct inbound_ask *asks_head, **asks_tail;
	size_t n_asks;
	struct inbound_jobs jobs;
};

/* inbound.c */

/* Check that these regions can be exported so, and prepare it; nothing runs yet. */
int inbound_new(struct postcopy *export, struct postcopy *from,
                const struct postcopy_region *regions, size_t n_regions, struct error *err);
/* The export is accepted: start the threads. */
int inbound_start(struct inbound *in, struct error *err);
/* The export's connection ends, and no thread uses either handle any more. */
void inbound_stop(struct inbound *in);
void inbound_free(struct inbound *in); /* stops it; NULL is nothing to free */
void inbound_unref(struct inbound *in);

/* With the export's lock held: the agent asks. -EPROTO when it asks too much. */
int inbound_asked(struct inbound *in, const struct attach_reply *populate);
/* Tell (again) what is lost. */
void inbound_list_due(struct inbound *in);
/* With from's lock held: its state has changed. */
void inbound_notice(struct inbound *in);
enum inbound_phase inbound_phase(struct inbound *in);

/* Tell the agent. 0 or -errno. */
int inbound_tell(struct inbound *in, uint32_t number, const struct populated_range *ranges,
                 size_t n_ranges, bool all);

/* inbound_tell.c: the thread that tells what is lost. */
void *inbound_teller_main(void *arg);

/* inbound_pages.c: what has become of pages. */

enum page_place {
	PAGE_IS_HERE,
	PAGE_IS_MARKED, /* swapped out, or poisoned: touching it tells, and does not wait */
	PAGE_IS_NOWHERE,
};

/* Places of n pages (at most PLACES_MAX) from an address on. 0 or -errno. */
#define PLACES_MAX 512
int page_places(const struct inbound *in, uint64_t hva, size_t n, enum page_place *ret);

/* Whether the inbound migration brings this memory, and how much from there on is alike. */
bool inbound_covers(const struct inbound *in, uint64_t hva, uint64_t *length_bytes);
const struct inbound_region *inbound_region_find(const struct inbound *in, uint64_t gpa);

/* Fetch one stretch, waiting for it; HERE, POISONED or LOST. */
enum page_fate page_fetch(uint64_t hva, uint64_t length_bytes);
bool page_fetch_supported(void);

int inbound_regions_check(const struct postcopy *from, const struct postcopy_region *regions,
                          size_t n_regions, struct error *err);

/* inbound_jobs.c */
void inbound_jobs_init(struct inbound_jobs *jobs);
void inbound_jobs_free(struct inbound_jobs *jobs);
/* Have pages of one region fetched and told. -ENOMEM, -E2BIG. */
int inbound_jobs_add(struct inbound *in, const struct inbound_region *r, uint64_t gpa,
                     uint64_t length_bytes, bool urgent);
/*
 * What is fetched will not come: take out what waits, and list it with what is being
 * fetched, for the caller to free(); workers that never come back are replaced.
 */
int inbound_jobs_give_up(struct inbound *in, struct poison_range **ret, size_t *ret_n);

/* Add a stretch to *ranges, joined with the last one if it is alike. */
void populated_add(struct populated_range *ranges, size_t *n, uint64_t gpa, uint64_t length_bytes,
                   enum page_fate fate);

#endif
