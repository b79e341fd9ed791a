/* SPDX-License-Identifier: Apache-2.0 */
/* The control socket from postcopyctl's side. Called by the commands. */
#include "ctl/client.h"

#include <errno.h>
#include <string.h>

#include "core/cleanup.h"
#include "core/fdpass.h"

/* Daemons answer at once; cancelling may have to tell the other host first. */
#define ANSWER_TIMEOUT_US (30 * UINT64_C(1000000))

int control_client_open(struct control_client *c, const char *path, struct error *err)
{
	int fd = unix_connect(path, err);

	if (fd < 0)
		return fd;
	c->sock = fd;
	c->last_id = 0;
	return 0;
}

void control_client_close(struct control_client *c)
{
	close_fd(&c->sock);
}

int control_client_send(struct control_client *c, struct control_request *r, int fd,
                        struct error *err)
{
	_cleanup_free_ uint8_t *body = NULL;
	size_t len;
	int code;

	r->id = ++c->last_id;
	code = control_request_encode(r, &body, &len);
	if (code < 0)
		return error_set_errno(err, code, "cannot encode the request %s",
		                       control_request_type_name(r->type));
	code = fdpass_send_message(c->sock, body, len, &fd, fd >= 0 ? 1 : 0);
	/* A daemon that refuses a client says why and closes: its answer is there to read. */
	if (code < 0 && code != -EPIPE && code != -ECONNRESET)
		return error_set_errno(err, code, "cannot send to the daemon");
	return 0;
}

int control_client_receive(struct control_client *c, uint64_t timeout_us,
                           struct control_response *ret, struct error *err)
{
	_cleanup_free_ uint8_t *body = NULL;
	size_t len;
	int code = fdpass_recv_message(c->sock, &body, &len, NULL, 0, NULL, timeout_us);

	if (code == -ETIMEDOUT)
		return error_set(err, code, "no answer from the daemon");
	if (code == -ECONNRESET)
		return error_set(err, code, "the daemon closed the connection");
	if (code < 0)
		return error_set_errno(err, code, "cannot receive from the daemon");
	code = control_response_decode(body, len, ret, err);
	return code < 0 ? error_prefix(err, "the daemon's answer") : 0;
}

/* The answer to the request with this id; events on the way are dropped. */
static int answer_receive(struct control_client *c, uint64_t id, struct control_response *ret,
                          struct error *err)
{
	for (;;) {
		int r = control_client_receive(c, ANSWER_TIMEOUT_US, ret, err);

		if (r < 0 || (ret->id == id && ret->type != CONTROL_RESPONSE_EVENT))
			return r;
		/* id 0: refused before the request was looked at. */
		if (ret->id == 0 && ret->error != 0)
			return 0;
		control_response_free(ret);
	}
}

int control_exchange(const char *path, struct control_request *r, int fd,
                     struct control_response *ret, struct error *err)
{
	struct control_client c = {.sock = -1};
	int code = control_client_open(&c, path, err);

	if (code == 0)
		code = control_client_send(&c, r, fd, err);
	if (code == 0)
		code = answer_receive(&c, r->id, ret, err);
	control_client_close(&c);
	return code;
}

enum exit_code control_call(const struct invocation *inv, struct control_request *r, int fd,
                            struct control_response *ret)
{
	struct error err = {0};

	if (control_exchange(inv->socket_path, r, fd, ret, &err) < 0)
		return command_fail(EXIT_UNREACHABLE, &err);
	if (ret->error == 0)
		return EXIT_OK;
	error_set(&err, -ret->error, "%s", ret->text[0] ? ret->text : strerror(ret->error));
	control_response_free(ret);
	return command_fail(EXIT_REFUSED, &err);
}
