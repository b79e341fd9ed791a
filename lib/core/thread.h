/* SPDX-License-Identifier: Apache-2.0 */
/* Threads beside a main loop that takes the process's signals. */
#ifndef CORE_THREAD_H
#define CORE_THREAD_H

#include <pthread.h>

/*
 * As pthread_create(), but the thread takes no signals: they are the main
 * loop's. attr may be NULL. 0 or -errno.
 */
int thread_create_quiet(pthread_t *ret, const pthread_attr_t *attr, void *(*fn)(void *), void *arg);

#endif
