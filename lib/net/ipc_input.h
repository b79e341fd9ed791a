/* SPDX-License-Identifier: Apache-2.0 */
/* The message that a local connection is receiving. Part of net/ipc.c. */
#ifndef NET_IPC_INPUT_H
#define NET_IPC_INPUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/error.h"
#include "core/fdpass.h"

struct ipc_input {
	size_t max_message_bytes;
	/*
	 * Take the message under way as it comes, not only when all of it is there: it is
	 * bigger than a socket holds, or its sender waits for room. Until it is taken.
	 */
	bool piecewise;
	bool incomplete; /* part of a message lies in the socket, and was left there */
	uint8_t *buf;    /* prefix and body */
	size_t size;
	size_t want; /* prefix and body, or only the prefix as long as that is not known */
	size_t have;
	int fds[FDPASS_FDS_MAX];
	size_t n_fds;
};

/*
 * Look for a message, and take it out of the socket as a whole. 1 when it is there,
 * 0 at the end of the stream, -EAGAIN when it is not all there yet, other -errno.
 */
int ipc_input_fill(struct ipc_input *in, int sock, struct error *err);

/* The message that is there; never NULL. */
const uint8_t *ipc_input_body(const struct ipc_input *in, size_t *ret_len);

void ipc_input_close_fds(struct ipc_input *in);
void ipc_input_next(struct ipc_input *in); /* done with the message; its descriptors are closed */
void ipc_input_fini(struct ipc_input *in);

#endif
