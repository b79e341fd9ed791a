/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tells the agent what the inbound migration's daemon knows to be lost: when the export
 * begins, at the freeze, to each new agent, and, when the migration has completed, for
 * the last time: then everything else is here. A thread of its own, for the daemon's
 * answer may take long while it is started again. Started by inbound.c.
 */
#include <errno.h>
#include <stdlib.h>

#include "client/inbound.h"
#include "core/cleanup.h"
#include "core/clock.h"

#define RETRY_US 500000

/* The parts of a lost range that are exported. */
static int range_tell(struct inbound *in, const struct poison_range *lost,
                      struct populated_range *out, size_t *n)
{
	uint64_t end = lost->gpa.addr + lost->length_bytes;
	int r = 0;

	for (size_t i = 0; i < in->n_regions && r == 0; i++) {
		const struct inbound_region *region = &in->regions[i];
		uint64_t from = MAX(lost->gpa.addr, region->gpa);
		uint64_t to = MIN(end, region->gpa + region->length_bytes);

		if (from >= to)
			continue;
		populated_add(out, n, from, to - from, PAGE_FATE_POISONED);
		if (*n == POISON_RANGES_MAX) {
			r = inbound_tell(in, 0, out, *n, false);
			*n = 0;
		}
	}
	return r;
}

static int list_tell(struct inbound *in, bool last)
{
	_cleanup_free_ struct populated_range *out = calloc(POISON_RANGES_MAX, sizeof(*out));
	_cleanup_free_ struct poison_range *lost = NULL;
	struct error err = {0};
	size_t n_lost = 0, n = 0;
	int r = out ? poison_list_get(in->from, &lost, &n_lost, &err) : -ENOMEM;

	for (size_t i = 0; i < n_lost && r == 0; i++)
		r = range_tell(in, &lost[i], out, &n);
	if (r == 0 && (n > 0 || last))
		r = inbound_tell(in, 0, out, n, last);
	return r;
}

/* Locked, but for the telling. True: it is done, or will never be. */
static bool tell(struct inbound *in)
{
	bool last;
	int r;

	in->list_due = false; /* what comes due meanwhile is told again */
	pthread_mutex_unlock(&in->lock);
	last = inbound_phase(in) == INBOUND_COMPLETED; /* before the list, which is then whole */
	r = list_tell(in, last);
	pthread_mutex_lock(&in->lock);
	/* Without a daemon nobody knows more: touching pages must do. */
	return r != -ETIMEDOUT && r != -ENOMEM;
}

static void retry_wait(struct inbound *in)
{
	uint64_t deadline_us = deadline_after_us(RETRY_US);

	while (!in->stopped && clock_monotonic_us() < deadline_us)
		condition_wait(&in->changed, &in->lock, deadline_us);
}

void *inbound_teller_main(void *arg)
{
	struct inbound *in = arg;

	pthread_mutex_lock(&in->lock);
	while (!in->stopped) {
		if (!in->list_due) {
			pthread_cond_wait(&in->changed, &in->lock);
			continue;
		}
		if (tell(in))
			continue;
		in->list_due = true;
		retry_wait(in);
	}
	pthread_mutex_unlock(&in->lock);
	return NULL;
}
