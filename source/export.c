/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The life of an export: exported -> frozen -> serving -> released, or failed
 * or withdrawn from any of the first three. Driven by the export socket, the
 * control socket (main loop) and the links (their threads).
 *
 * The state changes in one function, under the lock, so that "a destination
 * begins to take pages" and "the guest stays here" can never both succeed. A
 * change is announced on the main loop, whoever made it.
 *
 * A destination has several links, and its last word comes on one of them:
 * what the others bring later, or have brought and is read later, is void.
 */
#include "source/export.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "core/clock.h"
#include "core/log.h"
#include "core/message_ids.h"
#include "source/export_table.h"
#include "source/link.h"

static const char *const state_names[] = {
        [EXPORT_EXPORTED] = "exported", [EXPORT_FROZEN] = "frozen",
        [EXPORT_SERVING] = "serving",   [EXPORT_RELEASED] = "released",
        [EXPORT_FAILED] = "failed",     [EXPORT_WITHDRAWN] = "withdrawn",
};
_Static_assert(ARRAY_SIZE(state_names) == EXPORT_STATES_, "a state has no name");

#define BIT(state) (1U << (state))
#define BITS_END (BIT(EXPORT_FAILED) | BIT(EXPORT_WITHDRAWN))

/* From each state, where it may go. */
static const unsigned allowed[] = {
        [EXPORT_EXPORTED] = BIT(EXPORT_FROZEN) | BITS_END,
        [EXPORT_FROZEN] = BIT(EXPORT_SERVING) | BIT(EXPORT_RELEASED) | BITS_END,
        [EXPORT_SERVING] = BIT(EXPORT_FROZEN) | BIT(EXPORT_RELEASED) | BITS_END,
        [EXPORT_RELEASED] = 0,
        [EXPORT_FAILED] = 0,
        [EXPORT_WITHDRAWN] = 0,
};
_Static_assert(ARRAY_SIZE(allowed) == EXPORT_STATES_, "a state has no transitions");

const char *export_state_name(enum export_state state)
{
	return (size_t)state < ARRAY_SIZE(state_names) ? state_names[state] : "unknown";
}

enum export_state export_state(const struct export *e)
{
	return (enum export_state)atomic_load_explicit(&e->state, memory_order_acquire);
}

void export_state_text(struct export *e, char *buf, size_t buf_len)
{
	pthread_mutex_lock(&e->lock);
	(void)snprintf(buf, buf_len, "%s", e->state_text);
	pthread_mutex_unlock(&e->lock);
}

/* The one place where the state changes: from one of the states in from_mask. Locked. */
static bool set_state_locked(struct export *e, unsigned from_mask, enum export_state to,
                             const char *text)
{
	enum export_state from = export_state(e);

	if (!(BIT(from) & from_mask) || !(allowed[from] & BIT(to)))
		return false;
	export_keep_state(e, (int)to, text); /* whoever sees it below may act upon it */
	atomic_store_explicit(&e->state, to, memory_order_release);
	(void)snprintf(e->state_text, sizeof(e->state_text), "%s", text);
	return true;
}

static bool set_state(struct export *e, unsigned from_mask, enum export_state to, const char *text)
{
	pthread_mutex_lock(&e->lock);
	bool moved = set_state_locked(e, from_mask, to, text);
	pthread_mutex_unlock(&e->lock);
	return moved;
}

/* For a link of that round. -ECANCELED if its destination has given up, else 0. */
static int set_state_in_round(struct export *e, unsigned round, unsigned from_mask,
                              enum export_state to, const char *text, bool *ret_moved)
{
	int r = -ECANCELED;

	pthread_mutex_lock(&e->lock);
	if (export_round(e) == round) {
		*ret_moved = set_state_locked(e, from_mask, to, text);
		r = 0;
	}
	pthread_mutex_unlock(&e->lock);
	return r;
}

void export_wake_links(struct export *e, bool urgent_only)
{
	for (unsigned lane = 0; lane < EXPORT_LANES_MAX; lane++) {
		if (e->links[LINK_ROLE_URGENT - 1][lane])
			link_wake(e->links[LINK_ROLE_URGENT - 1][lane]);
		if (!urgent_only && e->links[LINK_ROLE_BULK - 1][lane])
			link_wake(e->links[LINK_ROLE_BULK - 1][lane]);
	}
}

