/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The vCPUs of the test guest: threads that touch all pages in random order,
 * check what they find, and survive the SIGBUS of a lost page.
 */
#ifndef SUPPORT_GUEST_TOUCH_H
#define SUPPORT_GUEST_TOUCH_H

#include "support/guest.h"

struct guest_touch;

int guest_touch_new(struct guest *g, struct guest_touch **ret);
struct guest_touch *guest_touch_free(struct guest_touch *t); /* always NULL */

int guest_touch_start(struct guest_touch *t);
/* Wait up to so long; true when all threads have ended. */
bool guest_touch_done(struct guest_touch *t, int wait_ms);

/* For other threads that touch as well: they count from _join_in() to _leave(). */
void guest_touch_join_in(struct guest_touch *t);
void guest_touch_leave(struct guest_touch *t);
void guest_touch_page(struct guest_touch *t, uint64_t page);

/*
 * After the end: check every page again on this thread, print the findings,
 * and return how many pages were not as they must be, now or during the run.
 */
uint64_t guest_touch_verify(struct guest_touch *t);

#endif
