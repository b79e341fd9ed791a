/* SPDX-License-Identifier: Apache-2.0 */
/* Made by main.c; called by the table on changes, and by its own timer. */
#include "daemon/status_line.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <systemd/sd-daemon.h>

#include "core/clock.h"
#include "daemon/drain.h"

#define INTERVAL_US 1000000

struct status_line {
	struct migration_table *table;
	struct migration_listener *listener;
	struct event *timer;
	char told[512];
	uint64_t told_us;
};

static size_t add(char *buf, size_t len, size_t buf_len, const char *fmt, ...)
        __attribute__((format(printf, 4, 5)));

static size_t add(char *buf, size_t len, size_t buf_len, const char *fmt, ...)
{
	va_list args;
	int n;

	va_start(args, fmt);
	n = vsnprintf(buf + len, buf_len - len, fmt, args);
	va_end(args);
	return MIN(len + (size_t)n, buf_len - 1);
}

static size_t add_states(char *buf, size_t len, size_t buf_len, const unsigned n[])
{
	const char *before = " (";

	for (int s = 0; s < MIGRATION_STATES_; s++) {
		if (n[s] == 0)
			continue;
		len = add(buf, len, buf_len, "%s%u %s", before, n[s],
		          migration_state_name((enum migration_state)s));
		before = ", ";
	}
	return add(buf, len, buf_len, ")");
}

static void compose(const struct migration_table *t, char *buf, size_t buf_len)
{
	unsigned n_live = migration_table_count_live(t), n_states[MIGRATION_STATES_] = {0};
	uint64_t rate_bps = 0, remaining_bytes = 0;
	char rate[32], remaining[32], names[DRAIN_NAMES_MAX];
	size_t len = 0;

	for (const struct migration *m = migration_table_next(t, NULL); m;
	     m = migration_table_next(t, m)) {
		if (migration_state_final(m->state))
			continue;
		n_states[m->state]++;
		rate_bps += m->rate_bps;
		remaining_bytes += migration_remaining_bytes(m);
	}
	buf[0] = '\0';
	if (migration_table_draining(t))
		len = add(buf, len, buf_len, "Stopping after %s. ",
		          drain_names(t, names, sizeof(names)));
	if (n_live == 0) {
		add(buf, len, buf_len, "No live migrations");
		return;
	}
	len = add(buf, len, buf_len, "%u live migration%s", n_live, n_live == 1 ? "" : "s");
	len = add_states(buf, len, buf_len, n_states);
	add(buf, len, buf_len, ", %s/s, %s missing",
	    units_format_bytes(rate, sizeof(rate), rate_bps),
	    units_format_bytes(remaining, sizeof(remaining), remaining_bytes));
}

static void tell(struct status_line *l, bool again)
{
	char text[sizeof(l->told)];

	compose(l->table, text, sizeof(text));
	if (!again && strcmp(text, l->told) == 0)
		return;
	memcpy(l->told, text, sizeof(text));
	l->told_us = clock_monotonic_us();
	sd_notifyf(0, "STATUS=%s", text);
}

static void timer_start_at(struct status_line *l, uint64_t us)
{
	const struct timeval tv = {.tv_sec = (time_t)(us / 1000000),
	                           .tv_usec = (suseconds_t)(us % 1000000)};

	event_add(l->timer, &tv);
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
	struct status_line *l = arg;

	(void)fd;
	(void)what;
	tell(l, false);
	/* Nothing moves without live migrations; a change starts the timer again. */
	if (migration_table_count_live(l->table) > 0 || migration_table_draining(l->table))
		timer_start_at(l, INTERVAL_US);
}

/* From the loop, so that the table is not read while it changes. */
static void on_change(const struct migration *m, void *user)
{
	struct status_line *l = user;
	uint64_t since_us = clock_monotonic_us() - l->told_us;

	(void)m;
	timer_start_at(l, since_us < INTERVAL_US ? INTERVAL_US - since_us : 0);
}

int status_line_new(struct migration_table *t, struct status_line **ret)
{
	_cleanup_(cleanup_status_line_free) struct status_line *l = calloc(1, sizeof(*l));

	if (!l)
		return -ENOMEM;
	l->table = t;
	l->timer = evtimer_new(loop_base(migration_table_loop(t)), on_timer, l);
	if (!l->timer || migration_table_listen(t, on_change, l, &l->listener) < 0)
		return -ENOMEM;
	*ret = TAKE_PTR(l);
	return 0;
}

struct status_line *status_line_free(struct status_line *l)
{
	if (!l)
		return NULL;
	migration_table_unlisten(l->table, l->listener);
	if (l->timer)
		event_free(l->timer);
	free(l);
	return NULL;
}

void status_line_tell(struct status_line *l)
{
	tell(l, true);
	timer_start_at(l, INTERVAL_US);
}
