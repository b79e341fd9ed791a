/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Promises of source/export_keep.h: the record comes into the store last and leaves it
 * first; a manager that drops an open file that comes twice still has all that the record
 * speaks of; what it would drop because another export has it is refused; what could not
 * be kept leaves nothing behind.
 *
 * The manager is a real datagram socket, and a thread that does what systemd does.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "core/fdpass.h"
#include "source/export_table.h"
#include "wire/export_record.h"

#define LENGTH (4 * WIRE_PAGE_SIZE)
#define STORE_MAX 12

static int manager = -1;
static pthread_t manager_thread;
static char directory[] = "/tmp/postcopy-export-keep-XXXXXX";
static char said[64][128]; /* "+NAME", "-NAME", in the order that they came */
static size_t n_said;
static pthread_mutex_t said_lock = PTHREAD_MUTEX_INITIALIZER;

static void note(char sign, const char *text)
{
	const char *name = strstr(text, "FDNAME=");

	assert_non_null(name);
	pthread_mutex_lock(&said_lock);
	(void)snprintf(said[n_said], sizeof(said[0]), "%c%s", sign, name + strlen("FDNAME="));
	said[n_said][strcspn(said[n_said], "\n")] = '\0';
	n_said++;
	pthread_mutex_unlock(&said_lock);
}

static void *manager_run(void *arg)
{
	(void)arg;
	for (;;) {
		char text[4096];
		int fds[4];
		size_t n_fds = 0;
		ssize_t n = fdpass_recv(manager, text, sizeof(text) - 1, fds, 4, &n_fds, 0);

		if (n <= 0)
			return NULL;
		text[n] = '\0';
		if (strstr(text, "FDSTORE=1"))
			note('+', text);
		else if (strstr(text, "FDSTOREREMOVE=1"))
			note('-', text);
		for (size_t i = 0; i < n_fds; i++)
			close(fds[i]);
	}
}

static int manager_start(void **state)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};

	(void)state;
	assert_non_null(mkdtemp(directory));
	snprintf(sun.sun_path, sizeof(sun.sun_path), "%s/notify", directory);
	manager = socket(AF_UNIX, SOCK_DGRAM, 0);
	assert_int_equal(bind(manager, (struct sockaddr *)&sun, sizeof(sun)), 0);
	setenv("NOTIFY_SOCKET", sun.sun_path, 1);
	return pthread_create(&manager_thread, NULL, manager_run, NULL);
}

static int manager_stop(void **state)
{
	(void)state;
	shutdown(manager, SHUT_RDWR);
	pthread_join(manager_thread, NULL);
	unlink(getenv("NOTIFY_SOCKET"));
	rmdir(directory);
	close(manager);
	return 0;
}

/* All that was sent has come. */
static void check_said(struct export_table *t, const char *id_text, const char *const *expected,
                       size_t n)
{
	assert_int_equal(fd_store_barrier(t->fd_store, NULL), 0);
	pthread_mutex_lock(&said_lock);
	for (size_t i = 0; i < n; i++) {
		char text[128];

		(void)snprintf(text, sizeof(text), "%c%s.%s", expected[i][0], id_text,
		               expected[i] + 1);
		assert_string_equal(i < n_said ? said[i] : "(nothing)", text);
	}
	assert_int_equal(n_said, n);
	n_said = 0;
	pthread_mutex_unlock(&said_lock);
}

#define CHECK_SAID(t, e, ...)                                           \
	check_said(t, (e)->id_text, (const char *const[]){__VA_ARGS__}, \
	           sizeof((const char *const[]){__VA_ARGS__}) / sizeof(char *))

static int memory_new(void)
{
	int fd = memfd_create("memory", MFD_CLOEXEC);

	assert_int_equal(ftruncate(fd, LENGTH), 0);
	return fd;
}

struct bed {
	struct loop *loop;
	struct export_table *table;
};

static void bed_new(struct bed *b)
{
	const struct export_limits limits = {
	        .exports = 8, .ended = 2, .export_bytes = 1 << 30, .fd_store_max = STORE_MAX};

	assert_int_equal(loop_new(&b->loop), 0);
	assert_int_equal(export_table_new(b->loop, &limits, &b->table), 0);
}

static void bed_free(struct bed *b)
{
	assert_int_equal(fd_store_barrier(b->table->fd_store, NULL), 0);
	pthread_mutex_lock(&said_lock);
	n_said = 0;
	pthread_mutex_unlock(&said_lock);
	export_table_free(b->table);
	loop_free(b->loop);
}

