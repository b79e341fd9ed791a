/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Saves a vCPU that has left KVM_RUN, and loads it into one that has not run
 * yet. The table below is all of it, in the order in which KVM takes it back;
 * interrupt controllers and timers this machine has none.
 */
#include "vmm/kvm_machine.h"

#include <assert.h>
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#define PART_NAME_LEN 16
#define PART_MAX 4096 /* struct kvm_xsave */

static const struct state_part {
	const char *name;
	unsigned long get, set;
	size_t len_bytes;
} parts[] = {
        {"sregs", KVM_GET_SREGS, KVM_SET_SREGS, sizeof(struct kvm_sregs)},
        {"xcrs", KVM_GET_XCRS, KVM_SET_XCRS, sizeof(struct kvm_xcrs)},
        {"xsave", KVM_GET_XSAVE, KVM_SET_XSAVE, sizeof(struct kvm_xsave)},
        {"regs", KVM_GET_REGS, KVM_SET_REGS, sizeof(struct kvm_regs)},
        {"debugregs", KVM_GET_DEBUGREGS, KVM_SET_DEBUGREGS, sizeof(struct kvm_debugregs)},
        {"mp_state", KVM_GET_MP_STATE, KVM_SET_MP_STATE, sizeof(struct kvm_mp_state)},
        /* Last: a machine check that is queued, but not delivered yet, is in here. */
        {"vcpu_events", KVM_GET_VCPU_EVENTS, KVM_SET_VCPU_EVENTS, sizeof(struct kvm_vcpu_events)},
};

/* Registers of the processor that are not in a part. EFER and the segment bases are in sregs. */
static const struct state_msr {
	const char *name;
	uint32_t index;
} msrs[] = {
        {"TSC", 0x10},          {"MCG_STATUS", 0x17a},          {"PAT", 0x277},
        {"STAR", 0xc0000081},   {"LSTAR", 0xc0000082},          {"CSTAR", 0xc0000083},
        {"SFMASK", 0xc0000084}, {"KERNEL_GS_BASE", 0xc0000102},
};
#define N_MSRS (sizeof(msrs) / sizeof(msrs[0]))
#define N_ALL_MSRS (N_MSRS + 4 * MACHINE_BANKS) /* control, status, address, misc */
#define MSR_MC0_CTL 0x400

struct part_head {
	char name[PART_NAME_LEN];
	uint32_t vcpu;
	uint32_t len_bytes;
};

/* struct kvm_msrs with its entries. */
struct msr_list {
	uint32_t nmsrs, pad;
	struct kvm_msr_entry entries[N_ALL_MSRS];
};
static_assert(offsetof(struct msr_list, entries) == offsetof(struct kvm_msrs, entries),
              "as KVM has it");

static void msr_list_fill(struct msr_list *list)
{
	memset(list, 0, sizeof(*list));
	list->nmsrs = N_ALL_MSRS;
	for (size_t i = 0; i < N_MSRS; i++)
		list->entries[i].index = msrs[i].index;
	for (size_t i = N_MSRS; i < N_ALL_MSRS; i++)
		list->entries[i].index = MSR_MC0_CTL + (uint32_t)(i - N_MSRS);
}

/* KVM says how many it took: the one after these is the one that it does not know. */
static int msr_ioctl(int fd, unsigned long request, struct msr_list *list)
{
	int n = ioctl(fd, request, list);

	if (n < 0)
		return -errno;
	if (n == (int)N_ALL_MSRS)
		return 0;
	fprintf(stderr, "testvmm: KVM refuses the MSR %#x\n", list->entries[n].index);
	return -EINVAL;
}

static int part_write(FILE *file, const char *name, unsigned vcpu, const void *data, size_t len)
{
	struct part_head head = {.vcpu = vcpu, .len_bytes = (uint32_t)len};

	strncpy(head.name, name, sizeof(head.name) - 1);
	return fwrite(&head, sizeof(head), 1, file) == 1 && fwrite(data, len, 1, file) == 1 ? 0
	                                                                                    : -EIO;
}

static int part_read(FILE *file, const char *name, unsigned vcpu, void *ret_data, size_t len)
{
	struct part_head head;

	if (fread(&head, sizeof(head), 1, file) != 1)
		return -EIO;
	if (strncmp(head.name, name, sizeof(head.name)) || head.vcpu != vcpu ||
	    head.len_bytes != len) {
		fprintf(stderr,
		        "testvmm: the state has %.15s of vCPU %u where %s of vCPU %u is due\n",
		        head.name, head.vcpu, name, vcpu);
		return -EPROTO;
	}
	return fread(ret_data, len, 1, file) == 1 ? 0 : -EIO;
}

int kvm_vcpu_save(const struct kvm_vcpu *vcpu, FILE *file)
{
	_Alignas(8) uint8_t data[PART_MAX];
	struct msr_list list;
	int ret = 0;

	for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]) && ret == 0; i++) {
		if (ioctl(vcpu->fd, parts[i].get, data) < 0)
			ret = -errno;
		else
			ret = part_write(file, parts[i].name, vcpu->index, data,
			                 parts[i].len_bytes);
		if (ret < 0)
			fprintf(stderr, "testvmm: saving %s: %s\n", parts[i].name, strerror(-ret));
	}
	msr_list_fill(&list);
	if (ret == 0)
		ret = msr_ioctl(vcpu->fd, KVM_GET_MSRS, &list);
	return ret < 0 ? ret : part_write(file, "msrs", vcpu->index, &list, sizeof(list));
}

int kvm_vcpu_load(const struct kvm_vcpu *vcpu, FILE *file)
{
	_Alignas(8) uint8_t data[PART_MAX];
	struct msr_list list;
	int ret = 0;

	for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]) && ret == 0; i++) {
		ret = part_read(file, parts[i].name, vcpu->index, data, parts[i].len_bytes);
		if (ret == 0 && ioctl(vcpu->fd, parts[i].set, data) < 0)
			ret = -errno;
		if (ret < 0)
			fprintf(stderr, "testvmm: loading %s: %s\n", parts[i].name, strerror(-ret));
	}
	if (ret == 0)
		ret = part_read(file, "msrs", vcpu->index, &list, sizeof(list));
	return ret < 0 ? ret : msr_ioctl(vcpu->fd, KVM_SET_MSRS, &list);
}
