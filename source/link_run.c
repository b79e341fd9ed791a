/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A link's own thread: greets the destination, dispatches its messages, and
 * sends what it is owed: Frozen, known and late poison, answers to Ping and
 * Complete. What is owed is state, not a queue: a full out buffer only delays it.
 */
#include <errno.h>
#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "core/log.h"
#include "core/message_ids.h"
#include "core/thread_tuning.h"
#include "source/link.h"
#include "source/links.h"

static int send_message(struct link *link, const struct page_message *m)
{
	uint8_t head[PAGE_MESSAGE_HEAD_MAX];
	ssize_t n = page_message_encode(m, head, sizeof(head));

	return n < 0 ? (int)n : channel_send(link->channel, head, (size_t)n, NULL, 0);
}

void link_fail(struct link *link, enum wire_error_code code, const char *fmt, ...)
{
	struct page_message m = {.type = PAGE_MESSAGE_ERROR};
	va_list ap;

	if (link->closing)
		return;
	m.error.code = code;
	va_start(ap, fmt);
	(void)vsnprintf(m.error.text, sizeof(m.error.text), fmt, ap);
	va_end(ap);
	log_migration(LOG_WARNING, link->export->id_text, "closing %s lane %u of %s: %s: %s",
	              link_role_text(link->role), link->lane, channel_peer_address(link->channel),
	              wire_error_code_name(code), m.error.text);
	link->closing = true;
	(void)send_message(link, &m); /* without room for it the close alone must do */
	channel_close_after_flush(link->channel);
}

void link_serve_failed(struct link *link, int error)
{
	if (error == -ESRCH) {
		static const char text[] = "the process that had the guest's memory has gone";

		export_fail(link->export, text);
		link_fail(link, WIRE_ERROR_SOURCE_GONE, "%s", text);
	} else if (error == -ENOTCONN) {
		link->closing = true; /* on_closed comes and says why */
	} else {
		link_fail(link, WIRE_ERROR_INTERNAL, "cannot read guest memory: %s",
		          strerror(-error));
	}
}

/* The export has ended otherwise than by Complete. */
static void fail_ended(struct link *link)
{
	char text[ERROR_TEXT_MAX];
	enum export_state state = export_state(link->export);

	export_state_text(link->export, text, sizeof(text));
	link_fail(link, state == EXPORT_FAILED ? WIRE_ERROR_SOURCE_GONE : WIRE_ERROR_CANCELLED,
	          "the export is %s: %.300s", export_state_name(state), text);
}

/* A new destination that came in between connects again, and finds the new round. */
static void fail_given_up(struct link *link)
{
	link_fail(link, WIRE_ERROR_BUSY,
	          "the destination has given up on another connection: connect again");
}

/* Complete and the asks for pages need a frozen export that has not ended. */
static bool serve_result(struct link *link, int r, const char *asked)
{
	if (r == -EAGAIN)
		link_fail(link, WIRE_ERROR_NOT_FROZEN,
		          "%s before the source is frozen: wait for Frozen", asked);
	else if (r == -ECANCELED)
		fail_given_up(link);
	else if (r < 0)
		fail_ended(link);
	return r == 0;
}

bool link_may_serve(struct link *link, const char *asked)
{
	return serve_result(link, export_start_serving(link->export, link->round), asked);
}

static int send_greeting(struct link *link)
{
	const struct region_table *t = link->export->regions;
	struct wire_region regions[REGIONS_MAX];
	struct page_message m = {.type = PAGE_MESSAGE_HELLO_ACK};

	for (size_t i = 0; i < t->n_regions; i++) {
		memcpy(regions[i].name, t->regions[i].name, sizeof(regions[i].name));
		regions[i].gpa = t->regions[i].gpa;
		regions[i].length_bytes = t->regions[i].length_bytes;
		regions[i].page_size_bytes = t->regions[i].page_size_bytes;
	}
	link->frozen_told = export_state(link->export) != EXPORT_EXPORTED;
	m.hello_ack.version = PAGE_PROTOCOL_VERSION;
	m.hello_ack.regions = regions;
	m.hello_ack.n_regions = t->n_regions;
	m.hello_ack.frozen = link->frozen_told;
	m.hello_ack.poisoned_pages = poison_set_count(link->export->poison);
	return send_message(link, &m);
}

static int send_frozen(struct link *link)
{
	struct page_message m = {.type = PAGE_MESSAGE_FROZEN};
	int r;

	if (link->frozen_told || export_state(link->export) == EXPORT_EXPORTED)
		return 0;
	r = send_message(link, &m);
	link->frozen_told = r == 0;
	return r;
}

