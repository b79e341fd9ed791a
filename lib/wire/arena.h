/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Private to lib/wire: a bump allocator of fixed size, for protobuf-c and for
 * the arrays made from its messages. Whatever a peer sends, no more than the
 * arena is ever allocated for it. One thread.
 */
#ifndef WIRE_ARENA_H
#define WIRE_ARENA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <protobuf-c/protobuf-c.h>

struct wire_arena {
	uint8_t *base;
	size_t size;
	size_t used;
	bool exhausted; /* an allocation was refused since the last reset */
	ProtobufCAllocator allocator;
};

/* The arena must not move after this (the allocator points to it). -ENOMEM. */
int wire_arena_init(struct wire_arena *a, size_t size);
void wire_arena_fini(struct wire_arena *a);
void wire_arena_reset(struct wire_arena *a);

/* Aligned, not zeroed, valid until the next reset. NULL when the arena is full. */
void *wire_arena_alloc(struct wire_arena *a, size_t n_items, size_t item_bytes);

/*
 * The length of a string field that protobuf-c unpacked into an arena: the
 * bytes that were on the wire, including NULs that would hide what follows.
 */
size_t wire_arena_string_len(const char *s);

#endif
