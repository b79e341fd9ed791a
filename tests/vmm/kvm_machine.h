/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A virtual machine of KVM: one memory slot from guest-physical 0 on, one to
 * four vCPUs in 64-bit mode with banks for machine checks, no interrupts.
 */
#ifndef VMM_KVM_MACHINE_H
#define VMM_KVM_MACHINE_H

#include <linux/kvm.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "vmm/guest_abi.h"

/* Machine-check banks of a vCPU; the last one reports lost memory. */
#define MACHINE_BANKS 4

struct kvm_vcpu {
	int fd;
	struct kvm_run *run; /* shared with the kernel */
	unsigned index;
};

struct kvm_machine {
	int kvm_fd;
	int vm_fd;
	uint8_t *memory;
	uint64_t memory_len_bytes;
	size_t run_len_bytes;
	uint64_t mcg_cap; /* as the vCPUs have it */
	unsigned n_vcpus;
	struct kvm_vcpu vcpus[GUEST_VCPUS_MAX];
};

/*
 * memory is mapped by the caller, and stays. Does not touch it.
 * 0 or -errno; *ret_what is the step that failed, static storage.
 */
int kvm_machine_new(uint8_t *memory, uint64_t memory_len_bytes, unsigned n_vcpus,
                    struct kvm_machine **ret, const char **ret_what);
struct kvm_machine *kvm_machine_free(struct kvm_machine *m); /* always NULL */

/* The registers at the guest's first instruction. */
int kvm_vcpu_boot(const struct kvm_vcpu *vcpu, const struct guest_head *head);

/* Where it is, while it is not in KVM_RUN. */
unsigned long long kvm_vcpu_rip(const struct kvm_vcpu *vcpu);

/* kvm_state.c: everything of a vCPU that the guest can notice. 0 or -errno. */
int kvm_vcpu_save(const struct kvm_vcpu *vcpu, FILE *file);
int kvm_vcpu_load(const struct kvm_vcpu *vcpu, FILE *file);

#endif
