/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Promises of the export's life: what is wrong with an export is said at once;
 * a guest is never both given away and kept; Complete is acknowledged however
 * often it comes; memory is given back; the operator sees and steers it all.
 */
#include "loop/source_fixture.h"

#include <semaphore.h>
#include <sys/stat.h>

static int refused_export(struct fixture *f, struct export_region *r, size_t n, int *fds,
                          size_t n_fds, const char *word)
{
	struct attach_request q = export_request(1, r, n);
	struct vmm v = vmm_connect(f);
	struct attach_reply reply;
	int error = vmm_ask(&v, &q, fds, n_fds, &reply);

	if (error == 0 || !strstr(reply.text, word))
		fail_msg("error %d, \"%s\", expected \"%s\"", error, reply.text, word);
	close(v.sock);
	return error;
}

static void test_bad_exports(void **state)
{
	struct fixture *f = fixture_new(NULL);
	int fd = memory_new(0, 16);
	int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
	int version = open("/proc/version", O_RDONLY | O_CLOEXEC);
	char path[32];
	struct export_region good[2] = {memfd_region("a", 0, 8), memfd_region("b", 8 * PAGE, 8)};
	struct export_region r[2];

	(void)state;
	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	int write_only = open(path, O_WRONLY | O_CLOEXEC);

#define RESET() memcpy(r, good, sizeof(r))
	RESET();
	strcpy(r[1].name, "a");
	assert_int_equal(refused_export(f, r, 2, &fd, 1, "not unique"), EINVAL);
	RESET();
	r[1].gpa.addr = 7 * PAGE;
	assert_int_equal(refused_export(f, r, 2, &fd, 1, "overlaps region a"), EINVAL);
	RESET();
	r[0].gpa.addr = 1;
	assert_int_equal(refused_export(f, r, 2, &fd, 1, "0x1"), EINVAL);
	RESET();
	r[0].gpa.addr = UINT64_MAX - PAGE + 1;
	assert_int_equal(refused_export(f, r, 1, &fd, 1, "wraps"), EINVAL);
	RESET();
	r[0].length_bytes = PAGE + 1;
	assert_int_equal(refused_export(f, r, 1, &fd, 1, "4097"), EINVAL);
	RESET();
	r[0].length_bytes = 17 * PAGE;
	assert_int_equal(refused_export(f, r, 1, &fd, 1, "65536 bytes"), ERANGE);
	RESET();
	r[0].fd_offset.off = 9 * PAGE;
	assert_int_equal(refused_export(f, r, 1, &fd, 1, "offset 36864"), ERANGE);
	RESET();
	r[0].length_bytes = UINT64_C(1) << 45;
	assert_int_equal(refused_export(f, r, 1, &fd, 1, "[exports] bytes"), E2BIG);
	RESET();
	r[0].fd = 1;
	assert_int_equal(refused_export(f, r, 1, &fd, 1, "descriptor 1"), EINVAL);
	RESET();
	assert_int_equal(refused_export(f, r, 1, NULL, 0, "descriptor 0"), EINVAL);
	assert_int_equal(refused_export(f, r, 1, &null, 1, "/dev/null"), EINVAL);
	assert_int_equal(refused_export(f, r, 1, &version, 1, "/proc/version"), EINVAL);
	assert_int_equal(refused_export(f, r, 1, &write_only, 1, "reading"), EACCES);
	r[0].backing = BACKING_ANONYMOUS;
	assert_int_equal(refused_export(f, r, 1, &fd, 1, "/proc/self/mem"), EINVAL);

	/* Not protobuf at all: an answer, then the end. */
	struct vmm v = vmm_connect(f);
	struct attach_reply reply;

	assert_int_equal(fdpass_send_message(v.sock, "\xff\xff\xff", 3, NULL, 0), 0);
	vmm_receive(&v, &reply);
	assert_int_equal(reply.error, EBADMSG);
	assert_int_equal(recv(v.sock, path, 1, 0), 0);
	close(v.sock);
	close(fd);
	close(null);
	close(version);
	close(write_only);
	fixture_free(f);
}

