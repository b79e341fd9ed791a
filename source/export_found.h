/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What an agent has left in the FD store (export_keep.h), put together by export. Names
 * only: what the descriptors are, nobody has looked at yet.
 */
#ifndef SOURCE_EXPORT_FOUND_H
#define SOURCE_EXPORT_FOUND_H

#include <uthash.h>

#include "core/uuid.h"
#include "net/fd_store.h"
#include "source/export_keep.h"

/* Those that are not there, and those that somebody has taken, are -1. */
struct export_found {
	UT_hash_handle hh;
	struct uuid id;
	int record;
	int poison;
	int connection;
	int memory[ATTACH_FDS_MAX];
};

/*
 * Take all that the service manager passed and that has such a name, and count it in
 * the store. Those without a record were on their way in, or out: they are taken out
 * here. -ENOMEM.
 */
int export_found_all(struct fd_store *store, struct export_found **ret);

/* With the descriptors that nobody has taken; in the store they stay. Always NULL. */
struct export_found *export_found_free(struct export_found *all);

#endif
