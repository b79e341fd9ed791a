/* SPDX-License-Identifier: Apache-2.0 */
/*
 * All links, as the main loop sees them: making one for an accepted connection,
 * replacing one that is half dead, waking, ending and joining.
 *
 * A link's last act is to post link_on_ended(); only then is its thread joined
 * and its memory released, so a pointer to a link in export->links[] is good.
 */
#include "source/links.h"

#include <errno.h>
#include <string.h>
#include <utlist.h>

#include "core/log.h"
#include "core/message_ids.h"
#include "core/thread.h"

struct links {
	struct loop *main_loop;
	struct link *all;
	unsigned n;
	unsigned max;
	_Atomic uint64_t stream_bandwidth;
	struct link_tuning tuning;
};

const char *link_role_text(enum link_role role)
{
	return role == LINK_ROLE_URGENT ? "urgent" : "bulk";
}

struct loop *links_main_loop(const struct links *ls)
{
	return ls->main_loop;
}

uint64_t links_stream_bandwidth(const struct links *ls)
{
	return atomic_load(&ls->stream_bandwidth);
}

unsigned links_count(const struct links *ls)
{
	return ls->n;
}

void links_set_options(struct links *ls, const struct links_options *options)
{
	ls->max = options->max;
	atomic_store(&ls->stream_bandwidth, options->stream_bandwidth);
	ls->tuning = options->tuning;
}

int links_new(struct loop *main_loop, const struct links_options *options, struct links **ret)
{
	struct links *ls = calloc(1, sizeof(*ls));

	if (!ls)
		return -ENOMEM;
	ls->main_loop = main_loop;
	links_set_options(ls, options);
	*ret = ls;
	return 0;
}

void link_wake(struct link *link)
{
	if (!link->running || atomic_exchange(&link->wake_posted, true))
		return;
	if (loop_post(link->loop, link_on_wake, link) < 0) {
		atomic_store(&link->wake_posted, false);
		log_migration(LOG_ERR, link->export->id_text, "not enough memory to wake a link");
	}
}

static void link_stop(struct link *link)
{
	atomic_store(&link->stopping, true);
	link_wake(link);
}

static struct link **slot_of(const struct link *link)
{
	return &link->export->links[link->role - 1][link->lane];
}

/* Not running (any more): out of all tables, and released. */
static void link_release(struct link *link)
{
	struct links *ls = link->links;
	struct export *e = link->export;

	if (*slot_of(link) == link)
		*slot_of(link) = NULL;
	DL_DELETE(ls->all, link);
	ls->n--;
	channel_free(link->channel);
	page_decoder_free(link->decoder);
	loop_free(link->loop);
	free(link);
	export_link_left(e);
}

static int thread_start(struct link *link)
{
	int r;

	/* Now, not when it was accepted: the one that it replaces may still end the round. */
	link->round = export_round(link->export);
	link->tuning = link->links->tuning;
	r = thread_create_quiet(&link->thread, NULL, link_thread, link);
	link->running = r == 0;
	return r;
}

static void start_or_release(struct link *link)
{
	int r = thread_start(link);

	if (r == 0)
		return;
	log_migration(LOG_ERR, link->export->id_text, "cannot start a thread: %s", strerror(-r));
	link_release(link);
}

static void link_join(struct link *link)
{
	if (link->running)
		pthread_join(link->thread, NULL);
	link->running = false;
}

void link_on_ended(void *arg)
{
	struct link *link = arg;
	struct link *successor = link->successor;

	link_join(link);
	link_release(link);
	if (successor)
		start_or_release(successor);
}

struct links *links_free(struct links *ls)
{
	struct link *link, *next;

	if (!ls)
		return NULL;
	DL_FOREACH (ls->all, link)
		link_stop(link);
	DL_FOREACH_SAFE (ls->all, link, next) {
		link_join(link);
		link_release(link);
	}
	free(ls);
	return NULL;
}

/* May this certificate have the lane, although it is connected? */
static int check_slot(struct links *ls, const struct link *old, struct channel *channel,
                      struct error *err)
{
	uint8_t fingerprint[LINK_FINGERPRINT_BYTES];
	int r = channel_peer_fingerprint(channel, fingerprint);

	if (r < 0)
		return error_set_errno(err, r, "no certificate");
	if (old && memcmp(old->fingerprint, fingerprint, sizeof(fingerprint)) != 0)
		return error_set(
		        err, -EBUSY,
		        "%s lane %u is connected already, with another certificate of this "
		        "identity",
		        link_role_text(old->role), old->lane);
	if (ls->n >= ls->max)
		return error_set(err, -EBUSY,
		                 "%u page connections are open here, and no more are allowed",
		                 ls->n);
	return 0;
}

static struct link *link_new(struct links *ls, struct export *e, enum link_role role, unsigned lane)
{
	struct link *link = calloc(1, sizeof(*link));

	if (link && loop_new(&link->loop) < 0) {
		free(link);
		link = NULL;
	}
	if (!link)
		return NULL;
	link->links = ls;
	link->export = e;
	link->role = role;
	link->lane = lane;
	return link;
}

static void log_connected(const struct link *link, bool again)
{
	const struct export *e = link->export;

	log_event(LOG_INFO, MESSAGE_DESTINATION_CONNECTED,
	          LOG_FIELDS({"MIGRATION_ID", e->id_text}, {"PEER", e->peer_identity},
	                     {"PEER_ADDRESS", e->peer}, {"ROLE", link_role_text(link->role)},
	                     {"LANE", LOG_U64(link->lane)}),
	          "%s lane %u is connected%s", link_role_text(link->role), link->lane,
	          again ? " again; its old connection is closed" : "");
}

/* The old link ends first: two streams must not take from one list. */
static void replace(struct link *old, struct link *link)
{
	if (old->running) {
		old->successor = link;
		link_stop(old);
		return;
	}
	/* The old one has itself been waiting for one to end. */
	struct link *before;

	DL_FOREACH (link->links->all, before) {
		if (before->successor == old)
			before->successor = link;
	}
	link_release(old);
}

int links_accept(struct links *ls, struct export *e, enum link_role role, unsigned lane,
                 struct channel *channel, enum wire_error_code *ret_code, struct error *err)
{
	struct link *old = e->links[role - 1][lane];
	int r = check_slot(ls, old, channel, err);

	if (r < 0) {
		*ret_code = WIRE_ERROR_BUSY;
		return r;
	}
	struct link *link = link_new(ls, e, role, lane);

	if (!link || (role == LINK_ROLE_BULK && export_want_prepare(e, lane) < 0)) {
		if (link)
			loop_free(link->loop);
		free(link);
		*ret_code = WIRE_ERROR_INTERNAL;
		return error_set(err, -ENOMEM, "not enough memory for a connection");
	}
	(void)channel_peer_fingerprint(channel, link->fingerprint);
	channel_detach(channel);
	link->channel = channel;
	export_link_joined(e, channel_peer_address(channel));
	DL_APPEND(ls->all, link);
	ls->n++;
	e->links[role - 1][lane] = link;
	log_connected(link, old != NULL);
	if (old)
		replace(old, link);
	else
		start_or_release(link);
	return 0;
}
