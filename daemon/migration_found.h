/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a daemon has left in the FD store (migration_keep.h), put together by
 * migration. Names only: what the descriptors are, nobody has looked at yet.
 */
#ifndef DAEMON_MIGRATION_FOUND_H
#define DAEMON_MIGRATION_FOUND_H

#include <uthash.h>

#include "core/cleanup.h"
#include "core/error.h"
#include "daemon/mapping.h"
#include "daemon/migration_keep.h"

/* Another process that maps the memory. */
struct migration_found_mapping {
	int process; /* pidfd */
	int connection;
	int uffds[ATTACH_UFFDS_MAX];
};

/* Those that are not there, and those that somebody has taken, are -1. */
struct migration_found {
	UT_hash_handle hh;
	struct uuid id;
	int record;
	int state;
	int vmm;
	int connection;
	char protocol[KEPT_PROTOCOL_MAX]; /* of the connection */
	int uffds[ATTACH_UFFDS_MAX];
	int memory[ATTACH_FDS_MAX];
	struct migration_found_mapping mappings[MAPPINGS_MAX];
};

/*
 * Take all that the service manager passed and that has such a name, and count it in
 * the store. Those without a record were on their way in, or out: they are taken out
 * here. -ENOMEM.
 */
int migration_found_all(struct fd_store *store, struct migration_found **ret);

/* With the descriptors that nobody has taken; in the store they stay. Always NULL. */
struct migration_found *migration_found_free(struct migration_found *all);

#endif
