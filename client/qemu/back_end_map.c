/* SPDX-License-Identifier: Apache-2.0 */
/*
 * In a vhost-user back end: its mappings of guest memory, each attached to the migration
 * (POSTCOPY_ATTACH_MAPPING) before the back end has the address. Called by back_end.c and
 * interpose.c in the back end's threads, and by a thread of the library's own.
 *
 * A file is mapped once, as a whole, and whoever maps parts of it again gets an address
 * in that: a back end maps each stretch that the guest sees, and all again whenever one is
 * added, but a migration has room for few mappings. So it stays until the migration has
 * ended, although nobody has it mapped for the moment.
 *
 * Always holds: its userfaultfd is open until the memory has come.
 */
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>

#include "client/qemu/qemu.h"
#include "core/cleanup.h"
#include "core/thread.h"
#include "core/units.h"

struct shared {
	struct shared *next;
	uint64_t device, inode;
	struct mapping of;       /* what of the file, and where here; its fd is not ours */
	int uffd;                /* -1: all has come */
	struct postcopy *handle; /* NULL: its migration has ended */
	bool gone;               /* its daemon, for good */
	size_t n_users;
};

/* What the back end thinks is a mapping of its own. */
struct part {
	struct part *next;
	char *address;
	size_t length_bytes;
	struct shared *of;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of all below */
static struct shared *all;
static struct part *parts;
static int changed = -1; /* eventfd: there is one more to be watched */

/* ---- a file's one mapping ---- */

/* Nobody may touch it any more. */
static struct shared *shared_free(struct shared *s)
{
	if (s->handle)
		(void)postcopy_close(s->handle, POSTCOPY_CLOSE_FORCE);
	if (s->of.address)
		(void)next_munmap(s->of.address, s->of.length_bytes);
	close_fd(&s->uffd);
	free(s);
	return NULL;
}
DEFINE_CLEANUP(struct shared, shared_free)

static void shared_drop(struct shared *s)
{
	struct shared **at = &all;

	while (*at != s)
		at = &(*at)->next;
	*at = s->next;
	(void)shared_free(s);
}

/* The migration has ended, or nobody tells how it goes on. */
static void shared_finish(struct shared *s, const struct postcopy_status *status)
{
	(void)postcopy_close(s->handle, POSTCOPY_CLOSE_FORCE);
	s->handle = NULL;
	if (status->state == POSTCOPY_STATE_COMPLETED)
		close_fd(&s->uffd);
	else
		say("migration of this guest's memory: %s %s; what has not come is waited for",
		    status->name, status->text);
	if (s->n_users == 0)
		shared_drop(s);
}

/* Without waiting. */
static void shared_process(struct shared *s)
{
	struct postcopy_status status;
	int r = postcopy_process(s->handle);

	(void)postcopy_get_status(s->handle, &status);
	if (status.final) {
		shared_finish(s, &status);
	} else if (r < 0) {
		s->gone = true;
		say("postcopyd's connection has ended: %s; what has not come is waited for",
		    strerror(-r));
		if (s->n_users == 0)
			shared_drop(s);
	}
}

/* ---- the thread ---- */

/* All handles, behind the eventfd. The caller has the lock; *ret grows. */
static size_t poll_fill(struct pollfd **ret, size_t *room)
{
	size_t n = 1;

	for (const struct shared *s = all; s; s = s->next)
		n++;
	if (n > *room) {
		struct pollfd *more = realloc(*ret, n * sizeof(*more));

		if (!more)
			return 0;
		*ret = more;
		*room = n;
	}
	n = 0;
	(*ret)[n++] = (struct pollfd){.fd = changed, .events = POLLIN};
	for (const struct shared *s = all; s; s = s->next)
		if (s->handle && !s->gone)
			(*ret)[n++] =
			        (struct pollfd){.fd = postcopy_fd(s->handle), .events = POLLIN};
	return n;
}

static void process_all(void)
{
	struct shared *next;

	for (struct shared *s = all; s; s = next) {
		next = s->next;
		if (s->handle && !s->gone)
			shared_process(s);
	}
}

static void *watch_thread(void *unused)
{
	struct pollfd none, *p = NULL;
	size_t n, room = 0;
	uint64_t count;

	(void)unused;
	(void)interpose_own(true);
	for (;;) {
		pthread_mutex_lock(&lock);
		process_all();
		n = poll_fill(&p, &room);
		pthread_mutex_unlock(&lock);
		none = (struct pollfd){.fd = changed, .events = POLLIN};
		if (poll(n ? p : &none, n ? n : 1, n ? -1 : 1000) > 0 && (n ? p : &none)->revents)
			(void)!read(changed, &count, sizeof(count));
	}
	return NULL;
}

/* With the lock. 0 or -errno. */
static int watch_start(void)
{
	pthread_t thread;
	int r;

	if (changed >= 0)
		return 0;
	changed = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (changed < 0)
		return -errno;
	r = thread_create_quiet(&thread, NULL, watch_thread, NULL);
	if (r == 0)
		return pthread_detach(thread);
	close_fd(&changed);
	return r;
}

/* ---- a new one ---- */

static int shared_attach(struct shared *s, const struct back_end_memory *memory, int fd,
                         struct error *err)
{
	const struct mapping *m = &s->of;
	const struct postcopy_region region = {
	        .name = m->name,
	        .guest_physical_address = m->gpa,
	        .address = m->address,
	        .length = m->length_bytes,
	        .page_size = m->page_size_bytes,
	        .backing = m->is_hugetlb ? POSTCOPY_BACKING_HUGETLB : POSTCOPY_BACKING_MEMFD,
	        .mode = POSTCOPY_MODE_MISSING,
	        .memory_fd = fd,
	        .memory_offset = m->offset_bytes,
	};
	struct postcopy_attach_params params = {
	        .socket_path = memory->socket_path[0] ? memory->socket_path : NULL,
	        .token = memory->request.token,
	        .token_len = memory->request.token_len,
	        .uffds = &s->uffd,
	        .n_uffds = 1,
	        .regions = &region,
	        .n_regions = 1,
	        .flags = POSTCOPY_ATTACH_MAPPING,
	};
	int r = watch_start();