static int send_pong(struct link *link)
{
	struct page_message m = {.type = PAGE_MESSAGE_PONG};
	int r;

	if (!link->pong_due)
		return 0;
	m.ping.cookie = link->pong_cookie;
	r = send_message(link, &m);
	link->pong_due = r != 0;
	return r;
}

static int send_poison(struct link *link)
{
	struct page_message m = {.type = PAGE_MESSAGE_POISON_NOTICE};
	struct page_run runs[PAGE_RUNS_MAX];
	uint64_t cursor = link->poison_cursor;
	int r = 0;

	if (link->role != LINK_ROLE_URGENT)
		return 0;
	m.poison_notice.runs.runs = runs;
	while (r == 0) {
		size_t n = poison_set_read(link->export->poison, cursor, runs, PAGE_RUNS_MAX,
		                           &m.poison_notice.reason, &cursor);

		if (n == 0)
			break;
		m.poison_notice.runs.n_runs = n;
		r = send_message(link, &m);
		if (r == 0)
			link->poison_cursor = cursor;
	}
	return r;
}

static int send_end(struct link *link)
{
	struct page_message m = {.type = PAGE_MESSAGE_PROGRESS};
	int r;

	if (!link->end_due)
		return 0;
	m.progress.sent = link->stream.sent;
	m.progress.end = true;
	r = send_message(link, &m);
	link->end_due = r != 0;
	return r;
}

static int send_ack(struct link *link)
{
	struct page_message m = {.type = PAGE_MESSAGE_COMPLETE_ACK};
	int r;

	if (!link->ack_due)
		return 0;
	r = send_message(link, &m);
	link->ack_due = r != 0;
	if (r == 0) {
		link->closing = true;
		channel_close_after_flush(link->channel);
	}
	return r;
}

void link_flush(struct link *link)
{
	static int (*const steps[])(struct link *) = {send_pong, send_frozen, send_poison, send_end,
	                                              send_ack};
	int r = link->greeted || link->closing ? 0 : send_greeting(link);

	if (r == 0)
		link->greeted = true;
	for (size_t i = 0; i < ARRAY_SIZE(steps) && r == 0 && !link->closing; i++)
		r = steps[i](link);
	if (r < 0 && r != -ENOBUFS && r != -ENOTCONN)
		link_fail(link, WIRE_ERROR_INTERNAL, "cannot send: %s", strerror(-r));
}

static void on_complete(struct link *link, const struct page_message *m)
{
	char text[ERROR_TEXT_MAX];

	(void)snprintf(text, sizeof(text),
	               "destination has %" PRIu64 " pages, %" PRIu64 " zero, %" PRIu64
	               " poisoned, %" PRIu64 " removed",
	               m->complete.present, m->complete.zero, m->complete.poisoned,
	               m->complete.removed);
	if (!serve_result(link, export_complete(link->export, link->round, text), "Complete"))
		return;
	link->ack_due = true;
	link_flush(link);
}

static void dispatch(struct link *link, const struct page_message *m)
{
	bool urgent = link->role == LINK_ROLE_URGENT;

	if (m->type == PAGE_MESSAGE_PAGE_REQUEST && urgent) {
		serve_urgent_request(link, m);
	} else if (m->type == PAGE_MESSAGE_RESUME && !urgent) {
		serve_stream_resume(link, m);
	} else if (m->type == PAGE_MESSAGE_STREAM_CONTROL && !urgent) {
		serve_stream_control(link, m);
	} else if (m->type == PAGE_MESSAGE_COMPLETE && urgent && link->lane == 0) {
		on_complete(link, m);
	} else if (m->type == PAGE_MESSAGE_PING) {
		link->pong_cookie = m->ping.cookie;
		link->pong_due = true;
		link_flush(link);
	} else if (m->type == PAGE_MESSAGE_ERROR) {
		log_migration(LOG_WARNING, link->export->id_text,
		              "%s lane %u: the destination gives up: %s: %s",
		              link_role_text(link->role), link->lane,
		              wire_error_code_name(m->error.code), m->error.text);
		if (m->error.code == WIRE_ERROR_CANCELLED)
			export_given_up(link->export, link->round, m->error.text);
		link->closing = true;
		channel_close_after_flush(link->channel);
	} else {
		link_fail(link, WIRE_ERROR_PROTOCOL,
		          "%s does not belong on a connection of role %s, lane %u",
		          page_message_type_name(m->type), link_role_text(link->role), link->lane);
	}
}

static int on_frame(struct channel *ch, const struct frame *frame, struct error *err, void *user)
{
	struct link *link = user;
	struct page_message m;
	struct error why;

	(void)ch;
	(void)err;
	if (link->closing)
		return 0;
	if (page_message_decode(link->decoder, frame, &m, &why) < 0)
		link_fail(link, WIRE_ERROR_PROTOCOL, "%s", why.text);
	else
		dispatch(link, &m);
	return 0;
}

