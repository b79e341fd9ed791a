/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The inside of libpostcopy-qemu.so, which a QEMU that knows nothing of postcopyd
 * loads before its other libraries (LD_PRELOAD).
 *
 *   command_line.c  which memory this QEMU was told to make
 *   interpose.c     the calls of QEMU that are looked at on their way to the C library
 *   memory.c        the guest's memory, as it was mapped
 *   guest.c         what is done with it: attach, export, freeze, withdraw
 *   command.c       the same as requests and answers in JSON
 *   server.c        the command socket, and the thread that serves it
 *   refusal.c       why this QEMU cannot be moved
 *   vhost_user.c    who may have the memory besides
 *
 * and a vhost-user back end, which maps the memory of such a QEMU:
 *
 *   back_end.c      the files that it gets, and what QEMU's library says of them
 *   back_end_map.c  its mappings of them, attached to the migration as well
 *   back_end_mark.c what is lost, when all has come
 *
 * In any other program the library does nothing at all.
 */
#ifndef CLIENT_QEMU_QEMU_H
#define CLIENT_QEMU_QEMU_H

#include <jansson.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>

#include "core/error.h"
#include "postcopy.h"

#define SOCKET_VARIABLE "POSTCOPY_QEMU_SOCKET"
#define BACKENDS_MAX 128

/* ------------------------------------------------------------ command_line.c -- */

/* One -object memory-backend-memfd or memory-backend-file. */
struct backend {
	char id[POSTCOPY_NAME_MAX];
	bool is_file;
	char *path; /* of a file, or of the directory for one */
};

struct command_line {
	bool is_qemu;
	bool incoming; /* it was started as a destination */
	/*
	 * Such a one that has not been attached yet. What would go wrong with its memory
	 * then ends it; later a touch of a page is only a wait for it.
	 */
	atomic_bool waits;
	struct backend backends[BACKENDS_MAX];
	size_t n_backends;
};

/* Set once, by the library's constructor, before QEMU's main(). */
extern struct command_line command_line;

/* What does not suit us is refused, see refusal.c. */
void command_line_parse(char *const *argv, size_t argc, struct command_line *ret);

/* Is the backend of this id a memory-backend-file? */
bool command_line_is_file(const char *id);

/* --------------------------------------------------------------- interpose.c -- */

/* True: what this thread calls from here on is the library's own, and passes. The value before. */
bool interpose_own(bool own);

/* Read and write, past the library. */
void *next_mmap(size_t length, int flags, int fd, off_t offset);
int next_munmap(void *address, size_t length);

#define FDS_IN_MESSAGE_MAX 253 /* the kernel's limit (SCM_MAX_FD) */

/* The descriptors that go with a message; how many. */
size_t message_fds(const struct msghdr *msg, int fds[FDS_IN_MESSAGE_MAX]);

/* ----------------------------------------------------------------- refusal.c -- */

/*
 * This QEMU cannot be moved. A destination that waits ends here, before it can run
 * on memory that is not the source's; any other runs on, and its export is refused
 * with the first of these texts.
 */
