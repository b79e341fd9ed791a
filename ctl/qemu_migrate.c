/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The command qemu-migrate: the order of the steps of a migration of an unmodified
 * QEMU, and what is done when one of them fails. Called by dispatch.
 */
#include "ctl/qemu_migrate.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "core/cleanup.h"
#include "core/clock.h"
#include "ctl/request.h"

#define TIMEOUT_DEFAULT_US (60 * UINT64_C(1000000))

static const struct step {
	const char *what;
	int (*run)(struct qemu_migration *m, struct error *err);
	void (*undo)(struct qemu_migration *m); /* NULL: nothing to undo */
} steps[] = {
        {"looking at both QEMUs", both_look, NULL},
        {"exporting the source's memory", source_export, source_withdraw},
        {"telling postcopyd", daemon_start, daemon_cancel},
        {"attaching the destination's memory", destination_attach, NULL},
        {"reaching the source from the destination", source_reach, NULL},
        {"preparing both QEMUs", both_prepare, NULL},
        {"letting the destination's QEMU listen", destination_listen, destination_quit},
        {"stopping the guest at the source", source_migrate, source_stop_migrating},
        {"freezing the source's memory", source_freeze, NULL},
        {"serving memory at the destination", destination_serve, NULL},
        {"moving the device state", source_continue, NULL},
        {"running the guest at the destination", destination_run, NULL},
};

/* That it came is what poll() tells. */
static void signal_note(int signal_number)
{
	(void)signal_number;
}

uint64_t step_deadline(const struct qemu_migration *m)
{
	return clock_monotonic_us() + m->timeout_us;
}

/*
 * Ctrl-C and its like come only while a step waits, and are a failure of that step as any
 * other: nobody shall find a guest half way.
 */
static void signals_begin(struct qemu_migration *m)
{
	static const int numbers[] = {SIGINT, SIGTERM, SIGHUP};
	struct sigaction action = {.sa_handler = signal_note};
	sigset_t blocked;

	sigemptyset(&blocked);
	for (size_t i = 0; i < ARRAY_SIZE(numbers); i++) {
		sigaddset(&blocked, numbers[i]);
		sigaction(numbers[i], &action, NULL);
	}
	sigprocmask(SIG_BLOCK, &blocked, &m->signals);
	m->source.stream.signals = m->destination.stream.signals = &m->signals;
	m->source_memory.signals = m->destination_memory.signals = &m->signals;
}

void signals_ignore(struct qemu_migration *m)
{
	m->source.stream.signals = m->destination.stream.signals = NULL;
	m->source_memory.signals = m->destination_memory.signals = NULL;
}

/* Back to where the guest came from: what was done last is undone first. */
static enum exit_code steps_undo(struct qemu_migration *m, size_t failed)
{
	bool here;

	signals_ignore(m);
	/* A step that failed may have got half way: its undoing looks. */
	for (size_t i = failed + 1; i-- > 0;)
		if (steps[i].undo)
			steps[i].undo(m);
	here = m->source.stream.fd >= 0 && failed > 0 ? source_run_again(m) : true;
	if (!here)
		fprintf(stderr, "postcopyctl: the guest runs nowhere: the source's QEMU has it "
		                "whole, see what it says to `cont`\n");
	else if (m->guest_ran)
		fprintf(stderr, "postcopyctl: the guest runs on at the source, nothing is lost\n");
	return EXIT_REFUSED;
}

/* The one case that no program can judge. */
static enum exit_code outcome_unknown(const struct qemu_migration *m)
{
	fprintf(stderr,
	        "postcopyctl: migration %s: the destination's QEMU was told to run the guest, and "
	        "did not answer.\nThe source's guest stands still: leave it so. Ask the "
	        "destination's QEMU (query-status). If it runs, all is well, and its memory is "
	        "coming. Only if that QEMU has ended: postcopyctl cancel --force %s there, "
	        "{\"command\": \"withdraw\", \"force\": true} to the source's QEMU, and `cont` "
	        "there.\n",
	        m->id, m->id);
	return EXIT_REFUSED;
}

