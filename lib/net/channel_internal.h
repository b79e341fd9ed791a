/* SPDX-License-Identifier: Apache-2.0 */
/* What channel.c (life and events), channel_in.c and channel_out.c share. */
#ifndef NET_CHANNEL_INTERNAL_H
#define NET_CHANNEL_INTERNAL_H

#include <event2/event_struct.h>

#include "net/address.h"
#include "net/channel.h"

enum channel_state {
	CHANNEL_HANDSHAKE, /* connecting, or in the TLS handshake */
	CHANNEL_READY,     /* frames go both ways */
	CHANNEL_FLUSHING,  /* closing: the out buffer goes first, input is thrown away */
	CHANNEL_LINGERING, /* all is sent, the peer's end is awaited */
	CHANNEL_CLOSED,    /* the owner knows or does not want to */
};

/* Linear: bytes head..tail are in use; both go back to 0 when it is empty. */
struct channel_buffer {
	uint8_t *data;
	size_t size;
	size_t head;
	size_t tail;
};

/*
 * Stands on the stack of the event handler that runs callbacks. When a callback
 * frees or detaches the channel, nothing of it may be touched afterwards: in
 * the second case another thread may have it already.
 */
struct channel_guard {
	bool gone;
	struct channel *freed; /* to be released by the handler */
};

struct channel {
	struct loop *loop; /* NULL while detached */
	int fd;
	SSL *ssl;
	struct tls_context *tls;
	struct channel_callbacks callbacks;
	void *user;
	struct channel_guard *guard; /* of the running handler */
	enum channel_state state;
	bool server;
	bool paused;
	bool corked;            /* frames are being delivered: what they queue leaves after them */
	bool write_blocked;     /* the socket is full: wait for write_event */
	bool read_wants_write;  /* TLS must send before it can receive */
	bool above_low_water;   /* on_drained is owed */
	bool write_failed;      /* what can still be read comes first, then the end */
	bool peer_ended;        /* while FLUSHING */
	bool end_pending;       /* the next turn ends the channel with end_error */
	struct error end_error; /* code 0: a clean end */
	struct channel_buffer in;
	struct channel_buffer out;
	size_t out_limit;
	size_t reserved;
	size_t write_budget; /* bytes that may still be written in this loop turn */
	size_t low_water_bytes;
	int socket_buffer_bytes;
	struct event read_event;
	struct event write_event;
	struct event turn_event; /* "go on in the next loop turn" */
	struct event timer;      /* handshake, idle or flush, by state */
	int priority;
	uint64_t handshake_timeout_us;
	uint64_t idle_timeout_us;
	uint64_t last_received_us;
	uint64_t timer_due_us;
	bool idle_excused; /* since something arrived */
	uint64_t bytes_received;
	uint64_t bytes_sent;
	char peer[ADDRESS_TEXT_MAX];
};

/* An owner that sends whenever there is room must not keep the loop from others. */
#define CHANNEL_WRITE_BYTES_PER_TURN ((size_t)1024 * 1024)

/* channel.c */
void channel_schedule_turn(struct channel *ch);
void channel_start_timer(struct channel *ch, uint64_t us);
/* Close and tell the owner. Only from an event handler; the channel may be gone afterwards. */
void channel_end(struct channel *ch, const struct error *err);
/* What SSL_read(), SSL_write() or SSL_do_handshake() failed with; 0 for a clean end. */
int channel_explain(struct channel *ch, int ssl_error, struct error *err);

/* channel_in.c: may call callbacks, so look at the guard afterwards. */
void channel_receive(struct channel *ch, struct channel_guard *g);
void channel_discard_input(struct channel *ch);

/* channel_out.c: never calls callbacks. */
void channel_flush(struct channel *ch);
void channel_settle_drained(struct channel *ch, struct channel_guard *g);
void channel_uncork(struct channel *ch);

#endif
