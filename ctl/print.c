/* SPDX-License-Identifier: Apache-2.0 */
/* Migrations and probe results as text for people. Called by the commands. */
#include "ctl/print.h"

#include <inttypes.h>
#include <time.h>

#define TIME_TEXT_MAX 32

const char *format_latency(char *buf, size_t buf_len, uint64_t ns)
{
	if (ns == 0)
		snprintf(buf, buf_len, "-");
	else if (ns < 10000)
		snprintf(buf, buf_len, "%.1f us", (double)ns / 1000);
	else
		units_format_duration(buf, buf_len, (ns + 500) / 1000);
	return buf;
}

double migration_fraction(const struct control_migration *m)
{
	if (m->memory_remaining >= m->memory_total)
		return 0; /* also before a VMM has attached: nothing is known yet */
	return 1 - (double)m->memory_remaining / (double)m->memory_total;
}

static const char *format_time(char buf[TIME_TEXT_MAX], uint64_t us)
{
	time_t seconds = (time_t)(us / 1000000);
	struct tm tm;

	if (us == 0 || !localtime_r(&seconds, &tm) ||
	    strftime(buf, TIME_TEXT_MAX, "%Y-%m-%d %H:%M:%S", &tm) == 0)
		snprintf(buf, TIME_TEXT_MAX, "-");
	return buf;
}

void print_list(FILE *out, const struct control_migration *m, size_t n)
{
	char id[UUID_TEXT_LEN], total[24];

	if (n == 0)
		return;
	fprintf(out, "%-36s  %-17s %6s %10s %9s  %s\n", "ID", "STATE", "DONE", "MEMORY", "POISONED",
	        "PEER");
	for (size_t i = 0; i < n; i++)
		fprintf(out, "%-36s  %-17s %5.1f%% %10s %9" PRIu64 "  %s\n",
		        uuid_format(&m[i].migration_id, id), m[i].state,
		        100 * migration_fraction(&m[i]),
		        units_format_bytes(total, sizeof(total), m[i].memory_total),
		        m[i].pages_poisoned, m[i].peer[0] ? m[i].peer : "-");
}

static void print_bytes(FILE *out, const char *name, uint64_t bytes)
{
	char text[24];

	fprintf(out, "%-18s %s\n", name, units_format_bytes(text, sizeof(text), bytes));
}

static void print_count(FILE *out, const char *name, uint64_t count)
{
	fprintf(out, "%-18s %" PRIu64 "\n", name, count);
}

static void print_identity(FILE *out, const struct control_migration *m)
{
	char id[UUID_TEXT_LEN], text[TIME_TEXT_MAX];

	fprintf(out, "%-18s %s\n", "id", uuid_format(&m->migration_id, id));
	fprintf(out, "%-18s %s%s%s%s\n", "state", m->state, m->state_text[0] ? " (" : "",
	        m->state_text, m->state_text[0] ? ")" : "");
	fprintf(out, "%-18s %s (%s)\n", "peer", m->peer[0] ? m->peer : "-", m->peer_identity);
	fprintf(out, "%-18s %" PRIu32 "\n", "lanes", m->lanes);
	fprintf(out, "%-18s %s\n", "started", format_time(text, m->started_us));
	fprintf(out, "%-18s %s\n", "total time",
	        units_format_duration(text, sizeof(text), m->total_time_us));
	fprintf(out, "%-18s %s\n", "paused time",
	        units_format_duration(text, sizeof(text), m->downtime_us));
	if (m->lost_left_us)
		fprintf(out, "%-18s %s\n", "lost policy in",
		        units_format_duration(text, sizeof(text), m->lost_left_us));
}

static void print_progress(FILE *out, const struct control_migration *m)
{
	char text[24];

	print_bytes(out, "memory total", m->memory_total);
	print_bytes(out, "memory remaining", m->memory_remaining);
	print_bytes(out, "memory processed", m->memory_processed);
	print_bytes(out, "rate a second", m->memory_bps);
	if (m->bandwidth)
		print_bytes(out, "limit a second", m->bandwidth);
	if (m->eta_us)
		fprintf(out, "%-18s %s\n", "expected end in",
		        units_format_duration(text, sizeof(text), m->eta_us));
	print_count(out, "pages data", m->pages_data);
	print_count(out, "pages zero", m->pages_zero);
	print_count(out, "pages poisoned", m->pages_poisoned);
	print_count(out, "pages removed", m->pages_removed);
	print_count(out, "pages urgent", m->pages_urgent);
	print_count(out, "pages stream", m->pages_stream);
}

