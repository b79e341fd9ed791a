/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The stream of an inbound export asks ahead of itself what has come to this host, one
 * question at a time, and sends what has: what is not here yet it comes back to. On a
 * bulk link's thread.
 */
#ifndef SOURCE_STREAM_PROBE_H
#define SOURCE_STREAM_PROBE_H

#include <event2/event.h>
#include <stdbool.h>
#include <stdint.h>

struct link;

struct stream_probe {
	uint64_t at;         /* where the next question begins */
	uint64_t sent;       /* by the stream, when the last question was put */
	uint64_t asked_ns;   /* when that was; 0: never */
	struct event *timer; /* pumps the stream */
};

/* Put the next question if it is time to; else the timer is set. Nothing for other exports. */
void stream_probe_pump(struct link *link);

#endif
