/* SPDX-License-Identifier: Apache-2.0 */
/* The progress of a migration as text. Called by watch.c and tests; no I/O. */
#include "ctl/progress.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/cleanup.h"
#include "ctl/print.h"

#define FIELD_MAX 160
#define BAR_MIN 10
#define BAR_MAX 100

struct line {
	char *text;
	size_t len;
	size_t width;
	bool full; /* a field did not fit: those after it matter less still */
};

/* Append a field if it fits whole, two spaces after the one before it. */
static void line_add(struct line *l, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void line_add(struct line *l, const char *fmt, ...)
{
	char field[FIELD_MAX];
	size_t gap = l->len > 0 ? 2 : 0;
	size_t len;
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(field, sizeof(field), fmt, ap);
	va_end(ap);
	len = strlen(field);
	if (l->len == 0 && len > l->width)
		len = l->width; /* the first field is better cut than not there */
	if (l->full || l->len + gap + len > l->width) {
		l->full = true;
		return;
	}
	memcpy(l->text + l->len, "  ", gap);
	memcpy(l->text + l->len + gap, field, len);
	l->len += gap + len;
	l->text[l->len] = '\0';
}

static struct line line_start(struct progress_block *b, size_t width)
{
	struct line l = {.text = b->lines[b->n_lines++], .width = width};

	l.text[0] = '\0';
	return l;
}

static void add_bar(struct line *l, double fraction)
{
	char bar[BAR_MAX + 3];
	size_t cells, done;

	/* Room for " 100.0%" and the amounts, where there is any. */
	cells = l->width > 50 ? MIN(l->width - 40, (size_t)BAR_MAX) : BAR_MIN;
	done = (size_t)(fraction * (double)cells);
	bar[0] = '[';
	memset(bar + 1, '#', done);
	memset(bar + 1 + done, '.', cells - done);
	bar[cells + 1] = ']';
	bar[cells + 2] = '\0';
	line_add(l, "%s %5.1f%%", bar, 100 * fraction);
}

static void add_title(struct progress_block *b, const struct control_migration *m, size_t width)
{
	struct line l = line_start(b, width);
	char id[UUID_TEXT_LEN];

	/* The state matters more than the second half of the ID. */
	uuid_format(&m->migration_id, id);
	line_add(&l, "%.*s", width >= 60 ? 36 : 8, id);
	line_add(&l, "%s", m->state);
	if (m->peer[0])
		line_add(&l, "from %s", m->peer);
	if (m->state_text[0])
		line_add(&l, "(%.100s)", m->state_text);
}

static void add_progress(struct progress_block *b, const struct control_migration *m, size_t width)
{
	struct line l = line_start(b, width);
	uint64_t here = m->memory_total - MIN(m->memory_remaining, m->memory_total);
	char done[24], total[24];

	add_bar(&l, migration_fraction(m));
	line_add(&l, "%s of %s", units_format_bytes(done, sizeof(done), here),
	         units_format_bytes(total, sizeof(total), m->memory_total));
}

static void add_rate(struct progress_block *b, const struct control_migration *m, size_t width)
{
	struct line l = line_start(b, width);
	bool success;
	char text[24];

	line_add(&l, "rate     %s/s", units_format_bytes(text, sizeof(text), m->memory_bps));
	line_add(&l, "time %s", units_format_duration(text, sizeof(text), m->total_time_us));
	if (!progress_state_is_final(m->state, &success))
		line_add(&l, "ETA %s",
		         m->eta_us ? units_format_duration(text, sizeof(text), m->eta_us) : "-");
	if (m->reconnects)
		line_add(&l, "reconnects %" PRIu64, m->reconnects);
	if (m->downtime_us)
		line_add(&l, "paused %s",
		         units_format_duration(text, sizeof(text), m->downtime_us));
}

static void add_pages(struct progress_block *b, const struct control_migration *m, size_t width)
{
	struct line l = line_start(b, width);

	line_add(&l, "pages    data %" PRIu64, m->pages_data);
	line_add(&l, "zero %" PRIu64, m->pages_zero);
	line_add(&l, "by fault %" PRIu64, m->pages_urgent);
	line_add(&l, "by stream %" PRIu64, m->pages_stream);
	if (m->pages_removed)
		line_add(&l, "removed %" PRIu64, m->pages_removed);
}

static void add_faults(struct progress_block *b, const struct control_migration *m, size_t width)
{
	struct line l = line_start(b, width);
	char text[24];

	line_add(&l, "faults   %" PRIu64, m->faults);
	line_add(&l, "p50 %s", format_latency(text, sizeof(text), m->fault_p50_ns));
	line_add(&l, "p99 %s", format_latency(text, sizeof(text), m->fault_p99_ns));
	line_add(&l, "max %s", format_latency(text, sizeof(text), m->fault_max_ns));
	line_add(&l, "local %" PRIu64, m->faults_local);
}

static void add_poisoned(struct progress_block *b, const struct control_migration *m, size_t width)
{
	struct line l = line_start(b, width);
	char text[24];

	line_add(&l, "poisoned %" PRIu64, m->pages_poisoned);
	line_add(&l, "lost %s", units_format_bytes(text, sizeof(text), m->lost_bytes));
}

void progress_format_block(const struct control_migration *m, size_t width,
                           struct progress_block *ret)
{
	width = MIN(width, (size_t)PROGRESS_WIDTH_MAX);
	width = MAX(width, (size_t)PROGRESS_WIDTH_MIN);
	ret->n_lines = 0;
	add_title(ret, m, width);
	add_progress(ret, m, width);
	add_rate(ret, m, width);
	add_pages(ret, m, width);
	add_faults(ret, m, width);
	add_poisoned(ret, m, width);
}

void progress_format_line(const struct control_migration *m, char *buf, size_t buf_len)
{
	char id[UUID_TEXT_LEN], rate[24], eta[24], p50[24], p99[24];

	snprintf(buf, buf_len,
	         "%s %s %.1f%% rate=%s/s data=%" PRIu64 " zero=%" PRIu64 " poisoned=%" PRIu64
	         " faults=%" PRIu64 " p50=%s p99=%s eta=%s%s%s",
	         uuid_format(&m->migration_id, id), m->state, 100 * migration_fraction(m),
	         units_format_bytes(rate, sizeof(rate), m->memory_bps), m->pages_data,
	         m->pages_zero, m->pages_poisoned, m->faults,
	         format_latency(p50, sizeof(p50), m->fault_p50_ns),
	         format_latency(p99, sizeof(p99), m->fault_p99_ns),
	         m->eta_us ? units_format_duration(eta, sizeof(eta), m->eta_us) : "-",
	         m->state_text[0] ? " " : "", m->state_text);
}

bool progress_state_is_final(const char *state, bool *ret_success)
{
	static const struct {
		const char *name;
		bool success;
	} finals[] = {
	        {"completed", true}, {"failed", false},    {"cancelled", false},
	        {"released", true},  {"withdrawn", false},
	};

	for (size_t i = 0; i < ARRAY_SIZE(finals); i++)
		if (strcmp(finals[i].name, state) == 0) {
			*ret_success = finals[i].success;
			return true;
		}
	return false;
}
