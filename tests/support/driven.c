/* SPDX-License-Identifier: Apache-2.0 */
/* Called by testguest, testvmm and bench-guest. No state. */
#include "support/driven.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

void driven_event(const char *name, const char *fmt, ...)
{
	char line[1024];
	int n = snprintf(line, sizeof(line), "%s ", name);
	va_list ap;

	va_start(ap, fmt);
	n += vsnprintf(line + n, sizeof(line) - (size_t)n - 1, fmt, ap);
	va_end(ap);
	if (n > (int)sizeof(line) - 2)
		n = (int)sizeof(line) - 2;
	line[n++] = '\n';
	/* One write a line: threads and the driver's reader see whole lines. */
	if (write(STDOUT_FILENO, line, (size_t)n) < 0)
		_exit(DRIVEN_USAGE);
}

static void on_alarm(int sig)
{
	static const char text[] = "timeout 1\n";

	(void)sig;
	if (write(STDOUT_FILENO, text, sizeof(text) - 1) < 0)
		_exit(DRIVEN_USAGE);
	_exit(DRIVEN_TIMEOUT);
}

void driven_time_limit(unsigned seconds)
{
	signal(SIGALRM, on_alarm);
	alarm(seconds);
}

int driven_token_read(struct driven *d, const char *path)
{
	FILE *file = fopen(path, "re");
	unsigned byte;

	if (!file)
		return -errno;
	while (d->token_len < sizeof(d->token) && fscanf(file, "%2x", &byte) == 1)
		d->token[d->token_len++] = (uint8_t)byte;
	fclose(file);
	return d->token_len ? 0 : -EINVAL;
}

static int told(int ret, const char *what, const char *text)
{
	if (ret < 0)
		fprintf(stderr, "%s: %s: %s: %s\n", program_invocation_short_name, what,
		        strerror(-ret), text);
	return ret;
}

int driven_export(const struct driven *d, const struct postcopy_region *regions, size_t n_regions,
                  struct postcopy **ret)
{
	struct postcopy_export_params params = {
	        .socket_path = d->socket_path,
	        .token = d->token,
	        .token_len = d->token_len,
	        .peer_identity = d->peer_identity,
	        .regions = regions,
	        .n_regions = n_regions,
	        .flags = d->inbound ? POSTCOPY_EXPORT_INBOUND : 0,
	        .inbound = d->inbound,
	};
	char text[384] = "";

	memcpy(params.migration_id, d->migration_id, sizeof(params.migration_id));
	return told(postcopy_export(&params, ret, text, sizeof(text)), "export", text);
}

int driven_attach(const struct driven *d, const struct postcopy_region *regions, size_t n_regions,
                  const int *uffds, size_t n_uffds, struct postcopy **ret)
{
	struct postcopy_attach_params params = {
	        .socket_path = d->socket_path,
	        .token = d->token,
	        .token_len = d->token_len,
	        .uffds = uffds,
	        .n_uffds = n_uffds,
	        .regions = regions,
	        .n_regions = n_regions,
	        .timeout_ms = d->attach_timeout_ms,
	        .flags = d->attach_flags,
	};
	char text[384] = "";

	memcpy(params.migration_id, d->migration_id, sizeof(params.migration_id));
	return told(postcopy_attach(&params, ret, text, sizeof(text)), "attach", text);
}

int driven_freeze(struct postcopy *handle)
{
	char text[384] = "";

	return told(postcopy_freeze(handle, text, sizeof(text)), "freeze", text);
}

int driven_collapse(struct postcopy *handle, struct postcopy_collapse_progress *ret)
{
	char text[384] = "";
	int r = told(postcopy_collapse(handle, text, sizeof(text)), "collapse", text);

	if (r < 0)
		return r;
	postcopy_collapse_wait(handle, -1);
	postcopy_collapse_progress(handle, ret);
	return 0;
}

int driven_page_fail(void *address)
{
	/* EFAULT, later EHWPOISON: in a huge page that has failed already. */
	if (madvise(address, 4096, MADV_HWPOISON) < 0 && errno != EFAULT && errno != EHWPOISON)
		return -errno;
	return 0;
}
