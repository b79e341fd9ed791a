/* SPDX-License-Identifier: Apache-2.0 */
/* The whole of postcopy-sourced but its process: everything on one main loop. */
#ifndef SOURCE_AGENT_H
#define SOURCE_AGENT_H

#include "net/loop.h"
#include "source/settings.h"

#define AGENT_NAMES_MAX 256 /* enough for agent_serving_names() */

struct agent;

/* Listens when it returns. settings are taken on success. */
int agent_new(struct settings *settings, struct agent **ret, struct error *err);
/* Closes all connections, joins all threads. Always NULL. */
struct agent *agent_free(struct agent *a);

struct loop *agent_loop(struct agent *a);
uint16_t agent_port(const struct agent *a);
unsigned agent_live_exports(const struct agent *a);

/* A service manager keeps the exports over a restart. */
bool agent_kept(const struct agent *a);

/* Of these, the ones that a guest on another host depends on: it takes pages. */
unsigned agent_serving(const struct agent *a);
/* The first of them by id, and how many more: into buf, returned. */
const char *agent_serving_names(const struct agent *a, char *buf, size_t buf_len);
/*
 * Go on for these, name them in the log, take no new export, and stop the loop when
 * there are none any more. -ENOMEM.
 */
int agent_drain(struct agent *a);

/* Keys and reloadable settings; settings are taken on success, else nothing has changed. */
int agent_reload(struct agent *a, struct settings *settings, struct error *err);

#endif
