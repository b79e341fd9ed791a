/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The inside of a handle, shared by libpostcopy's files.
 *
 * The library has no thread of its own to read the socket: whichever call waits
 * for something takes the reader's role (one at a time), reads the socket for
 * everybody and wakes the others. So a vCPU thread can report poison while
 * another waits for a state, and neither takes the other's message.
 */
#ifndef CLIENT_INTERNAL_H
#define CLIENT_INTERNAL_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/error.h"
#include "postcopy.h"
#include "wire/attach_message.h"

#define DEFAULT_TIMEOUT_MS 10000
/* The largest reply is a list of POISON_LIST_MAX ranges. */
#define REPLY_BYTES_MAX 4096

/*
 * A request that awaits its answer, in the handle's queue until then. Answers come
 * in the order of the requests.
 */
struct pending {
	struct pending *next;
	uint32_t id;               /* another one each time that it is sent; never 0 */
	struct attach_reply *list; /* NULL: an Ack is wanted, else a PoisonList */
	bool begins;               /* an Attach or Export: what another daemon goes on from */
	bool done;
	bool lost;      /* done, but without an answer: its caller sends it again */
	bool abandoned; /* its caller has given up: freed when the answer comes, or is lost */
	int error;      /* a negative errno */
	char text[WIRE_ERROR_TEXT_MAX];
};

/* A thread in postcopy_wait(), on that thread's stack. */
struct waiter {
	struct waiter *next;
	uint32_t states;
	bool reached; /* the state is or was one of states */
	bool done;    /* reached, or final */
};

/* What the library must know of a destination's region when all is here. */
struct region_kept {
	uint64_t gpa;
	uint64_t hva;
	uint64_t length_bytes;
	uint64_t page_size_bytes;
	bool shared;
};

struct inbound; /* inbound.h */

/* The thread of postcopy_collapse(), see collapse.c. */
struct collapse {
	pthread_mutex_t lock;   /* all of the following */
	pthread_cond_t changed; /* clock: monotonic; the thread has ended, or shall */
	pthread_t thread;
	bool started;  /* once */
	bool running;  /* from the call on until the thread ends */
	bool joinable; /* thread is one that nobody has joined */
	bool stop;
	struct postcopy_collapse_progress progress;
};

struct postcopy {
	bool is_source;
	uint64_t timeout_us; /* for answers; UINT64_MAX: for ever */
	int sock;            /* stays open until the handle is closed */
	int event_fd;        /* counts changes that postcopy_process() has not told yet */
	int epoll_fd;        /* sock and event_fd, for the caller's event loop */
	int uffds[ATTACH_UFFDS_MAX];
	size_t n_uffds;
	struct region_kept *regions; /* destination */
	size_t n_regions;
	struct collapse collapse;
	struct inbound *inbound; /* source: its memory is still on its way here; else NULL */

	pthread_mutex_t send_lock; /* before lock; held while a request is queued and sent */
	pthread_mutex_t lock;      /* all of the following but the buffer */
	pthread_cond_t changed;    /* clock: monotonic */
	bool reading;              /* a thread has the reader's role */
	bool untold;               /* a change that postcopy_process() has not told */
	int broken;                /* 0, or why the connection ended: -ECONNRESET, -EPROTO */
	struct pending *pending_head;
	struct pending **pending_tail;
	uint32_t last_id; /* of the requests */
	struct waiter *waiters;
	struct inbound *exports; /* destination: the exports of its memory */
	struct postcopy_status status;

	/* The reader's alone. */
	size_t buffered;
	uint8_t buffer[4 + REPLY_BYTES_MAX];
};

/* Descriptors that go with one message, each file once. */
struct fd_table {
	int fds[ATTACH_FDS_MAX];
	size_t n_fds;
};

/* link.c: the connection. */

/* Connect. *ret has no uffds yet; released with link_free(). */
int link_new(const char *path, bool is_source, int timeout_ms, struct postcopy **ret,
             struct error *err);
void link_free(struct postcopy *h); /* NULL is nothing to free */

/*
 * With h->lock held (and released in between): take in messages until *done or
 * the deadline. 0, -ETIMEDOUT, or h->broken.
 */
int link_wait(struct postcopy *h, const bool *done, uint64_t deadline_us);

/* Take in what is there without waiting; with h->lock held. */
void link_drain(struct postcopy *h);

/* The deadline of a timeout from now, and UINT64_MAX for a timeout without end. */
uint64_t deadline_after_us(uint64_t timeout_us);
uint64_t timeout_from_ms(int timeout_ms);

/* A condition variable whose waits end by the monotonic clock. */
void condition_init(pthread_cond_t *c);
/* Wait for a change, or the deadline, which may be UINT64_MAX. */
void condition_wait(pthread_cond_t *c, pthread_mutex_t *lock, uint64_t deadline_us);

/* request.c: what the daemon is asked. */

/*
 * Send a request with its descriptors and wait for its Ack. -ENOTCONN when the
 * connection has ended before; what else it returns, postcopy.h tells.
 */
int link_call(struct postcopy *h, const struct attach_request *request, const int *fds,
              size_t n_fds, struct error *err);

/* The same for a request whose answer is a PoisonList. */
int link_ask(struct postcopy *h, const struct attach_request *request, struct attach_reply *ret,
             struct error *err);

/* The first request of a connection. Enters the state unless the daemon has told one by then. */
int link_begin(struct postcopy *h, const struct attach_request *request, const struct fd_table *fds,
               const char *state, struct error *err);

/* poison.c: what the guest has lost. */

/* All of it, by address; *ret is the caller's to free. */
int poison_list_get(struct postcopy *h, struct poison_range **ret, size_t *ret_n,
                    struct error *err);

/* collapse.c */
void collapse_init(struct collapse *c);
void collapse_fini(struct collapse *c); /* stops and joins its thread */

/* reply.c: what the daemon says. */

/* Act on one message; with h->lock held. -EPROTO when it makes no sense. */
int reply_dispatch(struct postcopy *h, const uint8_t *body, size_t len);

/* End the connection for the given reason, once; with h->lock held. */
void connection_break(struct postcopy *h, int reason);

/* Enter a state as if the daemon had told it; with h->lock held. */
void state_enter(struct postcopy *h, const char *name, const char *text, bool final);
enum postcopy_state state_parse(const char *name);

/* region.c: the caller's table. */

/* The index of fd in the table from index first on, entered when it is not there yet. */
int fd_table_index(struct fd_table *t, size_t first, int fd, uint32_t *ret, struct error *err);

/* All that is alike for both sides: names, alignment, overlap, backing. */
int regions_check(const struct postcopy_region *regions, size_t n_regions, bool is_source,
                  struct error *err);
int token_check(const void *token, size_t token_len, struct error *err);
int reserved_check(uint32_t flags, const uint64_t *reserved, size_t n_reserved, struct error *err);

/* Hand err's text to the caller; returns code. */
int error_give(int code, const struct error *err, char *error_text, size_t error_size);

#endif
