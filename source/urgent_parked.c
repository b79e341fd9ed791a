/* SPDX-License-Identifier: Apache-2.0 */
/* The requests that wait, oldest first. Called by serve_urgent.c. */
#include "source/urgent_parked.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

bool urgent_runs_known(const struct inbound *in, const struct page_run *runs, size_t n_runs)
{
	for (size_t i = 0; i < n_runs; i++)
		if (!inbound_known(in, runs[i].first, runs[i].count))
			return false;
	return true;
}

int urgent_park(struct urgent_parked *p, uint64_t id, const struct page_run *runs, size_t n_runs,
                uint32_t pages)
{
	struct parked_request *q = malloc(sizeof(*q) + n_runs * sizeof(*runs));

	if (!q)
		return -ENOMEM;
	q->next = NULL;
	q->id = id;
	q->pages = pages;
	q->n_runs = n_runs;
	memcpy(q->runs, runs, n_runs * sizeof(*runs));
	if (p->newest)
		p->newest->next = q;
	else
		p->oldest = q;
	p->newest = q;
	p->n_requests++;
	p->n_runs += n_runs;
	p->news = true; /* the answer may have come while it was parked */
	return 0;
}

bool urgent_parked_full(const struct urgent_parked *p)
{
	return p->n_requests >= PARKED_REQUESTS_MAX || p->n_runs > PARKED_RUNS_MAX - PAGE_RUNS_MAX;
}

static struct parked_request *unlink_after(struct urgent_parked *p, struct parked_request *before)
{
	struct parked_request *q = before ? before->next : p->oldest;

	if (before)
		before->next = q->next;
	else
		p->oldest = q->next;
	if (p->newest == q)
		p->newest = before;
	p->n_requests--;
	p->n_runs -= q->n_runs;
	return q;
}

struct parked_request *urgent_unpark(struct urgent_parked *p, const struct inbound *in)
{
	struct parked_request *before = NULL;

	if (!p->news)
		return NULL;
	for (struct parked_request *q = p->oldest; q; before = q, q = q->next)
		if (urgent_runs_known(in, q->runs, q->n_runs))
			return unlink_after(p, before);
	p->news = false;
	return NULL;
}

void urgent_parked_free(struct urgent_parked *p)
{
	while (p->oldest)
		free(unlink_after(p, NULL));
}
