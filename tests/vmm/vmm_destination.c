/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The destination's role: hand empty memory to postcopyd, load the vCPUs and let
 * them go on at the very instruction where the source stopped them, while all
 * memory is still there. At the guest's end, compare its list of lost pages with
 * the plan.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "vmm/vmm.h"

#define STATES_BAD \
	(POSTCOPY_STATE_BIT(POSTCOPY_STATE_FAILED) | POSTCOPY_STATE_BIT(POSTCOPY_STATE_CANCELLED))

static int attach(struct vmm *v, int uffd)
{
	struct postcopy_region region = vmm_memory_region(&v->memory);
	int ret = driven_attach(&v->driven, &region, 1, &uffd, 1, &v->handle);

	if (ret == 0)
		driven_event("attached", "%llu", (unsigned long long)v->memory.length);
	return ret;
}

static int state_read(struct vmm *v, FILE *file)
{
	int ret = 0;

	for (unsigned i = 0; i < v->machine->n_vcpus && ret == 0; i++) {
		ret = kvm_vcpu_load(&v->machine->vcpus[i], file);
		if (ret == 0)
			driven_event("loaded", "vCPU %u rip %#llx", i,
			             kvm_vcpu_rip(&v->machine->vcpus[i]));
	}
	if (ret == 0 && fread(v->console.line, sizeof(v->console.line), 1, file) != 1)
		ret = -EIO;
	v->console.line[sizeof(v->console.line) - 1] = '\0';
	return ret;
}

static int state_load(struct vmm *v)
{
	FILE *file = fopen(v->state_path, "rbe");
	int ret = file ? state_read(v, file) : -errno;

	if (file)
		fclose(file);
	if (ret < 0)
		fprintf(stderr, "testvmm: loading the state: %s\n", strerror(-ret));
	return ret;
}

static int report_state(struct vmm *v)
{
	struct postcopy_status status;

	postcopy_get_status(v->handle, &status);
	driven_event("state", "%s %s", status.name, status.text);
	return status.state == POSTCOPY_STATE_COMPLETED ? VMM_OK : VMM_STATE;
}

/* Until the guest has come to its end; a migration that fails leaves it waiting for ever. */
static int wait_for_guest(struct vmm *v)
{
	struct pollfd fds[2] = {
	        {.fd = vcpu_run_ended_fd(v->vcpus), .events = POLLIN},
	        {.fd = postcopy_fd(v->handle), .events = POLLIN},
	};

	while (!fds[0].revents) {
		int ret = postcopy_wait(v->handle, STATES_BAD, 0);

		if (ret == 0)
			return report_state(v);
		/* Completed, or the daemon has gone: no more to be heard. */
		if (ret == -ECANCELED || ret == -ECONNRESET)
			fds[1].fd = -1;
		if (poll(fds, 2, -1) < 0 && errno != EINTR)
			return VMM_USAGE;
	}
	driven_event("guest-ended", "%s", postcopy_strstate(postcopy_get_state(v->handle)));
	driven_event("machine-checks", "%llu",
	             (unsigned long long)vcpu_run_machine_checks(v->vcpus));
	return vcpu_run_all_halted(v->vcpus) ? VMM_OK : VMM_WRONG;
}

static int run(struct vmm *v)
{
	int status;

	if (state_load(v) < 0 || vcpu_run_start(v->vcpus) < 0)
		return VMM_REFUSED;
	driven_event("running", "%u", v->n_vcpus);
	status = wait_for_guest(v);
	if (status != VMM_OK)
		return status;
	postcopy_wait(v->handle, POSTCOPY_STATE_BIT(POSTCOPY_STATE_COMPLETED), -1);
	status = report_state(v);
	if (vmm_report_check(v) > 0)
		status = VMM_WRONG;
	return status;
}

int vmm_destination_run(struct vmm *v)
{
	int uffd = postcopy_uffd_open(0), status;

	if (uffd < 0) {
		fprintf(stderr, "testvmm: userfaultfd: %s\n", strerror(-uffd));
		return VMM_REFUSED;
	}
	if (attach(v, uffd) < 0) {
		close(uffd);
		return VMM_REFUSED;
	}
	status = run(v);
	/* vCPUs may still wait for memory when it went wrong: they keep their userfaultfd. */
	if (status == VMM_OK) {
		postcopy_close(v->handle, POSTCOPY_CLOSE_FORCE);
		close(uffd);
	}
	driven_event("exit", "%d", status);
	return status;
}
