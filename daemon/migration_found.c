/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sorts the descriptors of an earlier daemon by the migrations they belong to.
 * Called once, when the daemon starts.
 *
 * Always holds: a descriptor that has a migration's name is in one entry, or closed.
 */
#include "daemon/migration_found.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/log.h"
#include "net/kept_name.h"

static void entry_close(struct migration_found *f)
{
	int *const single[] = {&f->record, &f->state, &f->vmm, &f->connection};

	for (size_t i = 0; i < ARRAY_SIZE(single); i++)
		close_fd(single[i]);
	for (size_t i = 0; i < ARRAY_SIZE(f->uffds); i++)
		close_fd(&f->uffds[i]);
	for (size_t i = 0; i < ARRAY_SIZE(f->memory); i++)
		close_fd(&f->memory[i]);
	for (size_t i = 0; i < ARRAY_SIZE(f->mappings); i++) {
		struct migration_found_mapping *m = &f->mappings[i];

		close_fd(&m->process);
		close_fd(&m->connection);
		for (size_t k = 0; k < ARRAY_SIZE(m->uffds); k++)
			close_fd(&m->uffds[k]);
	}
}

static void entry_free(struct migration_found **all, struct migration_found *f)
{
	HASH_DEL(*all, f);
	entry_close(f);
	free(f);
}

struct migration_found *migration_found_free(struct migration_found *all)
{
	struct migration_found *f, *next;

	HASH_ITER (hh, all, f, next)
		entry_free(&all, f);
	return NULL;
}

static struct migration_found *entry_of(struct migration_found **all, const struct uuid *id)
{
	struct migration_found *f;

	HASH_FIND(hh, *all, id, sizeof(*id), f);
	if (f)
		return f;
	f = calloc(1, sizeof(*f));
	if (!f)
		return NULL;
	f->id = *id;
	f->record = f->state = f->vmm = f->connection = -1;
	memset(f->uffds, 0xff, sizeof(f->uffds));
	memset(f->memory, 0xff, sizeof(f->memory));
	memset(f->mappings, 0xff, sizeof(f->mappings));
	HASH_ADD(hh, *all, id, sizeof(f->id), f);
	return f;
}

/* "mapping3-uffd0" */
static int *place_of_mapping(struct migration_found *f, const char *kind)
{
	char word[KEPT_MAPPING_KIND_MAX];

	for (uint32_t id = 0; id < MAPPINGS_MAX; id++) {
		struct migration_found_mapping *m = &f->mappings[id];
		int i;

		if (strcmp(kind, migration_mapping_kind(word, id, KEPT_PROCESS)) == 0)
			return &m->process;
		if (strcmp(kind, migration_mapping_kind(word, id, KEPT_MAPPING_CONNECTION)) == 0)
			return &m->connection;
		i = kept_name_index(kind, migration_mapping_kind(word, id, KEPT_UFFD),
		                    ARRAY_SIZE(m->uffds));
		if (i >= 0)
			return &m->uffds[i];
	}
	return NULL;
}

/* Where a descriptor of this kind belongs; NULL: no such kind. */
static int *place_of(struct migration_found *f, const char *kind)
{
	const size_t len = strlen(KEPT_CONNECTION);
	int i;

	if (strcmp(kind, KEPT_RECORD) == 0)
		return &f->record;
	if (strcmp(kind, KEPT_STATE) == 0)
		return &f->state;
	if (strcmp(kind, KEPT_VMM) == 0)
		return &f->vmm;
	if (strncmp(kind, KEPT_CONNECTION, len) == 0 && strlen(kind + len) < KEPT_PROTOCOL_MAX) {
		strcpy(f->protocol, kind + len);
		return &f->connection;
	}
	i = kept_name_index(kind, KEPT_UFFD, ARRAY_SIZE(f->uffds));
	if (i >= 0)
		return &f->uffds[i];
	i = kept_name_index(kind, KEPT_MEMORY, ARRAY_SIZE(f->memory));
	return i >= 0 ? &f->memory[i] : place_of_mapping(f, kind);
}

static int on_found(const struct uuid *id, const char *kind, void *user, int **ret_place)
{
	struct migration_found *f = entry_of(user, id);

	if (!f)
		return -ENOMEM;
	*ret_place = place_of(f, kind);
	return 0;
}

/* The daemon was killed before it had said that they belong together, or afterwards. */
static void drop_without_record(struct fd_store *store, struct migration_found *f)
{
	char id_text[UUID_TEXT_LEN];

	log_notice("FD store: what is there of migration %s has no record: an attach that was not "
	           "finished, or a migration that has ended; taking it out",
	           uuid_format(&f->id, id_text));
	migration_kept_drop(store, id_text, f->protocol);
}

int migration_found_all(struct fd_store *store, struct migration_found **ret)
{
	struct migration_found *all = NULL, *f, *next;
	int r = kept_take_all(store, on_found, &all);

	if (r < 0) {
		migration_found_free(all);
		return r;
	}
	HASH_ITER (hh, all, f, next) {
		if (f->record >= 0)
			continue;
		drop_without_record(store, f);
		entry_free(&all, f);
	}
	*ret = all;
	return 0;
}