/* Regions one after the other, region i of descriptor fds[i]. */
static int export_add(struct bed *b, uint8_t number, int *fds, size_t n, int connection_fd,
                      struct export **ret, struct error *err)
{
	struct uuid id = {{number}};
	struct export_region regions[8] = {0};
	const struct export_params params = {
	        .id = &id,
	        .token = (const uint8_t *)"0123456789abcdef0123456789abcdef",
	        .token_len = 32,
	        .peer_identity = "destination.example",
	        .regions = regions,
	        .n_regions = n,
	        .exporter = "test",
	        .connection_fd = connection_fd,
	};

	for (size_t i = 0; i < n; i++) {
		(void)snprintf(regions[i].name, sizeof(regions[i].name), "ram%zu", i);
		regions[i].gpa.addr = i * LENGTH;
		regions[i].length_bytes = LENGTH;
		regions[i].page_size_bytes = WIRE_PAGE_SIZE;
		regions[i].backing = BACKING_MEMFD;
		regions[i].fd = (uint32_t)i;
	}
	return export_table_add(b->table, &params, fds, n, ret, err);
}

static void record_of(const struct export *e, struct export_record *ret)
{
	_cleanup_free_ uint8_t *bytes = NULL;
	size_t len;

	assert_int_equal(record_memfd_read(e->keep.record, &bytes, &len, NULL), 0);
	assert_int_equal(export_record_decode(bytes, len, ret, NULL), 0);
}

static void ended(struct export *e)
{
	assert_int_equal(export_withdraw(e, true, "test", NULL), 0);
}

static void test_the_record_is_last_in_and_first_out(void **state)
{
	struct bed b;
	struct export *e;
	struct export_record r;
	int pair[2], fds[2] = {memory_new(), memory_new()};

	(void)state;
	bed_new(&b);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	assert_int_equal(export_add(&b, 1, fds, 2, pair[0], &e, NULL), 0);
	CHECK_SAID(b.table, e, "+memory0", "+memory1", "+poison", "+exporter", "+record");
	record_of(e, &r);
	assert_int_equal(r.state, EXPORT_RECORD_EXPORTED);
	export_record_free(&r);

	export_exporter_left(e);
	CHECK_SAID(b.table, e, "-exporter");
	ended(e);
	record_of(e, &r);
	assert_int_equal(r.state, EXPORT_RECORD_WITHDRAWN);
	assert_true(r.ended_us > 0);
	export_record_free(&r);
	CHECK_SAID(b.table, e, "-memory0", "-memory1");
	export_keep_forget(e);
	CHECK_SAID(b.table, e, "-record", "-poison");
	close(pair[0]);
	close(pair[1]);
	export_unref(e);
	bed_free(&b);
}

/* At each change of state before anybody can act upon it. */
static void test_the_record_knows_the_state(void **state)
{
	static const char *const text = "destination has everything";
	struct bed b;
	struct export *e;
	struct export_record r;
	int fd = memory_new();

	(void)state;
	bed_new(&b);
	assert_int_equal(export_add(&b, 1, &fd, 1, -1, &e, NULL), 0);
	assert_int_equal(export_freeze(e, NULL), 0);
	record_of(e, &r);
	assert_int_equal(r.state, EXPORT_RECORD_FROZEN);
	export_record_free(&r);
	assert_int_equal(export_start_serving(e, export_round(e)), 0);
	record_of(e, &r);
	assert_int_equal(r.state, EXPORT_RECORD_SERVING);
	export_record_free(&r);
	export_given_up(e, export_round(e), "its guest is gone");
	record_of(e, &r);
	assert_int_equal(r.state, EXPORT_RECORD_FROZEN);
	assert_non_null(strstr(r.state_text, "its guest is gone"));
	export_record_free(&r);
	assert_int_equal(export_complete(e, export_round(e), text), 0);
	record_of(e, &r);
	assert_int_equal(r.state, EXPORT_RECORD_RELEASED);
	assert_string_equal(r.state_text, text);
	export_record_free(&r);
	loop_run_posted(b.loop);
	export_unref(e);
	bed_free(&b);
}

