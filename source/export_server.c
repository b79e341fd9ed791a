/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The export socket. A connection stands for one export: it makes it, freezes
 * it, reports lost pages, may withdraw it, and hears of each change of state.
 * The export itself lives on in the table when the connection ends. When the agent ends
 * both live on: the next one adopts the connection.
 */
#include "source/export_server.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <utlist.h>

#include "core/log.h"
#include "core/message_ids.h"
#include "net/ipc.h"
#include "net/tls.h"

#define CONNECTIONS_MAX 4096

struct exporter {
	struct export_server *server;
	struct ipc_connection *ipc;
	struct ucred peer;
	struct export *export; /* NULL until it has exported */
	struct exporter *prev, *next;
};

struct export_server {
	struct loop *loop;
	struct ipc_listener *listener;
	struct access_list access;
	struct export_table *exports;
	struct exporter *exporters;
	unsigned n_exporters;
};

static void exporter_release(struct exporter *x)
{
	if (x->export)
		export_set_ask(x->export, NULL, NULL);
	DL_DELETE(x->server->exporters, x);
	x->server->n_exporters--;
	ipc_connection_free(x->ipc);
	export_unref(x->export);
	free(x);
}

static void send_reply(struct exporter *x, const struct attach_reply *reply)
{
	_cleanup_free_ uint8_t *buf = NULL;
	size_t len;
	int r = attach_reply_encode(reply, &buf, &len);

	if (r == 0)
		r = ipc_send(x->ipc, buf, len);
	if (r < 0 && r != -ENOTCONN) {
		log_warning("pid %d does not take its messages: %s; closing it", (int)x->peer.pid,
		            strerror(-r));
		ipc_close_after_flush(x->ipc);
	}
}

static void send_ack(struct exporter *x, uint32_t id, int error, const char *text)
{
	struct attach_reply reply = {.type = ATTACH_REPLY_ACK, .id = id, .error = -error};

	(void)snprintf(reply.text, sizeof(reply.text), "%s", text);
	send_reply(x, &reply);
}

static void send_state(struct exporter *x, bool restarted)
{
	struct attach_reply reply = {.type = ATTACH_REPLY_STATE, .restarted = restarted};
	enum export_state state = export_state(x->export);
	char text[ERROR_TEXT_MAX];

	export_state_text(x->export, text, sizeof(text));
	(void)snprintf(reply.state, sizeof(reply.state), "%s", export_state_name(state));
	(void)snprintf(reply.text, sizeof(reply.text), "%s", text);
	reply.final = export_state_final(state);
	send_reply(x, &reply);
}

static void on_export_changed(struct export *e, void *user)
{
	struct export_server *s = user;
	struct exporter *x;

	DL_FOREACH (s->exporters, x) {
		if (x->export == e)
			send_state(x, false);
	}
}

static void on_ask(void *user, const struct attach_reply *ask)
{
	send_reply(user, ask);
}

static int do_export(struct exporter *x, const struct attach_request *q, int *fds, size_t n_fds,
                     struct error *err)
{
	char who[64];
	struct export_params params = {
	        .id = &q->migration_id,
	        .token = q->token,
	        .token_len = q->token_len,
	        .peer_identity = q->export.peer_identity,
	        .regions = q->export.regions,
	        .n_regions = q->export.n_regions,
	        .inbound = q->export.inbound,
	        .exporter = who,
	        .connection_fd = ipc_fd(x->ipc),
	};

	(void)snprintf(who, sizeof(who), "pid %d uid %u", (int)x->peer.pid, (unsigned)x->peer.uid);
	if (x->export)
		return error_set(err, -EEXIST,
		                 "this connection has exported migration %s already: use another "
		                 "connection",
		                 x->export->id_text);
	if (q->version != ATTACH_PROTOCOL_VERSION)
		return error_set(err, -EPROTONOSUPPORT,
		                 "libpostcopy speaks version %u of the protocol, expected %d",
		                 (unsigned)q->version, ATTACH_PROTOCOL_VERSION);
	if (tls_identity_validate(q->export.peer_identity, err) < 0)
		return error_prefix(err, "peer identity");
	int r = export_table_add(x->server->exports, &params, fds, n_fds, &x->export, err);

	if (r == 0)
		export_set_ask(x->export, on_ask, x);
	return r;
}

static int do_request(struct exporter *x, const struct attach_request *q, int *fds, size_t n_fds,
                      struct error *err)
{
	char who[64];

	if (q->type == ATTACH_REQUEST_EXPORT)
		return do_export(x, q, fds, n_fds, err);
	if (q->type == ATTACH_REQUEST_ATTACH || q->type == ATTACH_REQUEST_ATTACH_MAPPING)
		return error_set(err, -EOPNOTSUPP,
		                 "this is postcopy-sourced: Attach belongs to postcopyd's socket");
	if (q->type == ATTACH_REQUEST_LIST_POISON)
		return error_set(
		        err, -EOPNOTSUPP,
		        "this is postcopy-sourced: it lists nothing; ask postcopyd, on the "
		        "destination, what a guest has lost, or this host's operator");
	if (!x->export)
		return error_set(err, -EINVAL, "nothing is exported on this connection yet");
	switch (q->type) {
	case ATTACH_REQUEST_FREEZE:
		return export_freeze(x->export, err);
	case ATTACH_REQUEST_REPORT_POISON:
		return export_report_poison(x->export, q->report_poison.ranges,
		                            q->report_poison.n_ranges, POISON_BY_VMM, err);
	case ATTACH_REQUEST_POPULATED:
		return export_populated(x->export, q, err);
	case ATTACH_REQUEST_WITHDRAW:
		(void)snprintf(who, sizeof(who), "the VMM (pid %d)", (int)x->peer.pid);
		return export_withdraw(x->export, q->withdraw.force, who, err);
	default:
		return error_set(err, -EOPNOTSUPP, "unknown request");
	}
}

