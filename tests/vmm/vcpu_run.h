/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The vCPUs' threads: KVM_RUN, the guest's two devices, and a machine check for
 * each lost page that a vCPU meets.
 */
#ifndef VMM_VCPU_RUN_H
#define VMM_VCPU_RUN_H

#include <stdbool.h>
#include <stdint.h>

struct vmm;
struct vcpu_run;

int vcpu_run_new(struct vmm *v, struct vcpu_run **ret);
struct vcpu_run *vcpu_run_free(struct vcpu_run *r); /* always NULL; the threads have ended */

/* One thread a vCPU, from where its registers are. 0 or -errno. */
int vcpu_run_start(struct vcpu_run *r);

/*
 * Readable when all threads have ended: the guest has halted, or died, or
 * vcpu_run_stop() was called.
 */
int vcpu_run_ended_fd(const struct vcpu_run *r);

/*
 * Take all vCPUs out of KVM_RUN, wherever they are, with no I/O half done: their
 * state can be saved. 0, or -ECHILD if one had ended by itself.
 */
int vcpu_run_stop(struct vcpu_run *r);

/* Whether vcpu_run_stop() has been called. */
bool vcpu_run_stopped(const struct vcpu_run *r);

/* After the end: all halted, none died. */
bool vcpu_run_all_halted(const struct vcpu_run *r);
uint64_t vcpu_run_machine_checks(const struct vcpu_run *r);

#endif