void refuse(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* 0, or -ENOTSUP with the text. */
int refusal_check(struct error *err);

/* "libpostcopy-qemu: TEXT" on standard error. */
void say(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* ------------------------------------------------------------------ memory.c -- */

/* What QEMU has mapped for one backend. */
struct mapping {
	char name[POSTCOPY_NAME_MAX];
	void *address;
	uint64_t length_bytes;
	uint64_t page_size_bytes;
	uint64_t offset_bytes; /* in the file */
	uint64_t gpa;          /* as postcopyd counts it: backend after backend */
	bool is_hugetlb;
	int fd; /* a duplicate of QEMU's */
};

/* QEMU has mapped or unmapped something. */
void memory_mapped(void *address, size_t length, int prot, int flags, int fd, off_t offset);
void memory_unmapped(void *address, size_t length);

/* True if the range touches guest memory. */
bool memory_is_at(const void *address, size_t length);

/* All pages are here, or are known to be lost. */
void memory_arrived(bool lost_some);

/* Nothing is special about this memory (any more): who maps it finds what the guest has. */
bool memory_is_whole(void);

/* True if this is the file of a mapping. */
bool memory_has_file(int fd);

/*
 * A copy of the table, in the order of the command line; its descriptors stay the
 * table's. -errno with a text when memory of this guest is not in it.
 */
int memory_copy(struct mapping *ret, size_t *ret_n, struct error *err);

/* -ENOTEMPTY with a text if a page is there already, which would be a wrong one. */
int memory_check_empty(const struct mapping *m, size_t n, struct error *err);

/* The userfaultfd of all mappings, or -1. It stays open as long as QEMU lives. */
int memory_uffd(void);

/* ------------------------------------------------------------------- guest.c -- */

/* All of it is called by the library's thread only. */

struct guest_request {
	uint8_t migration_id[16];
	uint8_t token[POSTCOPY_TOKEN_MAX];
	size_t token_len;
	const char *socket_path; /* NULL: the usual one */
	const char *peer;        /* of an export */
};

/* 0, or -errno with a text that tells what to do. */
int guest_attach(const struct guest_request *request, struct error *err);
int guest_export(const struct guest_request *request, struct error *err);
int guest_freeze(struct error *err);
int guest_withdraw(bool force, struct error *err);

enum {
	GUEST_IN,
	GUEST_OUT,
	GUEST_SIDES
};

/* To poll for POLLIN; -1 where there is none. */
int guest_fd(int side);
void guest_process(int side);

/*
 * What another process has to do before it may touch the file that it has mapped: attach it to
 * the migration by which it comes, or mark what is lost in it.
 */
struct guest_share {
	const struct mapping *mapping;       /* as it was attached; NULL: nothing has to be done */
	const struct guest_request *inbound; /* NULL: all has come */
};

/* -errno with a text when it cannot have it. What *ret points to stays guest.c's. */
int guest_share(uint64_t device, uint64_t inode, struct guest_share *ret, struct error *err);

/* What is lost of a mapping, one range a call, from *cursor (first 0) on. False: no more. */
bool guest_lost_next(const struct mapping *m, size_t *cursor, uint64_t *ret_offset,
                     uint64_t *ret_length);

/* Of the migration into or out of this QEMU. False: there was none. */
bool guest_status(int side, uint8_t ret_id[16], struct postcopy_status *ret);

/* ----------------------------------------------------------------- command.c -- */

/* What a client waits for: the memory of the migration into this QEMU. */
enum command_wait {
	WAIT_NOTHING,
	WAIT_SERVED,    /* a touched page would come */
	WAIT_COMPLETED, /* all of them have */
};

/* One line of a client. The answer is a new reference; NULL: it waits for *ret_wait. */
json_t *command_run(const char *line, size_t len, enum command_wait *ret_wait);

/* The answer to who waits, or NULL while it has to. */
json_t *command_wait_answer(enum command_wait wait);

/* -------------------------------------------------------------- vhost_user.c -- */

/* False: the other process must not have what is in this message; said why. */
bool vhost_user_may_send(int sock, const struct msghdr *msg);

/* ---------------------------------------------------------------- back_end.c -- */

/* In a program that is no QEMU. It is a back end if the socket's variable is set. */
void back_end_start(void);
bool back_end_is(void);

void back_end_received(const struct msghdr *msg);

/* True: it is guest memory that needs care, and *ret what mmap() returns. */
bool back_end_maps(size_t length, int flags, int fd, off_t offset, void **ret);

/* Guest memory as QEMU's library tells of it. */
struct back_end_memory {
	uint64_t device, inode; /* its file */
	struct mapping mapping; /* without address and descriptor */
	bool arrives;           /* by the migration of: */
	struct guest_request request;
	char socket_path[108];       /* "": the usual one */
	struct postcopy_range *lost; /* offsets in the mapping; malloc()ed */
	size_t n_lost;
};

/* ------------------------------------------------------------ back_end_map.c -- */

/* The mapping for a request that lies in this memory. 0, or -errno with a text. */
int back_end_map(const struct back_end_memory *memory, int fd, uint64_t offset, size_t length,
                 void **ret, struct error *err);

/* One that there is already, so that nobody need be asked. */
bool back_end_map_again(uint64_t device, uint64_t inode, uint64_t offset, size_t length,
                        void **ret);

/* True: it was one of these, and *ret what munmap() returns. */
bool back_end_unmaps(void *address, size_t length, int *ret);

/* ----------------------------------------------------------- back_end_mark.c -- */

/*
 * Of a mapping that nobody has touched: its n lost ranges, offsets in it, raise SIGBUS from here
 * on. The uffd is raw, and may be closed afterwards. 0, or -errno with a text.
 */
int back_end_mark(const struct mapping *m, int uffd, const struct postcopy_range *lost, size_t n,
                  struct error *err);

/* ------------------------------------------------------------------ server.c -- */

/* Once, when there is memory to speak of; ends QEMU when the socket cannot be made. */
void server_start(void);

#endif
