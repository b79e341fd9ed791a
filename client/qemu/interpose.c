/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The functions of the C library that QEMU calls here instead: each does what was
 * asked, and tells memory.c what became of guest memory. A vhost-user back end's calls
 * go to back_end.c. Calls before the constructor has run, and in other programs, pass
 * unseen.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "client/qemu/qemu.h"
#include "core/cleanup.h"

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif

#define EXPORTED __attribute__((visibility("default")))
/* Longer command lines exist only to harm: the kernel's own limit is lower. */
#define COMMAND_LINE_MAX (4U << 20)

/* The next library's function of this name. Looked up once; twice does no harm. */
#define NEXT(name)                                                           \
	({                                                                   \
		static _Atomic(__typeof__(&name)) next_;                     \
		__typeof__(&name) found_ = atomic_load(&next_);              \
		if (!found_) {                                               \
			found_ = (__typeof__(&name))dlsym(RTLD_NEXT, #name); \
			atomic_store(&next_, found_);                        \
		}                                                            \
		found_;                                                      \
	})

/* What this thread calls is the library's own. */
static _Thread_local bool is_own;

bool interpose_own(bool own)
{
	bool before = is_own;

	is_own = own;
	return before;
}

static bool in_qemu(void)
{
	return command_line.is_qemu && !is_own;
}

static bool in_back_end(void)
{
	return back_end_is() && !is_own;
}

void *next_mmap(size_t length, int flags, int fd, off_t offset)
{
	return NEXT(mmap64)(NULL, length, PROT_READ | PROT_WRITE, flags, fd, offset);
}

int next_munmap(void *address, size_t length)
{
	return NEXT(munmap)(address, length);
}

EXPORTED void *mmap(void *address, size_t length, int prot, int flags, int fd, off_t offset)
{
	void *mapped;
	int saved;

	if (in_back_end() && back_end_maps(length, flags, fd, offset, &mapped))
		return mapped;
	mapped = NEXT(mmap)(address, length, prot, flags, fd, offset);
	saved = errno;
	if (in_qemu() && mapped != MAP_FAILED)
		memory_mapped(mapped, length, prot, flags, fd, offset);
	errno = saved;
	return mapped;
}

/* The same function where offsets have 64 bits, but a symbol of its own. */
EXPORTED void *mmap64(void *address, size_t length, int prot, int flags, int fd, off64_t offset)
{
	void *mapped;
	int saved;

	if (in_back_end() && back_end_maps(length, flags, fd, (off_t)offset, &mapped))
		return mapped;
	mapped = NEXT(mmap64)(address, length, prot, flags, fd, offset);
	saved = errno;
	if (in_qemu() && mapped != MAP_FAILED)
		memory_mapped(mapped, length, prot, flags, fd, (off_t)offset);
	errno = saved;
	return mapped;
}

EXPORTED int munmap(void *address, size_t length)
{
	int result;

	if (in_back_end() && back_end_unmaps(address, length, &result))
		return result;
	if (in_qemu())
		memory_unmapped(address, length);
	return NEXT(munmap)(address, length);
}

/* Guest memory goes to no process that does not know what is special about it. */
EXPORTED ssize_t sendmsg(int sock, const struct msghdr *msg, int flags)
{
	if (in_qemu() && !vhost_user_may_send(sock, msg)) {
		errno = EPERM;
		return -1;
	}
	return NEXT(sendmsg)(sock, msg, flags);
}

/* Memory files that come over a socket are somebody else's. */
EXPORTED ssize_t recvmsg(int sock, struct msghdr *msg, int flags)
{
	ssize_t n = NEXT(recvmsg)(sock, msg, flags);
	int saved = errno;

	if (n >= 0 && in_back_end())
		back_end_received(msg);
	errno = saved;
	return n;
}

/* Without those whose bytes are cut off. */
size_t message_fds(const struct msghdr *msg, int fds[FDS_IN_MESSAGE_MAX])
{
	struct msghdr *m = (struct msghdr *)msg; /* CMSG_NXTHDR() changes nothing */
	size_t n = 0;

	for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
		size_t len = c->cmsg_len < CMSG_LEN(0) ? 0 : c->cmsg_len - CMSG_LEN(0);

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		len = MIN(len / sizeof(int), FDS_IN_MESSAGE_MAX - n);
		memcpy(fds + n, CMSG_DATA(c), len * sizeof(int));
		n += len;
	}
	return n;
}

