/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Promises of probe: it finds out by trying on this very kernel, it survives
 * whatever happens meanwhile, and for each thing that is missing it names the
 * remedy.
 */
#include "unit/ctl_fake.h"

#include <signal.h>

#include "core/uffd_abi.h"
#include "core/uffd_open.h"
#include "ctl/probe.h"

/* CTest shall count a program that could not test everything as skipped, not as passed. */
static bool skipped;

/* Runs on any kernel: what probe says must agree with the feature bit. */
static void test_this_kernel(void **state)
{
	_cleanup_close_ int uffd = uffd_open();
	struct probe_facts facts;
	uint64_t features;

	(void)state;
	if (uffd < 0) {
		print_message("no userfaultfd: %s\n", strerror(-uffd));
		skipped = true;
		skip();
	}
	assert_int_equal(uffd_negotiate(uffd, 0, &features), 0);
	for (int memory = PROBE_ANONYMOUS; memory <= PROBE_MEMFD; memory++) {
		probe_memory_try((enum probe_memory)memory, &facts);
		assert_int_equal(facts.map_error, 0);
		assert_int_equal(facts.uffd_error, 0);
		assert_int_equal(facts.signal, 0);
		assert_int_equal(facts.advertised, (features & UFFD_FEATURE_POISON) != 0);
		if (!facts.advertised) {
			assert_int_not_equal(facts.poison_error, 0);
			continue;
		}
		assert_int_equal(facts.poison_error, 0);
		assert_true(facts.sigbus);
		/* BUS_ADRERR: a kernel without CONFIG_MEMORY_FAILURE. */
		assert_true(facts.sigbus_code == BUS_MCEERR_AR || facts.sigbus_code == BUS_ADRERR);
		if (facts.sigbus_code == BUS_MCEERR_AR)
			assert_int_equal(facts.sigbus_lsb, 12);
		/* The reason why the daemons never let COPY run over POISON. */
		assert_int_equal(facts.copy_error, 0);
	}
	/* With or without a free huge page: an answer, not a crash. */
	probe_memory_try(PROBE_HUGETLB, &facts);
	assert_int_equal(facts.signal, 0);
}

static void test_command(void **state)
{
	struct output o;
	struct probe_report report;

	(void)state;
	probe_run_all(&report);
	run(&o, WORDS("probe"));
	assert_int_equal(WEXITSTATUS(o.status), report.poison_works ? EXIT_OK : EXIT_REFUSED);
	assert_non_null(strstr(o.out, "anonymous\n  UFFDIO_POISON"));
	assert_non_null(strstr(o.out, "memfd\n"));
	assert_non_null(strstr(o.out, "hugetlb-2M\n"));
	run(&o, WORDS("probe", "--json"));
	assert_non_null(strstr(o.out, "\"copy_overwrites_poison\""));
}

static void test_words(void **state)
{
	static const struct {
		enum probe_memory memory;
		struct probe_facts facts;
		const char *poison;
		const char *sigbus;
		const char *copy;
		const char *remedy;
	} cases[] = {
	        {PROBE_ANONYMOUS,
	         {.advertised = true,
	          .sigbus = true,
	          .sigbus_code = BUS_MCEERR_AR,
	          .sigbus_lsb = 12},
	         "yes",
	         "BUS_MCEERR_AR, si_addr_lsb 12",
	         "yes",
	         ""},
	        {PROBE_MEMFD,
	         {.advertised = true,
	          .sigbus = true,
	          .sigbus_code = BUS_ADRERR,
	          .copy_error = EEXIST},
	         "yes",
	         "BUS_ADRERR",
	         "no: File exists",
	         "CONFIG_MEMORY_FAILURE"},
	        {PROBE_MEMFD,
	         {.poison_error = EINVAL},
	         "no: kernel 6.1.0 does not have it",
	         "",
	         "",
	         "kernel-patches/"},
	        {PROBE_MEMFD, {.poison_error = EINVAL}, "no", "", "", "6.6"},
	        {PROBE_MEMFD,
	         {.advertised = true, .poison_error = ENOMEM},
	         "no: advertised, but Cannot allocate",
	         "",
	         "",
	         ""},
	        {PROBE_MEMFD, {.advertised = true}, "could be read", "", "", "defective"},
	        {PROBE_HUGETLB,
	         {.map_error = ENOMEM},
	         "not tested: no 2 MiB huge page",
	         "",
	         "",
	         "vm.nr_hugepages"},
	        {PROBE_ANONYMOUS,
	         {.uffd_error = EPERM},
	         "not tested: userfaultfd: Operation not permitted",
	         "",
	         "",
	         ""},
	        {PROBE_ANONYMOUS, {.signal = SIGALRM}, "signal 14", "", "", ""},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct control_probe_result r;

		probe_describe(cases[i].memory, &cases[i].facts, "6.1.0", &r);
		assert_non_null(strstr(r.poison, cases[i].poison));
		assert_non_null(strstr(r.sigbus, cases[i].sigbus));
		assert_non_null(strstr(r.copy_overwrites_poison, cases[i].copy));
		assert_non_null(strstr(r.remedy, cases[i].remedy));
	}
}

static void test_permission_remedies(void **state)
{
	struct probe_report r = {0};

	(void)state;
	probe_describe_permission(0, EPERM, "vmm", &r);
	assert_string_equal(r.remedy, "");
	probe_describe_permission(ENOENT, 0, "vmm", &r);
	assert_string_equal(r.remedy, "");
	probe_describe_permission(EACCES, EPERM, "vmm", &r);
	assert_non_null(strstr(r.remedy, "setfacl -m u:vmm:rw /dev/userfaultfd"));
	assert_non_null(strstr(r.remedy, "udevadm trigger"));
	probe_describe_permission(ENOENT, EPERM, "vmm", &r);
	assert_non_null(strstr(r.remedy, "sysctl vm.unprivileged_userfaultfd=1"));
	probe_describe_permission(ENOENT, ENOSYS, "vmm", &r);
	assert_non_null(strstr(r.remedy, "CONFIG_USERFAULTFD"));
}

/* As a user who may nothing: it says so, and what to do, and exits 1. */
static void test_unprivileged_user(void **state)
{
	struct output o;
	pid_t pid;
	int status;

	(void)state;
	if (geteuid() != 0) {
		print_message("not root: cannot become another user\n");
		skipped = true;
		skip();
	}
	pid = fork();
	if (pid == 0) {
		if (setgid(65534) < 0 || setuid(65534) < 0)
			_exit(100);
		if (uffd_open() >= 0)
			_exit(101); /* this host lets anybody */
		run(&o, WORDS("probe"));
		_exit(WEXITSTATUS(o.status) == EXIT_REFUSED && strstr(o.out, "remedy") &&
		                      strstr(o.out, "not tested: userfaultfd")
		              ? 0
		              : 1);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (WEXITSTATUS(status) == 101) {
		print_message("this host gives everybody a userfaultfd\n");
		skipped = true;
		skip();
	}
	assert_int_equal(status, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_this_kernel),
	        cmocka_unit_test(test_command),
	        cmocka_unit_test(test_words),
	        cmocka_unit_test(test_permission_remedies),
	        cmocka_unit_test(test_unprivileged_user),
	};

	int failed = cmocka_run_group_tests(tests, NULL, NULL);

	return failed == 0 && skipped ? 77 : failed;
}
