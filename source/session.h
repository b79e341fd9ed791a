/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A page connection whose peer is not known yet: TLS handshake, then Hello. On
 * the main loop; few at a time and for a short time only.
 */
#ifndef SOURCE_SESSION_H
#define SOURCE_SESSION_H

#include "net/channel.h"
#include "net/tls.h"
#include "source/export_table.h"
#include "source/link.h"

struct session;

/* What sessions need; the page listener's. */
struct session_host {
	struct loop *loop;
	struct export_table *exports;
	struct links *links;
	uint64_t hello_timeout_us; /* from the connection to the end of Hello */
	int socket_buffer_bytes;
	void (*on_gone)(struct session *s, void *user); /* the session is freed after it */
	void *user;
};

/* Takes fd, also on failure. The session ends itself. */
int session_new(const struct session_host *host, int fd, struct tls_context *tls,
                struct session **ret, struct error *err);
/* Close without a word; on_gone is not called. Always NULL. */
struct session *session_free(struct session *s);

#endif
