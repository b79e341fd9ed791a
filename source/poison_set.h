/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The lost pages of one export. It only ever grows: nothing takes a page out.
 *
 * Beside the bitmap there is a log of runs in the order in which they became
 * known. A reader keeps a cursor, the number of lost pages that it has been
 * told, so that no page is missed or told twice however late it comes.
 * All functions may be called from any thread.
 */
#ifndef SOURCE_POISON_SET_H
#define SOURCE_POISON_SET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/cleanup.h"
#include "core/error.h"
#include "source/poison_log.h"
#include "source/region_table.h"
#include "wire/page_message.h"

enum poison_reporter {
	POISON_BY_VMM,
	POISON_BY_OPERATOR,
	POISON_BY_READ,
};

const char *poison_reporter_name(enum poison_reporter by); /* "vmm" ... */
const char *poison_reason_name(enum poison_reason reason); /* "reported" ... */

struct poison_entry {
	uint64_t first; /* wire page */
	uint64_t count;
	uint64_t before;  /* lost pages in all earlier entries */
	uint64_t time_us; /* since the epoch */
	enum poison_reason reason;
	enum poison_reporter by;
};

struct poison_set;

/* For the pages of the table, which must live as long: no run crosses a region's end. */
int poison_set_new(const struct region_table *regions, struct poison_set **ret);
struct poison_set *poison_set_free(struct poison_set *s); /* always NULL, its log as well */
DEFINE_CLEANUP(struct poison_set, poison_set_free)

/*
 * Before another thread knows the set: take over what the log has, and from now on have
 * each entry in it before it counts. The log is taken on success. -EBADMSG with a text for
 * a log that makes no sense, -ENOMEM.
 */
int poison_set_keep(struct poison_set *s, struct poison_log *log, struct error *err);

bool poison_set_test(const struct poison_set *s, uint64_t page);

/* Lost pages. */
uint64_t poison_set_count(const struct poison_set *s);

/*
 * These pages, all in one region, are lost. Pages that were known before stay as they were.
 * *ret_added (may be NULL) is how many are new. -ENOMEM, or -errno of the log: only some
 * are in.
 */
int poison_set_add(struct poison_set *s, uint64_t first, uint64_t count, enum poison_reason reason,
                   enum poison_reporter by, uint64_t *ret_added);

/*
 * What became known after the cursor: up to max runs of one reason. Returns
 * their number (0: nothing new) and the cursor behind them.
 */
size_t poison_set_read(struct poison_set *s, uint64_t cursor, struct page_run *runs, size_t max,
                       enum poison_reason *ret_reason, uint64_t *ret_cursor);

/* Main loop: the journal has the first so many lost pages; also over a restart. */
void poison_set_audited(struct poison_set *s, uint64_t n_pages);

/* A copy of the log, for reports; *ret is malloc()ed, NULL when it is empty. */
int poison_set_copy(struct poison_set *s, struct poison_entry **ret, size_t *ret_n);

#endif
