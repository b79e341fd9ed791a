/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Units and the types that keep them apart.
 *
 * Three kinds of address never mix, so each is a struct of its own: a mix-up
 * does not compile. Lengths are uint64_t bytes and say so in their names.
 */
#ifndef CORE_UNITS_H
#define CORE_UNITS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/error.h"

/* The granularity of the page protocol, whatever the hosts' page sizes. */
#define WIRE_PAGE_SHIFT 12
#define WIRE_PAGE_SIZE (UINT64_C(1) << WIRE_PAGE_SHIFT)

/* Guest-physical address. */
typedef struct {
	uint64_t addr;
} gpa_t;

/* Virtual address in the VMM's process on this host. */
typedef struct {
	uint64_t addr;
} hva_t;

/* Byte offset into a memory backing (memfd offset, or address in /proc/PID/mem). */
typedef struct {
	uint64_t off;
} backing_off_t;

/* True if x is a multiple of align_bytes (a power of two). */
static inline bool is_aligned(uint64_t x, uint64_t align_bytes)
{
	return (x & (align_bytes - 1)) == 0;
}

/* To a multiple of align_bytes (a power of two). */
static inline uint64_t align_down(uint64_t x, uint64_t align_bytes)
{
	return x & ~(align_bytes - 1);
}

/* UINT64_MAX where there is no such number. */
static inline uint64_t align_up(uint64_t x, uint64_t align_bytes)
{
	return x > UINT64_MAX - (align_bytes - 1) ? UINT64_MAX
	                                          : align_down(x + align_bytes - 1, align_bytes);
}

static inline bool is_power_of_two(uint64_t x)
{
	return x != 0 && (x & (x - 1)) == 0;
}

/*
 * Parse a size in bytes: digits with an optional suffix K, M, G or T (powers of
 * 1024, "KiB" and "K" alike). -EINVAL with a text on anything else, -ERANGE
 * when it does not fit.
 */
int units_parse_bytes(const char *text, uint64_t *ret_bytes, struct error *err);

/* Parse a duration: digits with us, ms, s, min or h (no suffix: seconds). */
int units_parse_duration(const char *text, uint64_t *ret_us, struct error *err);

/* "4 KiB", "1.5 GiB": into buf (at least 16 bytes), returned. */
const char *units_format_bytes(char *buf, size_t buf_len, uint64_t bytes);

/* "850 us", "12.3 ms", "1 min 5 s": into buf (at least 24 bytes), returned. */
const char *units_format_duration(char *buf, size_t buf_len, uint64_t us);

#endif
