/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Role: get a lane's connection to the point where pages can be asked for, and
 * keep it alive. Used by fault_path.c and bulk_stream.c on their threads.
 * Messages before HelloAck, or a source with another name, end the link before
 * anything of it is believed.
 */
#include "daemon/source_link.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "net/address.h"

#define PING_INTERVAL_US 2000000
#define IDLE_TIMEOUT_US 10000000 /* five pings without any answer */
#define PONG_QUEUED_BYTES_MAX ((size_t)256 * 1024)

struct source_link {
	struct source_link_params params;
	struct channel *channel;
	struct page_decoder *decoder;
	struct event *ping_timer;
	bool welcomed;
	bool refused; /* the source's Error says that we need not come back */
	uint8_t head[PAGE_MESSAGE_HEAD_MAX];
};

static void on_ping_timer(evutil_socket_t fd, short what, void *arg)
{
	struct source_link *l = arg;
	struct page_message m = {.type = PAGE_MESSAGE_PING};

	(void)fd;
	(void)what;
	/* A full out buffer shows life as well; the idle timeout decides. */
	if (l->welcomed)
		(void)source_link_send(l, &m);
}

static int start_pings(struct source_link *l)
{
	struct timeval interval = {.tv_sec = PING_INTERVAL_US / 1000000};

	l->ping_timer = event_new(loop_base(l->params.loop), -1, EV_PERSIST, on_ping_timer, l);
	return l->ping_timer && event_add(l->ping_timer, &interval) == 0 ? 0 : -ENOMEM;
}

static void on_ready(struct channel *ch, void *user)
{
	struct source_link *l = user;
	struct page_message m = {
	        .type = PAGE_MESSAGE_HELLO,
	        .hello = {.version = PAGE_PROTOCOL_VERSION,
	                  .version_min = PAGE_PROTOCOL_VERSION_MIN,
	                  .migration_id = l->params.migration_id,
	                  .token_len = l->params.token_len,
	                  .role = l->params.role,
	                  .lane = l->params.lane},
	};
	struct error err = {0};

	if (channel_check_identity(ch, l->params.peer_identity, &err) < 0) {
		l->params.callbacks->on_lost(&err, false, l->params.user);
		return;
	}
	memcpy(m.hello.token, l->params.token, l->params.token_len);
	if (source_link_send(l, &m) < 0 || start_pings(l) < 0) {
		error_set(&err, -ENOMEM, "cannot send Hello");
		l->params.callbacks->on_lost(&err, true, l->params.user);
	}
}

static bool code_is_final(enum wire_error_code code)
{
	return code != WIRE_ERROR_BUSY && code != WIRE_ERROR_INTERNAL &&
	       code != WIRE_ERROR_NOT_FROZEN;
}

static int take_error(struct source_link *l, const struct page_message *m, struct error *err)
{
	l->refused = code_is_final(m->error.code);
	return error_set(err, -ECONNABORTED, "the source says %s: %s",
	                 wire_error_code_name(m->error.code), m->error.text);
}

static int take_hello_ack(struct source_link *l, const struct page_message *m, struct error *err)
{
	int rc;

	if (l->welcomed)
		return error_set(err, -EPROTO, "the source sent a second HelloAck");
	if (m->hello_ack.version < PAGE_PROTOCOL_VERSION_MIN ||
	    m->hello_ack.version > PAGE_PROTOCOL_VERSION) {
		l->refused = true;
		return error_set(err, -EPROTO,
		                 "the source chose version %" PRIu32
		                 ", which was not offered (%d to %d were)",
		                 m->hello_ack.version, PAGE_PROTOCOL_VERSION_MIN,
		                 PAGE_PROTOCOL_VERSION);
	}
	l->welcomed = true;
	rc = l->params.callbacks->on_welcome(m, err, l->params.user);
	if (rc < 0)
		l->refused = true; /* its region table will be the same the next time */
	return rc;
}

/* A source that pings and does not read gets no Pong: the room is for requests. */
static int take_ping(struct source_link *l, const struct page_message *m)
{
	struct page_message pong = {.type = PAGE_MESSAGE_PONG, .ping.cookie = m->ping.cookie};

	if (channel_queued(l->channel) > PONG_QUEUED_BYTES_MAX)
		return 0;
	return source_link_send(l, &pong) == -ENOTCONN ? -ENOTCONN : 0;
}

