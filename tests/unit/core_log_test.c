/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Promises of core/log.h: one line a message on stderr, whatever the text; the
 * journal gets structured fields, on a real datagram socket in the journal's
 * place (in a mount namespace of our own; skipped where that is not permitted).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/cleanup.h"
#include "core/log.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

static bool skipped; /* CTest is to count it, see main() */
static int saved_stderr;
static int captured; /* read end of the pipe that is stderr */

/* Stderr becomes a pipe for the length of a test; teardown gives it back. */
static int capture_stderr(void **state)
{
	int fds[2];

	(void)state;
	unsetenv("JOURNAL_STREAM");
	saved_stderr = dup(STDERR_FILENO);
	if (saved_stderr < 0 || pipe2(fds, O_NONBLOCK) < 0)
		return -1;
	captured = fds[0];
	if (dup2(fds[1], STDERR_FILENO) < 0)
		return -1;
	close(fds[1]);
	log_init("unit", LOG_TARGET_STDERR);
	log_set_level(LOG_INFO);
	return 0;
}

static int restore_stderr(void **state)
{
	(void)state;
	dup2(saved_stderr, STDERR_FILENO);
	close(saved_stderr);
	close(captured);
	return 0;
}

static const char *captured_text(void)
{
	static char text[65536];
	ssize_t n = read(captured, text, sizeof(text) - 1);

	text[n > 0 ? n : 0] = '\0';
	return text;
}

static void a_message_is_one_line_with_its_fields(void **state)
{
	const struct log_field fields[] = {{"PEER", "host-a"}, {"PAGE_OFFSET", "4096"}};

	(void)state;
	log_write(LOG_WARNING, fields, 2, "lost %d pages", 3);
	assert_string_equal(captured_text(), "<4> lost 3 pages PEER=host-a PAGE_OFFSET=4096\n");
	log_migration(LOG_ERR, "some-id", "gone");
	assert_string_equal(captured_text(), "<3> gone MIGRATION_ID=some-id\n");
}

static void an_event_names_its_kind_before_its_fields(void **state)
{
	(void)state;
	log_event(LOG_NOTICE, "00112233445566778899aabbccddeeff",
	          LOG_FIELDS({"MIGRATION_ID", "abc"}, {"PAGE_OFFSET", LOG_U64(UINT64_MAX)},
	                     {"GUEST_PHYSICAL_ADDRESS", LOG_HEX(UINT64_MAX)}),
	          "lost %d", 3);
	assert_string_equal(captured_text(),
	                    "<5> lost 3 MESSAGE_ID=00112233445566778899aabbccddeeff "
	                    "MIGRATION_ID=abc PAGE_OFFSET=18446744073709551615 "
	                    "GUEST_PHYSICAL_ADDRESS=0xffffffffffffffff\n");
	log_event(LOG_DEBUG, "00112233445566778899aabbccddeeff", NULL, 0, "hidden");
	assert_string_equal(captured_text(), "");
}

static void what_has_no_value_is_left_out(void **state)
{
	(void)state;
	log_event(LOG_NOTICE, NULL, LOG_FIELDS({"PEER", NULL}, {"REASON", ""}, {"LANE", "0"}), "x");
	assert_string_equal(captured_text(), "<5> x LANE=0\n");
	log_event(LOG_NOTICE, "77", NULL, 0, "x");
	assert_string_equal(captured_text(), "<5> x MESSAGE_ID=77\n");
}

static void messages_above_the_level_are_dropped(void **state)
{
	(void)state;
	log_debug("hidden");
	assert_string_equal(captured_text(), "");
	log_set_level(LOG_DEBUG);
	assert_int_equal(log_level(), LOG_DEBUG);
	log_debug("shown");
	assert_string_equal(captured_text(), "<7> shown\n");
	log_set_level(LOG_ERR);
	log_warning("hidden");
	log_error("shown");
	assert_string_equal(captured_text(), "<3> shown\n");
}

static void a_text_cannot_forge_a_line(void **state)
{
	const struct log_field field = {"PEER", "a\n<0> b"};

	(void)state;
	log_write(LOG_INFO, &field, 1, "x\n<0> y\x1b[2Jz");
	assert_string_equal(captured_text(), "<6> x?<0> y?[2Jz PEER=a?<0> b\n");
}

static void long_and_many_are_cut_not_overrun(void **state)
{
	static char big[10000];
	struct log_field fields[50];

	(void)state;
	memset(big, 'a', sizeof(big) - 1);
	for (size_t i = 0; i < ARRAY_SIZE(fields); i++)
		fields[i] = (struct log_field){"FIELD", big};
	log_write(LOG_INFO, fields, ARRAY_SIZE(fields), "%s", big);
	const char *text = captured_text();

	assert_true(strlen(text) > 2000 && strlen(text) < 12000);
	assert_ptr_equal(strchr(text, '\n'), text + strlen(text) - 1);
	log_event(LOG_INFO, big, fields, ARRAY_SIZE(fields), "%s", big);
	text = captured_text();
	assert_ptr_equal(strchr(text, '\n'), text + strlen(text) - 1);
}

static void errno_is_kept(void **state)
{
	(void)state;
	while (write(STDERR_FILENO, "x", 1) == 1) /* until the pipe is full: EAGAIN */
		;
	errno = EXDEV;
	log_info("any");
	assert_int_equal(errno, EXDEV);
	log_event(LOG_INFO, "77", NULL, 0, "any");
	assert_int_equal(errno, EXDEV);
}

