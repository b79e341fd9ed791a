/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Ownership helpers: scope-bound cleanup and explicit transfer.
 *
 * A variable marked _cleanup_(x) is released when it leaves its scope, unless
 * its value was handed on with TAKE_FD() or TAKE_PTR().
 */
#ifndef CORE_CLEANUP_H
#define CORE_CLEANUP_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

#define _cleanup_(f) __attribute__((cleanup(f)))

static inline void cleanup_close(int *fd)
{
	if (*fd >= 0)
		close(*fd);
}

static inline void cleanup_free(void *p)
{
	free(*(void **)p);
}

#define _cleanup_close_ _cleanup_(cleanup_close)
#define _cleanup_free_ _cleanup_(cleanup_free)

/* Define cleanup_NAME(T **) for a destructor that accepts NULL. */
#define DEFINE_CLEANUP(type, destroy)                  \
	static inline void cleanup_##destroy(type **p) \
	{                                              \
		if (*p)                                \
			destroy(*p);                   \
	}

static inline int take_fd(int *fd)
{
	int taken = *fd;

	*fd = -1;
	return taken;
}

/* Close if open, and leave -1 behind: safe to call twice. */
static inline void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

#define TAKE_FD(fd) take_fd(&(fd))
#define TAKE_PTR(p)                         \
	({                                  \
		__typeof__(p) taken_ = (p); \
		(p) = NULL;                 \
		taken_;                     \
	})

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
/* Unique names, so that one may stand inside another without shadowing. */
#define CONCAT_(x, y) x##y
#define CONCAT(x, y) CONCAT_(x, y)
#define PICK_(a, op, b, a_, b_)         \
	({                              \
		__typeof__(a) a_ = (a); \
		__typeof__(b) b_ = (b); \
		a_ op b_ ? a_ : b_;     \
	})
#define MIN(a, b) PICK_(a, <, b, CONCAT(min_a_, __COUNTER__), CONCAT(min_b_, __COUNTER__))
#define MAX(a, b) PICK_(a, >, b, CONCAT(max_a_, __COUNTER__), CONCAT(max_b_, __COUNTER__))

/* container_of for libevent and uthash callbacks. */
#define CONTAINER_OF(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))

#endif
