/* SPDX-License-Identifier: Apache-2.0 */
/* QEMU's monitor: commands, and what its events tell of a migration. */
#ifndef CTL_QMP_H
#define CTL_QMP_H

#include <stdbool.h>

#include "ctl/json_stream.h"

struct qmp {
	struct json_stream stream;
	json_int_t last_id;        /* of the commands: an answer may come too late */
	unsigned int major, minor; /* QEMU's version */
	char migration[32];        /* its status as the last MIGRATION event tells it */
	uint64_t stopped_us;       /* when the last STOP and RESUME came; 0: none did */
	uint64_t resumed_us;
};

/* The greeting and the capabilities of the monitor. name is for texts. */
int qmp_open(struct qmp *q, const char *name, const char *path, uint64_t deadline_us,
             struct error *err);
void qmp_close(struct qmp *q);

/*
 * Takes arguments (may be NULL) over. *ret (ret may be NULL) is a new reference.
 * -EREMOTEIO when QEMU answers with an error, whose text is given.
 */
int qmp_call(struct qmp *q, const char *command, json_t *arguments, uint64_t deadline_us,
             json_t **ret, struct error *err);

/* Is it a status after which QEMU's migration goes on no more? */
bool qmp_migration_ended(const struct qmp *q);

/* Wait for that status; -ECANCELED with QEMU's reason if another one ends the migration. */
int qmp_wait_migration(struct qmp *q, const char *status, uint64_t deadline_us, struct error *err);

/* Wait until QEMU has told that the guest runs. */
int qmp_wait_resume(struct qmp *q, uint64_t deadline_us, struct error *err);

/* "running", "paused", ... into buf of 32 bytes. */
int qmp_run_state(struct qmp *q, char *buf, uint64_t deadline_us, struct error *err);

#endif
