/* SPDX-License-Identifier: Apache-2.0 */
/* An export as the control interface shows it. */
#ifndef SOURCE_CONTROL_REPORT_H
#define SOURCE_CONTROL_REPORT_H

#include "source/export.h"
#include "wire/control_message.h"

enum control_detail {
	CONTROL_BRIEF, /* numbers and state */
	CONTROL_FULL,  /* with regions and poisoned ranges */
};

/* Fill *ret, which control_migration_free() releases. -ENOMEM. */
int control_report(struct export *e, enum control_detail detail, struct control_migration *ret);

#endif
