/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libpostcopy's attach protocol. Called by the attach server.
 *
 * A request that is refused gets an Ack with errno and text and leaves the
 * connection usable; bytes that are no request get one, too, and then the
 * connection is closed.
 *
 * A connection may ask for what its guest has lost as long as it stands: the
 * migration's memory and its ledger go soon after the end, so the list is
 * brought up to date with the final state and kept here.
 */
#include "daemon/attach_postcopy.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/log.h"
#include "core/message_ids.h"
#include "daemon/migration_mapping.h"
#include "daemon/poison_list.h"
#include "net/ipc.h"
#include "wire/attach_message.h"

/* More than the biggest attach (512 regions with names) takes. */
#define REQUEST_BYTES_MAX (256 * 1024)

struct postcopy_client {
	struct attach_client client; /* first: see attach_server.h */
	struct ipc_connection *connection;
	struct poison_list poison; /* as of the last question, or of the end */
	int poison_error;          /* why the list of the end could not be made */
};

static struct postcopy_client *postcopy_client(struct attach_client *c)
{
	return CONTAINER_OF(c, struct postcopy_client, client);
}

static void reply_send(struct postcopy_client *pc, const struct attach_reply *reply)
{
	_cleanup_free_ uint8_t *buf = NULL;
	size_t len;
	int r = attach_reply_encode(reply, &buf, &len);

	if (r == 0)
		r = ipc_send(pc->connection, buf, len);
	if (r < 0)
		log_warning("attach: cannot answer pid %d: %s; ignoring",
		            (int)ipc_peer(pc->connection)->pid, strerror(-r));
}

static void ack_send(struct postcopy_client *pc, uint32_t id, int code, const char *text)
{
	struct attach_reply reply = {.type = ATTACH_REPLY_ACK, .id = id, .error = -code};

	snprintf(reply.text, sizeof(reply.text), "%s", text);
	reply_send(pc, &reply);
}

static void state_send(struct attach_client *client, const struct migration *m, bool restarted)
{
	struct attach_reply reply = {
	        .type = ATTACH_REPLY_STATE,
	        .final = migration_state_final(m->state),
	        .restarted = restarted,
	};
	struct postcopy_client *pc = postcopy_client(client);

	if (reply.final && m->memory)
		pc->poison_error = poison_list_update(&pc->poison, &m->memory->ledger);
	snprintf(reply.state, sizeof(reply.state), "%s", migration_state_name(m->state));
	snprintf(reply.text, sizeof(reply.text), "%s", m->state_text);
	reply_send(pc, &reply);
}

static void on_change(struct attach_client *client, const struct migration *m)
{
	state_send(client, m, false);
}

static void on_adopted(struct attach_client *client, const struct migration *m)
{
	state_send(client, m, true);
}

static int list_poison(struct postcopy_client *pc, uint32_t id, gpa_t from, struct error *err)
{
	struct attach_reply reply = {.type = ATTACH_REPLY_POISON_LIST, .id = id};
	const struct migration *m = pc->client.migration;
	int r = pc->poison_error;

	if (!pc->client.attached)
		return error_set(err, -EINVAL,
		                 "nothing is attached on this connection: only the VMM that has "
		                 "attached may ask what its guest has lost");
	if (m && m->memory)
		r = poison_list_update(&pc->poison, &m->memory->ledger);
	if (r < 0)
		return error_set(err, r, "not enough memory for the list of lost pages");
	reply.n_ranges =
	        poison_list_read(&pc->poison, from, reply.ranges, POISON_LIST_MAX, &reply.more);
	reply_send(pc, &reply);
	return 0;
}

static int check_request(const struct postcopy_client *pc, const struct attach_request *request,
                         struct error *err)
{
	if (request->type != ATTACH_REQUEST_ATTACH &&
	    request->type != ATTACH_REQUEST_ATTACH_MAPPING)
		return error_set(
		        err, -ENOTSUP,
		        "this is postcopyd's attach socket (destination): export, freeze and "
		        "poison reports go to postcopy-sourced's export socket");
	if (request->version != ATTACH_PROTOCOL_VERSION)
		return error_set(err, -EPROTONOSUPPORT,
		                 "attach protocol version %u: this postcopyd speaks %d",
		                 request->version, ATTACH_PROTOCOL_VERSION);
	if (pc->client.attached)
		return error_set(
		        err, -EBUSY,
		        "this connection has attached already: a connection attaches once");
	return 0;
}

/* The VMM's memory: *ret has it from here on. */
static int take_memory(struct postcopy_client *pc, const struct attach_request *request,
                       struct attach_memory *memory, struct migration **ret, struct error *err)
{
	int r = migration_find_for_attach(attach_server_table(pc->client.server),
	                                  &request->migration_id, request->token,
	                                  request->token_len, ret, err);

	if (r == 0)
		r = migration_attach(*ret, memory, ipc_peer(pc->connection)->pid,
		                     ipc_peer_pidfd(pc->connection), err);
	return r;
}

