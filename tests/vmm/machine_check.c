/* SPDX-License-Identifier: Apache-2.0 */
/*
 * SIGBUS to machine check; called by the vCPU threads (vcpu_run.c) and, for the
 * set-up, by kvm_machine.c. Always holds: the signal handler only notes what it
 * was told, in its thread's own variables.
 */
#include "vmm/machine_check.h"

#include <errno.h>
#include <signal.h>
#include <sys/ioctl.h>

#define MCG_CTL_P (UINT64_C(1) << 8)  /* there is MCG_CTL */
#define MCG_SER_P (UINT64_C(1) << 24) /* software may recover */

#define MCG_STATUS_RIPV (UINT64_C(1) << 0) /* RIP is where the guest may go on */
#define MCG_STATUS_EIPV (UINT64_C(1) << 1) /* RIP is the access that met the page */
#define MCG_STATUS_MCIP (UINT64_C(1) << 2) /* until the guest clears it, the next one is its end */

#define STATUS_VALID (UINT64_C(1) << 63)
#define STATUS_UNCORRECTED (UINT64_C(1) << 61)
#define STATUS_ENABLED (UINT64_C(1) << 60)
#define STATUS_MISC_VALID (UINT64_C(1) << 59)
#define STATUS_ADDRESS_VALID (UINT64_C(1) << 58)
#define STATUS_SIGNALLED (UINT64_C(1) << 56)
#define STATUS_ACTION_REQUIRED (UINT64_C(1) << 55)
#define STATUS_DATA_LOAD 0x134

#define MISC_PHYSICAL_ADDRESS (UINT64_C(2) << 6)

static _Thread_local volatile sig_atomic_t watching;
static _Thread_local volatile sig_atomic_t pending;
static _Thread_local struct lost_access lost;

int machine_check_capabilities(int kvm_fd, uint64_t *ret_mcg_cap)
{
	uint64_t supported;

	if (ioctl(kvm_fd, KVM_X86_GET_MCE_CAP_SUPPORTED, &supported) < 0)
		return -errno;
	*ret_mcg_cap = (supported & (MCG_CTL_P | MCG_SER_P)) | MACHINE_BANKS;
	return 0;
}

int machine_check_setup(const struct kvm_vcpu *vcpu, uint64_t mcg_cap)
{
	return ioctl(vcpu->fd, KVM_X86_SETUP_MCE, &mcg_cap) < 0 ? -errno : 0;
}

static void on_sigbus(int sig, siginfo_t *info, void *context)
{
	(void)context;
	if (!watching) {
		signal(sig, SIG_DFL);
		return;
	}
	lost = (struct lost_access){info->si_addr, info->si_code, info->si_addr_lsb};
	pending = 1;
}

int machine_check_catch_sigbus(void)
{
	struct sigaction action = {.sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO};

	return sigaction(SIGBUS, &action, NULL) < 0 ? -errno : 0;
}

void machine_check_watch(bool on)
{
	watching = on;
}

bool machine_check_pending(struct lost_access *ret)
{
	if (!pending)
		return false;
	*ret = lost;
	pending = 0;
	return true;
}

int machine_check_inject(const struct kvm_vcpu *vcpu, uint64_t gpa, int lsb)
{
	struct kvm_x86_mce mce = {
	        .status = STATUS_VALID | STATUS_UNCORRECTED | STATUS_ENABLED | STATUS_MISC_VALID |
	                  STATUS_ADDRESS_VALID | STATUS_SIGNALLED | STATUS_ACTION_REQUIRED |
	                  STATUS_DATA_LOAD,
	        .addr = gpa,
	        .misc = MISC_PHYSICAL_ADDRESS | (uint64_t)lsb,
	        .mcg_status = MCG_STATUS_MCIP | MCG_STATUS_EIPV | MCG_STATUS_RIPV,
	        .bank = MACHINE_BANKS - 1,
	};

	return ioctl(vcpu->fd, KVM_X86_SET_MCE, &mce) < 0 ? -errno : 0;
}