static int take_message(struct source_link *l, const struct page_message *m, struct error *err)
{
	if (m->type == PAGE_MESSAGE_ERROR)
		return take_error(l, m, err);
	if (m->type == PAGE_MESSAGE_HELLO_ACK)
		return take_hello_ack(l, m, err);
	if (!l->welcomed)
		return error_set(err, -EPROTO, "the source sent %s before HelloAck",
		                 page_message_type_name(m->type));
	switch (m->type) {
	case PAGE_MESSAGE_PING:
		return take_ping(l, m);
	case PAGE_MESSAGE_PONG:
		return 0;
	default:
		return l->params.callbacks->on_message(m, err, l->params.user);
	}
}

static int on_frame(struct channel *ch, const struct frame *frame, struct error *err, void *user)
{
	struct source_link *l = user;
	struct page_message m;
	int rc = page_message_decode(l->decoder, frame, &m, err);

	(void)ch;
	return rc < 0 ? rc : take_message(l, &m, err);
}

static void on_closed(struct channel *ch, const struct error *err, void *user)
{
	struct source_link *l = user;
	struct error e = *err;

	(void)ch;
	if (e.code == 0)
		error_set(&e, -ECONNRESET, "the source closed the connection");
	l->params.callbacks->on_lost(&e, !l->refused, l->params.user);
}

int source_link_new(const struct source_link_params *params, const struct addrinfo *address,
                    struct source_link **ret, struct error *err)
{
	static const struct channel_callbacks callbacks = {
	        .on_ready = on_ready, .on_frame = on_frame, .on_closed = on_closed};
	struct channel_options options = {
	        .idle_timeout_us = IDLE_TIMEOUT_US,
	        .socket_buffer_bytes = params->socket_buffer_bytes,
	        .out_buffer_bytes = params->out_buffer_bytes,
	        .event_priority = params->event_priority,
	};
	_cleanup_(cleanup_source_link_free) struct source_link *l = calloc(1, sizeof(*l));
	int fd, rc;

	if (!l || page_decoder_new(&l->decoder) < 0)
		return error_set_errno(err, -ENOMEM, "connection to the source");
	l->params = *params;
	fd = address_connect(address, err);
	if (fd < 0)
		return fd;
	rc = channel_new(params->loop, fd, params->tls, false, &options, &callbacks, l, &l->channel,
	                 err);
	if (rc < 0)
		return rc;
	*ret = TAKE_PTR(l);
	return 0;
}

struct source_link *source_link_free(struct source_link *l)
{
	if (!l)
		return NULL;
	if (l->ping_timer)
		event_free(l->ping_timer);
	channel_free(l->channel);
	page_decoder_free(l->decoder);
	free(l);
	return NULL;
}

int source_link_send_payload(struct source_link *l, const struct page_message *m,
                             const uint8_t *payload, size_t payload_len)
{
	ssize_t n = page_message_encode(m, l->head, sizeof(l->head));

	if (n < 0)
		return (int)n;
	return channel_send(l->channel, l->head, (size_t)n, payload, payload_len);
}

int source_link_send(struct source_link *l, const struct page_message *m)
{
	return source_link_send_payload(l, m, NULL, 0);
}

int source_link_send_raw(struct source_link *l, const uint8_t *bytes, size_t len)
{
	return channel_send(l->channel, bytes, len, NULL, 0);
}

int source_link_match(const struct page_message *hello_ack, struct region_table *regions,
                      struct error *err)
{
	struct region_source sources[REGIONS_MAX];

	for (size_t i = 0; i < hello_ack->hello_ack.n_regions; i++)
		sources[i] = (struct region_source){
		        .name = hello_ack->hello_ack.regions[i].name,
		        .gpa = hello_ack->hello_ack.regions[i].gpa,
		        .length_bytes = hello_ack->hello_ack.regions[i].length_bytes,
		};
	return region_table_match(regions, sources, hello_ack->hello_ack.n_regions, err);
}
