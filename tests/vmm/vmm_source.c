/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The source's role: start the guest, export its memory while it runs, and upon
 * "stop" take the vCPUs out wherever they are, save them, let memory really
 * fail, and freeze. Then stay until the destination has everything.
 *
 * Takes from stdin: "fail" (pages fail while the guest runs), "stop", and "late"
 * (pages fail while the guest runs on the destination).
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "vmm/vmm.h"

/* The pages first..end-1 of the plan. */
static int pages_fail(const struct vmm *v, const char *event, size_t first, size_t end)
{
	for (size_t i = first; i < end; i++) {
		uint64_t page = v->plan->pages[i].page;
		int ret = vmm_memory_fail(&v->memory, page);

		if (ret < 0) {
			fprintf(stderr, "testvmm: MADV_HWPOISON: %s\n", strerror(-ret));
			return ret;
		}
	}
	driven_event(event, "%zu", end - first);
	return 0;
}

static int state_write(const struct vmm *v, FILE *file)
{
	int ret = 0;

	for (unsigned i = 0; i < v->machine->n_vcpus && ret == 0; i++) {
		ret = kvm_vcpu_save(&v->machine->vcpus[i], file);
		if (ret == 0)
			driven_event("saved", "vCPU %u rip %#llx", i,
			             kvm_vcpu_rip(&v->machine->vcpus[i]));
	}
	if (ret == 0 && fwrite(v->console.line, sizeof(v->console.line), 1, file) != 1)
		ret = -EIO;
	return ret;
}

static int state_save(const struct vmm *v)
{
	FILE *file = fopen(v->state_path, "wbe");
	int ret = file ? state_write(v, file) : -errno;

	if (file && fclose(file) < 0 && ret == 0)
		ret = -errno;
	if (ret < 0)
		fprintf(stderr, "testvmm: saving the state: %s\n", strerror(-ret));
	return ret;
}

/* A page that is healthy in the plan, for the tests' own test. */
static void memory_sabotage(const struct vmm *v)
{
	struct poison_region region = vmm_memory_poison(&v->memory);
	uint64_t page = vmm_memory_walk_pages(&v->memory) / 3;

	while (poison_plan_expect(v->plan, &region, 0, page) != POISON_NONE)
		page++;
	if (v->sabotage == SABOTAGE_CHANGED_PAGE)
		v->memory.address[vmm_page_gpa(page) + GUEST_PAGE / 2] ^= 1;
	if (v->sabotage == SABOTAGE_ZERO_PAGE)
		memset(v->memory.address + vmm_page_gpa(page), 0, GUEST_PAGE);
}

static int stop(struct vmm *v)
{
	int ret = vcpu_run_stop(v->vcpus);

	if (ret < 0) {
		fprintf(stderr, "testvmm: a vCPU had ended by itself\n");
		return ret;
	}
	driven_event("stopped", "%u", v->machine->n_vcpus);
	driven_event("machine-checks", "%llu",
	             (unsigned long long)vcpu_run_machine_checks(v->vcpus));
	memory_sabotage(v);
	ret = state_save(v);
	if (ret == 0)
		ret = pages_fail(v, "failed", v->n_running, v->plan->n_initial);
	if (ret < 0)
		return ret;
	ret = driven_freeze(v->handle);
	if (ret == 0)
		driven_event("frozen", "1");
	return ret;
}

static int obey(struct vmm *v, const char *word)
{
	if (!strcmp(word, "fail"))
		return pages_fail(v, "failed-running", 0, v->n_running);
	if (!strcmp(word, "stop"))
		return stop(v);
	if (!strcmp(word, "late"))
		return pages_fail(v, "failed-late", v->plan->n_initial, v->plan->n_pages);
	fprintf(stderr, "testvmm: what is \"%s\"?\n", word);
	return -EINVAL;
}

static int obey_stdin(struct vmm *v, struct pollfd *pfd)
{
	char buf[256], *save = NULL;
	ssize_t n = read(STDIN_FILENO, buf, sizeof(buf) - 1);
	int ret = 0;

	if (n <= 0) {
		pfd->fd = -1; /* nobody will say anything any more: wait for the agent */
		return 0;
	}
	buf[n] = '\0';
	for (char *word = strtok_r(buf, " \n", &save); word && ret == 0;
	     word = strtok_r(NULL, " \n", &save))
		ret = obey(v, word);
	return ret;
}

/* True when the export has ended, and how in *ret_status. */
static bool export_ended(struct vmm *v, int *ret_status)
{
	struct postcopy_status status;
	int ret = postcopy_process(v->handle);

	postcopy_get_status(v->handle, &status);
	if (ret)
		driven_event("state", "%s %s", ret < 0 ? strerror(-ret) : status.name, status.text);
	*ret_status = status.state == POSTCOPY_STATE_RELEASED ? VMM_OK : VMM_STATE;
	return ret < 0 || status.final;
}

static int serve(struct vmm *v)
{
	struct pollfd fds[3] = {
	        {.fd = STDIN_FILENO, .events = POLLIN},
	        {.fd = postcopy_fd(v->handle), .events = POLLIN},
	        {.fd = vcpu_run_ended_fd(v->vcpus), .events = POLLIN},
	};
	int status;

	while (!export_ended(v, &status)) {
		if (poll(fds, 3, -1) < 0 && errno != EINTR)
			return VMM_USAGE;
		/* Here the guest never comes to an end; when it was stopped, that is known. */
		if (fds[2].revents && !fds[0].revents)
			return VMM_WRONG;
		if (!fds[0].revents)
			continue;
		if (obey_stdin(v, &fds[0]) < 0)
			return VMM_REFUSED;
		if (vcpu_run_stopped(v->vcpus))
			fds[2].fd = -1;
	}
	return status;
}

static int export_memory(struct vmm *v)
{
	struct postcopy_region region = vmm_memory_region(&v->memory);
	int ret = driven_export(&v->driven, &region, 1, &v->handle);

	if (ret == 0)
		driven_event("exported", "%llu", (unsigned long long)v->memory.length);
	return ret;
}

int vmm_source_run(struct vmm *v)
{
	int ret = vmm_memory_load_guest(&v->memory, v->n_vcpus, v->seed);
	const struct guest_head *head;
	int status;

	head = (const struct guest_head *)(const void *)(v->memory.address + GUEST_LOAD);
	for (unsigned i = 0; i < v->n_vcpus && ret == 0; i++)
		ret = kvm_vcpu_boot(&v->machine->vcpus[i], head);
	if (ret < 0) {
		fprintf(stderr, "testvmm: boot: %s\n", strerror(-ret));
		return VMM_REFUSED;
	}
	/* Before the guest runs: a vCPU that meets a lost page reports it. */
	if (export_memory(v) < 0 || vcpu_run_start(v->vcpus) < 0)
		return VMM_REFUSED;
	status = serve(v);
	postcopy_close(v->handle, POSTCOPY_CLOSE_FORCE);
	driven_event("exit", "%d", status);
	return status;
}
