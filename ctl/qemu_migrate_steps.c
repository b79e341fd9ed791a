/* SPDX-License-Identifier: Apache-2.0 */
/* The steps of qemu-migrate, in their order. Called by qemu_migrate.c. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "core/cleanup.h"
#include "core/clock.h"
#include "ctl/client.h"
#include "ctl/progress.h"
#include "ctl/qemu_migrate.h"

#define WATCH_INTERVAL_US UINT64_C(100000)
/* The guest stands still meanwhile. */
#define SERVE_TIMEOUT_US (10 * UINT64_C(1000000))

/* QEMU's own stream must leave shared memory out; from 8.1 on it takes only files for shared. */
static int version_check(const struct qmp *q, json_t *status, struct error *err)
{
	json_t *region;
	size_t i;

	if (q->major < 8 || (q->major == 8 && q->minor < 1))
		return 0;
	json_array_foreach(json_object_get(status, "regions"), i, region) if (
	        !json_is_true(json_object_get(
	                region, "is_file"))) return error_set(err, -ENOTSUP,
	                                                      "%s is of version %u.%u, which sends "
	                                                      "a memory-backend-memfd by "
	                                                      "its own stream (x-ignore-shared): "
	                                                      "use memory-backend-file with "
	                                                      "mem-path=/dev/shm/NAME for %s",
	                                                      q->stream.name, q->major, q->minor,
	                                                      json_string_value(json_object_get(
	                                                              region, "name")));
	return 0;
}

static int one_look(struct qemu_migration *m, struct qmp *q, const char *name, const char *option,
                    const struct qemu_memory *memory, struct error *err)
{
	json_t *status = NULL;
	int r = qmp_open(q, name, invocation_value(m->inv, option), step_deadline(m), err);

	if (r == 0)
		r = qemu_memory_call(memory, json_pack("{s:s}", "command", "status"),
		                     step_deadline(m), &status, err);
	if (r == 0)
		r = version_check(q, status, err);
	if (r == 0 && json_is_string(json_object_get(status, "regions")))
		r = error_set(err, -ENOTSUP, "%s: %s", name,
		              json_string_value(json_object_get(status, "regions")));
	json_decref(status);
	return r;
}

int both_look(struct qemu_migration *m, struct error *err)
{
	char state[32];
	int r = one_look(m, &m->source, "the source's QEMU", "source-qmp", &m->source_memory, err);

	if (r == 0)
		r = one_look(m, &m->destination, "the destination's QEMU", "destination-qmp",
		             &m->destination_memory, err);
	if (r == 0)
		r = qmp_run_state(&m->destination, state, step_deadline(m), err);
	if (r == 0 && strcmp(state, "inmigrate") != 0)
		return error_set(err, -EINVAL,
		                 "the destination's QEMU does not wait for a guest (it is %s): "
		                 "start it with -incoming defer",
		                 state);
	if (r == 0)
		r = qmp_run_state(&m->source, state, step_deadline(m), err);
	if (r == 0)
		m->guest_ran = strcmp(state, "running") == 0;
	return r;
}

int daemon_start(struct qemu_migration *m, struct error *err)
{
	struct control_response response = {0};
	enum exit_code code = control_call(m->inv, &m->start, -1, &response);

	m->daemon_told = code != EXIT_REFUSED;
	if (code != EXIT_OK) /* the reason is on standard error already */
		return error_set(err, -EREMOTEIO, "postcopyd at %s did not take the migration",
		                 m->inv->socket_path);
	control_response_free(&response);
	return 0;
}

static char *token_format(const struct qemu_migration *m, char buf[2 * TOKEN_BYTES_MAX + 1])
{
	for (size_t i = 0; i < m->start.start.token_len; i++)
		(void)snprintf(buf + 2 * i, 3, "%02x", m->start.start.token[i]);
	return buf;
}

int destination_attach(struct qemu_migration *m, struct error *err)
{
	char token[2 * TOKEN_BYTES_MAX + 1];
	json_t *request = json_pack("{s:s, s:s, s:s, s:s*}", "command", "attach", "id", m->id,
	                            "token", token_format(m, token), "socket",
	                            invocation_value(m->inv, "attach-socket"));

	explicit_bzero(token, sizeof(token));
	return qemu_memory_call(&m->destination_memory, request, step_deadline(m), NULL, err);
}

int source_export(struct qemu_migration *m, struct error *err)
{
	char token[2 * TOKEN_BYTES_MAX + 1];
	json_t *request = json_pack("{s:s, s:s, s:s, s:s, s:s*}", "command", "export", "id", m->id,
	                            "token", token_format(m, token), "peer",
	                            invocation_value(m->inv, "destination-peer"), "socket",
	                            invocation_value(m->inv, "export-socket"));

	explicit_bzero(token, sizeof(token));
	return qemu_memory_call(&m->source_memory, request, step_deadline(m), NULL, err);
}

/*
 * Before the guest is stopped for it: postcopyd has to find the source, and the two have to
 * agree who they are. *ret_text is the state's, for when the time is up.
 */
static int reached_judge(const struct control_response *r, char ret_text[WIRE_ERROR_TEXT_MAX],
                         struct error *err)
{
	const struct control_migration *m = r->migrations;
	bool success;

