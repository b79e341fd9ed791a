/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Descriptors in the FD store (net/fd_store.h) by what they belong to: UUID.KIND, with
 * an index behind the kind where there may be several.
 */
#ifndef NET_KEPT_NAME_H
#define NET_KEPT_NAME_H

#include <stdbool.h>
#include <stddef.h>

#include "core/error.h"
#include "core/uuid.h"
#include "net/fd_store.h"

/* The id before the dot, and *ret_kind behind it, inside name; false for another sort of name. */
bool kept_name_parse(const char *name, struct uuid *ret_id, const char **ret_kind);

/* "memory12" is number 12 of "memory"; -1 for another kind, or for n and more. */
int kept_name_index(const char *kind, const char *word, size_t n);

/* Where the descriptor that was kept as this belongs; NULL: there is no such kind. -ENOMEM. */
typedef int (*kept_place_fn)(const struct uuid *id, const char *kind, void *user, int **ret_place);

/*
 * Take all that the service manager passed under such names, and count it in the store.
 * What has no place, or a place that is taken (not -1), is closed, and stays in the store.
 */
int kept_take_all(struct fd_store *store, kept_place_fn place, void *user);

/* fd_store_add(), fd_store_remove() under such a name. */
int kept_add(struct fd_store *store, const char *id_text, const char *kind, int fd,
             struct error *err);
int kept_add_indexed(struct fd_store *store, const char *id_text, const char *kind, size_t index,
                     int fd, struct error *err);
void kept_remove(struct fd_store *store, const char *id_text, const char *kind);
/* Those from 0 to n - 1, as far as they are there. */
void kept_remove_indexed(struct fd_store *store, const char *id_text, const char *kind, size_t n);

#endif
