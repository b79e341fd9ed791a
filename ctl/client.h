/* SPDX-License-Identifier: Apache-2.0 */
/* The control socket from postcopyctl's side: blocking requests and answers. */
#ifndef CTL_CLIENT_H
#define CTL_CLIENT_H

#include "core/error.h"
#include "ctl/command.h"
#include "wire/control_message.h"

struct control_client {
	int sock;
	uint64_t last_id;
};

/* 0 or -errno with a text that tells where no daemon was. */
int control_client_open(struct control_client *c, const char *path, struct error *err);
void control_client_close(struct control_client *c);

/* Send, with fd unless it is -1; the id that the answer will carry is stored in r->id. */
int control_client_send(struct control_client *c, struct control_request *r, int fd,
                        struct error *err);

/*
 * The next message, waiting at most timeout_us: -ETIMEDOUT, -ECONNRESET,
 * -EBADMSG ... *ret is released by control_response_free().
 */
int control_client_receive(struct control_client *c, uint64_t timeout_us,
                           struct control_response *ret, struct error *err);

/*
 * Connect, send the request (and fd, unless it is -1), and wait for the answer. 0: *ret holds
 * it, which may be a refusal; or -errno with a text.
 */
int control_exchange(const char *path, struct control_request *r, int fd,
                     struct control_response *ret, struct error *err);

/* The same. EXIT_OK: *ret holds no refusal. Otherwise the reason is on stderr. */
enum exit_code control_call(const struct invocation *inv, struct control_request *r, int fd,
                            struct control_response *ret);

#endif