static enum exit_code steps_run(struct qemu_migration *m)
{
	for (size_t i = 0; i < ARRAY_SIZE(steps); i++) {
		struct error err = {0};
		int r = steps[i].run(m, &err);

		if (r == 0)
			continue;
		fprintf(stderr, "postcopyctl: %s: %s\n", steps[i].what, err.text);
		return r == -EINPROGRESS ? outcome_unknown(m) : steps_undo(m, i);
	}
	return EXIT_OK;
}

static enum exit_code arrival_wait(struct qemu_migration *m)
{
	struct error err = {0};
	int r;

	m->destination_memory.signals = &m->signals;
	r = qemu_memory_call(&m->destination_memory, json_pack("{s:s}", "command", "wait"),
	                     UINT64_MAX, NULL, &err);
	if (r == 0) {
		puts("completed: all memory is at the destination, the source's QEMU may be ended");
		return EXIT_OK;
	}
	fprintf(stderr,
	        "postcopyctl: the guest runs at the destination, %s%s; see postcopyctl show %s\n",
	        r == -EINTR ? "and its memory is coming" : "but its memory does not come: ",
	        r == -EINTR ? "" : err.text, m->id);
	return EXIT_REFUSED;
}

static void downtime_print(const struct qemu_migration *m)
{
	if (m->guest_ran && m->source.stopped_us && m->destination.resumed_us)
		printf("downtime %.1f ms\n",
		       (double)(m->destination.resumed_us - m->source.stopped_us) / 1000);
	else
		puts("the guest is at the destination, stopped as it was");
	fflush(stdout);
}

/* A path that must be given. */
static int path_value(const struct invocation *inv, const char *name, const char **ret,
                      struct error *err)
{
	*ret = invocation_value(inv, name);
	if (!*ret)
		return error_set(err, -EINVAL,
		                 "qemu-migrate needs --%s; see postcopyctl "
		                 "qemu-migrate --help",
		                 name);
	return 0;
}

static int options_read(struct qemu_migration *m, struct error *err)
{
	static const char *const required[] = {"destination-peer", "source-qmp", "destination-qmp",
	                                       "uri"};
	const char *timeout = invocation_value(m->inv, "timeout"), *value;
	int r = request_from_invocation(m->inv, &m->start, err);

	for (size_t i = 0; i < ARRAY_SIZE(required) && r == 0; i++)
		r = path_value(m->inv, required[i], &value, err);
	if (r == 0)
		r = path_value(m->inv, "source-preload", &m->source_memory.path, err);
	if (r == 0)
		r = path_value(m->inv, "destination-preload", &m->destination_memory.path, err);
	if (r == 0 && timeout && units_parse_duration(timeout, &m->timeout_us, err) < 0)
		r = error_prefix(err, "--timeout");
	if (r == 0)
		uuid_format(&m->start.migration_id, m->id);
	return r;
}

enum exit_code qemu_migrate_run(const struct invocation *inv)
{
	struct qemu_migration m = {.inv = inv, .timeout_us = TIMEOUT_DEFAULT_US};
	struct error err = {0};
	enum exit_code code;

	m.source.stream.fd = m.destination.stream.fd = -1;
	m.source_memory.name = "the source's QEMU";
	m.destination_memory.name = "the destination's QEMU";
	if (options_read(&m, &err) < 0)
		return command_fail(EXIT_USAGE, &err);
	signals_begin(&m);
	printf("migration %s\n", m.id);
	fflush(stdout);
	code = steps_run(&m);
	qmp_close(&m.source);
	qmp_close(&m.destination);
	if (code == EXIT_OK)
		downtime_print(&m);
	if (code == EXIT_OK && invocation_value(inv, "wait"))
		code = arrival_wait(&m);
	explicit_bzero(m.start.start.token, sizeof(m.start.start.token));
	control_request_free(&m.start);
	return code;
}