static void print_faults(FILE *out, const struct control_migration *m)
{
	char p50[24], p99[24], p999[24], max[24];

	print_count(out, "postcopy requests", m->postcopy_requests);
	print_count(out, "faults", m->faults);
	print_count(out, "faults local", m->faults_local);
	fprintf(out, "%-18s p50 %s, p99 %s, p999 %s, max %s\n", "fault latency",
	        format_latency(p50, sizeof(p50), m->fault_p50_ns),
	        format_latency(p99, sizeof(p99), m->fault_p99_ns),
	        format_latency(p999, sizeof(p999), m->fault_p999_ns),
	        format_latency(max, sizeof(max), m->fault_max_ns));
	print_count(out, "reconnects", m->reconnects);
	print_bytes(out, "lost", m->lost_bytes);
}

static void print_regions(FILE *out, const struct control_migration *m)
{
	char length[24], page[24], lane[24];

	if (m->n_regions == 0)
		return;
	fprintf(out, "\n%-16s %18s %10s %8s %-10s %-8s %4s\n", "REGION", "ADDRESS", "LENGTH",
	        "PAGE", "BACKING", "MODE", "LANE");
	for (size_t i = 0; i < m->n_regions; i++) {
		const struct control_region *r = &m->regions[i];

		if (r->pieces > 1)
			snprintf(lane, sizeof(lane), "%" PRIu32 " pieces", r->pieces);
		else
			snprintf(lane, sizeof(lane), "%4" PRIu32, r->lane);
		fprintf(out, "%-16s %#18" PRIx64 " %10s %8s %-10s %-8s %s\n", r->name, r->gpa.addr,
		        units_format_bytes(length, sizeof(length), r->length_bytes),
		        units_format_bytes(page, sizeof(page), r->page_size_bytes), r->backing,
		        r->mode, lane);
	}
}

static void print_poisoned(FILE *out, const struct control_migration *m)
{
	char lost[24], time_text[TIME_TEXT_MAX];

	if (m->n_poisoned == 0)
		return;
	fprintf(out, "\n%-16s %18s %18s %10s %-14s %-19s  %s\n", "POISONED", "ADDRESS", "OFFSET",
	        "LOST", "REASON", "SINCE", "REPORTED BY");
	for (size_t i = 0; i < m->n_poisoned; i++) {
		const struct control_poisoned *p = &m->poisoned[i];

		fprintf(out, "%-16s %#18" PRIx64 " %#18" PRIx64 " %10s %-14s %-19s  %s\n",
		        p->region, p->gpa.addr, p->offset_bytes,
		        units_format_bytes(lost, sizeof(lost), p->lost_bytes), p->reason,
		        format_time(time_text, p->time_us), p->reporter);
	}
}

void print_migration(FILE *out, const struct control_migration *m)
{
	print_identity(out, m);
	print_progress(out, m);
	print_faults(out, m);
	print_regions(out, m);
	print_poisoned(out, m);
}

static void print_if(FILE *out, const char *name, const char *text)
{
	if (text[0])
		fprintf(out, "  %-24s %s\n", name, text);
}

void print_probe(FILE *out, const struct probe_report *report)
{
	fprintf(out, "userfaultfd\n");
	print_if(out, "permission", report->userfaultfd);
	print_if(out, "remedy", report->remedy);
	for (size_t i = 0; i < report->n_results; i++) {
		const struct control_probe_result *r = &report->results[i];

		fprintf(out, "%s\n", r->memory);
		print_if(out, "UFFDIO_POISON", r->poison);
		print_if(out, "SIGBUS", r->sigbus);
		print_if(out, "COPY overwrites poison", r->copy_overwrites_poison);
		print_if(out, "remedy", r->remedy);
	}
}
