/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The log of an export's lost pages, for the next agent: a memfd that only ever grows.
 * The agent may be killed at any moment: an entry is whole before it counts.
 *
 * The layout is fixed: a header that never changes, the numbers that do, the entries.
 * One thread at a time appends (the poison set's lock); the main loop marks what the
 * journal has.
 */
#ifndef SOURCE_POISON_LOG_H
#define SOURCE_POISON_LOG_H

#include <stdint.h>

#include "core/cleanup.h"
#include "core/error.h"
#include "core/kept_memfd.h"
#include "core/uuid.h"

#define POISON_LOG_MAGIC "PCPYPOI1"

struct poison_log_header {
	struct kept_header head;
	uint64_t n_pages;        /* of the export, 4 KiB */
	uint64_t counts_offset;  /* a poison_log_counts */
	uint64_t entries_offset; /* poison_log_entry after poison_log_entry */
};
_Static_assert(sizeof(struct poison_log_header) == 64, "kept over restarts");

struct poison_log_counts {
	uint64_t n_entries; /* that count: what lies behind them was being written */
	uint64_t n_audited; /* lost pages that the journal has */
};
_Static_assert(sizeof(struct poison_log_counts) == 16, "kept over restarts");

struct poison_log_entry {
	uint64_t first; /* wire page */
	uint64_t count; /* none of which an earlier entry has */
	uint64_t time_us;
	uint32_t reason; /* enum poison_reason */
	uint32_t by;     /* enum poison_reporter */
	uint64_t checksum;
};
_Static_assert(sizeof(struct poison_log_entry) == 40, "kept over restarts");

struct poison_log {
	int fd;
	struct poison_log_header header;
	struct poison_log_counts counts;
};

int poison_log_new(const struct uuid *migration_id, uint64_t n_pages, struct poison_log **ret,
                   struct error *err);

/*
 * What another agent left; takes fd on success. -EINVAL, -EBADMSG, -EPROTONOSUPPORT or
 * -errno, with a text. The entries are looked at when they are read.
 */
int poison_log_open(int fd, const struct uuid *migration_id, uint64_t n_pages,
                    struct poison_log **ret, struct error *err);
struct poison_log *poison_log_free(struct poison_log *l); /* always NULL */
DEFINE_CLEANUP(struct poison_log, poison_log_free)

/* When it returns 0 the entry is there for every agent to come, else for none. -errno. */
int poison_log_append(struct poison_log *l, const struct poison_log_entry *e);

/* Number i of counts.n_entries; its checksum and pages are good. -EBADMSG, -errno, with a text. */
int poison_log_read(const struct poison_log *l, uint64_t i, struct poison_log_entry *ret,
                    struct error *err);

/* The journal has so many lost pages now. */
void poison_log_audited(struct poison_log *l, uint64_t n_pages);

#endif
