/* SPDX-License-Identifier: Apache-2.0 */
/*
 * JSON objects, one a line, over a UNIX socket: QEMU's monitor (QMP), and the socket
 * of libpostcopy-qemu.so in QEMU's process.
 */
#ifndef CTL_JSON_STREAM_H
#define CTL_JSON_STREAM_H

#include <jansson.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>

#include "core/error.h"

#define JSON_LINE_MAX (1U << 20)

struct json_stream {
	const sigset_t *signals; /* blocked but while it waits: they end the wait; NULL: none do */
	const char *name;        /* for texts: who is at the other end */
	int fd;                  /* -1: none */
	char *buffer;
	size_t len, room;
};

int json_stream_open(struct json_stream *s, const char *name, const char *path, struct error *err);
/* -EINTR from json_stream_receive(): a signal has come. */
void json_stream_close(struct json_stream *s);

/* Takes o over. */
int json_stream_send(struct json_stream *s, json_t *o, struct error *err);

/*
 * The next object, a new reference: -ETIMEDOUT at the deadline (monotonic; UINT64_MAX:
 * none), -ECONNRESET at the end, -EPROTO for what is no JSON.
 */
int json_stream_receive(struct json_stream *s, uint64_t deadline_us, json_t **ret,
                        struct error *err);

#endif
