/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The migration object: made by the table, changed by set_state(), ended by
 * migration_end(), released from the loop.
 *
 * Always holds: the state changes here only; a final state is entered once, and
 * from then on no lane event, timer or command changes anything.
 */
#include "daemon/migration_parts.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/clock.h"
#include "core/log.h"
#include "core/message_ids.h"
#include "daemon/migration_mapping.h"

int migration_timer_new(struct migration *m, event_callback_fn fn, void *arg, struct event **ret)
{
	struct loop *loop = migration_table_loop(m->table);

	*ret = event_new(loop_base(loop), -1, 0, fn, arg);
	return *ret ? 0 : -ENOMEM;
}

void timer_start(struct event *timer, uint64_t us)
{
	struct timeval tv = {
	        .tv_sec = (time_t)(us / 1000000),
	        .tv_usec = (suseconds_t)(us % 1000000),
	};

	event_add(timer, &tv);
}

static void timer_free(struct event **timer)
{
	if (*timer)
		event_free(*timer);
	*timer = NULL;
}

/* Everything but what list, show and the audit need. Safe to call twice. */
static void migration_release(struct migration *m)
{
	timer_free(&m->vmm_exit_event);
	timer_free(&m->vmm_alive_timer);
	timer_free(&m->lost_timer);
	timer_free(&m->completion_timer);
	for (uint32_t i = 0; i < ARRAY_SIZE(m->lanes); i++) {
		timer_free(&m->lanes[i].retry_timer);
		m->lanes[i].lane = m->lanes[i].lane ? lane_free(m->lanes[i].lane) : NULL;
	}
	for (uint32_t i = 0; i < ARRAY_SIZE(m->lanes); i++)
		close_fd(&m->lanes[i].uffd);
	for (size_t i = 0; i < m->n_memory_fds; i++)
		close_fd(&m->memory_fds[i]);
	m->n_memory_fds = 0;
	close_fd(&m->vmm_pidfd);
	migration_mappings_release(m);
}

static void on_release(evutil_socket_t fd, short what, void *arg)
{
	struct migration *m = arg;

	(void)fd;
	(void)what;
	migration_release(m);
	m->released = true;
	if (m->memory) /* and no thread appends to its ledger any more */
		migration_audit(m);
	else
		migration_keep_end(m);
	log_migration(LOG_DEBUG, m->id_text, "migration %s: released", m->id_text);
}

struct migration *migration_free(struct migration *m)
{
	if (!m)
		return NULL;
	migration_release(m);
	migration_audit_all(m);
	migration_poison_end(m);
	migration_keep_fini(&m->keep);
	explicit_bzero(m->token, sizeof(m->token));
	m->memory = state_memfd_free(m->memory);
	timer_free(&m->release_event);
	timer_free(&m->audit_timer);
	region_table_free(m->regions);
	free(m->final_entries);
	poison_list_free(&m->final_lost);
	free(m);
	return NULL;
}

static int copy_text(char *to, size_t size, const char *from, const char *what, struct error *err)
{
	size_t len = strlen(from);

	if (len >= size)
		return error_set(err, -EINVAL, "%s is too long: %zu bytes, at most %zu", what, len,
		                 size - 1);
	memcpy(to, from, len + 1);
	return 0;
}

static int migration_init(struct migration *m, const struct migration_params *p, struct error *err)
{
	int r;

	m->id = p->id;
	uuid_format(&m->id, m->id_text);
	if (p->token_len < TOKEN_BYTES_MIN || p->token_len > TOKEN_BYTES_MAX)
		return error_set(err, -EINVAL, "the token has %zu bytes: expected %d to %d",
		                 p->token_len, TOKEN_BYTES_MIN, TOKEN_BYTES_MAX);
	memcpy(m->token, p->token, p->token_len);
	m->token_len = p->token_len;
	m->lost_policy = p->lost_policy;
	m->lost_deadline_us = p->lost_deadline_us;
	m->bandwidth = p->bandwidth;
	m->stop_on_poison = p->stop_on_poison;
	m->started_us = clock_realtime_us();
	m->started_mono_us = clock_monotonic_us();
	r = copy_text(m->source, sizeof(m->source), p->source, "the source's address", err);
	if (r == 0)
		r = copy_text(m->peer_identity, sizeof(m->peer_identity), p->peer_identity,
		              "the peer's identity", err);
	if (r == 0)
		r = copy_text(m->firecracker_socket, sizeof(m->firecracker_socket),
		              p->firecracker_socket ? p->firecracker_socket : "",
		              "the path of Firecracker's socket", err);
	return r;
}