/* Nobody reads it any more: give the guest's memory back to the system. */
static void drop_memory_if_unused(struct export *e)
{
	if (!export_state_final(export_state(e)) || e->n_links > 0)
		return;
	export_keep_end(e);
	region_table_drop_memory(e->regions);
	for (unsigned lane = 0; lane < EXPORT_LANES_MAX; lane++)
		want_free(atomic_exchange(&e->want[lane], NULL));
	export_table_trim(e->table);
}

/* What an export comes to, or comes back to when its destination gives up. */
static const char *state_message(enum export_state from, enum export_state to)
{
	static const char *const ids[] = {
	        [EXPORT_FROZEN] = MESSAGE_EXPORT_FROZEN,
	        [EXPORT_SERVING] = MESSAGE_EXPORT_SERVING,
	        [EXPORT_RELEASED] = MESSAGE_EXPORT_RELEASED,
	        [EXPORT_FAILED] = MESSAGE_EXPORT_FAILED,
	        [EXPORT_WITHDRAWN] = MESSAGE_EXPORT_WITHDRAWN,
	};
	_Static_assert(ARRAY_SIZE(ids) == EXPORT_STATES_, "a state lacks its message id");

	return from == EXPORT_SERVING && to == EXPORT_FROZEN ? MESSAGE_EXPORT_GIVEN_UP : ids[to];
}

static int state_log_level(enum export_state from, enum export_state to)
{
	if (to == EXPORT_FAILED)
		return LOG_ERR;
	return from == EXPORT_SERVING && to == EXPORT_FROZEN ? LOG_WARNING : LOG_INFO;
}

static void log_state(const struct export *e, enum export_state from, enum export_state to,
                      const char *text)
{
	log_event(state_log_level(from, to), state_message(from, to),
	          LOG_FIELDS({"MIGRATION_ID", e->id_text}, {"PEER", e->peer_identity},
	                     {"PEER_ADDRESS", e->peer}, {"REASON", text}),
	          "export is %s%s%s", export_state_name(to), text[0] ? ": " : "", text);
}

/* Main loop. Several changes may be announced as one. */
static void announce(struct export *e)
{
	enum export_state state = export_state(e), from = e->announced;
	char text[ERROR_TEXT_MAX];

	if (state == from)
		return;
	e->announced = state;
	if (export_state_final(state))
		e->ended_ns = clock_monotonic_ns();
	export_state_text(e, text, sizeof(text));
	log_state(e, from, state, text);
	export_ref(e); /* trimming may drop the table's reference */
	export_table_changed(e->table, e);
	export_wake_links(e, false);
	drop_memory_if_unused(e);
	export_unref(e);
}

static void on_change_posted(void *arg)
{
	struct export *e = arg;

	atomic_store(&e->change_posted, false);
	announce(e);
}

static void on_round_posted(void *arg)
{
	struct export *e = arg;

	atomic_store(&e->round_posted, false);
	export_wake_links(e, false); /* those that are over end */
}

static void on_poison_posted(void *arg)
{
	struct export *e = arg;

	atomic_store(&e->poison_posted, false);
	export_audit(e);
	export_wake_links(e, true);
}

/* From a link's thread to the main loop, unless a message is on its way already. */
void export_post_once(struct export *e, atomic_bool *posted, void (*fn)(void *))
{
	if (atomic_exchange(posted, true))
		return;
	if (loop_post(e->table->loop, fn, e) < 0) {
		atomic_store(posted, false);
		log_migration(LOG_ERR, e->id_text, "not enough memory to tell the main loop");
	}
}

static int ended_error(struct export *e, struct error *err)
{
	char text[ERROR_TEXT_MAX];
	enum export_state state = export_state(e);

	export_state_text(e, text, sizeof(text));
	return error_set(err, -ESHUTDOWN, "export %s is %s%s%.200s", e->id_text,
	                 export_state_name(state), text[0] ? ": " : "", text);
}

