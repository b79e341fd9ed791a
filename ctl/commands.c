/* SPDX-License-Identifier: Apache-2.0 */
/* The commands that send one request and print its answer. Called by dispatch. */
#include <stdio.h>
#include <string.h>

#include "core/cleanup.h"
#include "ctl/client.h"
#include "ctl/command.h"
#include "ctl/print.h"
#include "ctl/request.h"

/* EXIT_OK: the answer is in *ret. */
static enum exit_code request_run(const struct invocation *inv, struct control_response *ret)
{
	struct control_request request = {0};
	struct error err = {0};
	enum exit_code code;

	if (request_from_invocation(inv, &request, &err) < 0)
		return command_fail(EXIT_USAGE, &err);
	code = control_call(inv, &request, ret);
	control_request_free(&request);
	return code;
}

enum exit_code plain_run(const struct invocation *inv)
{
	struct control_response response = {0};
	enum exit_code code = request_run(inv, &response);

	if (code != EXIT_OK)
		return code;
	if (response.text[0])
		puts(response.text);
	control_response_free(&response);
	return EXIT_OK;
}

enum exit_code list_run(const struct invocation *inv)
{
	struct control_response response = {0};
	enum exit_code code = request_run(inv, &response);

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
	enum exit_code code = request_run(inv, &response);

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