static void log_refused(const struct exporter *x, const struct attach_request *q, const char *why)
{
	const char *id_text = x->export ? x->export->id_text : NULL;
	char asked[UUID_TEXT_LEN];

	if (q->type == ATTACH_REQUEST_EXPORT)
		id_text = uuid_format(&q->migration_id, asked);
	log_event(LOG_WARNING, MESSAGE_EXPORT_REFUSED,
	          LOG_FIELDS({"MIGRATION_ID", id_text},
	                     {"CLIENT_PID", LOG_U64((uint64_t)x->peer.pid)},
	                     {"CLIENT_UID", LOG_U64(x->peer.uid)}, {"REASON", why}),
	          "request of pid %d uid %u refused: %s", (int)x->peer.pid, (unsigned)x->peer.uid,
	          why);
}

static int on_message(struct ipc_connection *c, const uint8_t *buf, size_t len, int *fds,
                      size_t n_fds, struct error *err, void *user)
{
	struct exporter *x = user;
	struct attach_request q = {0};
	struct error why = {0};
	int r = attach_request_decode(buf, len, &q, &why);

	(void)err;
	if (r < 0) {
		send_ack(x, 0, r, why.text);
		ipc_close_after_flush(c);
		return 0;
	}
	r = do_request(x, &q, fds, n_fds, &why);
	send_ack(x, q.id, r < 0 ? r : 0, r < 0 ? why.text : "");
	if (r == 0 && q.type == ATTACH_REQUEST_EXPORT)
		send_state(x, false);
	if (r < 0)
		log_refused(x, &q, why.text);
	explicit_bzero(q.token, sizeof(q.token));
	attach_request_free(&q);
	return 0;
}

static void on_closed(struct ipc_connection *c, const struct error *err, void *user)
{
	struct exporter *x = user;

	(void)c;
	if (err->code)
		log_warning("connection of pid %d ended: %s", (int)x->peer.pid, err->text);
	if (x->export)
		export_exporter_left(x->export);
	exporter_release(x);
}

static struct exporter *exporter_new(struct export_server *s, int fd, const struct ucred *peer)
{
	static const struct ipc_callbacks callbacks = {.on_message = on_message,
	                                               .on_closed = on_closed};
	struct exporter *x = calloc(1, sizeof(*x));

	if (!x) {
		close(fd);
		return NULL;
	}
	x->server = s;
	x->peer = *peer;
	if (ipc_connection_new(s->loop, fd, FDPASS_MESSAGE_MAX, &callbacks, x, &x->ipc) < 0) {
		free(x);
		return NULL;
	}
	DL_APPEND(s->exporters, x);
	s->n_exporters++;
	return x;
}

static void on_accept(int fd, void *user)
{
	struct export_server *s = user;
	struct error err = {0};
	struct ucred peer = {0};
	int r = access_list_check(&s->access, fd, &peer, &err);

	if (r == 0 && s->n_exporters >= CONNECTIONS_MAX)
		r = error_set(&err, -EBUSY, "%u connections are open already", s->n_exporters);
	struct exporter *x = exporter_new(s, fd, &peer);

	if (!x) {
		log_error("not enough memory for a connection to the export socket, ignoring");
		return;
	}
	if (r < 0) {
		log_event(LOG_WARNING, MESSAGE_ACCESS_DENIED,
		          LOG_FIELDS({"SOCKET", "export"},
		                     {"CLIENT_PID", LOG_U64((uint64_t)peer.pid)},
		                     {"CLIENT_UID", LOG_U64(peer.uid)}, {"REASON", err.text}),
		          "export socket: %s", err.text);
		send_ack(x, 0, r, err.text);
		ipc_close_after_flush(x->ipc);
	}
}

int export_server_adopt(struct export_server *s, int fd, struct export *e)
{
	struct ucred nobody = {0};
	struct exporter *x;

	(void)fcntl(fd, F_SETFL, O_NONBLOCK); /* as whoever accepted it had done */
	x = exporter_new(s, fd, &nobody);
	if (!x)
		return -ENOMEM;
	x->peer = *ipc_peer(x->ipc);
	x->export = export_ref(e);
	export_set_ask(e, on_ask, x);
	send_state(x, true);
	return 0;
}

int export_server_new(struct loop *loop, const char *path, mode_t mode,
                      const struct access_list *access, struct export_table *exports,
                      struct export_server **ret, struct error *err)
{
	struct export_server *s = calloc(1, sizeof(*s));
	int r;

	if (!s)
		return error_set(err, -ENOMEM, "no memory for the export socket");
	s->loop = loop;
	s->access = *access;
	s->exports = exports;
	r = ipc_listen(loop, "export", path, mode, on_accept, s, &s->listener, err);
	if (r < 0) {
		export_server_free(s);
		return r;
	}
	export_table_observe(exports, on_export_changed, s);
	*ret = s;
	return 0;
}

struct export_server *export_server_free(struct export_server *s)
{
	struct exporter *x, *next;

	if (!s)
		return NULL;
	ipc_listener_free(s->listener);
	DL_FOREACH_SAFE (s->exporters, x, next)
		exporter_release(x);
	free(s);
	return NULL;
}

void export_server_set_access(struct export_server *s, const struct access_list *access)
{
	s->access = *access;
}
