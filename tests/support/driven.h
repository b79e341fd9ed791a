/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the VMMs of the tests and benchmarks have in common (testguest, testvmm,
 * bench-guest): a test drives them, reads "name value" lines from them, and they
 * use libpostcopy as any VMM does.
 */
#ifndef SUPPORT_DRIVEN_H
#define SUPPORT_DRIVEN_H

#include <stddef.h>
#include <stdint.h>

#include "postcopy.h"

/* Exit status. */
#define DRIVEN_USAGE 2
#define DRIVEN_TIMEOUT 3

/* What the command line says of the migration. */
struct driven {
	uint8_t migration_id[16];
	uint8_t token[POSTCOPY_TOKEN_MAX];
	size_t token_len;
	const char *socket_path;
	const char *peer_identity; /* source */
	int attach_timeout_ms;     /* destination; 0: libpostcopy's own */
	uint32_t attach_flags;     /* destination: POSTCOPY_ATTACH_ */
	struct postcopy *inbound;  /* source: by which its memory comes, or NULL */
};

/* One line "name value" on stdout, at once. Any thread. */
void driven_event(const char *name, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* A run that hangs must end a test: after so long it says so, and exits. */
void driven_time_limit(unsigned seconds);

/* The secret in hexadecimal, as `postcopyctl token` writes it. 0 or -errno. */
int driven_token_read(struct driven *d, const char *path);

/* libpostcopy's calls of these names; an error is said on stderr. */
int driven_export(const struct driven *d, const struct postcopy_region *regions, size_t n_regions,
                  struct postcopy **ret);
int driven_attach(const struct driven *d, const struct postcopy_region *regions, size_t n_regions,
                  const int *uffds, size_t n_uffds, struct postcopy **ret);
int driven_freeze(struct postcopy *handle);
/* Waits for its end. */
int driven_collapse(struct postcopy *handle, struct postcopy_collapse_progress *ret);

/*
 * Let a 4 KiB page really fail (MADV_HWPOISON), for as long as this machine runs.
 * 0, also in a huge page that has failed already, or -errno.
 */
int driven_page_fail(void *address);

#endif
