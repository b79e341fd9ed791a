/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A VMM hands its memory over: check everything, register it, start the lanes.
 * Called by the attach protocols.
 *
 * Always holds: a refused attach changes nothing. Regions that were registered
 * for it are unregistered again; the VMM keeps its userfaultfds.
 */
#include "daemon/migration_memory.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/token.h"

int migration_find_for_attach(const struct migration_table *table, const struct uuid *id,
                              const uint8_t *token, size_t token_len, struct migration **ret,
                              struct error *err)
{
	struct migration *m = migration_table_find(table, id);
	char text[UUID_TEXT_LEN];

	if (!m)
		return error_set(err, -ENOKEY,
		                 "unknown migration %s: start it first with postcopyctl start",
		                 uuid_format(id, text));
	if (migration_state_final(m->state))
		return error_set(
		        err, -ENOKEY,
		        "migration %s has ended (%s): start it again with postcopyctl start",
		        m->id_text, migration_state_name(m->state));
	if (!token_equal(token, token_len, m->token, m->token_len))
		return error_set(err, -EKEYREJECTED, "wrong token for migration %s", m->id_text);
	if (migration_table_draining(table))
		return error_set(err, -ESHUTDOWN,
		                 "postcopyd is stopping and takes no new guest: attach %s when it "
		                 "has been started again and the migration, too",
		                 m->id_text);
	if (m->state != MIGRATION_SETUP)
		return error_set(
		        err, -EBUSY,
		        "two attaches for one migration: %s was attached by pid %d already",
		        m->id_text, (int)m->vmm_pid);
	*ret = m;
	return 0;
}

/* Before the VMM gets its answer: no guest access may find unregistered memory and read zeros. */
static int regions_register(struct migration_memory *a, struct error *err)
{
	for (size_t i = 0; i < a->table->n_regions; i++) {
		struct region *region = &a->table->regions[i];
		uint64_t ioctls;
		int r = uffd_register(a->from->fds[region->lane], region->hva, region->length_bytes,
		                      region->mode == REGION_MINOR, &ioctls, err);

		if (r < 0) {
			error_prefix(err, "region %s", region->name);
			return r;
		}
		region->zeropage = ioctls >> _UFFDIO_ZEROPAGE & 1;
		a->n_registered++;
	}
	return 0;
}

static int attach_prepare(struct migration_memory *a, struct error *err)
{
	int r = migration_memory_check(a, err);

	if (r == 0)
		r = state_memfd_new(&a->m->id, a->table->n_units, (uint32_t)a->from->n_uffds,
		                    &a->state, err);
	if (r == 0)
		r = regions_register(a, err);
	if (r == 0)
		r = migration_memory_start_lanes(a, false, err);
	if (r == 0)
		r = migration_keep_attach(a->m, a, err);
	return r;
}

static void vmm_unwatch(struct migration *m)
{
	if (m->vmm_exit_event)
		event_free(m->vmm_exit_event);
	m->vmm_exit_event = NULL;
	close_fd(&m->vmm_pidfd);
	m->vmm_pid = 0;
}

/* memory's regions are a copy: its files may be numbered anew. */
static int attach(struct migration *m, struct attach_memory *memory, struct attach_region *regions,
                  struct error *err)
{
	_cleanup_free_ struct migration_memory *a = calloc(1, sizeof(*a));
	int r;

	if (!a)
		return error_set(err, -ENOMEM, "not enough memory");
	r = migration_memory_check_counts(memory, err);
	if (r < 0)
		return r;
	migration_memory_unite_files(memory, regions);
	memory->regions = regions;
	a->m = m;
	a->from = memory;
	r = attach_prepare(a, err);
	if (r < 0)
		migration_memory_undo(a);
	else
		migration_memory_commit(a);
	return r;
}

int migration_attach(struct migration *m, struct attach_memory *memory, pid_t vmm_pid,
                     int vmm_pidfd, struct error *err)
{
	size_t bytes = memory->n_regions * sizeof(*memory->regions);
	_cleanup_free_ struct attach_region *regions = malloc(bytes + 1);
	int r = migration_vmm_watch(m, vmm_pid, vmm_pidfd, err);

	if (r == 0 && !regions)
		r = error_set(err, -ENOMEM, "not enough memory for %zu regions", memory->n_regions);
	if (r == 0) {
		memcpy(regions, memory->regions, bytes);
		r = attach(m, memory, regions, err);
	}
	if (r < 0) {
		vmm_unwatch(m);
		return r;
	}
	migration_set_state(m, MIGRATION_ACTIVE, "attached by pid %d; connecting to %s",
	                    (int)vmm_pid, m->source);
	return 0;
}
