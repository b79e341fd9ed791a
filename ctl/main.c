/* SPDX-License-Identifier: Apache-2.0 */
/* postcopyctl, the operator's command line for postcopyd and postcopy-sourced. */
#include <signal.h>
#include <stdio.h>

#include "ctl/command.h"

int main(int argc, char **argv)
{
	enum exit_code code;

	/* A pager that was closed shows as a write error, not as a silent death. */
	signal(SIGPIPE, SIG_IGN);
	code = postcopyctl(argc, argv);
	if (fflush(stdout) != 0 && code == EXIT_OK) {
		perror("postcopyctl: stdout");
		code = EXIT_REFUSED;
	}
	return (int)code;
}
