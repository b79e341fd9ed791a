/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Makes and reads the names of descriptors that are kept. Called by whoever keeps
 * something over a restart, and when the program starts and finds it.
 */
#include "net/kept_name.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/log.h"
#include "net/activation.h"

bool kept_name_parse(const char *name, struct uuid *ret_id, const char **ret_kind)
{
	char id_text[UUID_TEXT_LEN] = "";
	const size_t len = sizeof(id_text) - 1;

	if (strlen(name) <= len || name[len] != '.')
		return false;
	memcpy(id_text, name, len);
	if (uuid_parse(id_text, ret_id) < 0)
		return false;
	*ret_kind = name + len + 1;
	return true;
}

int kept_name_index(const char *kind, const char *word, size_t n)
{
	size_t len = strlen(word);
	unsigned long i;
	char *end;

	if (strncmp(kind, word, len) != 0 || kind[len] < '0' || kind[len] > '9')
		return -1;
	i = strtoul(kind + len, &end, 10);
	return *end == '\0' && i < n ? (int)i : -1;
}

static int take(struct fd_store *store, struct activated *a, kept_place_fn place, void *user)
{
	int *to = NULL;
	const char *kind;
	struct uuid id;
	int r;

	if (!kept_name_parse(activated_name(a), &id, &kind))
		return 0;
	r = fd_store_passed(store, activated_name(a));
	if (r < 0 && r != -EEXIST)
		return r;
	r = place(&id, kind, user, &to);
	if (r < 0)
		return r;
	if (to && *to < 0) {
		*to = activated_take(a);
		return 0;
	}
	log_warning("FD store: \"%s\" is %s; leaving it there and ignoring it", activated_name(a),
	            to ? "there twice" : "of a kind that this version does not know");
	close(activated_take(a));
	return 0;
}

int kept_take_all(struct fd_store *store, kept_place_fn place, void *user)
{
	int r = 0;

	for (struct activated *a = activation_next(NULL); a && r == 0; a = activation_next(a))
		r = take(store, a, place, user);
	return r;
}

int kept_add(struct fd_store *store, const char *id_text, const char *kind, int fd,
             struct error *err)
{
	char name[FD_STORE_NAME_MAX];

	snprintf(name, sizeof(name), "%s.%s", id_text, kind);
	return fd_store_add(store, name, fd, err);
}

int kept_add_indexed(struct fd_store *store, const char *id_text, const char *kind, size_t index,
                     int fd, struct error *err)
{
	char name[FD_STORE_NAME_MAX];

	snprintf(name, sizeof(name), "%s.%s%zu", id_text, kind, index);
	return fd_store_add(store, name, fd, err);
}

void kept_remove(struct fd_store *store, const char *id_text, const char *kind)
{
	char name[FD_STORE_NAME_MAX];

	snprintf(name, sizeof(name), "%s.%s", id_text, kind);
	fd_store_remove(store, name);
}

void kept_remove_indexed(struct fd_store *store, const char *id_text, const char *kind, size_t n)
{
	char name[FD_STORE_NAME_MAX];

	for (size_t i = 0; i < n; i++) {
		snprintf(name, sizeof(name), "%s.%s%zu", id_text, kind, i);
		fd_store_remove(store, name);
	}
}
