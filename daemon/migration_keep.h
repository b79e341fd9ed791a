/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the next daemon needs to go on with a migration, in the service manager's
 * FD store (net/fd_store.h): the record memfd, the state memfd, the VMM's
 * userfaultfds, memory files, pidfd and connection. All of it under the names below.
 *
 * The record decides. It speaks of the VMM's memory only when all of that is in the
 * store, and says that the migration has ended before any of it leaves. Record and
 * ledger of an ended one stay as long as it is shown.
 */
#ifndef DAEMON_MIGRATION_KEEP_H
#define DAEMON_MIGRATION_KEEP_H

#include <stdbool.h>

#include "core/error.h"
#include "core/record_memfd.h"
#include "core/uuid.h"
#include "net/fd_store.h"
#include "wire/attach_message.h"

#define KEPT_PROTOCOL_MAX 32 /* an attach protocol's name with the 0 */

/* Names are UUID.KIND, with an index or, for the connection, the protocol's name behind it. */
#define KEPT_RECORD "record"
#define KEPT_STATE "state"
#define KEPT_UFFD "uffd"          /* uffd0, uffd1 ... */
#define KEPT_MEMORY "memory"      /* memory0, memory1 ... */
#define KEPT_VMM "vmm"            /* pidfd */
#define KEPT_CONNECTION "attach-" /* attach-postcopy */

/* Of another process that maps the memory, by its id: mapping0-uffd0, mapping0-process ... */
#define KEPT_MAPPING "mapping"
#define KEPT_PROCESS "process" /* pidfd */
#define KEPT_MAPPING_CONNECTION "connection"
#define KEPT_MAPPING_KIND_MAX 32

/* "mapping3-uffd" of 3 and "uffd"; returns buf. */
const char *migration_mapping_kind(char buf[KEPT_MAPPING_KIND_MAX], uint32_t id, const char *kind);

struct migration;
struct migration_memory;
struct migration_mapping;
struct attach_memory;

/* A part of struct migration. */
struct migration_keep {
	struct record_memfd *record;      /* NULL: nothing is kept */
	struct attach_request attach;     /* as the record has it; its arrays are ours */
	char protocol[KEPT_PROTOCOL_MAX]; /* of the connection that is kept; "": none */
	int connection_fd;                /* restored, until somebody takes it; else -1 */
	bool stranded; /* what is kept cannot be taken up here: it stays in the store */
};

/* At the start: -ENOSPC and others with a text, and then nothing is kept. */
int migration_keep_start(struct migration *m, struct error *err);

/*
 * Before the VMM gets its answer. Afterwards the migration is attached for every
 * daemon to come; on failure it is not, for none.
 */
int migration_keep_attach(struct migration *m, const struct migration_memory *memory,
                          struct error *err);

/* Something of the record has changed, or is about to: write it. -errno with a text. */
int migration_keep_write(struct migration *m, struct error *err);
/* The same; a failure is logged. */
void migration_keep_change(struct migration *m);

/*
 * Memory as the next daemon will be told of it: the request by which it was attached, with
 * m's id and token. The regions are copied; to is the caller's to free. -ENOMEM with a text.
 */
int migration_keep_request(const struct migration *m, enum attach_request_type type,
                           const struct attach_region *regions, size_t n_regions, size_t n_uffds,
                           struct attach_request *to, struct error *err);

/* Another process's mapping, before it gets its answer; in m's record from then on, or on failure not. */
int migration_keep_map(struct migration *m, struct migration_mapping *mapping,
                       const struct attach_memory *from, struct error *err);
/* It is not in m any more. */
void migration_keep_unmap(struct migration *m, uint32_t id);
void migration_keep_drop_mapping_connection(struct migration *m, uint32_t id);

/* The VMM's connection has ended. */
void migration_keep_drop_connection(struct migration *m);

/* It has ended, and the journal has all its losses: what is to be shown of it stays. */
void migration_keep_end(struct migration *m);

/* It is not to be shown any more: take everything out of the store, the record first. */
void migration_keep_forget(struct migration *m);

/* The same for what nobody has made a migration of. protocol: of the connection, "": none. */
void migration_kept_drop(struct fd_store *store, const char *id_text, const char *protocol);

/* All but the record. */
void migration_kept_drop_attach(struct fd_store *store, const char *id_text, const char *protocol);

/* The object goes; what is in the store stays there. */
void migration_keep_fini(struct migration_keep *keep);

#endif