/* The same memory in another process. */
static int take_mapping(struct postcopy_client *pc, const struct attach_request *request,
                        struct attach_memory *memory, struct migration **ret, uint32_t *ret_mapping,
                        struct error *err)
{
	int r = migration_find_for_mapping(attach_server_table(pc->client.server),
	                                   &request->migration_id, request->token,
	                                   request->token_len, ret, err);

	if (r == 0)
		r = migration_map(*ret, memory, ipc_peer(pc->connection)->pid,
		                  ipc_peer_pidfd(pc->connection), ret_mapping, err);
	return r;
}

static int request_run(struct postcopy_client *pc, const struct attach_request *request, int *fds,
                       size_t n_fds, struct migration **ret, struct error *err)
{
	uint32_t mapping = ATTACH_CLIENT_VMM;
	struct migration *m = NULL;
	struct attach_memory memory = {
	        .regions = request->attach.regions,
	        .n_regions = request->attach.n_regions,
	        .n_uffds = request->attach.n_uffds,
	        .fds = fds,
	        .n_fds = n_fds,
	        .protocol = attach_protocol_postcopy.name,
	        .connection_fd = ipc_fd(pc->connection),
	};
	int r = check_request(pc, request, err);

	if (r == 0 && request->type == ATTACH_REQUEST_ATTACH)
		r = take_memory(pc, request, &memory, &m, err);
	else if (r == 0)
		r = take_mapping(pc, request, &memory, &m, &mapping, err);
	if (r < 0)
		return r;
	attach_client_bind(&pc->client, m, mapping);
	*ret = m;
	return 0;
}

/* It has its answer: now the state, and the source. */
static void attached(struct postcopy_client *pc, struct migration *m)
{
	on_change(&pc->client, m);
	if (pc->client.mapping == ATTACH_CLIENT_VMM)
		migration_connect(m);
}

static void log_refused(const struct postcopy_client *pc, const char *id_text, const char *why)
{
	pid_t pid = ipc_peer(pc->connection)->pid;

	log_event(LOG_WARNING, MESSAGE_ATTACH_REFUSED,
	          LOG_FIELDS({"MIGRATION_ID", id_text}, {"VMM_PID", LOG_U64((uint64_t)pid)},
	                     {"REASON", why}),
	          "attach: pid %d refused: %s", (int)pid, why);
}

static int on_message(struct ipc_connection *connection, const uint8_t *buf, size_t len, int *fds,
                      size_t n_fds, struct error *err, void *user)
{
	struct postcopy_client *pc = user;
	struct attach_request request = {0};
	struct migration *m = NULL;
	struct error error = {0};
	int r = attach_request_decode(buf, len, &request, &error);
	char id_text[UUID_TEXT_LEN];
	uint32_t id = request.id; /* 0 where there is no telling */
	bool asks;

	(void)err;
	if (r < 0) {
		log_refused(pc, NULL, error.text);
		ack_send(pc, id, r, error.text);
		ipc_close_after_flush(connection);
		return 0;
	}
	asks = request.type == ATTACH_REQUEST_LIST_POISON;
	r = asks ? list_poison(pc, id, request.list_poison.from, &error)
	         : request_run(pc, &request, fds, n_fds, &m, &error);
	uuid_format(&request.migration_id, id_text);
	attach_request_free(&request);
	if (r < 0 || !asks)
		ack_send(pc, id, r, r < 0 ? error.text : "");
	if (r < 0)
		log_refused(pc, asks ? NULL : id_text, error.text);
	else if (!asks)
		attached(pc, m);
	return 0;
}

static void on_closed(struct ipc_connection *connection, const struct error *err, void *user)
{
	struct postcopy_client *pc = user;

	if (err->code < 0)
		log_info("attach: connection of pid %d: %s", (int)ipc_peer(connection)->pid,
		         err->text);
	attach_client_gone(&pc->client);
}

static int client_new(struct attach_server *server, int fd, struct attach_client **ret)
{
	static const struct ipc_callbacks callbacks = {on_message, on_closed};
	struct postcopy_client *pc = calloc(1, sizeof(*pc));
	int r;

	if (!pc) {
		close(fd);
		return -ENOMEM;
	}
	r = ipc_connection_new(migration_table_loop(attach_server_table(server)), fd,
	                       REQUEST_BYTES_MAX, &callbacks, pc, &pc->connection);
	if (r < 0) {
		free(pc);
		return r;
	}
	*ret = &pc->client;
	return 0;
}

static void client_free(struct attach_client *client)
{
	struct postcopy_client *pc = postcopy_client(client);

	ipc_connection_free(pc->connection);
	poison_list_free(&pc->poison);
	free(pc);
}

const struct attach_protocol attach_protocol_postcopy = {
        .name = "postcopy",
        .client_new = client_new,
        .client_free = client_free,
        .on_change = on_change,
        .on_adopted = on_adopted,
};
