/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A VMM's memory on its way into a migration: what an attach hands over, or what
 * a restarted daemon finds. Checked, then lanes are started on it, then the
 * migration takes it; migration_memory_undo() at any time before.
 */
#ifndef DAEMON_MIGRATION_MEMORY_H
#define DAEMON_MIGRATION_MEMORY_H

#include "daemon/migration_parts.h"
#include "daemon/uffd.h"

struct migration_memory {
	struct migration *m;
	const struct attach_memory *from;
	struct uffd_info uffds[ATTACH_UFFDS_MAX];
	struct region regions[REGION_TABLE_MAX];
	struct region_table *table;
	struct state_memfd *state; /* the caller's to make or open, between check and lanes */
	struct lane *lanes[ATTACH_UFFDS_MAX];
	size_t n_registered; /* regions, in table order */
};

/* How many memory files the regions speak of: one more than the highest index. */
size_t migration_memory_count_files(const struct attach_region *regions, size_t n_regions);

/* Userfaultfds, regions, and descriptors as many as the regions speak of. */
int migration_memory_check_counts(const struct attach_memory *memory, struct error *err);

/* Userfaultfds that differ from each other, then memory files. */
int migration_memory_check_kinds(const struct attach_memory *memory, struct error *err);

/*
 * The same file twice becomes one, for the FD store takes none twice; regions (the
 * memory's, writable) are numbered accordingly. Nothing is trusted yet.
 */
void migration_memory_unite_files(struct attach_memory *memory, struct attach_region *regions);

/* Counts, kinds of descriptors, regions; the userfaultfds are made ready. */
int migration_memory_check(struct migration_memory *a, struct error *err);

/* The regions alone, of memory whose userfaultfds are not to be touched any more. */
int migration_memory_build_regions(struct migration_memory *a, struct error *err);

/* adopted: the state is what a dead daemon left. */
int migration_memory_start_lanes(struct migration_memory *a, bool adopted, struct error *err);

/* Stop the lanes, unregister what was registered for it: the VMM's memory is as it was. */
void migration_memory_undo(struct migration_memory *a);

/* Nothing fails any more: all is the migration's, the descriptors, too. */
void migration_memory_commit(struct migration_memory *a);

#endif
