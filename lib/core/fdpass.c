/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Descriptors and length-prefixed messages over UNIX stream sockets. The daemons'
 * net/ipc.c uses the single calls, the blocking clients the whole messages.
 *
 * A descriptor that was received is either handed to the caller or closed: the
 * peer is not trusted to send only what was agreed.
 */
#include "core/fdpass.h"

#include "core/cleanup.h"
#include "core/clock.h"

#include <endian.h>
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

/* The most the kernel lets one message carry (SCM_MAX_FD): room for all, so that none is cut. */
#define KERNEL_FDS_MAX 253
#define PREFIX_BYTES sizeof(uint32_t)

union control {
	struct cmsghdr align;
	char bytes[CMSG_SPACE(sizeof(int) * KERNEL_FDS_MAX)];
};

struct fd_list {
	size_t n;
	int fds[KERNEL_FDS_MAX];
};

static void close_fds(const int *fds, size_t n)
{
	for (size_t i = 0; i < n; i++)
		close(fds[i]);
}

static void control_fill(union control *control, struct msghdr *msg, const int *fds, size_t n_fds)
{
	memset(control, 0, sizeof(*control));
	msg->msg_control = control;
	msg->msg_controllen = CMSG_SPACE(sizeof(int) * n_fds);
	struct cmsghdr *cmsg = CMSG_FIRSTHDR(msg);

	cmsg->cmsg_level = SOL_SOCKET;
	cmsg->cmsg_type = SCM_RIGHTS;
	cmsg->cmsg_len = CMSG_LEN(sizeof(int) * n_fds);
	memcpy(CMSG_DATA(cmsg), fds, sizeof(int) * n_fds);
}

static ssize_t send_iov(int sock, struct iovec *iov, size_t n_iov, const int *fds, size_t n_fds,
                        int flags)
{
	union control control;
	struct msghdr msg = {.msg_iov = iov, .msg_iovlen = n_iov};
	ssize_t n;

	if (n_fds > FDPASS_FDS_MAX)
		return -E2BIG;
	if (n_fds > 0)
		control_fill(&control, &msg, fds, n_fds);
	do {
		n = sendmsg(sock, &msg, flags | MSG_NOSIGNAL);
	} while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : n;
}

ssize_t fdpass_send(int sock, const void *buf, size_t len, const int *fds, size_t n_fds, int flags)
{
	struct iovec iov = {.iov_base = (void *)buf, .iov_len = len};

	if (len == 0 && n_fds > 0)
		return -EINVAL; /* on a stream, descriptors travel with a byte */
	return send_iov(sock, &iov, 1, fds, n_fds, flags);
}

/* All descriptors of the message, however many control messages they came in. */
static void control_read(struct msghdr *msg, struct fd_list *list)
{
	list->n = 0;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);

		n = MIN(n, KERNEL_FDS_MAX - list->n);
		memcpy(list->fds + list->n, CMSG_DATA(c), n * sizeof(int));
		list->n += n;
	}
}

/* One recvmsg(); *ret_list is written on success only. */
static ssize_t recv_list(int sock, void *buf, size_t len, struct fd_list *ret_list, int flags)
{
	union control control;
	struct iovec iov = {.iov_base = buf, .iov_len = len};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control};
	ssize_t n;

	do {
		msg.msg_controllen = sizeof(control);
		n = recvmsg(sock, &msg, flags | MSG_CMSG_CLOEXEC);
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	control_read(&msg, ret_list);
	if (msg.msg_flags & MSG_CTRUNC) { /* there was room: our descriptor table is full */
		close_fds(ret_list->fds, ret_list->n);
		ret_list->n = 0;
		return -EMFILE;
	}
	return n;
}

/* Hand the list over, or close all of it when it is too long. */
static int list_take(struct fd_list *list, int *fds, size_t max_fds, size_t *ret_n_fds)
{
	if (list->n > max_fds) {
		close_fds(list->fds, list->n);
		return -E2BIG;
	}
	if (list->n > 0)
		memcpy(fds, list->fds, list->n * sizeof(int));
	if (ret_n_fds)
		*ret_n_fds = list->n;
	return 0;
}

ssize_t fdpass_recv(int sock, void *buf, size_t len, int *fds, size_t max_fds, size_t *ret_n_fds,
                    int flags)
{
	struct fd_list list;
	ssize_t n = recv_list(sock, buf, len, &list, flags);

	if (n < 0)
		return n;
	int r = list_take(&list, fds, max_fds, ret_n_fds);

	return r < 0 ? r : n;
}