	if (r->error != 0)
		return error_set(err, -r->error, "postcopyd: %s", r->text);
	if (r->n_migrations == 0)
		return -EAGAIN;
	strcpy(ret_text, m->state_text);
	if (progress_state_is_final(m->state, &success))
		return error_set(err, -ECONNREFUSED, "the migration is %s: %s", m->state,
		                 m->state_text);
	return strcmp(m->state_text, CONTROL_TEXT_SOURCE_REACHED) == 0 ? 0 : -EAGAIN;
}

int source_reach(struct qemu_migration *m, struct error *err)
{
	struct control_request watch = {.type = CONTROL_REQUEST_WATCH,
	                                .has_migration_id = true,
	                                .migration_id = m->start.migration_id,
	                                .watch.interval_us = WATCH_INTERVAL_US};
	char text[WIRE_ERROR_TEXT_MAX] = "";
	struct control_client c = {.sock = -1};
	uint64_t deadline = step_deadline(m), now;
	int r = control_client_open(&c, m->inv->socket_path, err);

	if (r == 0)
		r = control_client_send(&c, &watch, -1, err);
	r = r == 0 ? -EAGAIN : r;
	while (r == -EAGAIN && (now = clock_monotonic_us()) < deadline) {
		struct control_response response = {0};

		r = control_client_receive(&c, deadline - now, &response, err);
		if (r == 0)
			r = reached_judge(&response, text, err);
		control_response_free(&response);
	}
	control_client_close(&c);
	if (r == -EAGAIN || r == -ETIMEDOUT)
		return error_set(err, -ETIMEDOUT, "postcopyd does not reach it in time: %s", text);
	return r;
}

static json_t *capability(const char *name)
{
	return json_pack("{s:s, s:b}", "capability", name, "state", 1);
}

/* Events tell how far it is; shared memory is not QEMU's to send; and it stops once more
 * between the guest's last instruction and the device state. */
int both_prepare(struct qemu_migration *m, struct error *err)
{
	json_t *capabilities =
	        json_pack("{s:[o, o, o]}", "capabilities", capability("events"),
	                  capability("x-ignore-shared"), capability("pause-before-switchover"));
	int r = qmp_call(&m->source, "migrate-set-capabilities", json_incref(capabilities),
	                 step_deadline(m), NULL, err);

	if (r == 0)
		r = qmp_call(&m->destination, "migrate-set-capabilities", json_incref(capabilities),
		             step_deadline(m), NULL, err);
	json_decref(capabilities);
	return r;
}

static json_t *uri(const struct qemu_migration *m)
{
	return json_pack("{s:s}", "uri", invocation_value(m->inv, "uri"));
}

/* A stopped QEMU that waits for a guest does not run it when it has come. */
int destination_listen(struct qemu_migration *m, struct error *err)
{
	int r = qmp_call(&m->destination, "stop", NULL, step_deadline(m), NULL, err);

	if (r == 0)
		r = qmp_call(&m->destination, "migrate-incoming", uri(m), step_deadline(m), NULL,
		             err);
	m->destination_listens = r != -EREMOTEIO;
	return r;
}

/*
 * Until QEMU has stopped the guest and its block devices have no request under way. The
 * event STOP comes before the latter: a disk may still write guest memory then.
 */
int source_migrate(struct qemu_migration *m, struct error *err)
{
	int r;

	m->source.migration[0] = '\0';
	r = qmp_call(&m->source, "migrate", uri(m), step_deadline(m), NULL, err);
	return r < 0 ? r : qmp_wait_migration(&m->source, "pre-switchover", step_deadline(m), err);
}

int source_freeze(struct qemu_migration *m, struct error *err)
{
	return qemu_memory_call(&m->source_memory,
	                        json_pack("{s:s, s:s}", "command", "freeze", "id", m->id),
	                        step_deadline(m), NULL, err);
}

/* No touch of the guest shall wait for longer than a page takes. */
int destination_serve(struct qemu_migration *m, struct error *err)
{
	uint64_t deadline = clock_monotonic_us() + MIN(m->timeout_us, SERVE_TIMEOUT_US);

	return qemu_memory_call(
	        &m->destination_memory,
	        json_pack("{s:s, s:s}", "command", "wait", "state", "postcopy-active"), deadline,
	        NULL, err);
}

int source_continue(struct qemu_migration *m, struct error *err)
{
	int r = qmp_call(&m->source, "migrate-continue",
	                 json_pack("{s:s}", "state", "pre-switchover"), step_deadline(m), NULL,
	                 err);

	if (r == 0)
		r = qmp_wait_migration(&m->source, "completed", step_deadline(m), err);
	if (r == 0)
		r = qmp_wait_migration(&m->destination, "completed", step_deadline(m), err);
	return r;
}

/* A refusal is an answer: the guest has not run. No answer is none. */
int destination_run(struct qemu_migration *m, struct error *err)
{
	int r;

	if (!m->guest_ran)
		return 0;
	signals_ignore(m);
	m->destination.resumed_us = 0;
	r = qmp_call(&m->destination, "cont", NULL, step_deadline(m), NULL, err);
	if (r == 0)
		r = qmp_wait_resume(&m->destination, step_deadline(m), err);
	return r == 0 || r == -EREMOTEIO ? r : -EINPROGRESS;
}
