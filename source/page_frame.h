/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One Pages frame, built where it is sent from: pages are read straight into
 * the channel's out buffer. Used by both kinds of link, on their threads.
 *
 * begin, then add until there is no room or nothing to add, then end (or
 * abort). Nothing else may be sent on the channel in between.
 */
#ifndef SOURCE_PAGE_FRAME_H
#define SOURCE_PAGE_FRAME_H

#include "net/channel.h"
#include "source/export.h"
#include "wire/page_message.h"

#define PAGE_FRAME_RUNS_MAX 256
#define PAGE_FRAME_PAGES_MAX 8192 /* data, zero and poisoned together */
#define PAGE_FRAME_HEAD_MAX (64 + PAGE_FRAME_RUNS_MAX * 24)

struct page_frame {
	struct export *export;
	struct channel *channel;
	uint64_t id;
	uint8_t *base;
	size_t payload_offset; /* right behind the head of a frame with one run, as guessed */
	struct page_run guess;
	unsigned data_max;
	unsigned n_data;
	uint64_t region_first; /* of the region of the last add: no run crosses its end */
	uint32_t n_pages;
	uint32_t n_zero;
	uint32_t n_poisoned;
	size_t n_runs;
	struct page_run runs[PAGE_FRAME_RUNS_MAX];
};

/*
 * Room for up to data_max pages of data; first and count are the likeliest
 * content. -ENOBUFS: wait for on_drained.
 */
int page_frame_begin(struct page_frame *f, struct channel *channel, struct export *e, uint64_t id,
                     unsigned data_max, uint64_t first, uint32_t count);

/* How many more pages a page_frame_add() may take at most. 0: end it. */
uint32_t page_frame_room(const struct page_frame *f);

/*
 * Read and add pages from first on, at most count, all in one region. Returns
 * how many it took, at least 1 when there is room; -ESRCH when the memory has
 * gone, another -errno when it could not be read.
 */
ssize_t page_frame_add(struct page_frame *f, uint64_t first, uint32_t count);

/* Send it and count it. 0 or the channel's -errno. */
int page_frame_end(struct page_frame *f);
void page_frame_abort(struct page_frame *f);

#endif