static int migration_init_timers(struct migration *m)
{
	int r = migration_timer_new(m, on_release, m, &m->release_event);

	if (r == 0)
		r = migration_timer_new(m, migration_on_audit, m, &m->audit_timer);
	if (r == 0)
		r = migration_timer_new(m, migration_on_lost_deadline, m, &m->lost_timer);
	if (r == 0)
		r = migration_timer_new(m, migration_on_vmm_alive, m, &m->vmm_alive_timer);
	if (r == 0)
		r = migration_timer_new(m, migration_on_completion_timeout, m,
		                        &m->completion_timer);
	return r;
}

int migration_new(struct migration_table *table, const struct migration_params *params,
                  struct migration **ret, struct error *err)
{
	_cleanup_(cleanup_migration_free) struct migration *m = calloc(1, sizeof(*m));
	int r;

	if (!m)
		return error_set(err, -ENOMEM, "not enough memory");
	m->table = table;
	m->state = MIGRATION_SETUP;
	m->vmm_pidfd = -1;
	m->keep.connection_fd = -1;
	for (uint32_t i = 0; i < ARRAY_SIZE(m->lanes); i++)
		m->lanes[i] = (struct lane_slot){.migration = m, .uffd = -1};
	snprintf(m->state_text, sizeof(m->state_text), "waiting for the VMM to attach");
	r = migration_init(m, params, err);
	if (r < 0)
		return r;
	if (migration_init_timers(m) < 0)
		return error_set(err, -ENOMEM, "not enough memory");
	*ret = TAKE_PTR(m);
	return 0;
}

void migration_log_started(const struct migration *m)
{
	log_event(LOG_NOTICE, MESSAGE_MIGRATION_STARTED,
	          LOG_FIELDS({"MIGRATION_ID", m->id_text}, {"PEER", m->peer_identity},
	                     {"PEER_ADDRESS", m->source}),
	          "migration %s: started, from %s (%s)", m->id_text, m->source, m->peer_identity);
}

static int state_log_level(const struct migration *m)
{
	if (m->state == MIGRATION_FAILED)
		return LOG_ERR;
	if (m->state == MIGRATION_POSTCOPY_PAUSED)
		return LOG_WARNING;
	return LOG_NOTICE;
}

static const char *state_message(enum migration_state from, enum migration_state to)
{
	static const char *const ids[] = {
	        [MIGRATION_ACTIVE] = MESSAGE_MIGRATION_ATTACHED,
	        [MIGRATION_POSTCOPY_ACTIVE] = MESSAGE_MIGRATION_SERVING,
	        [MIGRATION_POSTCOPY_PAUSED] = MESSAGE_MIGRATION_PAUSED,
	        [MIGRATION_POSTCOPY_RECOVER] = MESSAGE_MIGRATION_RECOVERING,
	        [MIGRATION_COMPLETED] = MESSAGE_MIGRATION_COMPLETED,
	        [MIGRATION_FAILED] = MESSAGE_MIGRATION_FAILED,
	        [MIGRATION_CANCELLED] = MESSAGE_MIGRATION_CANCELLED,
	};
	_Static_assert(ARRAY_SIZE(ids) == MIGRATION_STATES_, "a state lacks its message id");

	if (from == MIGRATION_POSTCOPY_RECOVER && to == MIGRATION_POSTCOPY_ACTIVE)
		return MESSAGE_MIGRATION_RECOVERED;
	return ids[to];
}

