/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Promises of watch: on a terminal one block is redrawn in place and no line is
 * wider than the terminal; elsewhere each update is one plain line without
 * control characters; it ends with the migration and tells how that went.
 */
#include "unit/ctl_fake.h"

#include <poll.h>
#include <pty.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <utmp.h>

#include "ctl/progress.h"

#define ESCAPE "\033["

static void play(struct fake *f, const char *final_state)
{
	struct control_migration m = fake_migration("postcopy-active", 768 << 20);
	uint64_t watch_id;

	fake_receive(f, CONTROL_REQUEST_WATCH);
	FAKE_CHECK(f, f->request.watch.interval_us == 500000);
	watch_id = f->request.id;
	fake_answer(f, 0, "");
	fake_receive(f, CONTROL_REQUEST_GET);
	fake_migration_send(f, CONTROL_RESPONSE_MIGRATION, f->request.id, &m);
	m.memory_remaining = 512 << 20;
	fake_migration_send(f, CONTROL_RESPONSE_EVENT, watch_id, &m);
	m = fake_migration(final_state, 0);
	fake_migration_send(f, CONTROL_RESPONSE_EVENT, watch_id, &m);
}

static void script_completes(struct fake *f)
{
	play(f, "completed");
}

static void script_fails(struct fake *f)
{
	play(f, "failed");
}

static void test_plain_lines(void **state)
{
	struct fake f;
	struct output o;
	char *second, *third;

	(void)state;
	fake_start(&f, script_completes);
	run(&o, WORDS("watch", FAKE_ID, "--interval", "500ms", "--socket", f.server.path));
	fake_join(&f);
	assert_string_equal(o.err, "");
	assert_int_equal(o.status, 0);
	assert_null(strchr(o.out, '\033'));
	assert_null(strchr(o.out, '\r'));
	assert_ptr_equal(strstr(o.out, FAKE_ID " postcopy-active 25.0% "), o.out);
	second = strchr(o.out, '\n') + 1;
	assert_ptr_equal(strstr(second, FAKE_ID " postcopy-active 50.0% "), second);
	third = strchr(second, '\n') + 1;
	assert_ptr_equal(strstr(third, FAKE_ID " completed 100.0% "), third);
	assert_string_equal(strchr(third, '\n'), "\n");
}

static void test_failure_exits_1(void **state)
{
	struct fake f;
	struct output o;

	(void)state;
	fake_start(&f, script_fails);
	run(&o, WORDS("watch", FAKE_ID, "--interval", "500ms", "--socket", f.server.path));
	fake_join(&f);
	assert_int_equal(WEXITSTATUS(o.status), EXIT_REFUSED);
}

/*
 * All that the child wrote to its terminal. Our end of the other side stays open
 * until the child has gone: a read that meets the closing of a pseudo-terminal can
 * get EIO before the last write's data (three of 90000 runs on Linux 6.18).
 */
static void terminal_read(int master, pid_t child, char buf[FAKE_OUTPUT_MAX])
{
	_cleanup_close_ int child_gone = (int)syscall(SYS_pidfd_open, child, 0);
	struct pollfd p[] = {{.fd = master, .events = POLLIN},
	                     {.fd = child_gone, .events = POLLIN}};
	size_t len = 0;
	ssize_t n;

	assert_true(child_gone >= 0);
	assert_int_equal(fcntl(master, F_SETFL, O_NONBLOCK), 0);
	do {
		assert_true(poll(p, ARRAY_SIZE(p), -1) > 0);
		while ((n = read(master, buf + len, FAKE_OUTPUT_MAX - 1 - len)) > 0)
			len += (size_t)n;
		assert_true(n < 0 && errno == EAGAIN);
	} while (!p[1].revents);
	buf[len] = '\0';
}

/* postcopyctl on a terminal of its own, of the kind that TERM names. */
static void run_on_terminal(struct output *o, char **words, const char *term,
                            unsigned short columns)
{
	struct winsize size = {.ws_row = 24, .ws_col = columns};
	_cleanup_close_ int master = -1;
	_cleanup_close_ int slave = -1;
	pid_t pid;

	fflush(NULL);
	assert_int_equal(openpty(&master, &slave, NULL, NULL, &size), 0);
	pid = fork();
	if (pid == 0) {
		close(master);
		login_tty(slave);
		setenv("TERM", term, 1);
		run_and_exit(words);
	}
	assert_true(pid > 0);
	terminal_read(master, pid, o->out);
	assert_int_equal(waitpid(pid, &o->status, 0), pid);
}

/*
 * What the screen shows in the end: a terminal as small as the test needs, that
 * knows newline, return, cursor up and erase below. Returns the widest column.
 */
static size_t screen_replay(const char *text, char rows[24][256], size_t *ret_rows)
{
	size_t row = 0, column = 0, widest = 0;

	memset(rows, 0, 24 * 256);
	for (const char *p = text; *p; p++) {
		if (strncmp(p, ESCAPE, 2) == 0) {
			char *end;
			unsigned long n = strtoul(p + 2, &end, 10);

			if (*end == 'A') {
				assert_true(n <= row);
				row -= n;
			} else {
				assert_int_equal(*end, 'J');
				memset(rows[row] + column, 0, 256 - column);
				memset(rows[row + 1], 0, (23 - row) * 256);
			}
			p = end;
		} else if (*p == '\r') {
			column = 0;
		} else if (*p == '\n') {
			row++;
			assert_true(row < 24);
		} else {
			rows[row][column++] = *p;
			widest = MAX(widest, column);
		}
	}
	*ret_rows = row;
	return widest;
}