static void on_drained(struct channel *ch, void *user)
{
	struct link *link = user;

	(void)ch;
	if (link->closing)
		return;
	link_flush(link);
	if (link->role == LINK_ROLE_URGENT && link->urgent.busy)
		serve_urgent_continue(link);
	if (link->role == LINK_ROLE_BULK)
		serve_stream_pump(link);
}

static void on_closed(struct channel *ch, const struct error *err, void *user)
{
	struct link *link = user;
	/* A destination that has everything ends all its connections, each when it likes. */
	bool expected = link->closing || export_state(link->export) == EXPORT_RELEASED;

	log_event(err->code && !expected ? LOG_WARNING : LOG_INFO, MESSAGE_DESTINATION_DISCONNECTED,
	          LOG_FIELDS({"MIGRATION_ID", link->export->id_text},
	                     {"PEER", link->export->peer_identity},
	                     {"PEER_ADDRESS", channel_peer_address(ch)},
	                     {"ROLE", link_role_text(link->role)}, {"LANE", LOG_U64(link->lane)},
	                     {"REASON", err->code ? err->text : NULL}),
	          "%s lane %u of %s has ended%s%s", link_role_text(link->role), link->lane,
	          channel_peer_address(ch), err->code ? ": " : "", err->code ? err->text : "");
	link->closing = true;
	loop_stop(link->loop);
}

/* More of an inbound export may have come to this host. */
static void serve_news(struct link *link)
{
	if (link->role == LINK_ROLE_URGENT)
		serve_urgent_news(link);
	else
		serve_stream_pump(link);
}

void link_on_wake(void *arg)
{
	struct link *link = arg;

	atomic_store(&link->wake_posted, false);
	if (atomic_load(&link->stopping)) {
		link->closing = true;
		loop_stop(link->loop);
		return;
	}
	if (link->closing)
		return;
	link_flush(link);
	enum export_state state = export_state(link->export);

	if (state == EXPORT_WITHDRAWN || state == EXPORT_FAILED) {
		fail_ended(link);
	} else if (link_given_up(link)) {
		fail_given_up(link);
	} else if (state == EXPORT_RELEASED && !link->ack_due && !link->closing) {
		link->closing = true;
		channel_close_after_flush(link->channel);
	} else if (link->export->inbound && !link->closing) {
		serve_news(link);
	}
}

static void tell_once(atomic_bool *told, const struct error *err)
{
	if (err->code < 0 && !atomic_exchange(told, true))
		log_info("%s", err->text);
}

/* Urgent answers before everything else on this machine's threads, the stream after. */
static void set_priority(const struct link *link)
{
	static atomic_bool told_class, told_cpus;
	const struct link_tuning *t = &link->tuning;
	bool urgent = link->role == LINK_ROLE_URGENT;
	struct error class_err = {0}, cpus_err = {0};

	(void)thread_set_cpus(urgent ? &t->urgent_cpus : &t->bulk_cpus, &cpus_err);
	tell_once(&told_cpus, &cpus_err);
	if (urgent)
		(void)thread_set_realtime(t->urgent_realtime ? 1 : 0, &class_err);
	else
		(void)thread_set_nice(t->bulk_nice, &class_err);
	tell_once(&told_class, &class_err);
}

static int link_begin(struct link *link)
{
	static const struct channel_callbacks callbacks = {
	        .on_frame = on_frame, .on_drained = on_drained, .on_closed = on_closed};
	int r = page_decoder_new(&link->decoder);

	if (r == 0 && link->role == LINK_ROLE_BULK)
		r = serve_stream_init(link, links_stream_bandwidth(link->links));
	if (r == 0)
		r = channel_attach(link->channel, link->loop, &callbacks, link);
	return r;
}

void *link_thread(void *arg)
{
	struct link *link = arg;
	int r;

	set_priority(link);
	r = link_begin(link);
	if (r == 0) {
		link_flush(link);
		r = loop_run(link->loop);
	}
	if (r < 0)
		log_migration(LOG_ERR, link->export->id_text, "%s lane %u has failed: %s",
		              link_role_text(link->role), link->lane, strerror(-r));
	link->channel = channel_free(link->channel);
	serve_stream_fini(link);
	serve_urgent_fini(link);
	link->decoder = page_decoder_free(link->decoder);
	while (loop_post(links_main_loop(link->links), link_on_ended, link) == -ENOMEM)
		sched_yield(); /* the main loop must hear of it */
	return NULL;
}