static void test_one_export_a_migration(void **state)
{
	struct fixture *f = fixture_new("[exports]\nmax = 2\n");
	struct vmm v = vmm_export(f, 1, 8, false);
	struct export_region r = memfd_region("ram", 0, 8);
	struct attach_request q = export_request(1, &r, 1);
	struct vmm other = vmm_connect(f);
	struct attach_request list = {.type = ATTACH_REQUEST_LIST_POISON};
	struct attach_reply reply;
	int fd = memory_new(0, 8);

	(void)state;
	assert_int_equal(vmm_ask(&other, &q, &fd, 1, &reply), EEXIST);
	assert_non_null(strstr(reply.text, "exported already"));
	assert_int_equal(vmm_freeze(&other), EINVAL);
	/* What is lost is asked on the other side; the export goes on. */
	assert_int_equal(vmm_ask(&v, &list, NULL, 0, &reply), EOPNOTSUPP);
	assert_non_null(strstr(reply.text, "ask postcopyd, on the destination"));
	q.migration_id = test_id(2);
	assert_int_equal(vmm_ask(&v, &q, &fd, 1, &reply), EEXIST);
	assert_int_equal(vmm_ask(&other, &q, &fd, 1, &reply), 0);
	q.migration_id = test_id(3);

	struct vmm third = vmm_connect(f);

	assert_int_equal(vmm_ask(&third, &q, &fd, 1, &reply), ENOSPC);
	/* After the end of one there is room, and its id may be used again. */
	assert_int_equal(vmm_withdraw(&v, false, NULL), 0);
	q.migration_id = test_id(1);
	assert_int_equal(vmm_ask(&third, &q, &fd, 1, &reply), 0);
	close(fd);
	close(v.sock);
	close(other.sock);
	close(third.sock);
	fixture_free(f);
}

static void test_withdraw_rules(void **state)
{
	struct fixture *f = fixture_new(NULL);
	struct vmm v = vmm_export(f, 1, 8, true);
	struct destination *d;
	struct attach_reply reply;

	(void)state;
	/* Frozen, but nobody has fetched anything. */
	d = destination_hello(f, 1, LINK_ROLE_URGENT, 0);
	assert_int_equal(vmm_withdraw(&v, false, NULL), 0);
	assert_string_equal(v.state.state, "withdrawn");
	assert_true(v.state.final);
	destination_expect_error(d, WIRE_ERROR_CANCELLED, "withdrawn by the VMM");
	destination_free(d);
	assert_int_equal(vmm_freeze(&v), ESHUTDOWN);
	assert_int_equal(vmm_withdraw(&v, false, NULL), 0); /* twice is no error */
	close(v.sock);

	v = vmm_export(f, 1, 8, true);
	d = destination_hello(f, 1, LINK_ROLE_URGENT, 0);
	destination_expect_page(d, 1, PAGE_KIND_DATA);
	assert_int_equal(vmm_withdraw(&v, false, &reply), EBUSY);
	assert_non_null(strstr(reply.text, "force"));
	destination_expect_page(d, 2, PAGE_KIND_DATA);
	assert_int_equal(vmm_withdraw(&v, true, NULL), 0);
	destination_expect_error(d, WIRE_ERROR_CANCELLED, "withdrawn");
	destination_free(d);

	/* A destination that comes later is told, too. */
	struct page_message m = hello_message(1, LINK_ROLE_URGENT, 0);

	d = destination_connect(f, f->destination);
	destination_send(d, &m, NULL, 0);
	destination_expect_error(d, WIRE_ERROR_CANCELLED, "withdrawn");
	destination_free(d);
	close(v.sock);
	fixture_free(f);
}

/* The VMM may die: its memory file lives on here. */
static void test_exporter_hangs_up(void **state)
{
	struct fixture *f = fixture_new(NULL);
	struct vmm v = vmm_export(f, 1, 8, true);
	struct destination *d = destination_hello(f, 1, LINK_ROLE_URGENT, 0);

	(void)state;
	close(v.sock);
	destination_expect_page(d, 1, PAGE_KIND_DATA);
	destination_expect_page(d, 3, PAGE_KIND_ZERO);
	destination_free(d);
	fixture_free(f);
}

