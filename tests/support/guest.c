/* SPDX-License-Identifier: Apache-2.0 */
/*
 * testguest: entry point and command line. The roles are in guest_source.c and
 * guest_destination.c. An alarm bounds every run: a fault that nobody answers
 * must end a test, not hang it.
 */
#include "support/guest.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char usage_text[] =
        "usage: testguest source|destination --id UUID --token-file FILE --region "
        "NAME:KIND:SIZE... "
        "[options]\n"
        "  KIND is memfd, memfd-minor, anon, hugetlb or hugetlb-minor\n"
        "  --socket PATH       export socket (source), attach socket (destination)\n"
        "  --seed N            of the memory's content and of the choice of lost pages\n"
        "  --packed            regions one after the other, without holes between them\n"
        "  --poison N          pages that are lost from the start\n"
        "  --late N            pages that turn lost while it runs\n"
        "  --timeout SECONDS   for the whole run (default 60)\n"
        "source, which takes \"freeze\", \"late\", \"withdraw\" and \"quit\" on stdin:\n"
        "  --peer-identity SAN of the destination's certificate\n"
        "  --read-poison       every second lost page is not reported: the agent must find it\n"
        "  --hwpoison          lost pages really fail (MADV_HWPOISON, for good); none is reported\n"
        "  --by-process        let the agent read memfds through the process, too\n"
        "  --freeze            freeze at once\n"
        "destination, which takes \"discard FIRST N\" (pages), \"replace FIRST N\", \"export\" and "
        "\"go\" on\n"
        "stdin when paused:\n"
        "  --threads N         that touch every page in random order (default 4)\n"
        "  --partition         each page by one thread only\n"
        "  --uffds N           spread over the regions (default 1)\n"
        "  --split N           over N userfaultfds, by libpostcopy\n"
        "  --registered        do UFFDIO_API and UFFDIO_REGISTER before the attach\n"
        "  --eager             touch memory before the source is frozen\n"
        "  --pause-after N     each thread stops after N pages until \"go\"\n"
        "  --relay-id UUID --relay-token-file FILE --relay-socket PATH --relay-peer SAN\n"
        "                      what \"export\" does: some pages are written anew, then it moves "
        "on\n"
        "  --rewritten         it comes from a host that did so\n"
        "  --any-poison        any page may be lost; none may be wrong\n"
        "  --firecracker N     as Firecracker v1.N, which says \"touched\" and awaits a word\n"
        "  --storm N           one page of N is given back while everything goes on\n"
        "  --balloon           with that, if it is an old version: tell of removals\n"
        "  --waits MS          tell of each touch that takes so long, and its end's time\n"
        "  --mapping-of PID    be no VMM, but a second process that maps the memory of this one\n"
        "  --other-file         with that: map a file of its own by mistake\n"
        "  --events             with --registered: all events of removals and moves are on\n"
        "  --moves N            memory is moved so often (mremap) while everything goes on\n"
        "  --move-parts         with that: always the same parts, so that they stay few\n"
        "  --stay               wait for \"go\" when the migration has completed\n"
        "  --collapse          list what is lost and make huge pages before the last check\n";

enum guest_option {
	OPT_ID = 256,
	OPT_TOKEN_FILE,
	OPT_REGION,
	OPT_SOCKET,
	OPT_SEED,
	OPT_POISON,
	OPT_LATE,
	OPT_TIMEOUT,
	OPT_PEER_IDENTITY,
	OPT_READ_POISON,
	OPT_HWPOISON,
	OPT_BY_PROCESS,
	OPT_FREEZE,
	OPT_THREADS,
	OPT_PARTITION,
	OPT_UFFDS,
	OPT_SPLIT,
	OPT_REGISTERED,
	OPT_EAGER,
	OPT_PAUSE_AFTER,
	OPT_ANY_POISON,
	OPT_WAITS,
	OPT_FIRECRACKER,
	OPT_BALLOON,
	OPT_STORM,
	OPT_PACKED,
	OPT_COLLAPSE,
	OPT_MAPPING_OF,
	OPT_OTHER_FILE,
	OPT_STAY,
	OPT_MOVES,
	OPT_MOVE_PARTS,
	OPT_EVENTS,
	OPT_RELAY_ID,
	OPT_RELAY_TOKEN_FILE,
	OPT_RELAY_SOCKET,
	OPT_RELAY_PEER,
	OPT_REWRITTEN,
};

