/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The watch command: one block redrawn in place on a terminal, plain lines
 * elsewhere. With an ID it ends with the migration, and its exit status tells
 * whether that went well; without one it goes on until interrupted.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/cleanup.h"
#include "ctl/client.h"
#include "ctl/command.h"
#include "ctl/progress.h"
#include "ctl/request.h"
#include "ctl/screen.h"

/* More than anybody has on a host; what comes beyond is only drawn in plain mode. */
#define WATCHED_MAX 256

struct watch {
	struct control_client client;
	const struct control_request *request;
	bool on_terminal;
	struct screen screen;
	struct control_migration *known; /* WATCHED_MAX; arrays are not kept */
	size_t n_known;
	bool told; /* an event has come */
	bool ended;
	enum exit_code code;
};

static volatile sig_atomic_t resized;

static void resize_handler(int signal_number)
{
	(void)signal_number;
	resized = 1;
}

static void redraw(struct watch *w)
{
	size_t width = screen_width(STDOUT_FILENO);
	size_t max_lines = MAX(screen_height(STDOUT_FILENO), (size_t)2) - 1;
	struct progress_block block;

	screen_rewind(&w->screen, width);
	for (size_t i = 0; i < w->n_known; i++) {
		/* A line as wide as the terminal would wrap on some of them. */
		progress_format_block(&w->known[i], width - 1, &block);
		for (size_t k = 0; k < block.n_lines && w->screen.n_lines < max_lines; k++)
			screen_line(&w->screen, block.lines[k]);
	}
}

static void migration_keep(struct watch *w, const struct control_migration *m)
{
	struct control_migration *to = NULL;

	for (size_t i = 0; i < w->n_known && !to; i++)
		if (uuid_equal(&w->known[i].migration_id, &m->migration_id))
			to = &w->known[i];
	if (!to && w->n_known < WATCHED_MAX)
		to = &w->known[w->n_known++];
	if (!to)
		return;
	*to = *m;
	to->regions = NULL;
	to->n_regions = 0;
	to->poisoned = NULL;
	to->n_poisoned = 0;
}

static void migration_show(struct watch *w, const struct control_migration *m)
{
	char line[1024];
	bool success;

	if (w->on_terminal) {
		migration_keep(w, m);
	} else {
		progress_format_line(m, line, sizeof(line));
		puts(line);
	}
	if (w->request->has_migration_id && progress_state_is_final(m->state, &success)) {
		w->ended = true;
		w->code = success ? EXIT_OK : EXIT_REFUSED;
	}
}

static void response_handle(struct watch *w, const struct control_response *r)
{
	struct error err = {0};

	if (r->error != 0) {
		error_set(&err, -r->error, "%s", r->text[0] ? r->text : strerror(r->error));
		w->ended = true;
		w->code = command_fail(EXIT_REFUSED, &err);
		return;
	}
	/* A daemon whose watches begin with what is there has told it before its answer. */
	if (r->type == CONTROL_RESPONSE_EVENT)
		w->told = true;
	else if (w->told)
		return;
	for (size_t i = 0; i < r->n_migrations && !w->ended; i++)
		migration_show(w, &r->migrations[i]);
	if (w->on_terminal && r->n_migrations > 0)
		redraw(w);
	/* Nobody reads any more: | head, or a terminal that has gone. */
	if (fflush(stdout) != 0 && !w->ended) {
		w->ended = true;
		w->code = EXIT_REFUSED;
	}
}

/* How things stand now, and from then on what changes. */
static int requests_send(struct watch *w, struct error *err)
{
	struct control_request watch = *w->request;
	struct control_request state = {
	        .type = watch.has_migration_id ? CONTROL_REQUEST_GET : CONTROL_REQUEST_LIST,
	        .has_migration_id = watch.has_migration_id,
	        .migration_id = watch.migration_id,
	};
	int r = control_client_send(&w->client, &watch, -1, err);

	return r < 0 ? r : control_client_send(&w->client, &state, -1, err);
}

/* Wait for a message; a changed window size redraws meanwhile. */
static void readable_wait(struct watch *w)
{
	struct pollfd p = {.fd = w->client.sock, .events = POLLIN};

	while (poll(&p, 1, -1) < 0 && errno == EINTR)
		if (resized && w->on_terminal) {
			resized = 0;
			redraw(w);
			fflush(stdout);
		}
}

static int watch_loop(struct watch *w, struct error *err)
{
	int r = requests_send(w, err);

	while (r == 0 && !w->ended) {
		struct control_response response = {0};

		readable_wait(w);
		r = control_client_receive(&w->client, UINT64_MAX, &response, err);
		if (r == 0) {
			response_handle(w, &response);
			control_response_free(&response);
		}
	}
	return r;
}

static enum exit_code watch_connected(const struct invocation *inv, struct watch *w)
{
	struct sigaction action = {.sa_handler = resize_handler};
	struct error err = {0};
	int r;

	w->screen.out = stdout;
	w->on_terminal = screen_is_usable(STDOUT_FILENO);
	if (w->on_terminal)
		sigaction(SIGWINCH, &action, NULL);
	r = control_client_open(&w->client, inv->socket_path, &err);
	if (r == 0)
		r = watch_loop(w, &err);
	control_client_close(&w->client);
	return r < 0 ? command_fail(EXIT_UNREACHABLE, &err) : w->code;
}

enum exit_code watch_run(const struct invocation *inv)
{
	struct control_request request = {0};
	struct watch w = {.client.sock = -1, .request = &request, .code = EXIT_OK};
	struct error err = {0};
	enum exit_code code;

	if (request_from_invocation(inv, &request, &err) < 0)
		return command_fail(EXIT_USAGE, &err);
	w.known = calloc(WATCHED_MAX, sizeof(*w.known));
	if (!w.known) {
		error_set_errno(&err, -ENOMEM, "cannot watch");
		return command_fail(EXIT_REFUSED, &err);
	}
	code = watch_connected(inv, &w);
	free(w.known);
	return code;
}
