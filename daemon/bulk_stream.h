/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The stream of a lane: everything that no fault asked for, in the background,
 * on the bulk thread. Faults steer it: it goes on after the last faulted page.
 */
#ifndef DAEMON_BULK_STREAM_H
#define DAEMON_BULK_STREAM_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "daemon/placement.h"
#include "daemon/source_link.h"

struct bulk_stream;

struct bulk_stream_callbacks {
	void (*on_connected)(void *user);
	void (*on_lost)(const struct error *err, bool retriable, void *user);
	void (*on_warning)(const struct error *err, void *user);
};

struct bulk_stream_params {
	struct loop *loop;
	int stop_fd; /* becomes readable when the lane is being stopped */
	uint32_t lane;
	struct region_table *regions;      /* this thread's own */
	struct placer placer;              /* copied */
	_Atomic uint64_t *last_fault_page; /* wire page; FAULT_NO_PAGE when followed */
	uint32_t window_pages;             /* streamed after a faulted page; 0: do not follow */
	const struct bulk_stream_callbacks *callbacks;
	void *user;
};

/* On any thread; then all on the bulk one. */
int bulk_stream_new(const struct bulk_stream_params *params, struct bulk_stream **ret);
struct bulk_stream *bulk_stream_free(struct bulk_stream *s); /* always NULL */
DEFINE_CLEANUP(struct bulk_stream, bulk_stream_free)

void bulk_stream_connect(struct bulk_stream *s, const struct source_link_params *link,
                         const struct addrinfo *address);
void bulk_stream_disconnect(struct bulk_stream *s);

/* Bytes a second, 0: no limit. Holds over reconnects. */
void bulk_stream_set_bandwidth(struct bulk_stream *s, uint64_t bytes_per_second);

/* placer_callbacks.wait_retry of the bulk thread. */
bool bulk_stream_wait_retry(struct bulk_stream *s, bool changing);

#endif
