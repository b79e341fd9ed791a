/* SPDX-License-Identifier: Apache-2.0 */
/* Answers to PageRequests, on an urgent link's thread. */
#ifndef SOURCE_SERVE_URGENT_H
#define SOURCE_SERVE_URGENT_H

#include <stdbool.h>
#include <stdint.h>

#include "source/urgent_parked.h"
#include "wire/page_message.h"

#define URGENT_REQUEST_PAGES_MAX 1024

struct link;

/* The request being answered; there is never more than one, the peer's others wait in its socket. */
struct serve_urgent {
	bool busy;
	uint64_t id;
	uint32_t pages_left;
	size_t run;    /* next to answer ... */
	uint32_t done; /* ... and how much of it is answered */
	size_t n_runs;
	struct page_run runs[PAGE_RUNS_MAX];
	struct urgent_parked parked; /* of an inbound export */
};

void serve_urgent_fini(struct link *link);

/* A PageRequest came: check it and begin to answer. */
void serve_urgent_request(struct link *link, const struct page_message *m);

/* There is room again: go on. */
void serve_urgent_continue(struct link *link);

/* More pages of an inbound export are known: go on with what waits for them. */
void serve_urgent_news(struct link *link);

#endif