/*
 * Memory that waits to be attached. Pages are made by it whichever way QEMU was told to;
 * and who discards some (virtio-mem) would wait for a reader of the userfaultfd, which
 * there is not yet: nothing is there to be discarded.
 */
EXPORTED int madvise(void *address, size_t length, int advice)
{
	if (!atomic_load(&command_line.waits) || !memory_is_at(address, length))
		return NEXT(madvise)(address, length, advice);
	if (advice == MADV_POPULATE_READ || advice == MADV_POPULATE_WRITE)
		refuse("QEMU wants to have all memory before the source's is here "
		       "(MADV_POPULATE): the guest would run on zeros; leave preallocation out");
	if (advice == MADV_REMOVE || advice == MADV_DONTNEED)
		return 0;
	return NEXT(madvise)(address, length, advice);
}

/* All of /proc/self/cmdline; *ret is malloc()ed and ends with a NUL. */
static ssize_t cmdline_read(char **ret)
{
	_cleanup_close_ int fd = open("/proc/self/cmdline", O_RDONLY | O_CLOEXEC);
	_cleanup_free_ char *text = NULL;
	size_t len = 0, room = 0;
	ssize_t n = fd < 0 ? -1 : 1;

	while (n > 0) {
		if (len + 1 >= room) {
			char *more = room < COMMAND_LINE_MAX ? realloc(text, room + 65536) : NULL;

			if (!more)
				return -ENOMEM;
			text = more;
			room += 65536;
		}
		n = read(fd, text + len, room - len - 1);
		len += n > 0 ? (size_t)n : 0;
	}
	if (n < 0)
		return -errno;
	text[len] = '\0';
	*ret = TAKE_PTR(text);
	return (ssize_t)len;
}

/* The arguments in it; *ret is malloc()ed, and its strings are text's. */
static size_t arguments_split(char *text, size_t len, char ***ret)
{
	size_t n = 0;

	for (size_t i = 0; i < len; i++)
		n += text[i] == '\0';
	*ret = calloc(n + 1, sizeof(**ret));
	if (!*ret)
		return 0;
	n = 0;
	for (size_t at = 0; at < len; at += strlen(text + at) + 1)
		(*ret)[n++] = text + at;
	return n;
}

/* Helpers that QEMU starts, shells before it and back ends: they have our environment, too. */
static bool program_is_qemu(void)
{
	char path[4096];
	ssize_t n = readlink("/proc/self/exe", path, sizeof(path) - 1);
	const char *name;

	if (n <= 0)
		return false;
	path[n] = '\0';
	name = strrchr(path, '/') ? strrchr(path, '/') + 1 : path;
	return strncmp(name, "qemu-system-", strlen("qemu-system-")) == 0 ||
	       strcmp(name, "qemu-kvm") == 0 || strcmp(name, "kvm") == 0;
}

__attribute__((constructor)) static void library_start(void)
{
	_cleanup_free_ char *text = NULL;
	_cleanup_free_ char **argv = NULL;
	size_t argc;
	ssize_t len;

	if (!program_is_qemu()) {
		back_end_start();
		return;
	}
	len = cmdline_read(&text);
	if (len < 0) {
		say("cannot read /proc/self/cmdline: %s", strerror((int)-len));
		_exit(1);
	}
	argc = arguments_split(text, (size_t)len, &argv);
	command_line_parse(argv, argc, &command_line);
	command_line.is_qemu = true;
}
