/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs the vCPUs; called by both roles. Always holds: a vCPU's descriptor is
 * used by its own thread only, while that runs. The guest's memory is not
 * touched here: a missing page would stop the VMM instead of a vCPU.
 */
#include "vmm/vcpu_run.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "vmm/machine_check.h"
#include "vmm/vmm.h"

#define KICK_SIGNAL SIGUSR1
#define LOST_SHOWN_MAX 100 /* events a vCPU; all are counted */
/* On the destination: the rest of the walk that was interrupted, and a whole one. */
#define WALKS_HERE 2

/* Linux 6.8 and later name the page of a failed access; Debian 12's header does not know it. */
#define EXIT_MEMORY_FAULT 39
struct memory_fault {
	uint64_t flags, gpa, len_bytes;
};

enum vcpu_end {
	VCPU_RUNNING,
	VCPU_STOPPED, /* by vcpu_run_stop() */
	VCPU_HALTED,  /* by itself */
	VCPU_DIED,
};

struct vcpu_thread {
	struct vcpu_run *run;
	struct kvm_vcpu *vcpu;
	pthread_t thread;
	unsigned n_walks; /* in this VMM */
	_Atomic uint64_t n_machine_checks;
	_Atomic enum vcpu_end end;
};

struct vcpu_run {
	struct vmm *vmm;
	unsigned n_threads;
	struct vcpu_thread threads[GUEST_VCPUS_MAX];
	atomic_bool stop;
	atomic_uint n_ended;
	int ended_fd;
};

/* Its only purpose is that KVM_RUN returns. */
static void on_kick(int sig)
{
	(void)sig;
}

static uint32_t walk_again(struct vcpu_thread *t)
{
	return !t->run->vmm->destination || t->n_walks < WALKS_HERE;
}

/* 0, or -ENXIO for a port where nothing is. */
static int port_access(struct vcpu_thread *t)
{
	struct kvm_run *run = t->vcpu->run;
	uint8_t *data = (uint8_t *)run + run->io.data_offset;
	bool out = run->io.direction == KVM_EXIT_IO_OUT;
	uint32_t value;

	if (run->io.port == PORT_SERIAL && out) {
		for (uint32_t i = 0; i < run->io.count * run->io.size; i++)
			console_put(&t->run->vmm->console, (char)data[i]);
		return 0;
	}
	if (run->io.port != PORT_PASS || run->io.size != sizeof(value))
		return -ENXIO;
	if (out) {
		memcpy(&value, data, sizeof(value));
		t->n_walks++;
		driven_event("walked", "%u %u", t->vcpu->index, value);
	} else {
		value = walk_again(t);
		memcpy(data, &value, sizeof(value));
	}
	return 0;
}

static enum vcpu_end die(const struct vcpu_thread *t, const char *what, unsigned long long detail)
{
	fprintf(stderr, "testvmm: vCPU %u: %s (%#llx) at rip %#llx\n", t->vcpu->index, what, detail,
	        kvm_vcpu_rip(t->vcpu));
	driven_event("vcpu-died", "%u %s", t->vcpu->index, what);
	/* Was it the migration? */
	fprintf(stderr, "testvmm: %zu bytes of the guest's code are not as they were\n",
	        vmm_memory_guest_damage(&t->run->vmm->memory));
	return VCPU_DIED;
}

/* On the source the agent must know; on the destination the daemon said it. */
static void lost_page_tell(struct vmm *v, uint64_t gpa)
{
	uint64_t unit = vmm_memory_page_size(&v->memory);
	struct postcopy_range range = {gpa & ~(unit - 1), unit};
	char text[384] = "";

	if (!v->destination && postcopy_report_poison(v->handle, &range, 1, text, sizeof(text)) < 0)
		driven_event("report-error", "%#llx %s", (unsigned long long)gpa, text);
}

static enum vcpu_end gpa_lost(struct vcpu_thread *t, uint64_t gpa, int code, int lsb)
{
	struct vmm *v = t->run->vmm;

	if (++t->n_machine_checks <= LOST_SHOWN_MAX)
		driven_event("lost", "%u:%llu %#llx code %d lsb %d", t->vcpu->index,
		             (unsigned long long)t->n_machine_checks, (unsigned long long)gpa, code,
		             lsb);
	if (v->sabotage == SABOTAGE_NO_INJECTION)
		return VCPU_RUNNING;
	if (v->sabotage == SABOTAGE_WRONG_ADDRESS)
		gpa ^= 2 * GUEST_PAGE;
	if (machine_check_inject(t->vcpu, gpa, lsb) < 0)
		return die(t, "KVM_X86_SET_MCE", gpa);
	lost_page_tell(v, gpa);
	return VCPU_RUNNING;
}

static enum vcpu_end access_lost(struct vcpu_thread *t, const struct lost_access *lost)
{
	const struct vmm_memory *m = &t->run->vmm->memory;
	uint64_t gpa = (uintptr_t)lost->address - (uintptr_t)m->address;

	/* AO is about memory that nobody has touched yet: this VMM never asked for it. */
	if (lost->code != BUS_MCEERR_AR)
		return die(t, "SIGBUS that is not BUS_MCEERR_AR", (unsigned)lost->code);
	if (gpa >= m->length)
		return die(t, "SIGBUS outside the guest's memory", (uintptr_t)lost->address);
	return gpa_lost(t, gpa & ~(uint64_t)(GUEST_PAGE - 1), lost->code, lost->lsb);
}

/* KVM_RUN has failed with this errno. */
static enum vcpu_end run_failed(struct vcpu_thread *t, int error)
{
	struct lost_access lost;
	struct memory_fault fault;