static const struct option options[] = {
        {"id", required_argument, NULL, OPT_ID},
        {"token-file", required_argument, NULL, OPT_TOKEN_FILE},
        {"region", required_argument, NULL, OPT_REGION},
        {"socket", required_argument, NULL, OPT_SOCKET},
        {"seed", required_argument, NULL, OPT_SEED},
        {"poison", required_argument, NULL, OPT_POISON},
        {"late", required_argument, NULL, OPT_LATE},
        {"timeout", required_argument, NULL, OPT_TIMEOUT},
        {"peer-identity", required_argument, NULL, OPT_PEER_IDENTITY},
        {"read-poison", no_argument, NULL, OPT_READ_POISON},
        {"hwpoison", no_argument, NULL, OPT_HWPOISON},
        {"by-process", no_argument, NULL, OPT_BY_PROCESS},
        {"freeze", no_argument, NULL, OPT_FREEZE},
        {"threads", required_argument, NULL, OPT_THREADS},
        {"partition", no_argument, NULL, OPT_PARTITION},
        {"uffds", required_argument, NULL, OPT_UFFDS},
        {"split", required_argument, NULL, OPT_SPLIT},
        {"registered", no_argument, NULL, OPT_REGISTERED},
        {"eager", no_argument, NULL, OPT_EAGER},
        {"pause-after", required_argument, NULL, OPT_PAUSE_AFTER},
        {"any-poison", no_argument, NULL, OPT_ANY_POISON},
        {"waits", required_argument, NULL, OPT_WAITS},
        {"firecracker", required_argument, NULL, OPT_FIRECRACKER},
        {"storm", required_argument, NULL, OPT_STORM},
        {"balloon", no_argument, NULL, OPT_BALLOON},
        {"packed", no_argument, NULL, OPT_PACKED},
        {"collapse", no_argument, NULL, OPT_COLLAPSE},
        {"mapping-of", required_argument, NULL, OPT_MAPPING_OF},
        {"other-file", no_argument, NULL, OPT_OTHER_FILE},
        {"stay", no_argument, NULL, OPT_STAY},
        {"moves", required_argument, NULL, OPT_MOVES},
        {"move-parts", no_argument, NULL, OPT_MOVE_PARTS},
        {"events", no_argument, NULL, OPT_EVENTS},
        {"relay-id", required_argument, NULL, OPT_RELAY_ID},
        {"relay-token-file", required_argument, NULL, OPT_RELAY_TOKEN_FILE},
        {"relay-socket", required_argument, NULL, OPT_RELAY_SOCKET},
        {"relay-peer", required_argument, NULL, OPT_RELAY_PEER},
        {"rewritten", no_argument, NULL, OPT_REWRITTEN},
        {NULL, 0, NULL, 0},
};

