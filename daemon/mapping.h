/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Further mappings: other processes that map the same guest memory (vhost-user back
 * ends), each with a userfaultfd of its own. Data arrives once, in the file; but poison
 * is a mark in one process's page tables, and a thread waits at one userfaultfd.
 *
 * A lane has a set of them: the main thread adds, the urgent thread takes out, all use it.
 * A mapping holds no more than where which units are.
 */
#ifndef DAEMON_MAPPING_H
#define DAEMON_MAPPING_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/cleanup.h"
#include "core/units.h"

#define MAPPINGS_MAX 8 /* processes of one migration, besides its VMM */

/* A stretch of a region in another process, which may have it in several places. */
struct mapping_part {
	uint64_t first_unit, n_units; /* as the migration numbers them */
	unsigned unit_shift;
	hva_t hva;
};

struct mapping {
	uint32_t id;           /* below MAPPINGS_MAX, one of the migration's */
	int uffd;              /* its own, registered */
	bool poison_supported; /* UFFDIO_POISON works on it */
	bool complained;       /* of a fault that makes no sense */
	size_t n_parts;
	struct mapping_part parts[];
};

/* The uffd is duplicated; parts are the caller's to fill. 0 or -errno. */
int mapping_new(uint32_t id, int uffd, size_t n_parts, struct mapping **ret);
struct mapping *mapping_free(struct mapping *m); /* always NULL */
DEFINE_CLEANUP(struct mapping, mapping_free)

/* Which unit is at an address; false: none. */
bool mapping_find_hva(const struct mapping *m, hva_t hva, uint64_t *ret_unit);
/*
 * Where these units are, as far as they are mapped there: one stretch a call, from *cursor
 * on (0 at first). False: no more.
 */
bool mapping_next(const struct mapping *m, uint64_t first_unit, uint64_t n_units, size_t *cursor,
                  hva_t *ret_hva, uint64_t *ret_len_bytes);

struct mapping_set {
	_Atomic unsigned n;   /* 0: nobody takes the lock */
	pthread_mutex_t lock; /* the items; whoever holds it has the priority of who waits */
	struct mapping *items[MAPPINGS_MAX];
};

void mapping_set_init(struct mapping_set *s);
void mapping_set_fini(struct mapping_set *s); /* frees what is in it */

/* The set's from here on. There is room for each id once. */
void mapping_set_add(struct mapping_set *s, struct mapping *m);
/* NULL: there is none of this id. It stays while nobody takes it. */
struct mapping *mapping_set_get(struct mapping_set *s, uint32_t id);
/* The caller's; NULL: there is none of this id. */
struct mapping *mapping_set_take(struct mapping_set *s, uint32_t id);

/* For each of them, under the lock. */
typedef void (*mapping_fn)(struct mapping *m, void *arg);
void mapping_set_each(struct mapping_set *s, mapping_fn fn, void *arg);

#endif