static void log_state(const struct migration *m, enum migration_state from, const char *text)
{
	bool final = migration_state_final(m->state);

	log_event(state_log_level(m), state_message(from, m->state),
	          LOG_FIELDS({"MIGRATION_ID", m->id_text},
	                     {"MIGRATION_STATE", migration_state_name(m->state)},
	                     {"PEER", m->peer_identity}, {"PEER_ADDRESS", m->source},
	                     {"VMM_PID", m->vmm_pid ? LOG_U64((uint64_t)m->vmm_pid) : NULL},
	                     {"LOST_BYTES", final ? LOG_U64(m->final_lost_bytes) : NULL},
	                     {"REMAINING_BYTES", final ? LOG_U64(m->final_remaining) : NULL},
	                     {"REASON", text}),
	          "migration %s: %s -> %s%s%s", m->id_text, migration_state_name(from),
	          migration_state_name(m->state), *text ? ": " : "", text);
}

static void account_pause(struct migration *m, enum migration_state next)
{
	uint64_t now_us = clock_monotonic_us();

	if (m->paused_since_us) {
		m->paused_us += now_us - m->paused_since_us;
		m->paused_since_us = 0;
	}
	if (next == MIGRATION_POSTCOPY_PAUSED)
		m->paused_since_us = now_us;
	if (migration_state_final(next))
		m->ended_mono_us = now_us;
}

static void state_change(struct migration *m, enum migration_state state, const char *text)
{
	enum migration_state from = m->state;

	/* Who calls this knows the state; a wrong transition is our own defect. */
	assert(migration_transition_allowed(from, state));
	account_pause(m, state);
	m->state = state;
	snprintf(m->state_text, sizeof(m->state_text), "%s", text);
	migration_keep_change(m);
	log_state(m, from, text);
	migration_table_entered(m->table, m);
	migration_table_notify(m->table, m);
}

void migration_set_state(struct migration *m, enum migration_state state, const char *fmt, ...)
{
	char text[sizeof(m->state_text)];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	state_change(m, state, text);
}

void migration_set_text(struct migration *m, int level, const char *message_id, const char *fmt,
                        ...)
{
	char text[sizeof(m->state_text)];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (strcmp(text, m->state_text) == 0)
		return;
	snprintf(m->state_text, sizeof(m->state_text), "%s", text);
	log_event(level, message_id,
	          LOG_FIELDS({"MIGRATION_ID", m->id_text}, {"PEER", m->peer_identity},
	                     {"PEER_ADDRESS", m->source}, {"REASON", text}),
	          "migration %s: %s", m->id_text, text);
	migration_table_notify(m->table, m);
}

void migration_keep_poisoned(struct migration *m)
{
	uint64_t all, n = migration_poisoned_shown(m, &all);

	if (n == 0)
		return;
	m->final_entries = calloc(n, sizeof(*m->final_entries));
	if (!m->final_entries)
		return; /* shown without its list */
	for (uint64_t i = 0; i < n; i++)
		m->final_entries[i] = *migration_poisoned_get(m, i);
	m->n_final_entries = n;
	m->n_final_entries_all = all;
}

static void timers_stop(struct migration *m)
{
	event_del(m->vmm_alive_timer);
	event_del(m->lost_timer);
	event_del(m->completion_timer);
	for (uint32_t i = 0; i < m->n_lanes; i++)
		if (m->lanes[i].retry_timer)
			event_del(m->lanes[i].retry_timer);
}

void migration_end(struct migration *m, enum migration_state state, const char *fmt, ...)
{
	char text[sizeof(m->state_text)];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	timers_stop(m);
	migration_sum(m, &m->final_sums);
	m->final_remaining = migration_remaining_bytes(m);
	m->final_lost_bytes = migration_lost_bytes(m);
	migration_keep_poisoned(m);
	m->rate_bps = 0;
	state_change(m, state, text);
	if (state != MIGRATION_COMPLETED)
		for (uint32_t i = 0; i < m->n_lanes; i++)
			if (m->lanes[i].lane)
				lane_give_up(m->lanes[i].lane, text);
	migration_poison_end(m);
	event_active(m->release_event, EV_TIMEOUT, 0);
}

void migration_set_tls(struct migration *m, struct tls_context *tls)
{
	for (uint32_t i = 0; i < m->n_lanes; i++)
		if (m->lanes[i].lane)
			lane_set_tls(m->lanes[i].lane, tls);
}
