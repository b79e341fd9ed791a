/* SPDX-License-Identifier: Apache-2.0 */
/* The probe command: here, or (--daemon) what postcopyd says of itself. */
#include <stdio.h>
#include <string.h>

#include "core/cleanup.h"
#include "ctl/client.h"
#include "ctl/command.h"
#include "ctl/print.h"
#include "ctl/probe.h"
#include "ctl/request.h"

static bool poison_works_for(const struct control_probe_result *results, size_t n,
                             const char *memory)
{
	for (size_t i = 0; i < n; i++)
		if (strcmp(results[i].memory, memory) == 0 && strcmp(results[i].poison, "yes") == 0)
			return true;
	return false;
}

/* A daemon has no scratch memory to try with, and may know it for "any" memory only. */
static bool poison_works(const struct control_probe_result *results, size_t n)
{
	return poison_works_for(results, n, "any") ||
	       (poison_works_for(results, n, "anonymous") && poison_works_for(results, n, "memfd"));
}

static enum exit_code daemon_ask(const struct invocation *inv, struct probe_report *ret)
{
	struct control_request request = {.type = CONTROL_REQUEST_PROBE};
	struct control_response response = {0};
	enum exit_code code = control_call(inv, &request, -1, &response);

	if (code != EXIT_OK)
		return code;
	memset(ret, 0, sizeof(*ret));
	ret->n_results = MIN(response.n_probe_results, (size_t)PROBE_RESULTS_MAX);
	if (ret->n_results > 0)
		memcpy(ret->results, response.probe_results,
		       ret->n_results * sizeof(ret->results[0]));
	strcpy(ret->userfaultfd, response.userfaultfd);
	strcpy(ret->remedy, response.remedy);
	ret->poison_works = poison_works(ret->results, ret->n_results);
	control_response_free(&response);
	return EXIT_OK;
}

enum exit_code probe_run(const struct invocation *inv)
{
	struct probe_report report;
	enum exit_code code = EXIT_OK;

	if (invocation_value(inv, "daemon"))
		code = daemon_ask(inv, &report);
	else
		probe_run_all(&report);
	if (code != EXIT_OK)
		return code;
	if (invocation_value(inv, "json"))
		json_print_probe(stdout, &report);
	else
		print_probe(stdout, &report);
	return report.poison_works ? EXIT_OK : EXIT_REFUSED;
}
