/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the next agent needs to go on with an export, in the service manager's FD store
 * (net/fd_store.h): the record memfd, the memory's descriptors, the log of lost pages,
 * and the exporter's connection. All of it under the names below.
 *
 * The record is the last that comes into the store and the first that leaves it: what it
 * speaks of is there. It says that an export has ended before the memory leaves. Record
 * and log of an ended one stay as long as it is in the table: it is shown, and answers a
 * destination that repeats its Complete.
 */
#ifndef SOURCE_EXPORT_KEEP_H
#define SOURCE_EXPORT_KEEP_H

#include <stdbool.h>
#include <stdint.h>

#include "core/error.h"
#include "core/record_memfd.h"
#include "net/fd_store.h"
#include "wire/attach_message.h"

#define KEPT_RECORD "record"
#define KEPT_MEMORY "memory" /* memory0, memory1 ... */
#define KEPT_POISON "poison"
#define KEPT_EXPORTER "exporter" /* the connection */

struct export;
struct export_params;

/* A part of struct export. */
struct export_keep {
	struct record_memfd *record;   /* NULL: nothing is kept. Written under the export's lock */
	struct attach_request request; /* as the record has it; its array is ours */
	uint32_t n_memory;             /* descriptors of memory, each open file once */
	bool memory;                   /* they are in the store */
	bool connection;               /* it is in the store */
	int connection_fd;             /* restored, until somebody takes it; else -1 */
	bool stranded; /* what is kept cannot be taken up here: it stays in the store */
};

/*
 * A new export, with regions and lost pages: in the store when it returns 0, so it is one
 * for every agent to come. On failure it is for none. connection_fd -1: there is none.
 * -ENOSPC and others with a text.
 */
int export_keep_start(struct export *e, const struct export_params *params, struct error *err);

/* With the lock held, before anybody can act upon it: the export comes to this state. */
void export_keep_state(struct export *e, int state, const char *text);

/* Main loop, as the rest. The exporter's connection has ended. */
void export_keep_drop_connection(struct export *e);

/* It has ended, and nobody reads its memory any more: that leaves the store. */
void export_keep_end(struct export *e);

/* It is not to be known any more: take everything out of the store, the record first. */
void export_keep_forget(struct export *e);

/* The same for what nobody has made an export of. */
void export_kept_drop(struct fd_store *store, const char *id_text);

/* The object goes; what is in the store stays there. */
void export_keep_fini(struct export_keep *keep);

#endif
