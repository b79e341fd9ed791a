/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a page, a disk block or a packet holds: its number, its generation, and
 * words that follow from both. No two of them have a word in common at the same
 * place, so what is stale, of another place, or zero is seen in any word.
 */
#ifndef TESTS_VMM_LINUX_GUEST_PATTERN_H
#define TESTS_VMM_LINUX_GUEST_PATTERN_H
#include "guest.h"
#include <stddef.h>
#include <stdint.h>

struct pattern {
	enum guest_part part;
	uint64_t number;
	uint64_t generation; /* 0: zeros, as before the first write */
};

void pattern_fill(uint64_t *words, size_t n_words, const struct pattern *pattern);
/* The first word that differs, or n_words. */
size_t pattern_check(const uint64_t *words, size_t n_words, const struct pattern *expected);
/* One pass: check the one, write the other. The first word that differs, or n_words. */
size_t pattern_renew(uint64_t *words, size_t n_words, const struct pattern *expected,
                     const struct pattern *next);
/* Report what was found instead; the thread goes no further. */
noreturn void pattern_wrong(const char *what, const uint64_t *words, size_t n_words, size_t at,
                            const struct pattern *expected);

#endif
