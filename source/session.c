/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From an accepted socket to a link: the one place that decides who may connect.
 * Made by the page listener; ends by handing its channel to a link, by telling
 * the peer an Error, or by a timer.
 */
#include "source/session.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "core/log.h"
#include "core/message_ids.h"
#include "core/token.h"

#define PEER_NAMES_MAX 512

struct session {
	const struct session_host *host;
	struct channel *channel;
	struct page_decoder *decoder;
	struct event *timer;
	bool refused;                /* an Error is on its way */
	char id_text[UUID_TEXT_LEN]; /* the migration that it asked for */
};

struct session *session_free(struct session *s)
{
	if (!s)
		return NULL;
	if (s->timer)
		event_free(s->timer);
	channel_free(s->channel);
	page_decoder_free(s->decoder);
	free(s);
	return NULL;
}

static void session_end(struct session *s)
{
	s->host->on_gone(s, s->host->user);
	session_free(s);
}

/* Say why not, and close. What the log may know in addition is in for_log. */
static void refuse(struct session *s, enum wire_error_code code, const char *text,
                   const char *for_log)
{
	struct page_message m = {.type = PAGE_MESSAGE_ERROR};
	uint8_t head[FRAME_PREFIX_BYTES + 2 * WIRE_ERROR_TEXT_MAX];

	m.error.code = code;
	(void)snprintf(m.error.text, sizeof(m.error.text), "%s", text);
	log_event(LOG_WARNING, MESSAGE_DESTINATION_REFUSED,
	          LOG_FIELDS({"MIGRATION_ID", s->id_text},
	                     {"PEER_ADDRESS", channel_peer_address(s->channel)},
	                     {"ERROR_CODE", wire_error_code_name(code)},
	                     {"REASON", *for_log ? for_log + strspn(for_log, ": ") : text}),
	          "refusing a destination at %s: %s: %s%s", channel_peer_address(s->channel),
	          wire_error_code_name(code), text, for_log);
	ssize_t n = page_message_encode(&m, head, sizeof(head));

	if (n > 0)
		(void)channel_send(s->channel, head, (size_t)n, NULL, 0);
	s->refused = true;
	channel_close_after_flush(s->channel);
}

static bool check_version(struct session *s, const struct page_message *m)
{
	char text[WIRE_ERROR_TEXT_MAX];

	if (m->hello.version >= PAGE_PROTOCOL_VERSION_MIN &&
	    m->hello.version_min <= PAGE_PROTOCOL_VERSION)
		return true;
	(void)snprintf(text, sizeof(text),
	               "the destination speaks versions %" PRIu32 " to %" PRIu32
	               ", the source %d to %d: install matching releases",
	               m->hello.version_min, m->hello.version, PAGE_PROTOCOL_VERSION_MIN,
	               PAGE_PROTOCOL_VERSION);
	refuse(s, WIRE_ERROR_VERSION, text, "");
	return false;
}

static struct export *check_migration(struct session *s, const struct page_message *m)
{
	struct error err = {0};
	struct export *e = NULL;

	if (export_table_get(s->host->exports, &m->hello.migration_id, &e, &err) < 0)
		refuse(s, WIRE_ERROR_UNKNOWN_MIGRATION, err.text, "");
	return e;
}

/* An agent that can read what is kept of it may still come: wait, and keep what you have. */
static bool check_taken_up(struct session *s, const struct export *e)
{
	if (!e->keep.stranded)
		return true;
	refuse(s, WIRE_ERROR_INTERNAL,
	       "the source agent was restarted and cannot take this export up; its log says why",
	       "");
	return false;
}

/* The peer learns only that it was refused, the log which of the two was wrong. */
static bool check_peer(struct session *s, const struct export *e, const struct page_message *m)
{
	struct error err = {0};
	char names[PEER_NAMES_MAX], for_log[2 * PEER_NAMES_MAX] = "";
	bool identity = channel_check_identity(s->channel, e->peer_identity, &err) == 0;
	bool token = token_equal(m->hello.token, m->hello.token_len, e->token, e->token_len);

	if (identity && token)
		return true;
	(void)snprintf(for_log, sizeof(for_log), ": %s%s%s (migration %s, peer's names: %s)",
	               identity ? "" : err.text, identity || token ? "" : "; ",
	               token ? "" : "wrong token", e->id_text,
	               channel_peer_names(s->channel, names, sizeof(names)));
	refuse(s, WIRE_ERROR_DENIED,
	       "certificate or token is not the one of this migration; the log of the source says "
	       "which",
	       for_log);
	return false;
}

