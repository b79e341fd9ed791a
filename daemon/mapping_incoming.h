/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A further mapping on its way in: what a process hands over, or what a daemon before this
 * one had taken, checked against the VMM's memory and registered. migration_mapping.c then
 * gives it to the lanes.
 */
#ifndef DAEMON_MAPPING_INCOMING_H
#define DAEMON_MAPPING_INCOMING_H

#include "daemon/mapping.h"
#include "daemon/migration.h"
#include "daemon/uffd.h"

struct mapping_incoming {
	struct migration *m;
	struct attach_memory *from;
	/* What it has of the VMM's regions, named and placed as these are; set by the checks. */
	struct attach_region parts[REGION_TABLE_MAX];
	const struct region *regions[REGION_TABLE_MAX]; /* the VMM's, for each part */
	size_t n_parts;
	uint32_t lanes[ATTACH_UFFDS_MAX]; /* of each of its userfaultfds */
	struct uffd_info uffds[ATTACH_UFFDS_MAX];
	size_t n_registered; /* parts */
};

/* Every page is here, or lost: nothing will be placed in a mapping any more. */
bool mapping_incoming_all_here(const struct migration *m);

/*
 * Counts, kinds of descriptors, regions, files; the userfaultfds are made ready. m and
 * from are set. -EINVAL with a text.
 */
int mapping_incoming_check(struct mapping_incoming *in, struct error *err);

/* The same for what has passed the checks of another daemon: the files are not kept. */
int mapping_incoming_match(struct mapping_incoming *in, struct error *err);

/* Before the process gets its answer. */
int mapping_incoming_register(struct mapping_incoming *in, struct error *err);
/* Not all: what the process registered itself stays. */
void mapping_incoming_unregister(const struct mapping_incoming *in, bool all);

/* What each lane gets of it; some, also on failure, are the caller's to free. */
int mapping_incoming_parts(const struct mapping_incoming *in, uint32_t id,
                           struct mapping **ret_parts, struct error *err);

/* When all is here: set the marks of what is lost, and nothing more. */
int mapping_incoming_mark_lost(struct mapping_incoming *in, struct error *err);

#endif
