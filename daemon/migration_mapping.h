/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Other processes that map a guest's memory beside its VMM (vhost-user back ends): each
 * attaches with userfaultfds of its own, by the same migration's id and token, and is
 * served until its process ends.
 */
#ifndef DAEMON_MIGRATION_MAPPING_H
#define DAEMON_MIGRATION_MAPPING_H

#include "daemon/mapping.h"
#include "daemon/migration.h"
#include "daemon/migration_found.h"
#include "wire/state_message.h"

_Static_assert(MAPPINGS_MAX == STATE_MAPPINGS_MAX, "the record has room for each");

/* One process. */
struct migration_mapping {
	struct migration *m;
	uint32_t id;
	struct attach_request attach; /* as it is in the record */
	int uffds[ATTACH_UFFDS_MAX];
	pid_t pid;
	int pidfd; /* -1: none */
	struct event *exit_event;
	int connection_fd; /* restored, until somebody takes it; else -1 */
};

/*
 * The migration whose memory may be mapped by whoever has this id and token: one that a VMM
 * has attached, or one that has completed. -ENOKEY, -EKEYREJECTED, -EAGAIN with a text.
 */
int migration_find_for_mapping(const struct migration_table *table, const struct uuid *id,
                               const uint8_t *token, size_t token_len, struct migration **ret,
                               struct error *err);

/*
 * Take a mapping over, as migration_attach() does the VMM's: memory and pidfd are owned in
 * the same way. *ret_id: for migration_mapping_hung_up(). When all memory is here, only
 * what is lost is poisoned there, and nothing is kept.
 */
int migration_map(struct migration *m, struct attach_memory *memory, pid_t pid, int pidfd,
                  uint32_t *ret_id, struct error *err);

/* Its connection has ended. As long as its process lives it is served. */
void migration_mapping_hung_up(struct migration *m, uint32_t id);

/*
 * What another daemon has left of m's mappings, from record and store. What is incomplete
 * is dropped with a warning: the guest goes on.
 */
void migration_mappings_restore(struct migration *m, struct migration_found *f,
                                struct state_message *record);

/* Of one that has ended: the connections, whose ends may not have been told. */
void migration_mappings_restore_ended(struct migration *m, struct migration_found *f);

/* m's lanes are gone. */
void migration_mappings_release(struct migration *m);

#endif