/* A released export still answers a repeated Complete; the others are over. */
static bool check_alive(struct session *s, struct export *e)
{
	char why[ERROR_TEXT_MAX], text[WIRE_ERROR_TEXT_MAX];
	enum export_state state = export_state(e);

	if (state != EXPORT_FAILED && state != EXPORT_WITHDRAWN)
		return true;
	export_state_text(e, why, sizeof(why));
	(void)snprintf(text, sizeof(text), "the export is %s: %.300s", export_state_name(state),
	               why);
	refuse(s, state == EXPORT_FAILED ? WIRE_ERROR_SOURCE_GONE : WIRE_ERROR_CANCELLED, text, "");
	return false;
}

static void on_hello(struct session *s, const struct page_message *m)
{
	char text[WIRE_ERROR_TEXT_MAX];
	enum wire_error_code code;
	struct error err = {0};
	struct export *e;

	uuid_format(&m->hello.migration_id, s->id_text);
	if (!check_version(s, m))
		return;
	e = check_migration(s, m);
	if (!e || !check_taken_up(s, e) || !check_peer(s, e, m) || !check_alive(s, e))
		return;
	if (m->hello.lane >= EXPORT_LANES_MAX) {
		(void)snprintf(text, sizeof(text), "lane %" PRIu32 " is over the largest, %d",
		               m->hello.lane, EXPORT_LANES_MAX - 1);
		refuse(s, WIRE_ERROR_PROTOCOL, text, "");
		return;
	}
	if (links_accept(s->host->links, e, m->hello.role, m->hello.lane, s->channel, &code, &err) <
	    0) {
		refuse(s, code, err.text, "");
		return;
	}
	s->channel = NULL; /* the link's */
	session_end(s);
}

static int on_frame(struct channel *ch, const struct frame *frame, struct error *err, void *user)
{
	struct session *s = user;
	struct page_message m;
	struct error why = {0};
	char text[WIRE_ERROR_TEXT_MAX];

	(void)ch;
	(void)err;
	if (s->refused)
		return 0;
	if (page_message_decode(s->decoder, frame, &m, &why) < 0) {
		refuse(s, WIRE_ERROR_PROTOCOL, why.text, "");
	} else if (m.type != PAGE_MESSAGE_HELLO) {
		(void)snprintf(text, sizeof(text), "the first message is %s, expected Hello",
		               page_message_type_name(m.type));
		refuse(s, WIRE_ERROR_PROTOCOL, text, "");
	} else {
		on_hello(s, &m);
	}
	return 0;
}

static void on_closed(struct channel *ch, const struct error *err, void *user)
{
	struct session *s = user;

	if (!s->refused)
		log_warning("a connection from %s ended before Hello%s%s", channel_peer_address(ch),
		            err->code ? ": " : "", err->code ? err->text : "");
	session_end(s);
}

static void on_timeout(evutil_socket_t fd, short what, void *arg)
{
	struct session *s = arg;

	(void)fd;
	(void)what;
	log_warning("a connection from %s sent no Hello in time", channel_peer_address(s->channel));
	session_end(s);
}

static int start_timer(struct session *s)
{
	uint64_t us = s->host->hello_timeout_us;
	struct timeval tv = {.tv_sec = (time_t)(us / 1000000),
	                     .tv_usec = (suseconds_t)(us % 1000000)};

	s->timer = evtimer_new(loop_base(s->host->loop), on_timeout, s);
	return s->timer && evtimer_add(s->timer, &tv) == 0 ? 0 : -ENOMEM;
}

int session_new(const struct session_host *host, int fd, struct tls_context *tls,
                struct session **ret, struct error *err)
{
	static const struct channel_callbacks callbacks = {.on_frame = on_frame,
	                                                   .on_closed = on_closed};
	struct channel_options options = {
	        .low_water_bytes = LINK_STREAM_LOW_WATER_BYTES,
	        .handshake_timeout_us = host->hello_timeout_us,
	        .socket_buffer_bytes = host->socket_buffer_bytes,
	};
	struct session *s = calloc(1, sizeof(*s));

	if (!s) {
		close(fd);
		return error_set(err, -ENOMEM, "no memory for a connection");
	}
	s->host = host;
	int r = channel_new(host->loop, fd, tls, true, &options, &callbacks, s, &s->channel, err);

	if (r == 0 && (page_decoder_new(&s->decoder) < 0 || start_timer(s) < 0))
		r = error_set(err, -ENOMEM, "no memory for a connection");
	if (r < 0) {
		session_free(s);
		return r;
	}
	*ret = s;
	return 0;
}
