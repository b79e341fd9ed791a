/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One live migration of a QEMU guest: what its steps share. qemu_migrate.c has their
 * order and what becomes of a failure, qemu_migrate_steps.c each of them, and
 * qemu_migrate_undo.c the way back.
 *
 * What always holds: the destination's QEMU runs the guest only when it is told to
 * (destination_run()), and it is told only when the source's QEMU has ended its
 * migration and stands still. Until then everything can be undone, and the source's
 * guest runs on with its own memory, of which nothing is ever taken away.
 */
#ifndef CTL_QEMU_MIGRATE_H
#define CTL_QEMU_MIGRATE_H

#include <stdbool.h>

#include "ctl/command.h"
#include "ctl/qemu_memory.h"
#include "ctl/qmp.h"
#include "wire/control_message.h"

struct qemu_migration {
	const struct invocation *inv;
	struct control_request start; /* the id, the token and what postcopyd is told */
	char id[UUID_TEXT_LEN];
	uint64_t timeout_us;
	sigset_t signals; /* those that were not blocked before: they interrupt a step */
	struct qmp source, destination;
	struct qemu_memory source_memory, destination_memory;
	bool guest_ran;                        /* when the migration began */
	bool daemon_told, destination_listens; /* or may, for no answer came */
};

/* From now on, for one step. */
uint64_t step_deadline(const struct qemu_migration *m);

/* From here on what was begun is ended. */
void signals_ignore(struct qemu_migration *m);

/* Steps: 0 or -errno with a text. */
int both_look(struct qemu_migration *m, struct error *err);
int source_export(struct qemu_migration *m, struct error *err);
int daemon_start(struct qemu_migration *m, struct error *err);
int destination_attach(struct qemu_migration *m, struct error *err);
int source_reach(struct qemu_migration *m, struct error *err);
int both_prepare(struct qemu_migration *m, struct error *err);
int destination_listen(struct qemu_migration *m, struct error *err);
int source_migrate(struct qemu_migration *m, struct error *err);
int source_freeze(struct qemu_migration *m, struct error *err);
int destination_serve(struct qemu_migration *m, struct error *err);
int source_continue(struct qemu_migration *m, struct error *err);
/* -EINPROGRESS: it has been told to, and did not answer; it may run. */
int destination_run(struct qemu_migration *m, struct error *err);

/* Undoing them; what cannot be undone is said on standard error. */
void daemon_cancel(struct qemu_migration *m);
void source_withdraw(struct qemu_migration *m);
void destination_quit(struct qemu_migration *m);
void source_stop_migrating(struct qemu_migration *m);
/* The last of it. True: the source's guest is as it was before. */
bool source_run_again(struct qemu_migration *m);

#endif
