/* SPDX-License-Identifier: Apache-2.0 */
/*
 * In a vhost-user back end, which knows nothing of postcopyd either: the memory files that
 * it gets over a socket, and what the library in QEMU's process, at the same command
 * socket, says of each before it is mapped. Called by interpose.c in the back end's threads.
 *
 * Always holds: such a file is mapped as asked for only when QEMU's library has said
 * that it is not the guest's, or that nothing is special about it; without an answer it
 * is not mapped at all.
 */
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>

#include "client/qemu/qemu.h"
#include "core/cleanup.h"
#include "core/fdpass.h"
#include "core/hex.h"

#define ANSWER_BYTES_MAX (16U << 20)
#define ANSWER_SECONDS 20 /* QEMU's library may itself wait for a daemon, 10 s */

struct file {
	dev_t device;
	ino_t inode;
};

static const char *socket_path; /* NULL: this is no back end */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct file *files;
static size_t n_files, room;
static bool all_files; /* there was no memory to tell them apart */

void back_end_start(void)
{
	const char *path = getenv(SOCKET_VARIABLE);

	if (path && *path)
		socket_path = path;
}

bool back_end_is(void)
{
	return socket_path != NULL;
}

/* ---- which files came from somebody else ---- */

static bool file_is_known(dev_t device, ino_t inode)
{
	for (size_t i = 0; i < n_files; i++)
		if (files[i].device == device && files[i].inode == inode)
			return true;
	return all_files;
}

static void file_add(dev_t device, ino_t inode)
{
	struct file *more;

	if (file_is_known(device, inode))
		return;
	if (n_files == room) {
		more = realloc(files, (room + 64) * sizeof(*files));
		if (!more) {
			all_files = true;
			return;
		}
		files = more;
		room += 64;
	}
	files[n_files++] = (struct file){device, inode};
}

void back_end_received(const struct msghdr *msg)
{
	int fds[FDS_IN_MESSAGE_MAX];
	size_t n = message_fds(msg, fds);
	struct stat st;

	if (n == 0)
		return;
	pthread_mutex_lock(&lock);
	for (size_t i = 0; i < n; i++)
		if (fd_is_memory_file(fds[i]) && fstat(fds[i], &st) == 0)
			file_add(st.st_dev, st.st_ino);
	pthread_mutex_unlock(&lock);
}

static bool file_came(int fd, struct stat *ret)
{
	bool known;

	if (fstat(fd, ret) < 0 || !S_ISREG(ret->st_mode))
		return false;
	pthread_mutex_lock(&lock);
	known = file_is_known(ret->st_dev, ret->st_ino);
	pthread_mutex_unlock(&lock);
	return known;
}

/* ---- the question ---- */

static int line_send(int sock, json_t *o)
{
	_cleanup_free_ char *text = o ? json_dumps(o, JSON_COMPACT) : NULL;
	size_t len = text ? strlen(text) : 0;

	json_decref(o);
	if (!text)
		return -ENOMEM;
	text[len] = '\n'; /* in the NUL's place */
	return send(sock, text, len + 1, MSG_NOSIGNAL) == (ssize_t)len + 1 ? 0 : -EPIPE;
}

/* One object in one line. NULL: none came. */
static json_t *line_receive(int sock)
{
	_cleanup_free_ char *text = NULL;
	size_t len = 0, size = 0;
	ssize_t n = 1;

	while (n > 0 && (len == 0 || text[len - 1] != '\n')) {
		if (len == size) {
			char *more = size < ANSWER_BYTES_MAX ? realloc(text, size + 65536) : NULL;

			if (!more)
				return NULL;
			text = more;
			size += 65536;
		}
		n = recv(sock, text + len, size - len, 0);
		len += n > 0 ? (size_t)n : 0;
	}
	return n > 0 ? json_loadb(text, len, 0, NULL) : NULL;
}

static json_t *question_ask(const struct stat *st, struct error *err)
{
	struct timeval patience = {.tv_sec = ANSWER_SECONDS};
	_cleanup_close_ int sock = unix_connect(socket_path, err);
	json_t *answer = NULL;

	if (sock < 0)
		return NULL;
	(void)setsockopt(sock, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	if (line_send(sock, json_pack("{s:s, s:I, s:I}", "command", "share", "device",
	                              (json_int_t)st->st_dev, "inode", (json_int_t)st->st_ino)) ==
	    0)
		answer = line_receive(sock);
	if (!answer)
		error_set(err, -EPROTO, "no answer from QEMU's library at %s", socket_path);
	return answer;
}

/* ---- the answer ---- */

static int lost_read(const json_t *lost, struct back_end_memory *ret)
{
	size_t n = json_array_size(lost);

	ret->lost = calloc(n ? n : 1, sizeof(*ret->lost));
	if (!ret->lost)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++) {
		json_int_t offset, length;

		if (json_unpack(json_array_get(lost, i), "[I, I]", &offset, &length) < 0)
			return -EPROTO;
		ret->lost[i].guest_physical_address = (uint64_t)offset;
		ret->lost[i].length = (uint64_t)length;
	}
	ret->n_lost = n;
	return 0;
}

