/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The decoders' memory. Called by the codecs of this folder only.
 *
 * Each block is preceded by its size, because protobuf-c drops the length of a
 * string: with it an embedded NUL is found. Nothing is freed but by a reset.
 */
#include "wire/arena.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define ARENA_ALIGN 16

static void *arena_take(void *data, size_t size)
{
	struct wire_arena *a = data;
	uint8_t *block;
	size_t room = a->size - a->used;
	size_t need;

	if (size > room || room - size < 2 * ARENA_ALIGN) {
		a->exhausted = true;
		return NULL;
	}
	need = ARENA_ALIGN + ((size + ARENA_ALIGN - 1) & ~(size_t)(ARENA_ALIGN - 1));
	block = a->base + a->used;
	a->used += need;
	memcpy(block, &size, sizeof(size));
	return block + ARENA_ALIGN;
}

static void arena_give(void *data, void *block)
{
	(void)data;
	(void)block;
}

int wire_arena_init(struct wire_arena *a, size_t size)
{
	size = (size + ARENA_ALIGN - 1) & ~(size_t)(ARENA_ALIGN - 1);
	*a = (struct wire_arena){
	        .base = malloc(size),
	        .size = size,
	        .allocator = {.alloc = arena_take, .free = arena_give, .allocator_data = a},
	};
	return a->base ? 0 : -ENOMEM;
}

void wire_arena_fini(struct wire_arena *a)
{
	free(a->base);
	a->base = NULL;
	a->size = a->used = 0;
}

void wire_arena_reset(struct wire_arena *a)
{
	a->used = 0;
	a->exhausted = false;
}

void *wire_arena_alloc(struct wire_arena *a, size_t n_items, size_t item_bytes)
{
	size_t size;

	if (__builtin_mul_overflow(n_items, item_bytes, &size)) {
		a->exhausted = true;
		return NULL;
	}
	return arena_take(a, size);
}

size_t wire_arena_string_len(const char *s)
{
	size_t size;

	/* A field that was not sent points to protobuf-c's own empty string. */
	if (!s || s == protobuf_c_empty_string)
		return 0;
	memcpy(&size, s - ARENA_ALIGN, sizeof(size));
	return size - 1;
}
