/* SPDX-License-Identifier: Apache-2.0 */
/* Where destinations connect: a TCP port, TLS, a bounded number of unknown peers. Main loop. */
#ifndef SOURCE_PAGE_LISTENER_H
#define SOURCE_PAGE_LISTENER_H

#include <stdint.h>

#include "net/loop.h"
#include "net/tls.h"
#include "source/export_table.h"
#include "source/link.h"

struct page_listener;

struct page_listener_options {
	const char *address;   /* HOST:PORT */
	unsigned max_sessions; /* connections before their Hello was found good */
	uint64_t hello_timeout_us;
	int socket_buffer_bytes;
};

int page_listener_new(struct loop *loop, const struct page_listener_options *options,
                      struct tls_context *tls, struct export_table *exports, struct links *links,
                      struct page_listener **ret, struct error *err);
struct page_listener *page_listener_free(struct page_listener *l); /* always NULL */

/* For connections from now on. */
void page_listener_set_tls(struct page_listener *l, struct tls_context *tls);
void page_listener_set_limits(struct page_listener *l, unsigned max_sessions,
                              uint64_t hello_timeout_us);

/* The port of the first address, as bound. */
uint16_t page_listener_port(const struct page_listener *l);

#endif
