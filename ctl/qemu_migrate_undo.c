/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The way back, when a step of qemu-migrate has failed and the destination has not run
 * the guest. Called by qemu_migrate.c, the latest first. What fails here is said, and
 * the rest is done all the same.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "ctl/client.h"
#include "ctl/qemu_migrate.h"

static void complain(const char *what, const struct error *err)
{
	fprintf(stderr, "postcopyctl: %s: %s\n", what, err->text);
}

/* After this QEMU has done with the migration one way or the other. */
void source_stop_migrating(struct qemu_migration *m)
{
	struct error err = {0};
	int r;

	/* It may never have begun, or have ended: then there is nothing to cancel. */
	if (m->source.migration[0] == '\0' || qmp_migration_ended(&m->source))
		return;
	r = qmp_call(&m->source, "migrate_cancel", NULL, step_deadline(m), NULL, &err);
	while (r == 0 && !qmp_migration_ended(&m->source)) {
		r = qmp_wait_migration(&m->source, "cancelled", step_deadline(m), &err);
		if (r == -ECANCELED) /* it failed, or was quicker */
			r = 0;
	}
	if (r < 0)
		complain("cancelling QEMU's migration", &err);
}

/*
 * It may have the device state, and half of a guest; started again it can be a destination
 * again. That it goes makes sure, too, that nobody runs the guest there later.
 */
void destination_quit(struct qemu_migration *m)
{
	struct error err = {0};
	int r;

	if (!m->destination_listens)
		return;
	r = qmp_call(&m->destination, "quit", NULL, step_deadline(m), NULL, &err);
	if (r < 0 && r != -ECONNRESET && r != -EPIPE)
		complain("ending the destination's QEMU (do not run the guest there)", &err);
	else
		fprintf(stderr, "postcopyctl: the destination's QEMU was ended\n");
}

void source_withdraw(struct qemu_migration *m)
{
	struct error err = {0};
	int r = qemu_memory_call(
	        &m->source_memory,
	        json_pack("{s:s, s:s, s:b}", "command", "withdraw", "id", m->id, "force", 1),
	        step_deadline(m), NULL, &err);

	if (r < 0 && r != -ENOENT)
		complain("withdrawing the export", &err);
}

void daemon_cancel(struct qemu_migration *m)
{
	struct control_request request = {.type = CONTROL_REQUEST_CANCEL,
	                                  .has_migration_id = true,
	                                  .migration_id = m->start.migration_id,
	                                  .cancel.force = true};
	struct control_response response = {0};
	struct error err = {0};

	/* One that has ended by itself needs no cancelling. */
	if (m->daemon_told &&
	    control_exchange(m->inv->socket_path, &request, -1, &response, &err) < 0)
		complain("cancelling the migration", &err);
	control_response_free(&response);
}

bool source_run_again(struct qemu_migration *m)
{
	struct error err = {0};
	char state[32] = "";
	int r;

	if (!m->guest_ran)
		return true;
	/* After a migration that failed or was cancelled QEMU goes on by itself, a little later. */
	if (m->source.stopped_us && strcmp(m->source.migration, "completed") != 0)
		(void)qmp_wait_resume(&m->source, step_deadline(m), &err);
	r = qmp_run_state(&m->source, state, step_deadline(m), &err);
	if (r == 0 && strcmp(state, "running") != 0) {
		r = qmp_call(&m->source, "cont", NULL, step_deadline(m), NULL, &err);
		if (r == 0)
			r = qmp_run_state(&m->source, state, step_deadline(m), &err);
	}
	if (r < 0)
		complain("running the guest at the source again", &err);
	return r == 0 && strcmp(state, "running") == 0;
}
