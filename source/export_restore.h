/* SPDX-License-Identifier: Apache-2.0 */
/* Exports that an earlier agent has left in the FD store, taken up. */
#ifndef SOURCE_EXPORT_RESTORE_H
#define SOURCE_EXPORT_RESTORE_H

#include "source/export_table.h"

/*
 * At start, before anybody can connect. What cannot be taken up is shown as failed, and
 * stays in the store as it is: a destination is told to come again. -ENOMEM.
 */
int export_restore_all(struct export_table *t, struct error *err);

#endif
