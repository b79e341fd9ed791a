/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The background stream of one lane: sends what Resume asked for, in increasing
 * order from a position that StreamControl moves. On a bulk link's thread.
 */
#ifndef SOURCE_SERVE_STREAM_H
#define SOURCE_SERVE_STREAM_H

#include <event2/event.h>
#include <stdbool.h>
#include <stdint.h>

#include "source/region_table.h"
#include "source/stream_probe.h"
#include "source/want.h"
#include "wire/page_message.h"

struct link;

struct serve_stream {
	struct want *want;    /* the export's, for this lane */
	uint32_t *unit_pages; /* of each region: what the destination can place at once */
	bool running;
	bool collecting;      /* Resume messages of a round, before its last */
	uint64_t position;    /* the next page to look at */
	uint32_t window_left; /* pages to send here before going back; 0: stay */
	uint64_t return_position;
	uint64_t unit_at; /* the unit that is being sent: unit_at .. unit_end - 1 */
	uint64_t unit_end;
	uint64_t sent; /* pages */

	uint64_t bandwidth_cap; /* of the settings; 0: none */
	uint64_t bandwidth;     /* bytes a second; 0: no limit */
	int64_t tokens;         /* bytes that may go out now; negative: in debt */
	uint64_t refilled_ns;
	struct event *timer;
	bool pump_posted;
	struct stream_probe probe; /* of an inbound export */
};

int serve_stream_init(struct link *link, uint64_t bandwidth_cap);
void serve_stream_fini(struct link *link);

void serve_stream_resume(struct link *link, const struct page_message *m);
void serve_stream_control(struct link *link, const struct page_message *m);

/* Send as much as may be sent now. */
void serve_stream_pump(struct link *link);

#endif
