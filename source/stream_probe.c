/* SPDX-License-Identifier: Apache-2.0 */
/* When the stream of an inbound export asks. Called by serve_stream.c before each frame. */
#include "source/stream_probe.h"

#include "core/clock.h"
#include "source/link.h"

/*
 * After a question that brought nothing to send: so long until the next one. A sweep over
 * all that is missing goes at 8 MiB a pause, and costs the VMM a look at its page tables.
 */
#define PAUSE_US 5000

static void wait_for(struct stream_probe *p, uint64_t us)
{
	const struct timeval tv = {.tv_usec = (suseconds_t)us};

	if (!evtimer_pending(p->timer, NULL))
		evtimer_add(p->timer, &tv);
}

static void ask(struct link *link)
{
	struct inbound *in = link->export->inbound;
	struct serve_stream *s = &link->stream;
	struct stream_probe *p = &s->probe;

	/* At the end of memory go on from its start; the second time there is nothing. */
	if (!inbound_probe(in, link->lane, s->want, &p->at)) {
		p->at = 0;
		if (!inbound_probe(in, link->lane, s->want, &p->at)) {
			wait_for(p, PAUSE_US); /* what is left others have asked for, or answer */
			return;
		}
	}
	p->sent = s->sent;
	p->asked_ns = clock_monotonic_ns();
	export_ask(link->export);
}

void stream_probe_pump(struct link *link)
{
	struct inbound *in = link->export->inbound;
	struct stream_probe *p = &link->stream.probe;
	uint64_t since_us;

	if (inbound_all_known(in) || !inbound_probe_answered(in, link->lane))
		return; /* with the answer link_on_wake() comes */
	since_us = (clock_monotonic_ns() - p->asked_ns) / 1000;
	if (p->asked_ns == 0 || link->stream.sent > p->sent || since_us >= PAUSE_US)
		ask(link);
	else
		wait_for(p, PAUSE_US - since_us);
}
