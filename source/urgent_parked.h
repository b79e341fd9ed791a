/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests to an inbound export for pages that have not come to this host yet. They
 * wait here while later ones are answered: a destination takes answers in any order.
 * On an urgent link's thread.
 */
#ifndef SOURCE_URGENT_PARKED_H
#define SOURCE_URGENT_PARKED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "source/inbound.h"
#include "wire/page_message.h"

/* Together of one link; a destination of ours has no more faults waiting at a time. */
#define PARKED_REQUESTS_MAX 4096
#define PARKED_RUNS_MAX 65536

struct parked_request {
	struct parked_request *next;
	uint64_t id;
	uint32_t pages;
	size_t n_runs;
	struct page_run runs[];
};

struct urgent_parked {
	struct parked_request *oldest;
	struct parked_request *newest;
	size_t n_requests;
	size_t n_runs;
	bool news; /* more may be known since the last look */
};

/* Is the fate of all its pages known? */
bool urgent_runs_known(const struct inbound *in, const struct page_run *runs, size_t n_runs);

/* -ENOMEM. */
int urgent_park(struct urgent_parked *p, uint64_t id, const struct page_run *runs, size_t n_runs,
                uint32_t pages);

/* Nothing more can be parked: read nothing more from the destination. */
bool urgent_parked_full(const struct urgent_parked *p);

/* Take out one whose pages are all known by now; the caller's to free(). NULL: there is none. */
struct parked_request *urgent_unpark(struct urgent_parked *p, const struct inbound *in);

void urgent_parked_free(struct urgent_parked *p);

#endif
