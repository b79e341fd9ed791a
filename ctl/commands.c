/* SPDX-License-Identifier: Apache-2.0 */
/* The commands that send one request and print its answer. Called by dispatch. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "core/cleanup.h"
#include "ctl/client.h"
#include "ctl/command.h"
#include "ctl/print.h"
#include "ctl/request.h"

/* With fd, unless it is -1. EXIT_OK: the answer is in *ret. */
static enum exit_code request_run(const struct invocation *inv, int fd,
                                  struct control_response *ret)
{
	struct control_request request = {0};
	struct error err = {0};
	enum exit_code code;

	if (request_from_invocation(inv, &request, &err) < 0)
		return command_fail(EXIT_USAGE, &err);
	code = control_call(inv, &request, fd, ret);
	control_request_free(&request);
	return code;
}

static enum exit_code text_run(const struct invocation *inv, int fd)
{
	struct control_response response = {0};
	enum exit_code code = request_run(inv, fd, &response);

	if (code != EXIT_OK)
		return code;
	if (response.text[0])
		puts(response.text);
	control_response_free(&response);
	return EXIT_OK;
}

enum exit_code plain_run(const struct invocation *inv)
{
	return text_run(inv, -1);
}

/* The daemon may not open it itself: its sandbox has no such file. */
enum exit_code export_file_run(const struct invocation *inv)
{
	const char *path = invocation_value(inv, "file");
	_cleanup_close_ int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
	struct error err = {0};

	if (path && fd < 0) {
		error_set_errno(&err, -errno, "--file %s", path);
		return command_fail(EXIT_USAGE, &err);
	}
	return text_run(inv, fd);
}

enum exit_code list_run(const struct invocation *inv)
{
	struct control_response response = {0};
	enum exit_code code = request_run(inv, -1, &response);

	if (code != EXIT_OK)
		return code;
	if (invocation_value(inv, "json"))
		json_print_list(stdout, response.migrations, response.n_migrations);
	else
		print_list(stdout, response.migrations, response.n_migrations);
	control_response_free(&response);
	return EXIT_OK;
}

enum exit_code show_run(const struct invocation *inv)
{
	struct control_response response = {0};
	enum exit_code code = request_run(inv, -1, &response);

	if (code != EXIT_OK)
		return code;
	if (response.type != CONTROL_RESPONSE_MIGRATION || response.n_migrations != 1) {
		fprintf(stderr, "postcopyctl: the daemon's answer has no migration in it\n");
		code = EXIT_REFUSED;
	} else if (invocation_value(inv, "json")) {
		json_print_migration(stdout, &response.migrations[0]);
	} else {
		print_migration(stdout, &response.migrations[0]);
	}
	control_response_free(&response);
	return code;
}
