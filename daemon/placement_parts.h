/* SPDX-License-Identifier: Apache-2.0 */
/* What the placement*.c files use of each other; nobody else includes it. */
#ifndef DAEMON_PLACEMENT_PARTS_H
#define DAEMON_PLACEMENT_PARTS_H

#include "daemon/placement.h"

/* Keeps removals and moves away, where there are any. */
void placement_lock(struct placer *p);
void placement_unlock(struct placer *p);

/* n units of region r are final now. */
void placement_count_final(struct placer *p, const struct region *r, uint64_t n_units);

/* Memory is mapped where none was expected; there is none where some was. Said once a placer. */
void placement_warn_unexpected(struct placer *p, const struct region *r, uint64_t unit,
                               const char *consequence);
void placement_warn_unmapped(struct placer *p, const struct region *r, uint64_t unit);

/* Report that this page cannot be dealt with ("place"): -errno. */
int placement_fail(struct placer *p, const struct region *r, uint64_t unit, int error_number,
                   const char *what);

/* Where the other processes have it: let them fault again; set the marker there as well. */
void placement_wake_mappings(struct placer *p, uint64_t first, uint64_t n_units);
void placement_poison_mappings(struct placer *p, const struct region *r, uint64_t unit);

/* A local answer, at one place. */
void placement_answer_at(struct placer *p, int uffd, hva_t hva, bool poison_supported,
                         const struct region *r, enum page_state s, bool minor);

/* What stopped an ioctl: 0 to try again, after a wait, or -errno, the end of it. */
int placement_stopped_by(struct placer *p, const struct region *r, uint64_t unit,
                         struct resolve_result res, const char *what);

#endif
