/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Subcommands and their options: one table (command.c) drives parsing, help and
 * dispatch. A command sees its options by name and its operands.
 */
#ifndef CTL_COMMAND_H
#define CTL_COMMAND_H

#include <stdbool.h>
#include <stddef.h>

#include "core/error.h"

enum exit_code {
	EXIT_OK = 0,
	EXIT_REFUSED = 1,     /* the daemon, or the system, said no */
	EXIT_USAGE = 2,       /* wrong command line, nothing was done */
	EXIT_UNREACHABLE = 3, /* no daemon at the socket, or it went away */
};

#define COMMAND_OPTIONS_MAX 20

struct command_option {
	const char *name;  /* NULL ends a table */
	const char *value; /* what its value is called; NULL: it takes none */
	const char *help;
};

struct invocation;

struct command {
	const char *name;
	const char *operands; /* for the synopsis, "" for none */
	int min_operands;
	int max_operands; /* -1: any number */
	bool for_source;  /* by default it talks to postcopy-sourced */
	bool local;       /* talks to no daemon */
	const char *summary;
	struct command_option options[COMMAND_OPTIONS_MAX];
	enum exit_code (*run)(const struct invocation *inv);
};

struct invocation {
	const struct command *command;
	const char *socket_path;
	const char *values[COMMAND_OPTIONS_MAX]; /* NULL: not given; "": without a value */
	char **operands;
	int n_operands;
	bool help;
};

/*
 * Parse "postcopyctl [--socket PATH] COMMAND [OPTION]... [OPERAND]...". The
 * invocation points into argv. -EINVAL with a text; *ret is then zero.
 * command is NULL when only --help was asked for.
 */
int invocation_parse(int argc, char **argv, struct invocation *ret, struct error *err);

/* The option's value, NULL when it was not given. The name is of this command. */
const char *invocation_value(const struct invocation *inv, const char *name);

/* argv to exit code: what main() does. */
enum exit_code postcopyctl(int argc, char **argv);

/* "postcopyctl: TEXT" on stderr; returns the code. */
enum exit_code command_fail(enum exit_code code, const struct error *err);

/* The commands. plain: a request whose success needs no words but the daemon's own. */
enum exit_code plain_run(const struct invocation *inv);
enum exit_code export_file_run(const struct invocation *inv);
enum exit_code qemu_migrate_run(const struct invocation *inv);
enum exit_code list_run(const struct invocation *inv);
enum exit_code show_run(const struct invocation *inv);
enum exit_code watch_run(const struct invocation *inv);
enum exit_code probe_run(const struct invocation *inv);
enum exit_code token_run(const struct invocation *inv);
enum exit_code new_id_run(const struct invocation *inv);

#endif
