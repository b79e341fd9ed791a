/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Creates the virtual machine and its vCPUs; called by both roles before any
 * thread runs. The guest is the same on both hosts, so is the machine.
 */
#include "vmm/kvm_machine.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "vmm/machine_check.h"

#define CPUID_ENTRIES_MAX 256
#define INTEL_TSS_ADDRESS 0xfffbd000UL /* outside the guest's memory */

#define CR0_PE (1U << 0)
#define CR0_ET (1U << 4)
#define CR0_NE (1U << 5)
#define CR0_WP (1U << 16)
#define CR0_PG (1U << 31)
#define CR4_PAE (1U << 5)
#define EFER_LME (1U << 8)
#define EFER_LMA (1U << 10)

static int cpuid_setup(const struct kvm_machine *m, int vcpu_fd)
{
	struct kvm_cpuid2 *cpuid =
	        calloc(1, sizeof(*cpuid) + CPUID_ENTRIES_MAX * sizeof(cpuid->entries[0]));
	int ret = 0;

	if (!cpuid)
		return -ENOMEM;
	cpuid->nent = CPUID_ENTRIES_MAX;
	if (ioctl(m->kvm_fd, KVM_GET_SUPPORTED_CPUID, cpuid) < 0 ||
	    ioctl(vcpu_fd, KVM_SET_CPUID2, cpuid) < 0)
		ret = -errno;
	free(cpuid);
	return ret;
}

static int vcpu_new(struct kvm_machine *m, struct kvm_vcpu *vcpu, const char **ret_what)
{
	int ret;

	*ret_what = "KVM_CREATE_VCPU";
	vcpu->fd = ioctl(m->vm_fd, KVM_CREATE_VCPU, (unsigned long)vcpu->index);
	if (vcpu->fd < 0)
		return -errno;
	*ret_what = "mmap of the vCPU";
	vcpu->run = mmap(NULL, m->run_len_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd, 0);
	if (vcpu->run == MAP_FAILED) {
		vcpu->run = NULL;
		return -errno;
	}
	*ret_what = "KVM_SET_CPUID2";
	ret = cpuid_setup(m, vcpu->fd);
	if (ret < 0)
		return ret;
	*ret_what = "KVM_X86_SETUP_MCE";
	return machine_check_setup(vcpu, m->mcg_cap);
}

static int vm_new(struct kvm_machine *m, const char **ret_what)
{
	struct kvm_userspace_memory_region slot = {
	        .memory_size = m->memory_len_bytes,
	        .userspace_addr = (uintptr_t)m->memory,
	};
	int ret;

	*ret_what = "/dev/kvm";
	m->kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (m->kvm_fd < 0)
		return -errno;
	*ret_what = "KVM_CREATE_VM";
	m->vm_fd = ioctl(m->kvm_fd, KVM_CREATE_VM, 0UL);
	if (m->vm_fd < 0)
		return -errno;
	*ret_what = "KVM_SET_TSS_ADDR";
	if (ioctl(m->vm_fd, KVM_SET_TSS_ADDR, INTEL_TSS_ADDRESS) < 0)
		return -errno;
	*ret_what = "KVM_SET_USER_MEMORY_REGION";
	if (ioctl(m->vm_fd, KVM_SET_USER_MEMORY_REGION, &slot) < 0)
		return -errno;
	*ret_what = "KVM_X86_GET_MCE_CAP_SUPPORTED";
	ret = machine_check_capabilities(m->kvm_fd, &m->mcg_cap);
	if (ret < 0)
		return ret;
	*ret_what = "KVM_GET_VCPU_MMAP_SIZE";
	ret = ioctl(m->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0UL);
	if (ret < 0)
		return -errno;
	m->run_len_bytes = (size_t)ret;
	return 0;
}

int kvm_machine_new(uint8_t *memory, uint64_t memory_len_bytes, unsigned n_vcpus,
                    struct kvm_machine **ret, const char **ret_what)
{
	struct kvm_machine *m = calloc(1, sizeof(*m));
	int status;

	*ret_what = "memory";
	if (!m)
		return -ENOMEM;
	m->kvm_fd = m->vm_fd = -1;
	m->memory = memory;
	m->memory_len_bytes = memory_len_bytes;
	status = vm_new(m, ret_what);
	for (unsigned i = 0; i < n_vcpus && status == 0; i++) {
		m->vcpus[i] = (struct kvm_vcpu){.fd = -1, .index = i};
		m->n_vcpus++;
		status = vcpu_new(m, &m->vcpus[i], ret_what);
	}
	if (status < 0) {
		kvm_machine_free(m);
		return status;
	}
	*ret = m;
	return 0;
}

struct kvm_machine *kvm_machine_free(struct kvm_machine *m)
{
	if (!m)
		return NULL;
	for (unsigned i = 0; i < m->n_vcpus; i++) {
		if (m->vcpus[i].run)
			munmap(m->vcpus[i].run, m->run_len_bytes);
		if (m->vcpus[i].fd >= 0)
			close(m->vcpus[i].fd);
	}
	if (m->vm_fd >= 0)
		close(m->vm_fd);
	if (m->kvm_fd >= 0)
		close(m->kvm_fd);
	free(m);
	return NULL;
}

static void sregs_long_mode(struct kvm_sregs *s, uint64_t page_tables)
{
	/* As the guest's own descriptors will say. */
	struct kvm_segment code = {.limit = 0xffffffff,
	                           .selector = 0x08,
	                           .type = 11,
	                           .present = 1,
	                           .s = 1,
	                           .l = 1,
	                           .g = 1};
	struct kvm_segment data = {.limit = 0xffffffff,
	                           .selector = 0x10,
	                           .type = 3,
	                           .present = 1,
	                           .s = 1,
	                           .db = 1,
	                           .g = 1};

	s->cs = code;
	s->ds = s->es = s->fs = s->gs = s->ss = data;
	s->cr0 = CR0_PE | CR0_ET | CR0_NE | CR0_WP | CR0_PG;
	s->cr3 = page_tables;
	s->cr4 = CR4_PAE;
	s->efer = EFER_LME | EFER_LMA;
}

int kvm_vcpu_boot(const struct kvm_vcpu *vcpu, const struct guest_head *head)
{
	struct kvm_regs regs = {.rip = head->entry, .rdi = vcpu->index, .rflags = 0x2};
	/* A vCPU after the first one waits for a signal otherwise. */
	struct kvm_mp_state runnable = {.mp_state = KVM_MP_STATE_RUNNABLE};
	struct kvm_sregs sregs;

	if (ioctl(vcpu->fd, KVM_GET_SREGS, &sregs) < 0)
		return -errno;
	sregs_long_mode(&sregs, head->page_tables);
	if (ioctl(vcpu->fd, KVM_SET_SREGS, &sregs) < 0 ||
	    ioctl(vcpu->fd, KVM_SET_REGS, &regs) < 0 ||
	    ioctl(vcpu->fd, KVM_SET_MP_STATE, &runnable) < 0)
		return -errno;
	return 0;
}

unsigned long long kvm_vcpu_rip(const struct kvm_vcpu *vcpu)
{
	struct kvm_regs regs = {0};

	return ioctl(vcpu->fd, KVM_GET_REGS, &regs) < 0 ? 0 : regs.rip;
}
