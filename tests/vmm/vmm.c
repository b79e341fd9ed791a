/* SPDX-License-Identifier: Apache-2.0 */
/*
 * testvmm: entry point and command line. An alarm bounds every run: a guest that
 * does not come to its end must end a test, not hang it.
 */
#include "vmm/vmm.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char usage_text[] =
        "usage: testvmm source|destination --id UUID --token-file FILE --memory KIND:MIB\n"
        "               --state FILE [options]\n"
        "  KIND is memfd, anon or hugetlb\n"
        "  --state FILE        where the source saves the vCPUs and the destination finds them\n"
        "  --socket PATH       export socket (source), attach socket (destination)\n"
        "  --vcpus N           each walks its part of the memory (default 1)\n"
        "  --seed N            of the memory's content and of the choice of lost pages\n"
        "  --poison N          pages that have failed when the source freezes\n"
        "  --running N         of these: pages that fail while the guest runs on the source\n"
        "  --late N            pages that fail while the guest runs on the destination\n"
        "  --timeout SECONDS   for the whole run (default 120)\n"
        "  --sabotage WHAT     a defect that the tests must find: no-injection, wrong-address\n"
        "                      (destination), changed-page, zero-page (source)\n"
        "source, which takes \"fail\", \"stop\" and \"late\" on stdin:\n"
        "  --peer-identity SAN of the destination's certificate\n";

enum vmm_option {
	OPT_ID = 256,
	OPT_TOKEN_FILE,
	OPT_MEMORY,
	OPT_STATE,
	OPT_SOCKET,
	OPT_VCPUS,
	OPT_SEED,
	OPT_POISON,
	OPT_RUNNING,
	OPT_LATE,
	OPT_TIMEOUT,
	OPT_SABOTAGE,
	OPT_PEER_IDENTITY,
};

static const struct option options[] = {
        {"id", required_argument, NULL, OPT_ID},
        {"token-file", required_argument, NULL, OPT_TOKEN_FILE},
        {"memory", required_argument, NULL, OPT_MEMORY},
        {"state", required_argument, NULL, OPT_STATE},
        {"socket", required_argument, NULL, OPT_SOCKET},
        {"vcpus", required_argument, NULL, OPT_VCPUS},
        {"seed", required_argument, NULL, OPT_SEED},
        {"poison", required_argument, NULL, OPT_POISON},
        {"running", required_argument, NULL, OPT_RUNNING},
        {"late", required_argument, NULL, OPT_LATE},
        {"timeout", required_argument, NULL, OPT_TIMEOUT},
        {"sabotage", required_argument, NULL, OPT_SABOTAGE},
        {"peer-identity", required_argument, NULL, OPT_PEER_IDENTITY},
        {NULL, 0, NULL, 0},
};

static int take_sabotage(struct vmm *v, const char *value)
{
	static const char *const names[] = {
	        [SABOTAGE_NONE] = "none",
	        [SABOTAGE_NO_INJECTION] = "no-injection",
	        [SABOTAGE_WRONG_ADDRESS] = "wrong-address",
	        [SABOTAGE_CHANGED_PAGE] = "changed-page",
	        [SABOTAGE_ZERO_PAGE] = "zero-page",
	};

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (!strcmp(value, names[i]))
			return v->sabotage = (enum vmm_sabotage)i, 0;
	return -EINVAL;
}

static int take_option(struct vmm *v, int option, const char *value)
{
	switch (option) {
	case OPT_ID:
		return postcopy_uuid_parse(value, v->driven.migration_id);
	case OPT_TOKEN_FILE:
		return driven_token_read(&v->driven, value);
	case OPT_MEMORY:
		return vmm_memory_parse(&v->memory, value);
	case OPT_STATE:
		return v->state_path = value, 0;
	case OPT_SOCKET:
		return v->driven.socket_path = value, 0;
	case OPT_VCPUS:
		v->n_vcpus = (unsigned)strtoul(value, NULL, 0);
		return v->n_vcpus && v->n_vcpus <= GUEST_VCPUS_MAX ? 0 : -EINVAL;
	case OPT_SEED:
		return v->seed = strtoull(value, NULL, 0), 0;
	case OPT_POISON:
		return v->n_poison = strtoul(value, NULL, 0), 0;
	case OPT_RUNNING:
		return v->n_running = strtoul(value, NULL, 0), 0;
	case OPT_LATE:
		return v->n_late = strtoul(value, NULL, 0), 0;
	case OPT_TIMEOUT:
		return v->timeout_s = (unsigned)strtoul(value, NULL, 0), 0;
	case OPT_SABOTAGE:
		return take_sabotage(v, value);
	case OPT_PEER_IDENTITY:
		return v->driven.peer_identity = value, 0;
	default:
		return -EINVAL;
	}
}

static int parse_command_line(struct vmm *v, int argc, char **argv)
{
	int option;

	if (argc < 2 || (strcmp(argv[1], "source") && strcmp(argv[1], "destination")))
		return -EINVAL;
	v->destination = !strcmp(argv[1], "destination");
	optind = 2;
	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (take_option(v, option, optarg) < 0) {
			fprintf(stderr, "testvmm: bad value or option: %s\n", argv[optind - 1]);
			return -EINVAL;
		}
	}
	return optind == argc && v->memory.length && v->driven.token_len && v->state_path ? 0
	                                                                                  : -EINVAL;
}

static int set_up(struct vmm *v)
{
	struct poison_region region = vmm_memory_poison(&v->memory);
	const char *what = NULL;
	int ret;

	console_setup(&v->console);
	if (poison_plan_new(&region, 1, v->seed, v->n_poison, v->n_late, &v->plan) < 0 ||
	    v->n_running > v->plan->n_initial)
		return VMM_USAGE;
	ret = vmm_memory_map(&v->memory);
	if (ret < 0) {
		fprintf(stderr, "SKIP: guest memory: %s\n", strerror(-ret));
		return VMM_SKIP;
	}
	ret = kvm_machine_new(v->memory.address, v->memory.length, v->n_vcpus, &v->machine, &what);
	if (ret < 0) {
		fprintf(stderr, "SKIP: no virtual machine here: %s: %s\n", what, strerror(-ret));
		return VMM_SKIP;
	}
	return vcpu_run_new(v, &v->vcpus) < 0 ? VMM_USAGE : VMM_OK;
}

int main(int argc, char **argv)
{
	struct vmm v = {.n_vcpus = 1, .timeout_s = 120};
	int status;

	if (parse_command_line(&v, argc, argv) < 0) {
		fputs(usage_text, stderr);
		return VMM_USAGE;
	}
	driven_time_limit(v.timeout_s);
	status = set_up(&v);
	if (status == VMM_OK)
		status = v.destination ? vmm_destination_run(&v) : vmm_source_run(&v);
	/* A vCPU that still runs, or waits for memory, uses all of this until the process ends. */
	if (status != VMM_OK)
		_exit(status);
	vcpu_run_free(v.vcpus);
	kvm_machine_free(v.machine);
	console_free(&v.console);
	poison_plan_free(v.plan);
	return status;
}
