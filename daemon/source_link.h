/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A connection to the source: connect, TLS, who is there, Hello, and then
 * messages. The same for the urgent and the bulk side of a lane; each has one
 * on its own thread.
 */
#ifndef DAEMON_SOURCE_LINK_H
#define DAEMON_SOURCE_LINK_H

#include <netdb.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/cleanup.h"
#include "core/error.h"
#include "daemon/region.h"
#include "net/channel.h"
#include "wire/page_message.h"

struct source_link;

struct source_link_callbacks {
	/* The source knows us: its region table, in a HelloAck. -errno with err to break off. */
	int (*on_welcome)(const struct page_message *hello_ack, struct error *err, void *user);
	/*
	 * Any message but Hello, HelloAck, Ping, Pong, Error. -errno with err to
	 * break off (do not free the link in here).
	 */
	int (*on_message)(const struct page_message *m, struct error *err, void *user);
	/*
	 * The link is down; it is freed by its owner, now or later. retriable:
	 * false when the source said that trying again is of no use.
	 */
	void (*on_lost)(const struct error *err, bool retriable, void *user);
};

struct source_link_params {
	struct loop *loop;
	struct tls_context *tls;
	struct uuid migration_id;
	const uint8_t *token;
	size_t token_len;
	const char *peer_identity;
	enum link_role role;
	uint32_t lane;
	int event_priority;
	int socket_buffer_bytes; /* 0: the kernel's choice */
	size_t out_buffer_bytes; /* 0: the channel's choice */
	const struct source_link_callbacks *callbacks;
	void *user;
};

/* Start to connect. Strings and token are used until the link is freed. */
int source_link_new(const struct source_link_params *params, const struct addrinfo *address,
                    struct source_link **ret, struct error *err);
struct source_link *source_link_free(struct source_link *l); /* always NULL */
DEFINE_CLEANUP(struct source_link, source_link_free)

/* Encode and send a message without payload. -ENOBUFS, -ENOTCONN. */
int source_link_send(struct source_link *l, const struct page_message *m);

/* Resume with its bitmap as payload. */
int source_link_send_payload(struct source_link *l, const struct page_message *m,
                             const uint8_t *payload, size_t payload_len);

/* Bytes that are encoded already (several frames): one TLS record if they fit. */
int source_link_send_raw(struct source_link *l, const uint8_t *bytes, size_t len);

/* region_table_match() with the table of a HelloAck. */
int source_link_match(const struct page_message *hello_ack, struct region_table *regions,
                      struct error *err);

#endif
