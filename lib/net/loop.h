/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An event loop (libevent) that belongs to one thread, and its mailbox: the
 * one way by which other threads reach it.
 */
#ifndef NET_LOOP_H
#define NET_LOOP_H

#include <event2/event.h>
#include <stdint.h>

#include "core/cleanup.h"

struct loop;

typedef void (*loop_fn)(void *arg);

/* Create on any thread, then run on one. With priorities 0 (first) .. 3 (last). */
int loop_new(struct loop **ret);
/* The loop must not be running. Posted functions that did not run are dropped. Always NULL. */
struct loop *loop_free(struct loop *l);
DEFINE_CLEANUP(struct loop, loop_free)

struct event_base *loop_base(struct loop *l);

/* Run until loop_stop(). Only the owning thread. 0 or -errno. */
int loop_run(struct loop *l);

/* Any thread. The loop returns after the callback that is running. */
void loop_stop(struct loop *l);

/*
 * Have fn(arg) called on the loop's thread, in the order of posting. Any
 * thread, also before loop_run(). -ENOMEM.
 */
int loop_post(struct loop *l, loop_fn fn, void *arg);

/*
 * Call what has been posted and did not run, on a loop that does not run (any
 * more): for functions that own what arg points to, before loop_free().
 */
void loop_run_posted(struct loop *l);

#endif
