/* SPDX-License-Identifier: Apache-2.0 */
/* The table of subcommands, and what it drives: parsing, help, dispatch. */
#include "ctl/command.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/cleanup.h"

#define DAEMON_SOCKET "/run/postcopyd/control.sock"
#define SOURCE_SOCKET "/run/postcopy-sourced/control.sock"

#define OPTION_JSON                        \
	{                                  \
		"json", NULL, "print JSON" \
	}
#define OPTION_TOKEN_FILE                                                                \
	{                                                                                \
		"token-file", "FILE", "the migration's secret in hexadecimal; see token" \
	}
#define OPTION_PEER                                                                              \
	{                                                                                        \
		"peer", "IDENTITY", "the name (SAN) that the other host's certificate must have" \
	}
#define OPTION_FORCE                                                                           \
	{                                                                                      \
		"force", NULL, "although the guest would lose the memory it does not have yet" \
	}

/* clang-format off */
static const struct command commands[] = {
	{"start", "ID", 1, 1, false, false, "receive a migration", {
		{"source", "HOST:PORT", "where postcopy-sourced listens"},
		OPTION_PEER,
		OPTION_TOKEN_FILE,
		{"lost-policy", "POLICY", "when the source is lost for good: hold (default), poison or kill"},
		{"lost-deadline", "TIME", "how long to wait for it before poison or kill, like 30s"},
		{"bandwidth", "BYTES", "limit of the background stream a second, like 100M"},
		{"firecracker-socket", "PATH", "make a socket at which Firecracker calls"},
		{"stop-on-poison", NULL, "without UFFDIO_POISON: stop the guest at a poisoned page"},
	}, plain_run},
	{"list", "", 0, 0, false, false, "list migrations or exports", {OPTION_JSON}, list_run},
	{"show", "ID", 1, 1, false, false, "show one, with its poisoned pages", {OPTION_JSON}, show_run},
	{"watch", "[ID]", 0, 1, false, false, "follow the progress until the end", {
		{"interval", "TIME", "between updates, default 1s"},
	}, watch_run},
	{"cancel", "ID", 1, 1, false, false, "end a migration or an export", {OPTION_FORCE}, plain_run},
	{"poison", "ID GPA[+LENGTH]...", 2, -1, false, false,
	 "say that guest memory is lost (default LENGTH 4096)", {{0}}, plain_run},
	{"recover", "ID", 1, 1, false, false, "connect to the source again", {
		{"source", "HOST:PORT", "at another address"},
	}, plain_run},
	{"set-limits", "ID", 1, 1, false, false, "change the limits of a migration", {
		{"bandwidth", "BYTES", "a second, 0 for no limit"},
	}, plain_run},
	{"export", "ID NAME=GPA:ADDRESS:LENGTH[:PAGESIZE]...", 2, -1, true, false,
	 "on the source: export memory of a process", {
		{"pid", "PID", "the process"},
		OPTION_TOKEN_FILE,
		OPTION_PEER,
	}, plain_run},
	{"export-file", "ID NAME=GPA:OFFSET:LENGTH[:PAGESIZE]...", 2, -1, true, false,
	 "on the source: serve memory from a snapshot's file", {
		{"file", "PATH", "the memory file, which nobody writes any more"},
		{"poisoned", "FILE", "what was lost before: a line GPA[+LENGTH] for each range"},
		OPTION_TOKEN_FILE,
		OPTION_PEER,
	}, export_file_run},
	{"freeze", "ID", 1, 1, true, false, "on the source: the guest stands still, serve its memory",
	 {{0}}, plain_run},
	{"qemu-migrate", "[ID]", 0, 1, false, false, "move a running QEMU guest to another host", {
		{"source", "HOST:PORT", "where the source host's postcopy-sourced listens"},
		{"peer", "IDENTITY", "the name (SAN) in the source host's certificate"},
		{"destination-peer", "IDENTITY", "the name (SAN) in the destination host's certificate"},
		{"source-qmp", "PATH", "the monitor of the source's QEMU"},
		{"source-preload", "PATH", "its libpostcopy-qemu.so's socket"},
		{"destination-qmp", "PATH", "the monitor of the destination's QEMU"},
		{"destination-preload", "PATH", "its libpostcopy-qemu.so's socket"},
		{"uri", "URI", "for the device state, as QEMU's migrate takes it"},
		{"attach-socket", "PATH", "postcopyd's, where the destination's QEMU finds it"},
		{"export-socket", "PATH", "postcopy-sourced's, where the source's QEMU finds it"},
		OPTION_TOKEN_FILE,
		{"lost-policy", "POLICY", "as for start"},
		{"lost-deadline", "TIME", "as for start"},
		{"bandwidth", "BYTES", "as for start"},
		{"stop-on-poison", NULL, "as for start"},
		{"timeout", "TIME", "for each step, default 60s"},
		{"wait", NULL, "until all of the guest's memory has come"},
	}, qemu_migrate_run},
	{"probe", "", 0, 0, false, true, "test what this kernel and user can do", {
		OPTION_JSON,
		{"daemon", NULL, "ask postcopyd for its own results"},
	}, probe_run},
	{"token", "[FILE]", 0, 1, false, true, "make a random secret, in FILE (mode 0600) or on stdout",
	 {{0}}, token_run},
	{"new-id", "", 0, 0, false, true, "print a random migration ID", {{0}}, new_id_run},
};
/* clang-format on */

enum exit_code command_fail(enum exit_code code, const struct error *err)
{
	fprintf(stderr, "postcopyctl: %s\n", err->text);
	return code;
}

static const struct command *command_find(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
		if (strcmp(commands[i].name, name) == 0)
			return &commands[i];
	return NULL;
}

