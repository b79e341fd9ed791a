/* SPDX-License-Identifier: Apache-2.0 */
/* What links.c (main loop) and link_run.c (a link's thread) tell each other. */
#ifndef SOURCE_LINKS_H
#define SOURCE_LINKS_H

#include "source/link.h"

const char *link_role_text(enum link_role role); /* "urgent", "bulk" */

/* Any thread. */
struct loop *links_main_loop(const struct links *ls);
uint64_t links_stream_bandwidth(const struct links *ls);

#endif