static int take_option(struct guest *g, int option, const char *value)
{
	switch (option) {
	case OPT_ID:
		return postcopy_uuid_parse(value, g->driven.migration_id);
	case OPT_TOKEN_FILE:
		return driven_token_read(&g->driven, value);
	case OPT_REGION:
		return guest_region_parse(g, value);
	case OPT_SOCKET:
		return g->driven.socket_path = value, 0;
	case OPT_SEED:
		return g->seed = strtoull(value, NULL, 0), 0;
	case OPT_POISON:
		return g->n_poison = strtoul(value, NULL, 0), 0;
	case OPT_LATE:
		return g->n_late = strtoul(value, NULL, 0), 0;
	case OPT_TIMEOUT:
		return g->timeout_s = (unsigned)strtoul(value, NULL, 0), 0;
	case OPT_PEER_IDENTITY:
		return g->driven.peer_identity = value, 0;
	case OPT_READ_POISON:
		return g->read_poison = true, 0;
	case OPT_HWPOISON:
		return g->hwpoison = true, 0;
	case OPT_BY_PROCESS:
		return g->by_process = true, 0;
	case OPT_FREEZE:
		return g->auto_freeze = true, 0;
	case OPT_THREADS:
		return g->threads = (unsigned)strtoul(value, NULL, 0), g->threads ? 0 : -1;
	case OPT_PARTITION:
		return g->partition = true, 0;
	case OPT_SPLIT:
		g->driven.attach_flags |= POSTCOPY_ATTACH_SPLIT;
		/* fallthrough */
	case OPT_UFFDS:
		g->n_uffds = (unsigned)strtoul(value, NULL, 0);
		return g->n_uffds && g->n_uffds <= POSTCOPY_UFFDS_MAX ? 0 : -1;
	case OPT_REGISTERED:
		return g->registered = true, 0;
	case OPT_EAGER:
		return g->eager = true, 0;
	case OPT_PAUSE_AFTER:
		return g->pause_after = strtoull(value, NULL, 0), 0;
	case OPT_ANY_POISON:
		return g->any_poison = true, 0;
	case OPT_WAITS:
		return g->waits_ms = strtoull(value, NULL, 0), 0;
	case OPT_FIRECRACKER:
		return g->firecracker = (unsigned)strtoul(value, NULL, 0), g->firecracker ? 0 : -1;
	case OPT_STORM:
		return g->storm = (unsigned)strtoul(value, NULL, 0), g->storm ? 0 : -1;
	case OPT_BALLOON:
		return g->balloon = true, 0;
	case OPT_PACKED:
		return g->packed = true, 0;
	case OPT_COLLAPSE:
		return g->collapse = true, 0;
	case OPT_OTHER_FILE:
		return g->other_file = true, 0;
	case OPT_EVENTS:
		return g->events = true, 0;
	case OPT_MOVE_PARTS:
		return g->move_parts = true, 0;
	case OPT_MOVES:
		return g->moves = (unsigned)strtoul(value, NULL, 0), g->moves ? 0 : -1;
	case OPT_STAY:
		return g->stay = true, 0;
	case OPT_MAPPING_OF:
		g->mapping_of = (pid_t)strtol(value, NULL, 10);
		g->driven.attach_flags |= POSTCOPY_ATTACH_MAPPING;
		return g->mapping_of > 0 ? 0 : -1;
	case OPT_RELAY_ID:
		return postcopy_uuid_parse(value, g->relay.migration_id);
	case OPT_RELAY_TOKEN_FILE:
		return driven_token_read(&g->relay, value);
	case OPT_RELAY_SOCKET:
		return g->relay.socket_path = value, 0;
	case OPT_RELAY_PEER:
		return g->relay.peer_identity = value, 0;
	case OPT_REWRITTEN:
		return g->rewritten = true, 0;
	default:
		return -1;
	}
}

static int parse_command_line(struct guest *g, int argc, char **argv)
{
	int option;

	if (argc < 2 || (strcmp(argv[1], "source") && strcmp(argv[1], "destination")))
		return -1;
	g->destination = !strcmp(argv[1], "destination");
	optind = 2;
	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (take_option(g, option, optarg) < 0) {
			fprintf(stderr, "testguest: bad value or option: %s\n", argv[optind - 1]);
			return -1;
		}
	}
	return optind == argc && g->n_regions && g->driven.token_len ? 0 : -1;
}

static int make_plan(struct guest *g)
{
	struct poison_region regions[GUEST_REGIONS_MAX];

	for (size_t i = 0; i < g->n_regions; i++)
		regions[i] = guest_region_poison(&g->regions[i]);
	return poison_plan_new(regions, g->n_regions, g->seed, g->n_poison, g->n_late, &g->plan);
}

static int run(struct guest *g)
{
	if (!g->destination)
		return guest_source_run(g);
	return g->firecracker ? guest_firecracker_run(g) : guest_destination_run(g);
}

int main(int argc, char **argv)
{
	struct guest g = {.seed = 1, .threads = 4, .n_uffds = 1, .timeout_s = 60};
	int status;

	if (parse_command_line(&g, argc, argv) < 0) {
		fputs(usage_text, stderr);
		return GUEST_USAGE;
	}
	for (size_t i = 0; g.packed && i < g.n_regions; i++)
		g.regions[i].gpa = g.regions[i].first_page * PATTERN_PAGE;
	driven_time_limit(g.timeout_s);
	if (make_plan(&g) < 0)
		return GUEST_USAGE;
	status = guest_regions_map(&g);
	if (status < 0)
		return status == -ENOSPC ? GUEST_SKIP : GUEST_USAGE;
	if (g.moves && guest_moves_init(&g) < 0)
		return GUEST_USAGE;
	status = run(&g);
	poison_plan_free(g.plan);
	free(g.given_back);
	free((void *)g.page_at);
	return status;
}
