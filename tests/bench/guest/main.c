/* SPDX-License-Identifier: Apache-2.0 */
/* bench-guest: command line; the roles are in source.c and destination.c. */
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "guest/guest.h"

static const char usage_text[] =
        "usage: bench-guest source|destination --id UUID --token-file FILE --socket PATH\n"
        "  --memory anon|memfd|memfd-minor|hugetlb-2m|hugetlb-2m-minor|hugetlb-1g\n"
        "  --size BYTES\n"
        "  --regions N         of the same size, SIZE together (default 1)\n"
        "  --zero-percent N    of the pages\n"
        "  --uffds N           destination: spread over the regions (default 1)\n"
        "  --split             destination: the regions over the uffds by libpostcopy\n"
        "  --hot-percent N     destination: of the guest, at its start, that is touched (default "
        "100)\n"
        "  --peer-identity SAN source: of the destination's certificate\n"
        "  --alias             source: all regions are the same memory\n"
        "  --huge              source: in transparent huge pages; destination: able to be\n";

enum guest_option {
	OPT_ID = 256,
	OPT_TOKEN_FILE,
	OPT_SOCKET,
	OPT_MEMORY,
	OPT_SIZE,
	OPT_REGIONS,
	OPT_ZERO_PERCENT,
	OPT_UFFDS,
	OPT_SPLIT,
	OPT_HOT_PERCENT,
	OPT_PEER_IDENTITY,
	OPT_ALIAS,
	OPT_HUGE,
};

static const struct option options[] = {
        {"id", required_argument, NULL, OPT_ID},
        {"token-file", required_argument, NULL, OPT_TOKEN_FILE},
        {"socket", required_argument, NULL, OPT_SOCKET},
        {"memory", required_argument, NULL, OPT_MEMORY},
        {"size", required_argument, NULL, OPT_SIZE},
        {"regions", required_argument, NULL, OPT_REGIONS},
        {"zero-percent", required_argument, NULL, OPT_ZERO_PERCENT},
        {"uffds", required_argument, NULL, OPT_UFFDS},
        {"split", no_argument, NULL, OPT_SPLIT},
        {"hot-percent", required_argument, NULL, OPT_HOT_PERCENT},
        {"peer-identity", required_argument, NULL, OPT_PEER_IDENTITY},
        {"alias", no_argument, NULL, OPT_ALIAS},
        {"huge", no_argument, NULL, OPT_HUGE},
        {NULL, 0, NULL, 0},
};

static int take_number(unsigned *number, unsigned min, unsigned max)
{
	*number = (unsigned)strtoul(optarg, NULL, 0);
	return *number >= min && *number <= max ? 0 : -EINVAL;
}

static int take_option(struct guest *g, int option)
{
	switch (option) {
	case OPT_ID:
		return postcopy_uuid_parse(optarg, g->driven.migration_id);
	case OPT_TOKEN_FILE:
		return driven_token_read(&g->driven, optarg);
	case OPT_SOCKET:
		return g->driven.socket_path = optarg, 0;
	case OPT_MEMORY:
		return guest_memory_parse(optarg, &g->memory);
	case OPT_SIZE:
		return g->size = strtoull(optarg, NULL, 0), 0;
	case OPT_REGIONS:
		return take_number(&g->n_regions, 1, GUEST_REGIONS_MAX);
	case OPT_ZERO_PERCENT:
		return take_number(&g->zero_percent, 0, 100);
	case OPT_UFFDS:
		return take_number(&g->n_uffds, 1, POSTCOPY_UFFDS_MAX);
	case OPT_SPLIT:
		return g->driven.attach_flags |= POSTCOPY_ATTACH_SPLIT, 0;
	case OPT_HOT_PERCENT:
		return take_number(&g->hot_percent, 1, 100);
	case OPT_PEER_IDENTITY:
		return g->driven.peer_identity = optarg, 0;
	case OPT_ALIAS:
		return g->alias = true, 0;
	case OPT_HUGE:
		return g->huge = true, 0;
	default:
		return -EINVAL;
	}
}

static int parse_command_line(struct guest *g, int argc, char **argv)
{
	int option;

	if (argc < 2 || (strcmp(argv[1], "source") && strcmp(argv[1], "destination")))
		return -EINVAL;
	g->destination = !strcmp(argv[1], "destination");
	optind = 2;
	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1)
		if (take_option(g, option) < 0)
			return fprintf(stderr, "bench-guest: bad value or option: %s\n",
			               argv[optind - 1]),
			       -EINVAL;
	return optind == argc && g->driven.token_len && guest_region_bytes(g) ? 0 : -EINVAL;
}

int main(int argc, char **argv)
{
	struct guest g = {.n_regions = 1,
	                  .n_uffds = 1,
	                  .hot_percent = 100,
	                  .driven.attach_timeout_ms = 60000};

	if (parse_command_line(&g, argc, argv) < 0)
		return fputs(usage_text, stderr), 2;
	/* A driver that was killed leaves nobody behind. */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (guest_memory_map(&g) < 0)
		return 77;
	return g.destination ? guest_destination_run(&g) : guest_source_run(&g);
}