int export_freeze(struct export *e, struct error *err)
{
	(void)set_state(e, BIT(EXPORT_EXPORTED), EXPORT_FROZEN, "");
	announce(e);
	return export_state_final(export_state(e)) ? ended_error(e, err) : 0;
}

/* Failed already, but with all its memory in the FD store. */
static int withdraw_stranded(struct export *e, bool force, const char *text, struct error *err)
{
	if (!force)
		return error_set(err, -EBUSY,
		                 "the memory of export %s is kept for another agent, and a guest "
		                 "may wait for it: use force if that is to be given up for good",
		                 e->id_text);
	export_keep_forget(e);
	pthread_mutex_lock(&e->lock);
	atomic_store_explicit(&e->state, EXPORT_WITHDRAWN, memory_order_release);
	(void)snprintf(e->state_text, sizeof(e->state_text), "%s", text);
	pthread_mutex_unlock(&e->lock);
	announce(e);
	return 0;
}

int export_withdraw(struct export *e, bool force, const char *who, struct error *err)
{
	unsigned from = BIT(EXPORT_EXPORTED) | BIT(EXPORT_FROZEN);
	char text[ERROR_TEXT_MAX];

	(void)snprintf(text, sizeof(text), "withdrawn by %s", who);
	if (e->keep.stranded)
		return withdraw_stranded(e, force, text, err);
	if (set_state(e, force ? from | BIT(EXPORT_SERVING) : from, EXPORT_WITHDRAWN, text)) {
		announce(e);
		return 0;
	}
	if (export_state(e) == EXPORT_WITHDRAWN)
		return 0;
	if (export_state(e) == EXPORT_SERVING)
		return error_set(err, -EBUSY,
		                 "a destination has taken pages of export %s (%" PRIu64
		                 " of this agent): its guest would lose the rest; use force if "
		                 "that guest is to be given up",
		                 e->id_text,
		                 atomic_load(&e->stats.pages_urgent) +
		                         atomic_load(&e->stats.pages_stream));
	return ended_error(e, err);
}

struct report {
	struct export *e;
	enum poison_reporter by;
	uint64_t added;
};

static int report_piece(uint64_t first, uint64_t count, void *user)
{
	struct report *report = user;
	uint64_t added = 0;
	int r = poison_set_add(report->e->poison, first, count, POISON_REASON_REPORTED, report->by,
	                       &added);

	report->added += added;
	return r;
}

int export_report_poison(struct export *e, const struct poison_range *ranges, size_t n_ranges,
                         enum poison_reporter by, struct error *err)
{
	struct report report = {.e = e, .by = by};
	int r = 0;

	if (export_state_final(export_state(e)))
		return ended_error(e, err);
	for (size_t i = 0; i < n_ranges; i++) {
		r = region_table_walk_gpa(e->regions, &ranges[i], NULL, NULL, err);
		if (r < 0)
			return r;
	}
	for (size_t i = 0; i < n_ranges && r == 0; i++)
		r = region_table_walk_gpa(e->regions, &ranges[i], report_piece, &report, err);
	if (report.added > 0) {
		log_migration(LOG_WARNING, e->id_text, "%" PRIu64 " pages reported lost by %s",
		              report.added, poison_reporter_name(by));
		export_audit(e);
		export_wake_links(e, true);
	}
	return r;
}

void export_exporter_left(struct export *e)
{
	export_keep_drop_connection(e);
	if (export_state_final(export_state(e)))
		return;
	if (region_table_gone(e->regions)) {
		export_fail(e, "the process that exported its own memory has gone");
		return;
	}
	if (!inbound_all_known(e->inbound)) {
		export_fail(e,
		            "the VMM has hung up while memory was still on its way to it: nobody "
		            "knows any more which of its pages are here");
		return;
	}
	log_event(LOG_WARNING, MESSAGE_EXPORTER_LEFT,
	          LOG_FIELDS({"MIGRATION_ID", e->id_text}, {"PEER", e->peer_identity},
	                     {"EXPORTER", e->exporter}),
	          "the exporter (%s) has hung up; its memory is still readable, going on",
	          e->exporter);
}