static void test_each_open_file_once(void **state)
{
	struct bed b;
	struct export *e;
	struct export_record r;
	int one = memory_new(), other = memory_new();
	int fds[4] = {dup(one), dup(other), dup(one), dup(other)};

	(void)state;
	bed_new(&b);
	assert_int_equal(export_add(&b, 1, fds, 4, -1, &e, NULL), 0);
	CHECK_SAID(b.table, e, "+memory0", "+memory1", "+poison", "+record");
	record_of(e, &r);
	assert_int_equal(r.n_memory, 2);
	for (uint32_t i = 0; i < 4; i++)
		assert_int_equal(r.export.export.regions[i].fd, i % 2);
	export_record_free(&r);
	ended(e);
	CHECK_SAID(b.table, e, "-memory0", "-memory1");
	close(one);
	close(other);
	export_unref(e);
	bed_free(&b);
}

static void test_what_another_export_has_is_refused(void **state)
{
	struct bed b;
	struct export *e, *second;
	struct error err = {0};
	int fd = memory_new(), again = dup(fd), copy = dup(fd);

	(void)state;
	bed_new(&b);
	assert_int_equal(export_add(&b, 1, &fd, 1, -1, &e, NULL), 0);
	CHECK_SAID(b.table, e, "+memory0", "+poison", "+record");
	assert_int_equal(export_add(&b, 2, &again, 1, -1, &second, &err), -EEXIST);
	assert_non_null(strstr(err.text, e->id_text));
	assert_null(export_table_find(b.table, &(struct uuid){{2}}));
	ended(e); /* and its file is free again */
	assert_int_equal(export_add(&b, 2, &copy, 1, -1, &second, NULL), 0);
	export_unref(e);
	export_unref(second);
	bed_free(&b);
}

/* An id again, after its export has ended: the new one's names are the old one's. */
static void test_the_same_id_again(void **state)
{
	struct bed b;
	struct export *e, *second;
	int pair[2], fd = memory_new(), fd2 = memory_new();

	(void)state;
	bed_new(&b);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	assert_int_equal(export_add(&b, 1, &fd, 1, pair[0], &e, NULL), 0);
	CHECK_SAID(b.table, e, "+memory0", "+poison", "+exporter", "+record");
	ended(e);
	CHECK_SAID(b.table, e, "-memory0");
	assert_int_equal(export_add(&b, 1, &fd2, 1, pair[1], &second, NULL), 0);
	CHECK_SAID(b.table, e, "-record", "-poison", "-exporter", "+memory0", "+poison",
	           "+exporter", "+record");
	export_exporter_left(e); /* the old one's: the new one's stays */
	assert_int_equal(fd_store_barrier(b.table->fd_store, NULL), 0);
	assert_int_equal(n_said, 0);
	close(pair[0]);
	close(pair[1]);
	export_unref(e);
	export_unref(second);
	bed_free(&b);
}

static void test_ended_ones_make_room(void **state)
{
	struct bed b;
	struct export *e, *live;
	struct error err = {0};
	int fds[8];

	(void)state;
	bed_new(&b);
	for (uint8_t i = 1; i <= 2; i++) {
		fds[0] = memory_new();
		assert_int_equal(export_add(&b, i, fds, 1, -1, &e, NULL), 0);
		ended(e);
		export_unref(e);
	}
	assert_int_equal(fd_store_used(b.table->fd_store), 4);
	for (size_t i = 0; i < 7; i++)
		fds[i] = memory_new();
	/* 10 of 12: one of the two that have ended gives up its two. */
	assert_int_equal(export_add(&b, 3, fds, 7, -1, &live, NULL), 0);
	assert_int_equal(fd_store_used(b.table->fd_store), 11);
	fds[0] = memory_new();
	assert_int_equal(export_add(&b, 4, fds, 1, -1, &e, &err), -ENOSPC);
	assert_non_null(strstr(err.text, "has room for 12 descriptors"));
	assert_int_equal(fd_store_used(b.table->fd_store), 9);
	export_unref(live);
	close(fds[0]);
	bed_free(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_the_record_is_last_in_and_first_out),
	        cmocka_unit_test(test_the_record_knows_the_state),
	        cmocka_unit_test(test_each_open_file_once),
	        cmocka_unit_test(test_what_another_export_has_is_refused),
	        cmocka_unit_test(test_the_same_id_again),
	        cmocka_unit_test(test_ended_ones_make_room),
	};

	return cmocka_run_group_tests(tests, manager_start, manager_stop);
}
