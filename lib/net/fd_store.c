/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the service manager keeps for us. Called by whoever has state that must
 * outlive the process.
 *
 * Always holds: names has each entry that is in the store or on its way there.
 */
#include "net/fd_store.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <systemd/sd-daemon.h>
#include <uthash.h>

#include "core/log.h"

#define BARRIER_TIMEOUT_US 5000000
/* MAX_ARG_STRLEN is 32 pages; names are joined by colons, and others are passed, too: sockets. */
#define NAMES_BYTES_MAX (128 * 1024 - 4096)

struct stored {
	UT_hash_handle hh;
	char name[];
};

struct fd_store {
	unsigned max; /* 0: there is none */
	struct stored *names;
	size_t names_bytes; /* each with what parts it from the next */
};

/* From systemd 254 on, for a unit that has a store. */
static unsigned max_of_environment(unsigned otherwise)
{
	const char *text = getenv("FDSTORE");
	char *end;
	unsigned long value;

	if (!text || *text < '0' || *text > '9')
		return otherwise;
	errno = 0;
	value = strtoul(text, &end, 10);
	return errno == 0 && *end == '\0' && value <= UINT_MAX ? (unsigned)value : otherwise;
}

int fd_store_new(unsigned max, struct fd_store **ret)
{
	struct fd_store *s = calloc(1, sizeof(*s));

	if (!s)
		return -ENOMEM;
	if (getenv("NOTIFY_SOCKET"))
		s->max = max_of_environment(max);
	*ret = s;
	return 0;
}

struct fd_store *fd_store_free(struct fd_store *s)
{
	struct stored *e, *next;

	if (!s)
		return NULL;
	HASH_ITER (hh, s->names, e, next) {
		HASH_DEL(s->names, e);
		free(e);
	}
	free(s);
	return NULL;
}

bool fd_store_present(const struct fd_store *s)
{
	return s->max > 0;
}

unsigned fd_store_max(const struct fd_store *s)
{
	return s->max;
}

unsigned fd_store_used(const struct fd_store *s)
{
	return HASH_COUNT(s->names);
}

int fd_store_check_room(const struct fd_store *s, size_t n, struct error *err)
{
	unsigned used = fd_store_used(s);

	if (!fd_store_present(s) || (used <= s->max && n <= s->max - used))
		return 0;
	return error_set(err, -ENOSPC,
	                 "the service manager's FD store has room for %u descriptors, %u are used, "
	                 "and this takes %zu more: raise FileDescriptorStoreMax= of the unit and "
	                 "fd_store_max in the configuration, or wait until something ends",
	                 s->max, used, n);
}

static struct stored *find(const struct fd_store *s, const char *name)
{
	struct stored *e;

	HASH_FIND_STR(s->names, name, e);
	return e;
}

/* It is counted from now on. */
static int name_add(struct fd_store *s, const char *name)
{
	size_t size = strlen(name) + 1;
	struct stored *e;

	if (size > FD_STORE_NAME_MAX || strchr(name, ':'))
		return -EINVAL;
	if (find(s, name))
		return -EEXIST;
	if (s->names_bytes + size > NAMES_BYTES_MAX)
		return -E2BIG;
	e = calloc(1, sizeof(*e) + size);
	if (!e)
		return -ENOMEM;
	memcpy(e->name, name, size);
	HASH_ADD_STR(s->names, name, e);
	s->names_bytes += size;
	return 0;
}

static void name_remove(struct fd_store *s, struct stored *e)
{
	HASH_DEL(s->names, e);
	s->names_bytes -= strlen(e->name) + 1;
	free(e);
}

/* More could not be passed to the next process: it would not even start. */
static int names_full(const struct fd_store *s, struct error *err)
{
	return error_set(err, -ENOSPC,
	                 "the names of the %u descriptors in the FD store fill the %d bytes that "
	                 "can be passed to a program: wait until something ends, and set "
	                 "fd_store_max and FileDescriptorStoreMax= to what fits",
	                 fd_store_used(s), NAMES_BYTES_MAX);
}

int fd_store_add(struct fd_store *s, const char *name, int fd, struct error *err)
{
	char message[FD_STORE_NAME_MAX + 64];
	int r;

	if (!fd_store_present(s))
		return 0;
	r = fd_store_check_room(s, 1, err);
	if (r < 0)
		return r;
	r = name_add(s, name);
	if (r == -E2BIG)
		return names_full(s, err);
	if (r < 0)
		return error_set_errno(err, r, "cannot keep \"%s\" in the FD store", name);
	/* Watched, a userfaultfd or a socket whose peer has gone would be dropped without a word. */
	snprintf(message, sizeof(message), "FDSTORE=1\nFDPOLL=0\nFDNAME=%s", name);
	r = sd_pid_notify_with_fds(0, 0, message, &fd, 1);
	if (r > 0)
		return 0;
	name_remove(s, find(s, name));
	return error_set_errno(err, r < 0 ? r : -ENOTCONN,
	                       "cannot send \"%s\" to the service manager's FD store", name);
}

int fd_store_passed(struct fd_store *s, const char *name)
{
	return name_add(s, name);
}

int fd_store_barrier(const struct fd_store *s, struct error *err)
{
	int r;

	if (!fd_store_present(s))
		return 0;
	r = sd_notify_barrier(0, BARRIER_TIMEOUT_US);
	if (r > 0)
		return 0;
	return error_set_errno(err, r < 0 ? r : -ENOTCONN,
	                       "the service manager does not confirm what it was given for the FD "
	                       "store");
}

void fd_store_remove(struct fd_store *s, const char *name)
{
	struct stored *e = find(s, name);
	int r;

	if (!e)
		return;
	r = sd_notifyf(0, "FDSTOREREMOVE=1\nFDNAME=%s", name);
	if (r < 0)
		log_warning("cannot take \"%s\" out of the service manager's FD store: %s; "
		            "ignoring",
		            name, strerror(-r));
	name_remove(s, e);
}
