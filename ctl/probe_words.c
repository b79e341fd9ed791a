/* SPDX-License-Identifier: Apache-2.0 */
/* What probe found, in words, and the exact remedy. Pure; called by probe.c and tests. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "ctl/probe.h"

static const char *const memory_names[] = {
        [PROBE_ANONYMOUS] = "anonymous",
        [PROBE_MEMFD] = "memfd",
        [PROBE_HUGETLB] = "hugetlb-2M",
};

static const char *sigbus_name(int code)
{
	switch (code) {
	case BUS_MCEERR_AR:
		return "BUS_MCEERR_AR";
	case BUS_MCEERR_AO:
		return "BUS_MCEERR_AO";
	case BUS_ADRERR:
		return "BUS_ADRERR";
	case BUS_OBJERR:
		return "BUS_OBJERR";
	default:
		return "another code";
	}
}

static void describe_untested(enum probe_memory memory, const struct probe_facts *f,
                              struct control_probe_result *ret)
{
	if (f->signal) {
		snprintf(ret->poison, sizeof(ret->poison),
		         "not tested: the test died of signal %d (%s)", f->signal,
		         strsignal(f->signal));
		return;
	}
	if (f->uffd_error) {
		snprintf(ret->poison, sizeof(ret->poison), "not tested: userfaultfd: %s",
		         strerror(f->uffd_error));
		return;
	}
	if (memory != PROBE_HUGETLB) {
		snprintf(ret->poison, sizeof(ret->poison), "not tested: no memory: %s",
		         strerror(f->map_error));
		return;
	}
	if (f->map_error == ENOMEM) {
		snprintf(ret->poison, sizeof(ret->poison),
		         "not tested: no 2 MiB huge page is free");
		snprintf(ret->remedy, sizeof(ret->remedy),
		         "if guests use huge pages: sysctl vm.nr_hugepages=NUMBER (1 for this "
		         "test)");
		return;
	}
	snprintf(ret->poison, sizeof(ret->poison), "not tested: no 2 MiB hugetlb memory: %s",
	         strerror(f->map_error));
}

static void describe_no_poison(const struct probe_facts *f, const char *release,
                               struct control_probe_result *ret)
{
	if (f->advertised)
		snprintf(ret->poison, sizeof(ret->poison), "no: advertised, but %s",
		         strerror(f->poison_error));
	else
		snprintf(ret->poison, sizeof(ret->poison), "no: kernel %s does not have it",
		         release);
	snprintf(
	        ret->remedy, sizeof(ret->remedy),
	        "run Linux 6.6 or later, or kernel 6.1 with the series in kernel-patches/; without "
	        "either, start migrations with --stop-on-poison");
}

static void describe_access(const struct probe_facts *f, const char *release,
                            struct control_probe_result *ret)
{
	if (!f->sigbus) {
		snprintf(ret->poison, sizeof(ret->poison),
		         "no: accepted, but the page could be read afterwards");
		snprintf(ret->remedy, sizeof(ret->remedy),
		         "kernel %s is defective; run another one", release);
		return;
	}
	snprintf(ret->poison, sizeof(ret->poison), "yes");
	snprintf(ret->sigbus, sizeof(ret->sigbus), "%s, si_addr_lsb %d",
	         sigbus_name(f->sigbus_code), f->sigbus_lsb);
	if (f->sigbus_code != BUS_MCEERR_AR)
		snprintf(ret->remedy, sizeof(ret->remedy),
		         "VMMs take only BUS_MCEERR_AR for a memory error: run a kernel with "
		         "CONFIG_MEMORY_FAILURE=y");
}

void probe_describe(enum probe_memory memory, const struct probe_facts *f, const char *release,
                    struct control_probe_result *ret)
{
	memset(ret, 0, sizeof(*ret));
	snprintf(ret->memory, sizeof(ret->memory), "%s", memory_names[memory]);
	if (f->signal || f->map_error || f->uffd_error) {
		describe_untested(memory, f, ret);
		return;
	}
	if (f->poison_error) {
		describe_no_poison(f, release, ret);
		return;
	}
	describe_access(f, release, ret);
	if (f->copy_error == 0)
		snprintf(ret->copy_overwrites_poison, sizeof(ret->copy_overwrites_poison), "yes");
	else
		snprintf(ret->copy_overwrites_poison, sizeof(ret->copy_overwrites_poison), "no: %s",
		         strerror(f->copy_error));
}

static const char *permission_word(int error)
{
	return error == 0 ? "yes" : strerror(error);
}

void probe_describe_permission(int device_error, int syscall_error, const char *user,
                               struct probe_report *ret)
{
	snprintf(ret->userfaultfd, sizeof(ret->userfaultfd),
	         "/dev/userfaultfd: %s; system call: %s", permission_word(device_error),
	         permission_word(syscall_error));
	ret->remedy[0] = '\0';
	if (device_error == 0 || syscall_error == 0)
		return;
	if (syscall_error == ENOSYS)
		snprintf(ret->remedy, sizeof(ret->remedy),
		         "run a kernel with CONFIG_USERFAULTFD=y");
	else if (device_error == EACCES || device_error == EPERM)
		snprintf(ret->remedy, sizeof(ret->remedy),
		         "setfacl -m u:%s:rw /dev/userfaultfd (until the next boot), or for good: "
		         "echo "
		         "'KERNEL==\"userfaultfd\", GROUP=\"kvm\", MODE=\"0660\"' > "
		         "/etc/udev/rules.d/60-userfaultfd.rules; udevadm trigger; usermod -aG kvm "
		         "%s",
		         user, user);
	else
		snprintf(ret->remedy, sizeof(ret->remedy),
		         "sysctl vm.unprivileged_userfaultfd=1 (there is no usable "
		         "/dev/userfaultfd)");
}