	if (machine_check_pending(&lost))
		return access_lost(t, &lost);
	/* A kick, and nothing else that this VMM's threads are sent. */
	if (error == EINTR || error == EAGAIN)
		return atomic_load(&t->run->stop) ? VCPU_STOPPED : VCPU_RUNNING;
	if (error == EHWPOISON && t->vcpu->run->exit_reason == EXIT_MEMORY_FAULT) {
		memcpy(&fault, t->vcpu->run->padding, sizeof(fault));
		return gpa_lost(t, fault.gpa & ~(uint64_t)(GUEST_PAGE - 1), 0, 12);
	}
	if (error == EFAULT)
		return die(t, "KVM cannot reach the guest's memory: EFAULT", 0);
	return die(t, "KVM_RUN failed", (unsigned)error);
}

static enum vcpu_end run_exited(struct vcpu_thread *t)
{
	const struct kvm_run *run = t->vcpu->run;

	switch (run->exit_reason) {
	case KVM_EXIT_IO:
		return port_access(t) < 0 ? die(t, "no such port", run->io.port) : VCPU_RUNNING;
	case KVM_EXIT_HLT:
		return VCPU_HALTED;
	case KVM_EXIT_INTR:
		return VCPU_RUNNING;
	case KVM_EXIT_MMIO:
		return die(t, "access outside the memory", run->mmio.phys_addr);
	case KVM_EXIT_SHUTDOWN:
		return die(t, "triple fault", 0);
	case KVM_EXIT_INTERNAL_ERROR:
		return die(t, "KVM's internal error", run->internal.suberror);
	case KVM_EXIT_FAIL_ENTRY:
		return die(t, "the hardware refuses the state",
		           run->fail_entry.hardware_entry_failure_reason);
	default:
		return die(t, "unknown exit", run->exit_reason);
	}
}

/* KVM_RUN ends a port access when it is called again, so a stop always goes through it. */
static enum vcpu_end vcpu_step(struct vcpu_thread *t)
{
	struct lost_access lost;
	enum vcpu_end end;
	int ret, error;

	machine_check_watch(true);
	ret = ioctl(t->vcpu->fd, KVM_RUN, 0UL);
	error = errno;
	machine_check_watch(false);
	if (ret < 0)
		return run_failed(t, error);
	end = run_exited(t);
	if (end == VCPU_RUNNING && machine_check_pending(&lost))
		end = access_lost(t, &lost);
	return end;
}

static void *vcpu_main(void *arg)
{
	struct vcpu_thread *t = arg;
	struct vcpu_run *r = t->run;
	uint64_t one = 1;

	while (t->end == VCPU_RUNNING)
		t->end = vcpu_step(t);
	/* One that died will not let the others come to an end. */
	if (t->end == VCPU_DIED || atomic_fetch_add(&r->n_ended, 1) + 1 == r->n_threads)
		if (write(r->ended_fd, &one, sizeof(one)) < 0)
			abort();
	return NULL;
}

int vcpu_run_new(struct vmm *v, struct vcpu_run **ret)
{
	struct sigaction action = {.sa_handler = on_kick};
	struct vcpu_run *r = calloc(1, sizeof(*r));
	int status;

	if (!r)
		return -ENOMEM;
	r->vmm = v;
	r->ended_fd = eventfd(0, EFD_CLOEXEC);
	status = machine_check_catch_sigbus();
	if (status == 0 && (r->ended_fd < 0 || sigaction(KICK_SIGNAL, &action, NULL) < 0))
		status = -errno;
	if (status < 0) {
		vcpu_run_free(r);
		return status;
	}
	*ret = r;
	return 0;
}

struct vcpu_run *vcpu_run_free(struct vcpu_run *r)
{
	if (!r)
		return NULL;
	if (r->ended_fd >= 0)
		close(r->ended_fd);
	free(r);
	return NULL;
}

int vcpu_run_start(struct vcpu_run *r)
{
	struct kvm_machine *m = r->vmm->machine;

	r->n_threads = m->n_vcpus;
	for (unsigned i = 0; i < m->n_vcpus; i++) {
		struct vcpu_thread *t = &r->threads[i];
		int ret;

		t->run = r;
		t->vcpu = &m->vcpus[i];
		ret = pthread_create(&t->thread, NULL, vcpu_main, t);
		if (ret)
			return -ret;
	}
	return 0;
}

int vcpu_run_ended_fd(const struct vcpu_run *r)
{
	return r->ended_fd;
}

int vcpu_run_stop(struct vcpu_run *r)
{
	int ret = 0;

	atomic_store(&r->stop, true);
	for (unsigned i = 0; i < r->n_threads; i++) {
		/* Also for a thread that is just about to enter KVM_RUN. */
		__atomic_store_n(&r->threads[i].vcpu->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
		pthread_kill(r->threads[i].thread, KICK_SIGNAL);
	}
	for (unsigned i = 0; i < r->n_threads; i++) {
		pthread_join(r->threads[i].thread, NULL);
		if (r->threads[i].end != VCPU_STOPPED)
			ret = -ECHILD;
	}
	return ret;
}

bool vcpu_run_stopped(const struct vcpu_run *r)
{
	return atomic_load(&r->stop);
}

bool vcpu_run_all_halted(const struct vcpu_run *r)
{
	for (unsigned i = 0; i < r->n_threads; i++)
		if (r->threads[i].end != VCPU_HALTED)
			return false;
	return true;
}

uint64_t vcpu_run_machine_checks(const struct vcpu_run *r)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < r->n_threads; i++)
		n += r->threads[i].n_machine_checks;
	return n;
}
