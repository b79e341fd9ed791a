/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Assembly: a huge page on its way. The wire's pages are 4 KiB; a 2 MiB page
 * must be placed as a whole, so its pieces are collected here until none is
 * missing. Used by one thread.
 */
#ifndef DAEMON_ASSEMBLY_H
#define DAEMON_ASSEMBLY_H

#include <stdbool.h>
#include <stdint.h>

#include "core/bitmap.h"
#include "core/cleanup.h"
#include "core/units.h"

#define ASSEMBLY_NO_UNIT UINT64_MAX

struct assembly {
	uint64_t unit; /* ASSEMBLY_NO_UNIT while nothing is being collected */
	uint32_t n_pages;
	uint32_t n_got;
	bool all_zero; /* of what came so far */
	uint8_t *buffer;
	uint64_t buffer_bytes;
	struct bitmap *got;
};

/* For units of up to unit_bytes. Memory is used as pieces arrive. -ENOMEM. */
int assembly_new(uint64_t unit_bytes, struct assembly **ret);
struct assembly *assembly_free(struct assembly *a); /* always NULL */
DEFINE_CLEANUP(struct assembly, assembly_free)

/* Forget what was collected and begin with this unit. */
void assembly_start(struct assembly *a, uint64_t unit, uint32_t n_pages);

/*
 * Pages first .. first + count - 1 of the unit; bytes NULL: zeros. Pages that
 * came before are an error (-EEXIST): a source sends each once.
 */
int assembly_add(struct assembly *a, uint32_t first, uint32_t count, const uint8_t *bytes);

static inline bool assembly_complete(const struct assembly *a)
{
	return a->unit != ASSEMBLY_NO_UNIT && a->n_got == a->n_pages;
}

void assembly_clear(struct assembly *a);

#endif