/* Other descriptors of this process on the same file. */
static unsigned count_fds(ino_t inode)
{
	unsigned n = 0;

	for (int fd = 0; fd < 256; fd++) {
		char path[32];
		struct stat st;

		/* By path: the descriptors are the agent's, and may be closed meanwhile. */
		(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		n += stat(path, &st) == 0 && st.st_ino == inode && S_ISREG(st.st_mode);
	}
	return n;
}

static void test_complete(void **state)
{
	struct fixture *f = fixture_new(NULL);
	struct export_region r = memfd_region("ram", 0, 8);
	struct attach_request q = export_request(1, &r, 1);
	int fd = memory_new(0, 8);
	struct vmm v = vmm_connect(f);
	struct stat st;

	(void)state;
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(vmm_ask(&v, &q, &fd, 1, NULL), 0);
	assert_int_equal(vmm_freeze(&v), 0);
	assert_int_equal(count_fds(st.st_ino), 2);

	struct destination *bulk = destination_hello(f, 1, LINK_ROLE_BULK, 0);
	struct destination *urgent = destination_hello(f, 1, LINK_ROLE_URGENT, 0);

	destination_complete(bulk);
	destination_expect_error(bulk, WIRE_ERROR_PROTOCOL, "Complete does not belong");
	destination_free(bulk);
	bulk = destination_hello(f, 1, LINK_ROLE_BULK, 0);
	destination_expect_page(urgent, 1, PAGE_KIND_DATA);
	destination_complete(urgent);
	destination_expect(urgent, PAGE_MESSAGE_COMPLETE_ACK);
	assert_int_equal(destination_receive(urgent), PAGE_MESSAGE_NONE);
	assert_int_equal(destination_receive(bulk), PAGE_MESSAGE_NONE);
	destination_free(urgent);
	destination_free(bulk);
	vmm_wait_state(&v, "released");
	assert_true(v.state.final);

	/* The ack was lost: the destination says it again, and hears it again. */
	urgent = destination_hello(f, 1, LINK_ROLE_URGENT, 0);
	assert_true(urgent->m.hello_ack.frozen);
	bulk = destination_hello(f, 1, LINK_ROLE_BULK, 0);
	destination_resume(bulk, 0, 0, 1, NULL, true);
	destination_expect(bulk, PAGE_MESSAGE_PROGRESS);
	assert_true(bulk->m.progress.end);
	destination_complete(urgent);
	destination_expect(urgent, PAGE_MESSAGE_COMPLETE_ACK);
	destination_free(urgent);
	destination_free(bulk);

	/* But not a wrong one, and pages there are none any more. */
	struct page_message m = hello_message(1, LINK_ROLE_URGENT, 0);

	m.hello.token[5] ^= 4;
	urgent = destination_connect(f, f->destination);
	destination_send(urgent, &m, NULL, 0);
	destination_expect_error(urgent, WIRE_ERROR_DENIED, "token");
	destination_free(urgent);
	urgent = destination_hello(f, 1, LINK_ROLE_URGENT, 0);
	destination_ask(urgent, 1, 0, 1);
	destination_expect_error(urgent, WIRE_ERROR_CANCELLED, "released");
	destination_free(urgent);
	bulk = destination_hello(f, 1, LINK_ROLE_BULK, 0);
	destination_resume(bulk, 0, 1, 1, NULL, true);
	destination_expect_error(bulk, WIRE_ERROR_CANCELLED, "released");
	destination_free(bulk);
	assert_int_equal(vmm_withdraw(&v, true, NULL), ESHUTDOWN);

	/* The guest's memory is the system's again. */
	for (int i = 0; count_fds(st.st_ino) > 1 && i < 1000; i++) {
		struct control_response response;
		struct control_request list = {.id = 1, .type = CONTROL_REQUEST_LIST};

		assert_int_equal(operator_ask(f, &list, &response), 0);
		control_response_free(&response);
	}
	assert_int_equal(count_fds(st.st_ino), 1);
	close(fd);
	close(v.sock);
	fixture_free(f);
}

static void send_last_word(struct destination *d)
{
	struct page_message m = {.type = PAGE_MESSAGE_ERROR};

	m.error.code = WIRE_ERROR_CANCELLED;
	strcpy(m.error.text, "cancelled by the operator");
	destination_send(d, &m, NULL, 0);
	assert_int_equal(destination_receive(d), PAGE_MESSAGE_NONE); /* taken in, and closed */
}

static void sync_link(struct destination *d)
{
	struct page_message m = {.type = PAGE_MESSAGE_PING};

	destination_send(d, &m, NULL, 0);
	destination_expect(d, PAGE_MESSAGE_PONG);
}

struct barrier {
	sem_t reached, go_on;
};

static void wait_at_barrier(void *arg)
{
	struct barrier *b = arg;

	sem_post(&b->reached);
	sem_wait(&b->go_on);
}

static void hold_main_loop(struct fixture *f, struct barrier *b)
{
	sem_init(&b->reached, 0, 0);
	sem_init(&b->go_on, 0, 0);
	assert_int_equal(loop_post(agent_loop(f->agent), wait_at_barrier, b), 0);
	sem_wait(&b->reached);
}

/* b must live until the agent ends. */
static void release_main_loop(struct barrier *b)
{
	sem_post(&b->go_on);
}

/*
 * What another link of that destination brings after its last word is void. The
 * main loop is held, so that the link has not heard of it when it comes; and the
 * link is younger than the last change of state, of which it would hear late.
 */
static void test_nothing_after_last_word(void **state)
{
	struct fixture *f = fixture_new(NULL);
	struct vmm v = vmm_export(f, 1, 8, true);
	struct destination *urgent = destination_hello(f, 1, LINK_ROLE_URGENT, 0);
	struct destination *bulk;
	struct barrier barrier;

	(void)state;
	destination_expect_page(urgent, 1, PAGE_KIND_DATA);
	bulk = destination_hello(f, 1, LINK_ROLE_BULK, 0); /* after "serving" was announced */
	hold_main_loop(f, &barrier);
	send_last_word(urgent);
	destination_resume(bulk, 0, 8, 1, NULL, true);
	destination_expect_error(bulk, WIRE_ERROR_BUSY, "given up");
	release_main_loop(&barrier);
	destination_free(urgent);
	destination_free(bulk);

	/* A new destination may come; this one's last word finds nobody to end but itself. */
	urgent = destination_hello(f, 1, LINK_ROLE_URGENT, 0);
	destination_expect_page(urgent, 1, PAGE_KIND_DATA);
	send_last_word(urgent);
	destination_free(urgent);
	assert_int_equal(vmm_withdraw(&v, false, NULL), 0);
	close(v.sock);
	fixture_free(f);
}

/* A stream that is under way ends with it, and cannot make the export serve again. */
static void test_last_word_ends_stream(void **state)
{
	struct fixture *f = fixture_new(NULL);
	struct vmm v = vmm_export(f, 1, 64, true);
	struct destination *urgent = destination_hello(f, 1, LINK_ROLE_URGENT, 0);
	struct destination *bulk;
	struct barrier barrier;

	(void)state;
	destination_expect_page(urgent, 1, PAGE_KIND_DATA);
	bulk = destination_hello(f, 1, LINK_ROLE_BULK, 0);
	destination_control(bulk, -1, 0, 64); /* a page a minute */
	destination_resume(bulk, 0, 64, 1, NULL, true);
	destination_expect(bulk, PAGE_MESSAGE_PAGES);
	hold_main_loop(f, &barrier);
	send_last_word(urgent);
	destination_control(bulk, -1, 0, 0); /* as fast as it can */
	sync_link(bulk);                     /* and nothing came */
	release_main_loop(&barrier);
	destination_expect_error(bulk, WIRE_ERROR_BUSY, "given up");
	assert_int_equal(vmm_withdraw(&v, false, NULL), 0);
	destination_free(urgent);
	destination_free(bulk);
	close(v.sock);
	fixture_free(f);
}

/* Also where nothing was served yet, and so the export's state does not change. */
static void test_last_word_ends_idle_link(void **state)
{
	struct fixture *f = fixture_new(NULL);
	struct vmm v = vmm_export(f, 1, 8, true);
	struct destination *urgent = destination_hello(f, 1, LINK_ROLE_URGENT, 0);
	struct destination *bulk = destination_hello(f, 1, LINK_ROLE_BULK, 0);

	(void)state;
	send_last_word(urgent);
	destination_expect_error(bulk, WIRE_ERROR_BUSY, "given up");
	destination_free(urgent);
	destination_free(bulk);
	close(v.sock);
	fixture_free(f);
}

static void test_operator(void **state)
{
	struct fixture *f = fixture_new(NULL);
	struct vmm v = vmm_export(f, 1, 8, false);
	struct poison_range range = {{3 * PAGE}, PAGE};
	struct control_request q = {.id = 9, .type = CONTROL_REQUEST_LIST};
	struct control_response r;

	(void)state;
	assert_int_equal(operator_ask(f, &q, &r), 0);
	assert_int_equal(r.n_migrations, 1);
	assert_string_equal(r.migrations[0].state, "exported");
	assert_int_equal(r.migrations[0].memory_total, 8 * PAGE);
	control_response_free(&r);
	q.has_migration_id = true;
	q.migration_id = test_id(1);
	q.type = CONTROL_REQUEST_POISON;
	q.poison.ranges = &range;
	q.poison.n_ranges = 1;
	assert_int_equal(operator_ask(f, &q, &r), 0);
	control_response_free(&r);
	q.type = CONTROL_REQUEST_GET;
	assert_int_equal(operator_ask(f, &q, &r), 0);
	assert_int_equal(r.migrations[0].n_regions, 1);
	assert_int_equal(r.migrations[0].n_poisoned, 1);
	assert_string_equal(r.migrations[0].poisoned[0].reporter, "operator");
	control_response_free(&r);
	q.type = CONTROL_REQUEST_SET_LIMITS;
	assert_int_equal(operator_ask(f, &q, &r), EOPNOTSUPP);
	assert_non_null(strstr(r.text, "SetLimits is a request to postcopyd"));
	control_response_free(&r);
	q.migration_id = test_id(7);
	q.type = CONTROL_REQUEST_FREEZE;
	assert_int_equal(operator_ask(f, &q, &r), ENOENT);
	control_response_free(&r);
	q.migration_id = test_id(1);
	q.type = CONTROL_REQUEST_CANCEL;
	q.cancel.force = false;
	assert_int_equal(operator_ask(f, &q, &r), 0);
	control_response_free(&r);
	vmm_wait_state(&v, "withdrawn");
	assert_non_null(strstr(v.state.text, "operator"));
	close(v.sock);
	fixture_free(f);
}

static void watch_receive(int sock, struct control_response *r)
{
	struct error err;
	uint8_t *buf;
	size_t len, n_fds;

	assert_int_equal(fdpass_recv_message(sock, &buf, &len, NULL, 0, &n_fds, REPLY_TIMEOUT_US),
	                 0);
	memset(r, 0, sizeof(*r));
	assert_int_equal(control_response_decode(buf, len, r, &err), 0);
	free(buf);
}

static void test_watch(void **state)
{
	struct fixture *f = fixture_new(NULL);
	struct vmm v = vmm_export(f, 1, 8, false);
	struct control_request q = {.id = 5, .type = CONTROL_REQUEST_WATCH};
	struct control_response r;
	struct error err;
	uint8_t *buf;
	size_t len;
	int sock = unix_connect(f->control_path, &err);

	(void)state;
	q.watch.interval_us = 20000;
	assert_int_equal(control_request_encode(&q, &buf, &len), 0);
	assert_int_equal(fdpass_send_message(sock, buf, len, NULL, 0), 0);
	free(buf);
	watch_receive(sock, &r);
	assert_int_equal(r.error, 0);
	assert_int_equal(r.type, CONTROL_RESPONSE_PLAIN);
	control_response_free(&r);
	watch_receive(sock, &r);
	assert_int_equal(r.type, CONTROL_RESPONSE_EVENT);
	assert_false(r.state_changed);
	assert_int_equal(r.id, 5);
	control_response_free(&r);
	assert_int_equal(vmm_freeze(&v), 0);
	do {
		control_response_free(&r);
		watch_receive(sock, &r);
	} while (!r.state_changed);
	assert_string_equal(r.migrations[0].state, "frozen");
	control_response_free(&r);
	close(sock);
	close(v.sock);
	fixture_free(f);
}

/* Nobody but those listed. The test's own user is always allowed, so ask the rule. */
static void test_peer_rule(void **state)
{
	struct fixture *f = fixture_new("[sockets]\nexport_uids = 12345, root\n");
	struct error err;
	struct settings *settings;
	struct settings_overrides o = {0};
	FILE *file = fopen(f->config_path, "w");

	(void)state;
	struct vmm v = vmm_export(f, 1, 8, false);

	fputs("[sockets]\nexport_gids = nosuchgroup\n", file);
	assert_int_equal(fclose(file), 0);
	assert_int_equal(settings_load(f->config_path, &o, &settings, &err), -EINVAL);
	assert_non_null(strstr(err.text, "nosuchgroup"));
	close(v.sock);
	fixture_free(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_bad_exports),
	        cmocka_unit_test(test_one_export_a_migration),
	        cmocka_unit_test(test_withdraw_rules),
	        cmocka_unit_test(test_exporter_hangs_up),
	        cmocka_unit_test(test_complete),
	        cmocka_unit_test(test_nothing_after_last_word),
	        cmocka_unit_test(test_last_word_ends_stream),
	        cmocka_unit_test(test_last_word_ends_idle_link),
	        cmocka_unit_test(test_operator),
	        cmocka_unit_test(test_watch),
	        cmocka_unit_test(test_peer_rule),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
