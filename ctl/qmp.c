/* SPDX-License-Identifier: Apache-2.0 */
/* QEMU's monitor (QMP). Called by qemu_migrate.c and its steps. */
#include "ctl/qmp.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "core/cleanup.h"
#include "core/clock.h"

static const char *string_at(json_t *o, const char *key)
{
	const char *text = json_string_value(json_object_get(o, key));

	return text ? text : "";
}

static void event_take(struct qmp *q, json_t *o)
{
	const char *event = string_at(o, "event");

	if (strcmp(event, "STOP") == 0)
		q->stopped_us = clock_monotonic_us();
	else if (strcmp(event, "RESUME") == 0)
		q->resumed_us = clock_monotonic_us();
	else if (strcmp(event, "MIGRATION") == 0)
		(void)snprintf(q->migration, sizeof(q->migration), "%s",
		               string_at(json_object_get(o, "data"), "status"));
}

/* The next message that is not an event, or (event_too) any. */
static int message_receive(struct qmp *q, bool event_too, uint64_t deadline_us, json_t **ret,
                           struct error *err)
{
	for (;;) {
		json_t *o;
		int r = json_stream_receive(&q->stream, deadline_us, &o, err);

		if (r < 0)
			return r;
		if (!json_object_get(o, "event")) {
			*ret = o;
			return 0;
		}
		event_take(q, o);
		json_decref(o);
		if (event_too) {
			*ret = NULL;
			return 0;
		}
	}
}

static int greeting_take(struct qmp *q, json_t *o, struct error *err)
{
	int major, minor;

	if (json_unpack(o, "{s:{s:{s:{s:i, s:i}}}}", "QMP", "version", "qemu", "major", &major,
	                "minor", &minor) < 0)
		return error_set(err, -EPROTO, "%s: no QMP greeting came: is it a QMP socket?",
		                 q->stream.name);
	q->major = (unsigned int)major;
	q->minor = (unsigned int)minor;
	return 0;
}

int qmp_open(struct qmp *q, const char *name, const char *path, uint64_t deadline_us,
             struct error *err)
{
	json_t *greeting = NULL;
	int r = json_stream_open(&q->stream, name, path, err);

	if (r == 0)
		r = message_receive(q, false, deadline_us, &greeting, err);
	if (r == -ETIMEDOUT)
		error_set(err, r,
		          "%s: %s does not greet: another client is connected (give this tool a "
		          "-qmp socket of its own), or QEMU hangs",
		          name, path);
	if (r == 0)
		r = greeting_take(q, greeting, err);
	json_decref(greeting);
	if (r == 0)
		r = qmp_call(q, "qmp_capabilities", NULL, deadline_us, NULL, err);
	return r;
}

void qmp_close(struct qmp *q)
{
	json_stream_close(&q->stream);
}

static int answer_receive(struct qmp *q, uint64_t deadline_us, json_t **ret, struct error *err)
{
	for (;;) {
		int r = message_receive(q, false, deadline_us, ret, err);

		if (r < 0 || json_integer_value(json_object_get(*ret, "id")) == q->last_id)
			return r;
		json_decref(*ret);
	}
}

int qmp_call(struct qmp *q, const char *command, json_t *arguments, uint64_t deadline_us,
             json_t **ret, struct error *err)
{
	json_t *answer = NULL, *value;
	int r = json_stream_send(&q->stream,
	                         json_pack("{s:s, s:I, s:o*}", "execute", command, "id",
	                                   ++q->last_id, "arguments", arguments),
	                         err);

	if (r == 0)
		r = answer_receive(q, deadline_us, &answer, err);
	if (r < 0) {
		error_prefix(err, "%s", command);
		return r;
	}
	value = json_object_get(answer, "return");
	if (!value)
		r = error_set(err, -EREMOTEIO, "%s: %s: %s", q->stream.name, command,
		              string_at(json_object_get(answer, "error"), "desc"));
	else if (ret)
		*ret = json_incref(value);
	json_decref(answer);
	return r;
}

bool qmp_migration_ended(const struct qmp *q)
{
	static const char *const ends[] = {"completed", "failed", "cancelled"};

	for (size_t i = 0; i < ARRAY_SIZE(ends); i++)
		if (strcmp(q->migration, ends[i]) == 0)
			return true;
	return false;
}

/* Why it failed, where QEMU tells. */
static int migration_failure(struct qmp *q, const char *wanted, uint64_t deadline_us,
                             struct error *err)
{
	struct error unasked = {0};
	json_t *info = NULL;
	char status[sizeof(q->migration)];

	strcpy(status, q->migration);
	(void)qmp_call(q, "query-migrate", NULL, deadline_us, &info, &unasked);
	error_set(err, -ECANCELED, "%s: its migration is %s instead of %s: %s", q->stream.name,
	          status, wanted,
	          *string_at(info, "error-desc") ? string_at(info, "error-desc")
	                                         : "see QEMU's own messages on both hosts");
	json_decref(info);
	return err->code;
}

static int event_wait(struct qmp *q, uint64_t deadline_us, struct error *err)
{
	json_t *stray = NULL;
	int r = message_receive(q, true, deadline_us, &stray, err);

	json_decref(stray);
	return r;
}

int qmp_wait_migration(struct qmp *q, const char *status, uint64_t deadline_us, struct error *err)
{
	while (strcmp(q->migration, status) != 0) {
		int r;

		if (qmp_migration_ended(q))
			return migration_failure(q, status, deadline_us, err);
		r = event_wait(q, deadline_us, err);
		if (r == -ETIMEDOUT)
			error_set(err, r, "%s: its migration is %s, and not %s in time",
			          q->stream.name, q->migration[0] ? q->migration : "nowhere",
			          status);
		if (r < 0)
			return r;
	}
	return 0;
}

int qmp_wait_resume(struct qmp *q, uint64_t deadline_us, struct error *err)
{
	while (q->resumed_us == 0) {
		int r = event_wait(q, deadline_us, err);

		if (r < 0)
			return r;
	}
	return 0;
}

int qmp_run_state(struct qmp *q, char *buf, uint64_t deadline_us, struct error *err)
{
	json_t *status = NULL;
	int r = qmp_call(q, "query-status", NULL, deadline_us, &status, err);

	if (r == 0)
		(void)snprintf(buf, 32, "%s", string_at(status, "status"));
	json_decref(status);
	return r;
}
