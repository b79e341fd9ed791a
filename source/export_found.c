/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sorts the descriptors of an earlier agent by the exports they belong to. Called once,
 * when the agent starts.
 *
 * Always holds: a descriptor that has an export's name is in one entry, or closed.
 */
#include "source/export_found.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/cleanup.h"
#include "core/log.h"
#include "net/kept_name.h"

static void entry_free(struct export_found **all, struct export_found *f)
{
	HASH_DEL(*all, f);
	close_fd(&f->record);
	close_fd(&f->poison);
	close_fd(&f->connection);
	for (size_t i = 0; i < ARRAY_SIZE(f->memory); i++)
		close_fd(&f->memory[i]);
	free(f);
}

struct export_found *export_found_free(struct export_found *all)
{
	struct export_found *f, *next;

	HASH_ITER (hh, all, f, next)
		entry_free(&all, f);
	return NULL;
}

static struct export_found *entry_of(struct export_found **all, const struct uuid *id)
{
	struct export_found *f;

	HASH_FIND(hh, *all, id, sizeof(*id), f);
	if (f)
		return f;
	f = calloc(1, sizeof(*f));
	if (!f)
		return NULL;
	f->id = *id;
	f->record = f->poison = f->connection = -1;
	memset(f->memory, 0xff, sizeof(f->memory));
	HASH_ADD(hh, *all, id, sizeof(f->id), f);
	return f;
}

/* Where a descriptor of this kind belongs; NULL: no such kind. */
static int *place_of(struct export_found *f, const char *kind)
{
	int i = kept_name_index(kind, KEPT_MEMORY, ARRAY_SIZE(f->memory));

	if (i >= 0)
		return &f->memory[i];
	if (strcmp(kind, KEPT_RECORD) == 0)
		return &f->record;
	if (strcmp(kind, KEPT_POISON) == 0)
		return &f->poison;
	return strcmp(kind, KEPT_EXPORTER) == 0 ? &f->connection : NULL;
}

static int on_found(const struct uuid *id, const char *kind, void *user, int **ret_place)
{
	struct export_found *f = entry_of(user, id);

	if (!f)
		return -ENOMEM;
	*ret_place = place_of(f, kind);
	return 0;
}

/* The agent was killed before it had said that they belong together, or afterwards. */
static void drop_without_record(struct fd_store *store, const struct export_found *f)
{
	char id_text[UUID_TEXT_LEN];

	log_notice("FD store: what is there of export %s has no record: one that was not finished, "
	           "or that has ended; taking it out",
	           uuid_format(&f->id, id_text));
	export_kept_drop(store, id_text);
}

int export_found_all(struct fd_store *store, struct export_found **ret)
{
	struct export_found *all = NULL, *f, *next;
	int r = kept_take_all(store, on_found, &all);

	if (r < 0) {
		export_found_free(all);
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