static void test_terminal_redraws_in_place(void **state)
{
	char rows[24][256];

	(void)state;
	for (unsigned short width = 24; width <= 120; width++) {
		struct fake f;
		struct output o;
		size_t n_rows;

		fake_start(&f, script_completes);
		run_on_terminal(
		        &o,
		        WORDS("watch", FAKE_ID, "--interval", "500ms", "--socket", f.server.path),
		        "xterm", width);
		fake_join(&f);
		assert_int_equal(o.status, 0);
		assert_non_null(strstr(o.out, ESCAPE "6A"));
		/* Three updates, one block on the screen, the last state in it. */
		assert_true(screen_replay(o.out, rows, &n_rows) < width);
		assert_int_equal(n_rows, PROGRESS_LINES);
		assert_non_null(strstr(rows[0], "completed"));
		assert_non_null(strstr(rows[1], "100.0%"));
		assert_non_null(strstr(rows[5], "poisoned 64"));
	}
}

static void test_dumb_terminal_gets_lines(void **state)
{
	struct fake f;
	struct output o;

	(void)state;
	fake_start(&f, script_completes);
	run_on_terminal(&o,
	                WORDS("watch", FAKE_ID, "--interval", "500ms", "--socket", f.server.path),
	                "dumb", 80);
	fake_join(&f);
	assert_int_equal(o.status, 0);
	assert_null(strstr(o.out, ESCAPE));
	assert_non_null(strstr(o.out, " completed 100.0% "));
}

static void test_block_fits_any_width(void **state)
{
	struct control_migration m = fake_migration("postcopy-recover", 123456789);
	struct progress_block block;

	(void)state;
	m.pages_data = m.pages_zero = m.pages_removed = m.faults = UINT64_MAX;
	m.memory_total = m.memory_bps = m.total_time_us = UINT64_MAX;
	m.fault_max_ns = m.lost_bytes = m.reconnects = m.downtime_us = m.lost_left_us = UINT64_MAX;
	memset(m.state_text, 'x', sizeof(m.state_text) - 1);
	for (size_t width = 0; width < 300; width++) {
		progress_format_block(&m, width, &block);
		for (size_t i = 0; i < block.n_lines; i++) {
			size_t len = strlen(block.lines[i]);

			assert_true(len <= MAX(width, (size_t)PROGRESS_WIDTH_MIN));
			assert_true(len > 0);
		}
	}
	/* A wide terminal has what a narrow one leaves out. */
	m = fake_migration("postcopy-active", 512 << 20);
	progress_format_block(&m, 100, &block);
	assert_non_null(strstr(block.lines[0], FAKE_ID "  postcopy-active  from src.example:7000"));
	assert_non_null(strstr(block.lines[1], "##..."));
	assert_non_null(strstr(block.lines[1], "512 MiB of 1 GiB"));
	assert_non_null(strstr(block.lines[2], "800 MiB/s"));
	assert_non_null(strstr(block.lines[2], "ETA 3"));
	assert_non_null(strstr(block.lines[4], "p50 41 us  p99 87 us"));
}

/* A daemon that begins a watch with an event. */
static void script_present_first(struct fake *f)
{
	struct control_migration m = fake_migration("postcopy-active", 768 << 20);

	fake_receive(f, CONTROL_REQUEST_WATCH);
	fake_answer(f, 0, "");
	fake_migration_send(f, CONTROL_RESPONSE_EVENT, f->request.id, &m);
	m = fake_migration("completed", 0);
	fake_receive(f, CONTROL_REQUEST_GET);
	fake_migration_send(f, CONTROL_RESPONSE_MIGRATION, f->request.id, &m);
	fake_migration_send(f, CONTROL_RESPONSE_EVENT, 1, &m);
}

static void test_no_line_twice(void **state)
{
	struct fake f;
	struct output o;
	char *second;

	(void)state;
	fake_start(&f, script_present_first);
	run(&o, WORDS("watch", FAKE_ID, "--socket", f.server.path));
	fake_join(&f);
	assert_int_equal(o.status, 0);
	second = strchr(o.out, '\n') + 1;
	assert_string_equal(strchr(second, '\n'), "\n");
}

static void script_unknown(struct fake *f)
{
	fake_receive(f, CONTROL_REQUEST_WATCH);
	fake_answer(f, ENOENT, "no such migration");
}

static void script_die(struct fake *f)
{
	struct control_migration m = fake_migration("postcopy-active", 768 << 20);

	fake_receive(f, CONTROL_REQUEST_WATCH);
	fake_answer(f, 0, "");
	fake_receive(f, CONTROL_REQUEST_GET);
	fake_migration_send(f, CONTROL_RESPONSE_MIGRATION, f->request.id, &m);
}

static void test_other_ends(void **state)
{
	struct fake f;
	struct output o;

	(void)state;
	fake_start(&f, script_unknown);
	run(&o, WORDS("watch", FAKE_ID, "--socket", f.server.path));
	fake_join(&f);
	assert_int_equal(WEXITSTATUS(o.status), EXIT_REFUSED);
	assert_string_equal(o.err, "postcopyctl: no such migration\n");
	fake_start(&f, script_die);
	run(&o, WORDS("watch", FAKE_ID, "--socket", f.server.path));
	fake_join(&f);
	assert_int_equal(WEXITSTATUS(o.status), EXIT_UNREACHABLE);
	assert_non_null(strstr(o.out, "25.0%"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_plain_lines),
	        cmocka_unit_test(test_failure_exits_1),
	        cmocka_unit_test(test_terminal_redraws_in_place),
	        cmocka_unit_test(test_dumb_terminal_gets_lines),
	        cmocka_unit_test(test_block_fits_any_width),
	        cmocka_unit_test(test_no_line_twice),
	        cmocka_unit_test(test_other_ends),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