/* Wait for events until the deadline (UINT64_MAX: for ever). */
static int wait_ready(int sock, short events, uint64_t deadline_us)
{
	struct pollfd pfd = {.fd = sock, .events = events};

	for (;;) {
		uint64_t now_us = clock_monotonic_us();
		uint64_t left_us = deadline_us > now_us ? deadline_us - now_us : 0;
		struct timespec left = {.tv_sec = (time_t)(left_us / 1000000),
		                        .tv_nsec = (long)(left_us % 1000000) * 1000};
		int n = ppoll(&pfd, 1, deadline_us == UINT64_MAX ? NULL : &left, NULL);

		if (n > 0)
			return 0;
		if (n == 0)
			return -ETIMEDOUT;
		if (errno != EINTR)
			return -errno;
	}
}

/* Drop what was sent from the front of the vector. */
static void iov_advance(struct iovec *iov, size_t n_iov, size_t sent)
{
	for (size_t i = 0; i < n_iov; i++) {
		size_t n = MIN(sent, iov[i].iov_len);

		iov[i].iov_base = (char *)iov[i].iov_base + n;
		iov[i].iov_len -= n;
		sent -= n;
	}
}

int fdpass_send_message(int sock, const void *buf, size_t len, const int *fds, size_t n_fds)
{
	uint32_t prefix = htole32((uint32_t)len);
	struct iovec iov[2] = {{.iov_base = &prefix, .iov_len = PREFIX_BYTES},
	                       {.iov_base = (void *)buf, .iov_len = len}};

	if (len > FDPASS_MESSAGE_MAX)
		return -EMSGSIZE;
	while (iov[0].iov_len + iov[1].iov_len > 0) {
		ssize_t n = send_iov(sock, iov, ARRAY_SIZE(iov), fds, n_fds, 0);

		if (n == -EAGAIN) /* the caller's socket is non-blocking; we are not */
			n = wait_ready(sock, POLLOUT, UINT64_MAX);
		else if (n > 0)
			n_fds = 0; /* they went with the first byte */
		if (n < 0)
			return (int)n;
		iov_advance(iov, ARRAY_SIZE(iov), (size_t)n);
	}
	return 0;
}

/* Fill buf whole. Descriptors are taken into list with the first byte, and only if wanted. */
static int recv_whole(int sock, void *buf, size_t len, struct fd_list *list, bool want_fds,
                      uint64_t deadline_us)
{
	for (size_t done = 0; done < len;) {
		struct fd_list got = {0};
		ssize_t n = recv_list(sock, (char *)buf + done, len - done, &got, MSG_DONTWAIT);

		if (n == -EAGAIN) {
			n = wait_ready(sock, POLLIN, deadline_us);
			if (n < 0)
				return (int)n;
			continue;
		}
		if (n < 0)
			return (int)n;
		if (n == 0)
			return -ECONNRESET;
		if (done == 0 && want_fds)
			*list = got;
		else
			close_fds(got.fds, got.n);
		done += (size_t)n;
	}
	return 0;
}

static int recv_body(int sock, size_t len, uint8_t **ret_buf, uint64_t deadline_us)
{
	_cleanup_free_ uint8_t *buf = malloc(len ? len : 1);

	if (!buf)
		return -ENOMEM;
	int r = recv_whole(sock, buf, len, NULL, false, deadline_us);

	if (r < 0)
		return r;
	*ret_buf = TAKE_PTR(buf);
	return 0;
}

static uint64_t deadline_after(uint64_t timeout_us)
{
	uint64_t deadline_us;

	if (__builtin_add_overflow(clock_monotonic_us(), timeout_us, &deadline_us))
		return UINT64_MAX;
	return deadline_us;
}

int fdpass_recv_message(int sock, uint8_t **ret_buf, size_t *ret_len, int *fds, size_t max_fds,
                        size_t *ret_n_fds, uint64_t timeout_us)
{
	uint64_t deadline_us = deadline_after(timeout_us);
	struct fd_list list = {0};
	uint8_t *buf = NULL;
	uint32_t prefix;
	int r = recv_whole(sock, &prefix, PREFIX_BYTES, &list, fds != NULL, deadline_us);
	size_t len = r < 0 ? 0 : le32toh(prefix);

	if (r == 0 && len > FDPASS_MESSAGE_MAX)
		r = -EMSGSIZE;
	if (r == 0)
		r = recv_body(sock, len, &buf, deadline_us);
	if (r < 0) {
		close_fds(list.fds, list.n);
		return r;
	}
	r = list_take(&list, fds, max_fds, ret_n_fds);
	if (r < 0) {
		free(buf);
		return r;
	}
	*ret_buf = buf;
	*ret_len = len;
	return 0;
}
