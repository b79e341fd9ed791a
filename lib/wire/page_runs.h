/* SPDX-License-Identifier: Apache-2.0 */
/* Private to lib/wire: the runs of a received page message, checked. */
#ifndef WIRE_PAGE_RUNS_H
#define WIRE_PAGE_RUNS_H

#include "postcopy.pb-c.h"
#include "wire/arena.h"
#include "wire/page_message.h"

/* Page numbers are below this, so that a page number in bytes fits 64 bits. */
#define PAGE_NUMBER_LIMIT (UINT64_C(1) << (64 - WIRE_PAGE_SHIFT))

/*
 * Check n runs of the message called name and put them, in their order, into an
 * array of the arena. with_kind: each has a kind, else none may have one.
 * *ret_data_pages (may be NULL) is at most PAGE_PAYLOAD_PAGES_MAX.
 */
int page_runs_decode(struct wire_arena *arena, const char *name, Postcopy__V1__Run *const *from,
                     size_t n, bool with_kind, struct page_runs *ret, uint64_t *ret_data_pages,
                     struct error *err);

#endif