void export_link_joined(struct export *e, const char *peer)
{
	export_ref(e);
	e->n_links++;
	atomic_fetch_add(&e->stats.links_accepted, 1);
	(void)snprintf(e->peer, sizeof(e->peer), "%s", peer);
}

void export_link_left(struct export *e)
{
	e->n_links--;
	announce(e);
	drop_memory_if_unused(e);
	export_unref(e);
}

int export_start_serving(struct export *e, unsigned round)
{
	bool moved = false;
	int r = set_state_in_round(e, round, BIT(EXPORT_FROZEN), EXPORT_SERVING, "", &moved);

	if (r < 0)
		return r;
	if (moved)
		export_post_once(e, &e->change_posted, on_change_posted);

	enum export_state state = export_state(e);

	if (state == EXPORT_SERVING)
		return 0;
	return state == EXPORT_EXPORTED ? -EAGAIN : -ESHUTDOWN;
}

int export_complete(struct export *e, unsigned round, const char *text)
{
	bool moved = false;
	int r = set_state_in_round(e, round, BIT(EXPORT_FROZEN) | BIT(EXPORT_SERVING),
	                           EXPORT_RELEASED, text, &moved);

	if (r < 0)
		return r;
	if (moved)
		export_post_once(e, &e->change_posted, on_change_posted);
	switch (export_state(e)) {
	case EXPORT_RELEASED:
		return 0;
	case EXPORT_EXPORTED:
		return -EAGAIN;
	default:
		return -ESHUTDOWN;
	}
}

void export_given_up(struct export *e, unsigned round, const char *why)
{
	char text[ERROR_TEXT_MAX];
	bool moved = false;

	(void)snprintf(text, sizeof(text), "the destination gave up: %.300s", why);
	pthread_mutex_lock(&e->lock);
	bool first = export_round(e) == round && !export_state_final(export_state(e));

	if (first) {
		atomic_store_explicit(&e->round, round + 1, memory_order_release);
		moved = set_state_locked(e, BIT(EXPORT_SERVING), EXPORT_FROZEN, text);
	}
	pthread_mutex_unlock(&e->lock);
	if (first)
		export_post_once(e, &e->round_posted, on_round_posted);
	if (moved)
		export_post_once(e, &e->change_posted, on_change_posted);
}

void export_fail(struct export *e, const char *text)
{
	if (set_state(e, ~0U, EXPORT_FAILED, text))
		export_post_once(e, &e->change_posted, on_change_posted);
}

int export_read_error(struct export *e, uint64_t first, uint64_t count)
{
	uint64_t added = 0;
	int r = poison_set_add(e->poison, first, count, POISON_REASON_READ_ERROR, POISON_BY_READ,
	                       &added);

	if (added > 0)
		export_post_once(e, &e->poison_posted, on_poison_posted);
	return r;
}

void export_drop_wanted(struct export *e, uint64_t first, uint64_t count)
{
	for (unsigned lane = 0; lane < EXPORT_LANES_MAX; lane++) {
		struct want *w = atomic_load_explicit(&e->want[lane], memory_order_acquire);

		if (w)
			want_drop(w, first, count);
	}
}

int export_want_prepare(struct export *e, unsigned lane)
{
	struct want *w;
	int r;

	if (atomic_load(&e->want[lane]))
		return 0;
	r = want_new(e->regions->n_pages, &w);
	if (r == 0)
		atomic_store_explicit(&e->want[lane], w, memory_order_release);
	return r;
}

struct export *export_ref(struct export *e)
{
	e->refs++;
	return e;
}

struct export *export_unref(struct export *e)
{
	if (!e || --e->refs > 0)
		return NULL;
	for (unsigned lane = 0; lane < EXPORT_LANES_MAX; lane++)
		want_free(atomic_load(&e->want[lane]));
	export_audit_all(e);
	export_keep_fini(&e->keep);
	poison_set_free(e->poison);
	inbound_free(e->inbound);
	region_table_free(e->regions);
	pthread_mutex_destroy(&e->lock);
	explicit_bzero(e->token, sizeof(e->token));
	free(e);
	return NULL;
}
