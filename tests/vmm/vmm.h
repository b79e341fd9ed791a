/* SPDX-License-Identifier: Apache-2.0 */
/*
 * testvmm: a small VMM on /dev/kvm, to migrate a real guest by libpostcopy and
 * to give it a machine check for each page that is lost. One program, two
 * roles: vmm_source.c and vmm_destination.c.
 */
#ifndef VMM_VMM_H
#define VMM_VMM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "postcopy.h"
#include "support/driven.h"
#include "support/poison_plan.h"
#include "vmm/console.h"
#include "vmm/guest_abi.h"
#include "vmm/kvm_machine.h"
#include "vmm/vcpu_run.h"

enum vmm_exit {
	VMM_OK = 0,
	VMM_WRONG = 1, /* the guest found, or did, something else than it must */
	VMM_USAGE = DRIVEN_USAGE,
	VMM_TIMEOUT = DRIVEN_TIMEOUT,
	VMM_STATE = 4,   /* the migration or export did not end well */
	VMM_REFUSED = 5, /* attach, export, freeze or KVM refused; the text is on stderr */
	VMM_SKIP = 77,   /* this machine cannot do it; "SKIP: reason" is on stderr */
};

/* Defects, to show that the tests find them. */
enum vmm_sabotage {
	SABOTAGE_NONE,
	SABOTAGE_NO_INJECTION,  /* destination: no machine check, the vCPU tries again */
	SABOTAGE_WRONG_ADDRESS, /* destination: the machine check names another page */
	SABOTAGE_CHANGED_PAGE,  /* source: one word of a healthy page */
	SABOTAGE_ZERO_PAGE,     /* source: a healthy page is zeros */
};

enum memory_kind {
	MEMORY_MEMFD,
	MEMORY_ANONYMOUS,
	MEMORY_HUGETLB,
};

/* The guest's RAM: one region, from guest-physical 0 on. */
struct vmm_memory {
	enum memory_kind kind;
	uint64_t length;
	uint8_t *address;
	int fd; /* -1 for anonymous */
};

struct vmm {
	/* What the command line says. */
	bool destination;
	struct vmm_memory memory;
	unsigned n_vcpus;
	uint64_t seed;
	size_t n_poison;  /* lost after the vCPUs have stopped */
	size_t n_running; /* of these: lost while the guest still runs on the source */
	size_t n_late;    /* lost while the destination already runs */
	enum vmm_sabotage sabotage;
	struct driven driven;
	const char *state_path;
	unsigned timeout_s;

	struct poison_plan *plan; /* pages of the walk */
	struct console console;
	struct kvm_machine *machine;
	struct vcpu_run *vcpus;
	struct postcopy *handle;
};

/* vmm_memory.c */
int vmm_memory_parse(struct vmm_memory *m, const char *spec); /* KIND:MIB */
/* Untouched. 0 or -errno; -ENOMEM with huge pages: not enough of them. */
int vmm_memory_map(struct vmm_memory *m);
uint64_t vmm_memory_page_size(const struct vmm_memory *m);
uint64_t vmm_memory_walk_pages(const struct vmm_memory *m);
struct postcopy_region vmm_memory_region(const struct vmm_memory *m);
struct poison_region vmm_memory_poison(const struct vmm_memory *m);
/* Let a page of the walk really fail (MADV_HWPOISON). 0 or -errno. */
int vmm_memory_fail(const struct vmm_memory *m, uint64_t page);
/* Put the program of payload/ in its place. */
int vmm_memory_load_guest(const struct vmm_memory *m, unsigned n_vcpus, uint64_t seed);
/* Bytes of its code that are not as they were put there; fetches what is missing. */
size_t vmm_memory_guest_damage(const struct vmm_memory *m);
uint64_t vmm_page_gpa(uint64_t page);

/* vmm_report.c: the guest's own list against the plan; how many pages differ. */
size_t vmm_report_check(const struct vmm *v);

int vmm_source_run(struct vmm *v);
int vmm_destination_run(struct vmm *v);

#endif