static void level_names_parse(void **state)
{
	(void)state;
	assert_int_equal(log_level_parse("error"), LOG_ERR);
	assert_int_equal(log_level_parse("warning"), LOG_WARNING);
	assert_int_equal(log_level_parse("notice"), LOG_NOTICE);
	assert_int_equal(log_level_parse("info"), LOG_INFO);
	assert_int_equal(log_level_parse("debug"), LOG_DEBUG);
	assert_int_equal(log_level_parse("loud"), -EINVAL);
	assert_int_equal(log_level_parse(""), -EINVAL);
}

static void *log_many(void *arg)
{
	(void)arg;
	for (int i = 0; i < 100; i++)
		log_info("0123456789012345678901234567890123456789");
	return NULL;
}

static void lines_of_threads_do_not_mix(void **state)
{
	static const char line[] = "<6> 0123456789012345678901234567890123456789\n";
	pthread_t threads[4];
	size_t lines = 0;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(threads); i++)
		assert_int_equal(pthread_create(&threads[i], NULL, log_many, NULL), 0);
	for (size_t i = 0; i < ARRAY_SIZE(threads); i++)
		pthread_join(threads[i], NULL);
	for (const char *p = captured_text(); *p; p += strlen(line), lines++)
		assert_memory_equal(p, line, strlen(line));
	assert_int_equal(lines, 400);
}

/* A datagram socket where the journal's is, seen by this process only. -1: not permitted. */
static int fake_journal(void)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX, .sun_path = "/run/systemd/journal/socket"};
	int fd;

	if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
	    mount("tmpfs", "/run", "tmpfs", 0, NULL) < 0)
		return -1;
	assert_int_equal(mkdir("/run/systemd", 0755), 0);
	assert_int_equal(mkdir("/run/systemd/journal", 0755), 0);
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0);
	assert_true(fd >= 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&sun, sizeof(sun)), 0);
	return fd;
}

static void assert_journal_entry(int fd, const char *const *lines, size_t n_lines)
{
	char entry[4096] = "\n";
	ssize_t n = recv(fd, entry + 1, sizeof(entry) - 2, 0);

	assert_true(n > 0);
	entry[n + 1] = '\0';
	for (size_t i = 0; i < n_lines; i++)
		assert_non_null(strstr(entry, lines[i]));
}

static void set_journal_stream(unsigned inode_offset)
{
	char stream[64];
	struct stat st;

	assert_int_equal(fstat(STDERR_FILENO, &st), 0);
	(void)snprintf(stream, sizeof(stream), "%ju:%ju", (uintmax_t)st.st_dev,
	               (uintmax_t)st.st_ino + inode_offset);
	setenv("JOURNAL_STREAM", stream, 1);
	log_init("unit", LOG_TARGET_AUTO);
}

static void the_journal_gets_fields(void **state)
{
	static const char *const fields[] = {"\nMESSAGE=lost 3 pages\n", "\nPRIORITY=4\n",
	                                     "\nSYSLOG_IDENTIFIER=unit\n", "\nMIGRATION_ID=abc\n"};
	static const char *const event[] = {"\nMESSAGE=an event\n", "\nPRIORITY=3\n",
	                                    "\nMESSAGE_ID=00112233445566778899aabbccddeeff\n",
	                                    "\nLOST_BYTES=4096\n"};
	static const char *const plain[] = {"\nMESSAGE=again\n", "\nPRIORITY=6\n"};
	int fd = fake_journal();

	if (fd < 0) {
		print_message("skipped: a mount namespace needs root\n");
		skipped = true;
		skip();
	}
	(void)state;
	log_init("unit", LOG_TARGET_JOURNAL);
	log_migration(LOG_WARNING, "abc", "lost %d pages", 3);
	assert_journal_entry(fd, fields, ARRAY_SIZE(fields));

	log_event(LOG_ERR, "00112233445566778899aabbccddeeff",
	          LOG_FIELDS({"LOST_BYTES", LOG_U64(4096)}, {"REASON", NULL}), "an event");
	assert_journal_entry(fd, event, ARRAY_SIZE(event));

	/* AUTO: the journal only if stderr is the stream that systemd named. */
	set_journal_stream(0);
	log_info("again");
	assert_journal_entry(fd, plain, ARRAY_SIZE(plain));
	assert_string_equal(captured_text(), "");
	set_journal_stream(1);
	log_info("elsewhere");
	assert_string_equal(captured_text(), "<6> elsewhere\n");
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test_setup_teardown(a_message_is_one_line_with_its_fields,
	                                        capture_stderr, restore_stderr),
	        cmocka_unit_test_setup_teardown(an_event_names_its_kind_before_its_fields,
	                                        capture_stderr, restore_stderr),
	        cmocka_unit_test_setup_teardown(what_has_no_value_is_left_out, capture_stderr,
	                                        restore_stderr),
	        cmocka_unit_test_setup_teardown(messages_above_the_level_are_dropped,
	                                        capture_stderr, restore_stderr),
	        cmocka_unit_test_setup_teardown(a_text_cannot_forge_a_line, capture_stderr,
	                                        restore_stderr),
	        cmocka_unit_test_setup_teardown(long_and_many_are_cut_not_overrun, capture_stderr,
	                                        restore_stderr),
	        cmocka_unit_test_setup_teardown(errno_is_kept, capture_stderr, restore_stderr),
	        cmocka_unit_test(level_names_parse),
	        cmocka_unit_test_setup_teardown(lines_of_threads_do_not_mix, capture_stderr,
	                                        restore_stderr),
	        cmocka_unit_test_setup_teardown(the_journal_gets_fields, capture_stderr,
	                                        restore_stderr),
	};

	int failed = cmocka_run_group_tests(tests, NULL, NULL);

	return failed == 0 && skipped ? 77 : failed;
}
