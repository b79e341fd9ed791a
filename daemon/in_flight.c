/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Role: match replies to what was asked. Used by fault_*.c alone. Free
 * entries form a list through next_free; an id is generation << 16 | index.
 */
#include "daemon/in_flight.h"

#include <errno.h>
#include <stdlib.h>

#define INDEX_BITS 16
#define INDEX_MASK ((UINT64_C(1) << INDEX_BITS) - 1)
#define NO_ENTRY UINT32_MAX

struct in_flight {
	uint32_t capacity;
	uint32_t n_used;
	uint32_t first_free;
	uint64_t generation;
	struct in_flight_entry entries[];
};

int in_flight_new(uint32_t capacity, struct in_flight **ret)
{
	struct in_flight *t;

	if (capacity == 0 || capacity > INDEX_MASK + 1)
		return -EINVAL;
	t = calloc(1, sizeof(*t) + capacity * sizeof(t->entries[0]));
	if (!t)
		return -ENOMEM;
	t->capacity = capacity;
	for (uint32_t i = 0; i < capacity; i++)
		t->entries[i].next_free = i + 1 < capacity ? i + 1 : NO_ENTRY;
	*ret = t;
	return 0;
}

struct in_flight *in_flight_free(struct in_flight *t)
{
	free(t);
	return NULL;
}

bool in_flight_full(const struct in_flight *t)
{
	return t->n_used == t->capacity;
}

uint32_t in_flight_count(const struct in_flight *t)
{
	return t->n_used;
}

static uint64_t new_id(struct in_flight *t, uint32_t index)
{
	return ++t->generation << INDEX_BITS | index;
}

struct in_flight_entry *in_flight_add(struct in_flight *t, uint64_t unit, uint64_t now_ns)
{
	uint32_t index = t->first_free;
	struct in_flight_entry *e;

	if (index == NO_ENTRY)
		return NULL;
	e = &t->entries[index];
	t->first_free = e->next_free;
	t->n_used++;
	*e = (struct in_flight_entry){
	        .id = new_id(t, index),
	        .unit = unit,
	        .started_ns = now_ns,
	        .next_free = NO_ENTRY,
	};
	return e;
}

struct in_flight_entry *in_flight_find(struct in_flight *t, uint64_t id)
{
	uint64_t index = id & INDEX_MASK;

	if (id == 0 || index >= t->capacity || t->entries[index].id != id)
		return NULL;
	return &t->entries[index];
}

void in_flight_renew(struct in_flight *t, struct in_flight_entry *e)
{
	e->id = new_id(t, (uint32_t)(e - t->entries));
}

void in_flight_remove(struct in_flight *t, struct in_flight_entry *e)
{
	e->id = 0;
	e->assembly = NULL;
	e->next_free = t->first_free;
	t->first_free = (uint32_t)(e - t->entries);
	t->n_used--;
}

struct in_flight_entry *in_flight_next(struct in_flight *t, uint32_t *cursor)
{
	while (*cursor < t->capacity) {
		struct in_flight_entry *e = &t->entries[(*cursor)++];

		if (e->id != 0)
			return e;
	}
	return NULL;
}