static size_t command_n_options(const struct command *c)
{
	size_t n = 0;

	while (n < COMMAND_OPTIONS_MAX && c->options[n].name)
		n++;
	return n;
}

const char *invocation_value(const struct invocation *inv, const char *name)
{
	for (size_t i = 0; i < command_n_options(inv->command); i++)
		if (strcmp(inv->command->options[i].name, name) == 0)
			return inv->values[i];
	return NULL;
}

enum {
	KEY_SOCKET = 1000,
	KEY_HELP,
};

static const struct option common_options[] = {
        {"socket", required_argument, NULL, KEY_SOCKET},
        {"help", no_argument, NULL, KEY_HELP},
};

static int getopt_fail(int key, char **argv, struct error *err)
{
	return error_set(err, -EINVAL, "%s %s; see postcopyctl --help",
	                 key == ':' ? "a value is missing after" : "there is no option",
	                 argv[optind - 1]);
}

/* Options of the command and the common ones, mixed with operands. */
static int command_parse(int argc, char **argv, struct invocation *inv, struct error *err)
{
	const struct command *c = inv->command;
	struct option options[COMMAND_OPTIONS_MAX + ARRAY_SIZE(common_options) + 1] = {0};
	size_t n = command_n_options(c);
	int key;

	for (size_t i = 0; i < n; i++)
		options[i] = (struct option){c->options[i].name, c->options[i].value ? 1 : 0, NULL,
		                             (int)i + 1};
	memcpy(options + n, common_options, sizeof(common_options));
	optind = 0; /* glibc: start anew */
	while ((key = getopt_long(argc, argv, ":", options, NULL)) != -1) {
		if (key == KEY_SOCKET)
			inv->socket_path = optarg;
		else if (key == KEY_HELP)
			inv->help = true;
		else if (key == ':' || key == '?')
			return getopt_fail(key, argv, err);
		else
			inv->values[key - 1] = optarg ? optarg : "";
	}
	inv->operands = argv + optind;
	inv->n_operands = argc - optind;
	if (inv->help)
		return 0;
	if (inv->n_operands < c->min_operands ||
	    (c->max_operands >= 0 && inv->n_operands > c->max_operands))
		return error_set(err, -EINVAL, "%d operands; usage: postcopyctl %s [OPTION]... %s",
		                 inv->n_operands, c->name, c->operands);
	return 0;
}

static const char *socket_default(const struct command *c)
{
	const char *path = getenv("POSTCOPY_SOCKET");

	if (path && *path)
		return path;
	return c->for_source ? SOURCE_SOCKET : DAEMON_SOCKET;
}

int invocation_parse(int argc, char **argv, struct invocation *ret, struct error *err)
{
	struct option options[ARRAY_SIZE(common_options) + 1] = {0};
	struct invocation inv = {0};
	int key, r;

	memcpy(options, common_options, sizeof(common_options));
	memset(ret, 0, sizeof(*ret));
	optind = 0;
	while ((key = getopt_long(argc, argv, "+:", options, NULL)) != -1) {
		if (key == KEY_SOCKET)
			inv.socket_path = optarg;
		else if (key == KEY_HELP)
			inv.help = true;
		else
			return getopt_fail(key, argv, err);
	}
	if (inv.help) {
		*ret = inv;
		return 0;
	}
	if (optind >= argc)
		return error_set(err, -EINVAL, "no command; see postcopyctl --help");
	inv.command = command_find(argv[optind]);
	if (!inv.command)
		return error_set(err, -EINVAL, "there is no command %s; see postcopyctl --help",
		                 argv[optind]);
	r = command_parse(argc - optind, argv + optind, &inv, err);
	if (r < 0)
		return r;
	if (!inv.socket_path)
		inv.socket_path = socket_default(inv.command);
	*ret = inv;
	return 0;
}

static void help_print(void)
{
	puts("Usage: postcopyctl [--socket PATH] COMMAND [OPTION]... [OPERAND]...\n"
	     "Controls postcopyd and postcopy-sourced.\n\nCommands:");
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
		printf("  %-12s %s\n", commands[i].name, commands[i].summary);
	puts("\n\"postcopyctl COMMAND --help\" tells a command's options.\n"
	     "ID is a migration's UUID. PATH is $POSTCOPY_SOCKET or " DAEMON_SOCKET "\n"
	     "when it is not given (for export and freeze: " SOURCE_SOCKET ").\n"
	     "Exit status: 0 done, 1 refused or failed, 2 wrong usage, 3 no daemon reached.");
}

static void option_print(const char *name, const char *value, const char *help)
{
	char left[40];

	snprintf(left, sizeof(left), "--%s%s%s", name, value ? " " : "", value ? value : "");
	printf("  %-24s %s\n", left, help);
}

static void command_help_print(const struct command *c)
{
	printf("Usage: postcopyctl %s [OPTION]... %s\n%s\n\n", c->name, c->operands, c->summary);
	for (size_t i = 0; i < command_n_options(c); i++)
		option_print(c->options[i].name, c->options[i].value, c->options[i].help);
	if (!c->local || strcmp(c->name, "probe") == 0)
		option_print("socket", "PATH", "the daemon's control socket");
	option_print("help", NULL, "print this text");
}

enum exit_code postcopyctl(int argc, char **argv)
{
	struct invocation inv;
	struct error err = {0};

	if (argc == 2 && strcmp(argv[1], "--version") == 0) {
		puts("postcopyctl " PROJECT_VERSION);
		return EXIT_OK;
	}
	if (invocation_parse(argc, argv, &inv, &err) < 0)
		return command_fail(EXIT_USAGE, &err);
	if (inv.help) {
		if (inv.command)
			command_help_print(inv.command);
		else
			help_print();
		return EXIT_OK;
	}
	return inv.command->run(&inv);
}