static int inbound_read(json_t *answer, struct back_end_memory *ret)
{
	struct guest_request *request = &ret->request;
	const char *id, *token, *path = "";
	size_t len;

	if (json_unpack(answer, "{s:s, s:s, s?s}", "id", &id, "token", &token, "socket", &path) < 0)
		return -EPROTO;
	len = strlen(token) / 2;
	if (postcopy_uuid_parse(id, request->migration_id) < 0 || len > sizeof(request->token) ||
	    hex_read(token, len, request->token) != 2 * len ||
	    strlen(path) >= sizeof(ret->socket_path))
		return -EPROTO;
	request->token_len = len;
	strcpy(ret->socket_path, path);
	ret->arrives = true;
	return 0;
}

/* 1: it is guest memory that needs care. 0: it is not. */
static int answer_read(json_t *answer, struct back_end_memory *ret)
{
	json_int_t address, offset, length, page_size;
	struct mapping *m = &ret->mapping;
	const json_t *lost = json_object_get(answer, "lost");
	int hugetlb, r;
	const char *name;

	if (!json_object_get(answer, "name"))
		return 0;
	if (json_unpack(answer, "{s:s, s:I, s:I, s:I, s:I, s:b}", "name", &name, "address",
	                &address, "offset", &offset, "length", &length, "page_size", &page_size,
	                "hugetlb", &hugetlb) < 0 ||
	    strlen(name) >= sizeof(m->name) || length <= 0 || page_size <= 0)
		return -EPROTO;
	strcpy(m->name, name);
	m->gpa = (uint64_t)address;
	m->offset_bytes = (uint64_t)offset;
	m->length_bytes = (uint64_t)length;
	m->page_size_bytes = (uint64_t)page_size;
	m->is_hugetlb = hugetlb;
	r = lost ? lost_read(lost, ret) : inbound_read(answer, ret);
	return r < 0 ? r : 1;
}

/* As answer_read(), or -errno with a text. */
static int memory_ask(const struct stat *st, struct back_end_memory *ret, struct error *err)
{
	json_t *answer = question_ask(st, err);
	const char *text = json_string_value(json_object_get(answer, "error"));
	int r;

	if (!answer)
		return err->code;
	ret->device = st->st_dev;
	ret->inode = st->st_ino;
	if (json_is_true(json_object_get(answer, "ok")))
		r = answer_read(answer, ret);
	else
		r = error_set(err, -EPERM, "%s", text ? text : "refused by QEMU's library");
	json_decref(answer);
	if (r < 0 && !err->text[0])
		error_set(err, r,
		          "QEMU's library at %s does not answer as this one would: is it "
		          "of another version?",
		          socket_path);
	return r;
}

/* ---- mmap() ---- */

static int memory_map(const struct back_end_memory *memory, int flags, int fd, off_t offset,
                      size_t length, void **ret, struct error *err)
{
	int type = flags & MAP_TYPE;

	if ((type != MAP_SHARED && type != MAP_SHARED_VALIDATE) || flags & MAP_FIXED)
		return error_set(err, -EPERM,
		                 "only a shared mapping at an address that the kernel may choose "
		                 "can be attached as well");
	return back_end_map(memory, fd, (uint64_t)offset, length, ret, err);
}

/* 1: *ret is the mapping; 0: it is nothing special. */
static int file_map(const struct stat *st, int flags, int fd, off_t offset, size_t length,
                    void **ret, struct error *err)
{
	struct back_end_memory memory = {0};
	int r;

	if (!(flags & MAP_FIXED) &&
	    back_end_map_again(st->st_dev, st->st_ino, (uint64_t)offset, length, ret))
		return 1;
	r = memory_ask(st, &memory, err);
	if (r == 1) {
		r = memory_map(&memory, flags, fd, offset, length, ret, err);
		r = r < 0 ? r : 1;
	}
	explicit_bzero(&memory.request, sizeof(memory.request));
	free(memory.lost);
	return r;
}

bool back_end_maps(size_t length, int flags, int fd, off_t offset, void **ret)
{
	struct error err = {0};
	struct stat st;
	bool own;
	int r;

	if (fd < 0 || offset < 0 || length == 0 || !file_came(fd, &st))
		return false;
	own = interpose_own(true);
	r = file_map(&st, flags, fd, offset, length, ret, &err);
	(void)interpose_own(own);
	if (r >= 0)
		return r == 1;
	say("a memory file of %" PRIu64 " bytes that another process has sent is not mapped: %s",
	    (uint64_t)st.st_size, err.text);
	*ret = MAP_FAILED;
	errno = EPERM;
	return true;
}
