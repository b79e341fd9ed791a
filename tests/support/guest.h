/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The test guest: a stand-in for a VMM that uses nothing but libpostcopy. One
 * program, two roles, and a memory with a known content.
 */
#ifndef SUPPORT_GUEST_H
#define SUPPORT_GUEST_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "postcopy.h"
#include "support/driven.h"
#include "support/pattern.h"
#include "support/poison_plan.h"

#define GUEST_REGIONS_MAX 16

/* Exit status of testguest. */
enum guest_exit {
	GUEST_OK = 0,
	GUEST_WRONG = 1, /* memory is not what it must be */
	GUEST_USAGE = DRIVEN_USAGE,
	GUEST_TIMEOUT = DRIVEN_TIMEOUT,
	GUEST_STATE =
	        4, /* the migration or export ended in another state than completed, released */
	GUEST_REFUSED = 5, /* attach, export or freeze was refused; the text is on stderr */
	GUEST_SKIP = 77,   /* this machine cannot do it; the reason is on stderr */
};

enum guest_kind {
	GUEST_MEMFD,
	GUEST_MEMFD_MINOR,
	GUEST_ANONYMOUS,
	GUEST_HUGETLB,
	GUEST_HUGETLB_MINOR,
};

struct guest_region {
	char name[POSTCOPY_NAME_MAX];
	enum guest_kind kind;
	uint64_t length;
	uint64_t gpa;
	uint64_t first_page; /* 4 KiB pages of the regions before this one */
	uint8_t *address;
	int fd; /* -1 for anonymous */
};

struct guest {
	/* What the command line says. */
	bool destination;
	struct guest_region regions[GUEST_REGIONS_MAX];
	size_t n_regions;
	uint64_t seed;
	size_t n_poison;
	size_t n_late;
	struct driven driven;
	unsigned timeout_s;
	bool by_process;      /* source: export memfds as process memory, too */
	bool read_poison;     /* source: some poison is not reported but found by the agent */
	bool hwpoison;        /* source: all poison is real memory failure, none is reported */
	bool auto_freeze;     /* source: freeze at once */
	unsigned threads;     /* destination */
	unsigned n_uffds;     /* destination */
	bool registered;      /* destination: UFFDIO_API and UFFDIO_REGISTER by ourselves */
	bool events;          /* destination: all that there are, with registered */
	bool partition;       /* destination: each page by one thread only */
	bool eager;           /* destination: touch without waiting for postcopy-active */
	unsigned firecracker; /* destination: attach as Firecracker v1.N does; 0: by libpostcopy */
	bool balloon;         /* destination: that version has a balloon, and tells of removals */
	bool packed;          /* guest-physical addresses without holes, as in a snapshot's file */
	unsigned storm;       /* destination: one page of so many is given back while it runs */
	bool any_poison;      /* destination: every page may be lost, none may be wrong */
	pid_t mapping_of;     /* destination: map the memory of this process, a VMM; 0: be one */
	bool other_file;      /* with that: of another file of the same kind */
	unsigned moves;       /* destination: so often memory is moved while it runs */
	bool stay;            /* destination: awaits "go" when it has completed */
	bool collapse;        /* destination: huge pages, before the last check */
	uint64_t waits_ms;    /* destination: a touch that takes longer is told of; 0: none */
	uint64_t pause_after; /* destination: pages a thread before "go" is awaited; 0: never */
	bool rewritten;       /* destination: it comes by a host that has written some pages anew */
	struct driven relay;  /* destination: where it goes on "export"; its own token's length 0 */

	uint64_t n_pages; /* of all regions, 4 KiB */
	bool *given_back; /* destination: n_pages; the page reads as zeros now, and is not written */
	bool move_parts;  /* and these are always the same parts, so that they stay few */
	_Atomic(uint8_t *) *page_at; /* with moves: where each page is now */
	struct poison_plan *plan;
	struct postcopy *handle;
	_Atomic bool relaying;         /* it has begun to leave this host, too */
	struct postcopy *relay_handle; /* of that export */
};

/* guest_region.c */
int guest_region_parse(struct guest *g, const char *spec);
uint64_t guest_region_page_size(const struct guest_region *r);
struct poison_region guest_region_poison(const struct guest_region *r);
/* Map all regions, untouched. 0, -errno (said on stderr); -ENOSPC: not enough huge pages. */
int guest_regions_map(struct guest *g);
/* The same as libpostcopy wants them. */
void guest_regions_describe(const struct guest *g, struct postcopy_region *ret);
/* The region that holds page number `page` of the guest. */
uint32_t guest_region_of_page(const struct guest *g, uint64_t page);
struct pattern_page guest_pattern_page(const struct guest *g, uint64_t page);
uint8_t *guest_page_address(const struct guest *g, uint64_t page);
enum poison_expectation guest_page_expect(const struct guest *g, uint64_t page);

/*
 * guest_discard.c: what a balloon does. Give pages of one region back to the kernel and
 * print so; waits for the daemon to read the event. replace: unmap them, and map new memory
 * there, which is nobody's business but the VMM's. 0, -errno (said on stderr).
 */
int guest_discard(struct guest *g, uint64_t first_page, uint64_t n_pages, bool replace);
/* A page that was given back: all zeros. */
bool guest_page_is_zeros(const struct guest *g, uint64_t page);

/* guest_collapse.c: what is lost, and huge pages; printed. 0, -errno (said on stderr). */
int guest_collapse(const struct guest *g);

/* guest_move.c: memory that the VMM moves while all else goes on. 0 or -errno. */
struct guest_touch;
int guest_moves_init(struct guest *g);
int guest_moves_start(struct guest_touch *touch, struct guest *g);

/* guest_relay.c: a destination's guest that moves on; does not return. */
void guest_relay_run(struct guest *g);
/* Such a guest has written this page anew; never one that is lost, or may be. */
bool guest_is_rewritten(const struct guest *g, uint64_t page);

/* guest_storm.c: pages that are given back while all else goes on; nobody writes to them. */
struct guest_touch;
int guest_storm_start(struct guest_touch *touch, struct guest *g);
bool guest_storm_page(const struct guest *g, uint64_t page);

/* guest_firecracker.c: the destination's role, without libpostcopy. */
int guest_firecracker_run(struct guest *g);

int guest_source_run(struct guest *g);
int guest_destination_run(struct guest *g);

#endif
