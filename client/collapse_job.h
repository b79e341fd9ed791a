/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The work of one postcopy_collapse(): what may be huge, and making it so.
 * Progress and the wish to stop are the handle's struct collapse.
 */
#ifndef CLIENT_COLLAPSE_JOB_H
#define CLIENT_COLLAPSE_JOB_H

#include "client/collapse_plan.h"

struct collapse_job {
	struct collapse *c;
	struct collapse_plan plan;
	uint8_t *left; /* a huge page each: 1 is still to do */
	size_t runs_lifted;
	size_t runs_lifted_max;
};

/* Ask what is lost, and find what is not. -ENOTSUP, or why the list or memory is missing. */
int collapse_job_new(struct postcopy *h, struct collapse_job **ret, struct error *err);
struct collapse_job *collapse_job_free(struct collapse_job *job); /* always NULL */

/* All of it, unless c->stop: true when nothing is left to look at. */
bool collapse_job_run(struct collapse_job *job);

#endif