	if (r < 0)
		return error_set_errno(err, r, "cannot watch a migration");
	memcpy(params.migration_id, memory->request.migration_id, sizeof(params.migration_id));
	r = postcopy_attach(&params, &s->handle, err->text, sizeof(err->text));
	if (r < 0)
		return err->code = r;
	return eventfd_write(changed, 1) < 0 ? error_set_errno(err, -errno, "eventfd") : 0;
}

static int shared_new(const struct back_end_memory *memory, int fd, struct shared **ret,
                      struct error *err)
{
	_cleanup_(cleanup_shared_free) struct shared *s = calloc(1, sizeof(*s));
	void *address;
	int r;

	if (!s)
		return error_set_errno(err, -ENOMEM, "cannot map it");
	s->device = memory->device;
	s->inode = memory->inode;
	s->of = memory->mapping;
	s->of.address = NULL;
	s->uffd = postcopy_uffd_open(0);
	if (s->uffd < 0)
		return error_set_errno(err, s->uffd,
		                       "no userfaultfd for this user (`postcopyctl probe` tells "
		                       "how to permit it)");
	address = next_mmap(s->of.length_bytes, MAP_SHARED | MAP_NORESERVE, fd,
	                    (off_t)s->of.offset_bytes);
	if (address == MAP_FAILED)
		return error_set_errno(err, -errno, "cannot map it");
	s->of.address = address;
	if (memory->arrives) {
		r = shared_attach(s, memory, fd, err);
	} else {
		r = back_end_mark(&s->of, s->uffd, memory->lost, memory->n_lost, err);
		close_fd(&s->uffd);
	}
	if (r == 0)
		*ret = TAKE_PTR(s);
	return r;
}

/* ---- parts ---- */

static bool lies_in(const struct mapping *m, uint64_t offset, size_t length)
{
	return offset >= m->offset_bytes && offset - m->offset_bytes <= m->length_bytes &&
	       align_up(length, m->page_size_bytes) <= m->length_bytes - (offset - m->offset_bytes);
}

static struct shared *shared_find(uint64_t device, uint64_t inode, uint64_t offset, size_t length)
{
	for (struct shared *s = all; s; s = s->next)
		if (s->device == device && s->inode == inode && lies_in(&s->of, offset, length))
			return s;
	return NULL;
}

static int part_add(struct shared *s, uint64_t offset, size_t length, void **ret)
{
	struct part *part = calloc(1, sizeof(*part));

	if (!part)
		return -ENOMEM;
	*part = (struct part){.next = parts,
	                      .address = (char *)s->of.address + (offset - s->of.offset_bytes),
	                      .length_bytes = align_up(length, s->of.page_size_bytes),
	                      .of = s};
	parts = part;
	s->n_users++;
	*ret = part->address;
	return 0;
}

bool back_end_map_again(uint64_t device, uint64_t inode, uint64_t offset, size_t length, void **ret)
{
	struct shared *s;
	bool found;

	pthread_mutex_lock(&lock);
	s = shared_find(device, inode, offset, length);
	found = s && part_add(s, offset, length, ret) == 0;
	pthread_mutex_unlock(&lock);
	return found;
}

static int map_locked(const struct back_end_memory *memory, int fd, uint64_t offset, size_t length,
                      void **ret, struct error *err)
{
	const struct mapping *m = &memory->mapping;
	struct shared *s = shared_find(memory->device, memory->inode, offset, length);
	int r = 0;

	if (!lies_in(m, offset, length))
		return error_set(err, -EINVAL,
		                 "it asks for %zu bytes at %" PRIu64 ", but the guest's memory %s "
		                 "has %" PRIu64 " at %" PRIu64,
		                 length, offset, m->name, m->length_bytes, m->offset_bytes);
	if (!s) {
		r = shared_new(memory, fd, &s, err);
		if (r < 0)
			return r;
		s->next = all;
		all = s;
	}
	if (part_add(s, offset, length, ret) == 0)
		return 0;
	if (s->n_users == 0)
		shared_drop(s);
	return error_set_errno(err, -ENOMEM, "cannot map it");
}

int back_end_map(const struct back_end_memory *memory, int fd, uint64_t offset, size_t length,
                 void **ret, struct error *err)
{
	int r;

	pthread_mutex_lock(&lock);
	r = map_locked(memory, fd, offset, length, ret, err);
	pthread_mutex_unlock(&lock);
	return r;
}

/* ---- munmap() ---- */

/* The part, taken out of the list; NULL: there is no such one. */
static struct part *part_take(const char *address, size_t length)
{
	for (struct part **at = &parts; *at; at = &(*at)->next) {
		struct part *part = *at;

		if (part->address == address &&
		    part->length_bytes == align_up(length, part->of->of.page_size_bytes)) {
			*at = part->next;
			return part;
		}
	}
	return NULL;
}

static bool shared_is_at(const char *address, size_t length)
{
	for (const struct shared *s = all; s; s = s->next) {
		const char *start = s->of.address;

		if (address < start + s->of.length_bytes && start < address + length)
			return true;
	}
	return false;
}

static bool unmap_locked(void *address, size_t length, int *ret)
{
	struct part *part = part_take(address, length);
	struct shared *s = part ? part->of : NULL;

	if (!part && !shared_is_at(address, length))
		return false;
	*ret = part ? 0 : -1;
	if (!part) {
		errno = EINVAL;
		return true;
	}
	free(part);
	if (--s->n_users == 0 && (!s->handle || s->gone))
		shared_drop(s);
	return true;
}

bool back_end_unmaps(void *address, size_t length, int *ret)
{
	bool own = interpose_own(true), is_ours;

	pthread_mutex_lock(&lock);
	is_ours = unmap_locked(address, length, ret);
	pthread_mutex_unlock(&lock);
	(void)interpose_own(own);
	return is_ours;
}
