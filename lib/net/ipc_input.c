/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Receiving messages of a local connection. Called by net/ipc.c.
 *
 * A message is taken out of the socket by one recvmsg(), when all of it is
 * there: a process that dies leaves the stream at a message's beginning to
 * whoever has a duplicate of the socket. Taken piecewise, prefix first, is only
 * what a socket may not hold at once, and what comes with descriptors: recvmsg()
 * stops behind the 32 KiB or so that these travel with, and does not tell with
 * which byte they came. (A request with descriptors is a connection's first one,
 * and nobody has a duplicate before it was accepted.)
 *
 * No recvmsg() reads beyond the message's end, so that descriptors are never
 * ascribed to the wrong message.
 */
#include "net/ipc_input.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "core/cleanup.h"
#include "core/units.h"

#define PREFIX_BYTES 4
/* What a socket holds with the default net.core.wmem_default (212992), with some to spare. */
#define WHOLE_MAX (128 * 1024)
/* A bigger buffer is given back after its message. */
#define KEEP_BYTES (64 * 1024)

/* What lies in the socket. */
struct look {
	size_t available; /* bytes */
	uint8_t prefix[PREFIX_BYTES];
	size_t n_prefix; /* of them seen */
	bool fds;        /* descriptors come with them, or with what was sent after them */
};

void ipc_input_close_fds(struct ipc_input *in)
{
	for (size_t i = 0; i < in->n_fds; i++)
		close_fd(&in->fds[i]);
	in->n_fds = 0;
}

void ipc_input_next(struct ipc_input *in)
{
	ipc_input_close_fds(in);
	in->piecewise = false;
	in->have = in->want = 0;
	if (in->size <= KEEP_BYTES)
		return;
	free(in->buf);
	in->buf = NULL;
	in->size = 0;
}

void ipc_input_fini(struct ipc_input *in)
{
	ipc_input_next(in);
	free(in->buf);
	in->buf = NULL;
}

const uint8_t *ipc_input_body(const struct ipc_input *in, size_t *ret_len)
{
	*ret_len = in->want - PREFIX_BYTES;
	return in->buf + PREFIX_BYTES;
}

static int recv_error(int code, struct error *err)
{
	if (code == -EAGAIN)
		return code;
	return error_set_errno(err, code, "cannot receive from the local peer");
}

/*
 * Peeked without room for descriptors, none is installed, and MSG_CTRUNC says that
 * there are some: with these bytes, or with the next that were sent, for the kernel
 * looks at one buffer too many (seen on 6.18).
 */
static int look(int sock, struct look *ret, struct error *err)
{
	struct look l = {0};
	struct iovec iov = {.iov_base = l.prefix, .iov_len = sizeof(l.prefix)};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
	int available;
	ssize_t n;

	if (ioctl(sock, FIONREAD, &available) < 0)
		return recv_error(-errno, err);
	do {
		n = recvmsg(sock, &msg, MSG_PEEK | MSG_DONTWAIT);
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		return recv_error(-errno, err);
	l.available = (size_t)available;
	l.n_prefix = (size_t)n;
	l.fds = (msg.msg_flags & MSG_CTRUNC) != 0;
	*ret = l;
	return 0;
}

static int input_reserve(struct ipc_input *in, size_t size, struct error *err)
{
	uint8_t *grown;

	if (size <= in->size)
		return 0;
	grown = realloc(in->buf, size);
	if (!grown)
		return error_set(err, -ENOMEM, "no memory for a message of %zu bytes",
		                 size - PREFIX_BYTES);
	in->buf = grown;
	in->size = size;
	return 0;
}

static int input_announce(struct ipc_input *in, const uint8_t prefix[PREFIX_BYTES],
                          struct error *err)
{
	uint32_t len;

	memcpy(&len, prefix, sizeof(len));
	len = le32toh(len);
	if (len > in->max_message_bytes)
		return error_set(err, -EMSGSIZE, "message of %zu bytes, the limit is %zu",
		                 (size_t)len, in->max_message_bytes);
	in->want = PREFIX_BYTES + len;
	return 0;
}

/* Descriptors come with the first byte of a message, and at most FDPASS_FDS_MAX of them. */
static ssize_t input_recv(struct ipc_input *in, int sock, bool first, struct error *err)
{
	int fds[FDPASS_FDS_MAX];
	size_t n_fds = 0;
	ssize_t n = fdpass_recv(sock, in->buf + in->have, in->want - in->have, fds, FDPASS_FDS_MAX,
	                        &n_fds, MSG_DONTWAIT);

	if (n == -E2BIG)
		return error_set(err, -E2BIG, "a message came with more than %d descriptors",
		                 FDPASS_FDS_MAX);
	if (n < 0)
		return recv_error((int)n, err);
	if (n_fds > 0 && (!first || n == 0)) {
		for (size_t i = 0; i < n_fds; i++)
			close(fds[i]);
		return error_set(err, -EBADMSG, "descriptors came in the middle of a message");
	}
	if (n_fds > 0) {
		memcpy(in->fds, fds, n_fds * sizeof(fds[0]));
		in->n_fds = n_fds;
	}
	if (n == 0 && in->have > 0)
		return error_set(
		        err, -EBADMSG,
		        "the local peer hung up in the middle of a message, after %zu bytes",
		        in->have);
	in->have += (size_t)n;
	return n;
}

/* Whatever is there. 1 when the message is complete, 0 at the stream's end, -errno. */
static int input_take_pieces(struct ipc_input *in, int sock, struct error *err)
{
	int r = 0;

	if (in->want == 0) { /* the prefix first */
		in->want = PREFIX_BYTES;
		r = input_reserve(in, PREFIX_BYTES, err);
	}
	while (r == 0) {
		ssize_t n;

		if (in->have == PREFIX_BYTES && in->want == PREFIX_BYTES) {
			r = input_announce(in, in->buf, err);
			if (r == 0)
				r = input_reserve(in, in->want, err);
			if (r < 0)
				break;
		}
		if (in->have >= PREFIX_BYTES && in->have == in->want)
			return 1;
		n = input_recv(in, sock, in->have == 0, err);
		if (n <= 0)
			return (int)n;
	}
	return r;
}

/* All of it by one call: it is there, and its first bytes have no descriptors. */
static int input_take_whole(struct ipc_input *in, int sock, struct error *err)
{
	int r = input_reserve(in, in->want, err);

	while (r == 0 && in->have < in->want) {
		ssize_t n = input_recv(in, sock, false, err);

		if (n <= 0)
			return (int)n;
	}
	return r < 0 ? r : 1;
}

int ipc_input_fill(struct ipc_input *in, int sock, struct error *err)
{
	struct look l = {0};
	int r;

	in->incomplete = false;
	if (in->have > 0 || in->piecewise)
		return input_take_pieces(in, sock, err);
	r = look(sock, &l, err);
	if (r < 0)
		return r;
	if (l.n_prefix == 0)
		return 0;
	if (l.n_prefix == PREFIX_BYTES) {
		r = input_announce(in, l.prefix, err);
		if (r < 0)
			return r;
		if (l.available >= in->want && !l.fds)
			return input_take_whole(in, sock, err);
	}
	in->piecewise = l.fds || in->want > WHOLE_MAX;
	in->want = 0; /* look again */
	if (in->piecewise)
		return input_take_pieces(in, sock, err);
	in->incomplete = true;
	return -EAGAIN;
}
