/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From SIGBUS in a vCPU's thread to a machine check in its guest: what the loss
 * of a page is to a VMM.
 */
#ifndef VMM_MACHINE_CHECK_H
#define VMM_MACHINE_CHECK_H

#include <stdbool.h>
#include <stdint.h>

#include "vmm/kvm_machine.h"

/* Capabilities for vCPUs: MACHINE_BANKS banks, and recovery by software where KVM has it. */
int machine_check_capabilities(int kvm_fd, uint64_t *ret_mcg_cap);
int machine_check_setup(const struct kvm_vcpu *vcpu, uint64_t mcg_cap);

/* What a SIGBUS said. */
struct lost_access {
	void *address; /* in this process */
	int code;      /* BUS_MCEERR_AR where the kernel knows memory failures */
	int lsb;       /* log2 of how much is lost */
};

/* For the whole process. A SIGBUS of a thread that is not watching is its end. */
int machine_check_catch_sigbus(void);
/* This thread is about to enter KVM_RUN, or has come out of it. */
void machine_check_watch(bool on);
/* Whether this thread has met a lost page since it was asked last. */
bool machine_check_pending(struct lost_access *ret);

/*
 * Give the guest what hardware gives for a lost page: a recoverable machine
 * check with action required, for the page at gpa. The vCPU is not in KVM_RUN;
 * the guest takes it before its next instruction.
 */
int machine_check_inject(const struct kvm_vcpu *vcpu, uint64_t gpa, int lsb);

#endif
