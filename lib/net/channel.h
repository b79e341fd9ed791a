/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A connection of the page protocol: frames over TLS over a non-blocking
 * socket, on libevent fd events (a bufferevent costs 1.1x here).
 *
 * A channel belongs to one loop and thread at a time. Callbacks run on it.
 * After on_closed no callback runs any more; the owner then frees the channel
 * (also from within a callback: the memory is released when it has returned).
 */
#ifndef NET_CHANNEL_H
#define NET_CHANNEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/cleanup.h"
#include "core/error.h"
#include "net/loop.h"
#include "net/tls.h"
#include "wire/frame.h"

struct channel;

struct channel_callbacks {
	/* TLS is up and the peer's certificate is verified. May be NULL. */
	void (*on_ready)(struct channel *ch, void *user);
	/*
	 * One whole frame; its bytes are valid during the call only. 0, or
	 * -errno with err filled to close the channel with that error.
	 */
	int (*on_frame)(struct channel *ch, const struct frame *frame, struct error *err,
	                void *user);
	/*
	 * Queued output fell to the low-water mark: send more. May be NULL
	 * (then never called). Called once after every crossing.
	 */
	void (*on_drained)(struct channel *ch, void *user);
	/* The connection ended; err->code is 0 after a clean end by the peer. */
	void (*on_closed)(struct channel *ch, const struct error *err, void *user);
};

struct channel_options {
	size_t out_buffer_bytes;       /* what may be queued; at least FRAME_MAX; 0: 1 MiB */
	size_t low_water_bytes;        /* for on_drained */
	uint64_t handshake_timeout_us; /* 0: 10 s */
	uint64_t idle_timeout_us;      /* close when nothing arrives for so long; 0: never */
	int socket_buffer_bytes; /* on a short path, see net/tcp_path.h; 0: the kernel's choice */
	int event_priority;      /* see loop_new() */
};

/*
 * Take fd (owned from here on, also on failure) and start the TLS handshake,
 * as server or client; fd may still be connecting.
 */
int channel_new(struct loop *loop, int fd, struct tls_context *tls, bool server,
                const struct channel_options *options, const struct channel_callbacks *callbacks,
                void *user, struct channel **ret, struct error *err);

/* Close without a word and release. Always NULL. No callback is called. */
struct channel *channel_free(struct channel *ch);
DEFINE_CLEANUP(struct channel, channel_free)

/*
 * Queue one frame: head (prefix and header, as encoded) and its payload, and
 * start to write it; a frame that fits one TLS record goes as one. Within
 * on_frame it is written when all frames that had arrived are delivered. -ENOBUFS
 * when the out buffer has no room (wait for on_drained), -ENOTCONN before
 * on_ready or after the end.
 */
int channel_send(struct channel *ch, const void *head, size_t head_len, const void *payload,
                 size_t payload_len);

/*
 * The same without a copy: len contiguous bytes of the out buffer to fill,
 * NULL when there is no room (wait for on_drained); then commit what was
 * filled (0: nothing). One reservation at a time.
 */
uint8_t *channel_reserve(struct channel *ch, size_t len);
int channel_commit(struct channel *ch, size_t len);

/* Bytes queued and not yet taken by the socket. */
size_t channel_queued(const struct channel *ch);

/* Send what is queued, then close; on_closed follows (bounded by a 5 s timer). */
void channel_close_after_flush(struct channel *ch);

/* Stop and go on delivering frames (back-pressure to the peer). */
void channel_pause_reading(struct channel *ch);
void channel_resume_reading(struct channel *ch);

/*
 * Move to another thread's loop: detach on the old thread, attach on the new
 * one with new callbacks. Frames that arrived in between are delivered there.
 * Detach may be called within on_frame.
 */
void channel_detach(struct channel *ch);
int channel_attach(struct channel *ch, struct loop *loop, const struct channel_callbacks *callbacks,
                   void *user);

/* tls_check_identity() on the peer. After on_ready. */
int channel_check_identity(const struct channel *ch, const char *identity, struct error *err);
const char *channel_peer_names(const struct channel *ch, char *buf, size_t buf_len);
int channel_peer_fingerprint(const struct channel *ch, uint8_t ret[32]);
const char *channel_peer_address(const struct channel *ch);

/* "TLS_AES_128_GCM_SHA256", "" before on_ready. */
const char *channel_cipher(const struct channel *ch);

uint64_t channel_bytes_received(const struct channel *ch);
uint64_t channel_bytes_sent(const struct channel *ch);

#endif
