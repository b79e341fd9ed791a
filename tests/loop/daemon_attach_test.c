/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The attach socket, with real userfaultfds: what is refused, that a refusal
 * costs the migration nothing and leaves the VMM's memory unregistered, and
 * that the end of the VMM ends the migration.
 */
#include "daemon_fixture.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "daemon/attach_postcopy.h"
#include "daemon/attach_server.h"

/* Attach on a fresh connection; expect this errno and text, and that nothing has happened. */
static void refused(const struct fixture *f, const struct attach_request *request, const int *fds,
                    size_t n_fds, int expected, const char *text)
{
	struct attach_reply reply = {0};
	int sock = connect_to(f->attach);
	char state[ATTACH_STATE_MAX];

	attach_send(sock, request, fds, n_fds);
	attach_recv(sock, &reply);
	assert_int_equal(reply.type, ATTACH_REPLY_ACK);
	if (reply.error != expected || !strstr(reply.text, text))
		fail_msg("expected %s and \"%s\", got %s: %s", strerror(expected), text,
		         strerror(reply.error), reply.text);
	close(sock);
	assert_string_equal(state_of(f, 1, state), "setup");
}

struct bad_attach {
	const struct fixture *f;
	void *memory;
	int uffd;
	struct attach_region regions[2];
	struct attach_request request;
};

/* A good attach with one region, for a test to spoil. */
static struct bad_attach good_attach(void **state)
{
	struct bad_attach b = {.f = *state, .memory = map_anonymous(), .uffd = uffd_open()};

	assert_true(b.uffd >= 0);
	start_migration(b.f, 1);
	b.regions[0] = anonymous_region(b.memory);
	b.request = attach_request_for(1, NULL, 1);
	return b;
}

static void expect(struct bad_attach *b, int expected, const char *text)
{
	b->request.attach.regions = b->regions;
	refused(b->f, &b->request, &b->uffd, 1, expected, text);
}

static void done(struct bad_attach *b)
{
	close(b->uffd);
	munmap(b->memory, REGION_BYTES);
}

/* Promise: an attach without, with too many or with too few descriptors is named as that. */
static void test_descriptor_counts(void **state)
{
	struct bad_attach b = good_attach(state);
	int many[3] = {b.uffd, b.uffd, b.uffd};

	b.request.attach.regions = b.regions;
	refused(b.f, &b.request, NULL, 0, EINVAL, "no descriptor came");
	refused(b.f, &b.request, many, 3, EINVAL, "3 descriptors came");
	b.request.attach.n_uffds = 2;
	refused(b.f, &b.request, many, 1, EINVAL, "1 descriptors came");
	done(&b);
}

/* Promise: another kind of file in a userfaultfd's or memory file's place is named. */
static void test_descriptor_kinds(void **state)
{
	struct bad_attach b = good_attach(state);
	int memory_file = memfd_create("m", MFD_CLOEXEC), pipes[2];

	assert_int_equal(pipe(pipes), 0);
	b.request.attach.regions = b.regions;
	refused(b.f, &b.request, &memory_file, 1, EINVAL, "descriptor 0 is not a userfaultfd");
	b.regions[0].has_fd = true;
	refused(b.f, &b.request, (int[]){b.uffd, pipes[0]}, 2, EINVAL,
	        "descriptor 1 is not a memory file");
	/* The memory file is there, but too small. */
	refused(b.f, &b.request, (int[]){b.uffd, memory_file}, 2, EINVAL,
	        "its memory file has 0 bytes");
	close(memory_file);
	close(pipes[0]);
	close(pipes[1]);
	done(&b);
}

/* Promise: who is not told of a migration or its token cannot attach to it. */
static void test_identity(void **state)
{
	struct bad_attach b = good_attach(state);

	b.request.migration_id = test_id(2);
	expect(&b, ENOKEY, "start it first with postcopyctl start");
	b.request.migration_id = test_id(1);
	b.request.token[3] ^= 1;
	expect(&b, EKEYREJECTED, "wrong token");
	b.request.token[3] ^= 1;
	b.request.token[b.request.token_len++] = 'x'; /* right, and one more */
	expect(&b, EKEYREJECTED, "wrong token");
	b.request.token_len = 16;
	b.request.version = 99;
	expect(&b, EPROTONOSUPPORT, "version 99");
	done(&b);
}

/* Promise: region tables that make no sense are refused with the region's name. */
static void test_regions(void **state)
{
	struct bad_attach b = good_attach(state);
	const struct attach_region good = b.regions[0];

	b.regions[0].hva.addr += 8;
	expect(&b, EINVAL, "ram");
	b.regions[0] = good;
	b.regions[0].length_bytes = UINT64_MAX - 4095;
	expect(&b, EINVAL, "ram");
	b.regions[0] = good;
	b.regions[0].page_size_bytes = 12288;
	expect(&b, EBADMSG, "power of two");
	b.regions[0] = good;
	b.regions[0].uffd = 1;
	expect(&b, EBADMSG, "expected an index below");
	b.regions[0] = good;
	b.regions[1] = good;
	strcpy(b.regions[1].name, "more");
	b.regions[1].hva.addr += REGION_BYTES / 2;
	b.regions[1].gpa.addr += REGION_BYTES;
	b.request.attach.n_regions = 2;
	expect(&b, EINVAL, "overlap");
	b.regions[1] = good;
	strcpy(b.regions[1].name, "more");
	b.regions[1].hva.addr += REGION_BYTES;
	expect(&b, EINVAL, "overlap");
	done(&b);
}

/* Promise: memory that is not mapped is refused. */
static void test_unmapped(void **state)
{
	struct bad_attach b = good_attach(state);

	b.regions[0].hva.addr = 0x10000; /* below anything that is mapped */
	expect(&b, EINVAL, "region ram: register");
	done(&b);
}

/* Promise: mode minor that could read holes as zeros, or cannot work, is refused. */
static void test_minor(void **state)
{
	struct bad_attach b = good_attach(state);

	b.regions[0].mode = UFFD_MODE_MINOR;
	expect(&b, EINVAL, "mode minor needs a shared mapping");
	b.regions[0].backing = BACKING_MEMFD;
	expect(&b, EINVAL, "mode minor needs the memory file");
	b.regions[0].backing = BACKING_HUGETLB;
	expect(&b, EINVAL, "mode minor needs the memory file");
	done(&b);
}

/* Promise: what a refused attach had registered is not registered any more. */
static void test_undone(void **state)
{
	struct bad_attach b = good_attach(state);
	struct uffdio_range range = {(uintptr_t)b.memory, REGION_BYTES};

	b.regions[1] = b.regions[0];
	strcpy(b.regions[1].name, "hole");
	b.regions[1].gpa.addr += REGION_BYTES;
	b.regions[1].hva.addr = 0x10000; /* below anything that is mapped */
	b.request.attach.n_regions = 2;
	expect(&b, EINVAL, "region hole: register");
	/* Still registered, this would wait for ever for a daemon that has let go of it. */
	assert_int_equal(*(volatile char *)b.memory, 0);
	assert_true(ioctl(b.uffd, UFFDIO_WAKE, &range) == 0);
	done(&b);
}

/* Promise: bytes that are no request are answered, and only this connection ends. */
static void test_garbage(void **state)
{
	struct fixture *f = *state;
	struct attach_reply reply = {0};
	int sock = connect_to(f->attach);
	uint8_t *buf;
	size_t len;

	start_migration(f, 1);
	assert_int_equal(fdpass_send_message(sock, "\xff\xff\xff\xff", 4, NULL, 0), 0);
	attach_recv(sock, &reply);
	assert_int_equal(reply.type, ATTACH_REPLY_ACK);
	assert_int_equal(reply.error, EBADMSG);
	assert_int_equal(fdpass_recv_message(sock, &buf, &len, NULL, 0, NULL, ANSWER_TIMEOUT_US),
	                 -ECONNRESET);
	close(sock);
	/* An export belongs to the other daemon. */
	struct attach_request freeze = {.type = ATTACH_REQUEST_FREEZE};

	refused(f, &freeze, NULL, 0, ENOTSUP, "postcopy-sourced");
	sock = connect_to(f->attach);
	assert_int_equal(write(sock, "\xff\xff\xff\x7f", 4), 4); /* 2 GiB announced */
	assert_int_equal(fdpass_recv_message(sock, &buf, &len, NULL, 0, NULL, ANSWER_TIMEOUT_US),
	                 -ECONNRESET);
	close(sock);
	char text[ATTACH_STATE_MAX];

	assert_string_equal(state_of(f, 1, text), "setup");
}

/* Promise: a good attach is answered, then the state is told; a second one is refused. */
static void test_attach_twice(void **state)
{
	struct bad_attach b = good_attach(state);
	struct attach_reply reply = {0};
	int sock = connect_to(b.f->attach), other = connect_to(b.f->attach);
	struct control_request cancel = simple_request(CONTROL_REQUEST_CANCEL, 1);
	struct control_response response = {0};

	b.request.attach.regions = b.regions;
	attach_send(sock, &b.request, &b.uffd, 1);
	attach_recv(sock, &reply);
	assert_int_equal(reply.type, ATTACH_REPLY_ACK);
	if (reply.error)
		fail_msg("%s", reply.text);
	attach_recv(sock, &reply);
	assert_int_equal(reply.type, ATTACH_REPLY_STATE);
	assert_string_equal(reply.state, "active");
	attach_send(other, &b.request, &b.uffd, 1);
	attach_recv(other, &reply);
	assert_int_equal(reply.error, EBUSY);
	assert_non_null(strstr(reply.text, "two attaches for one migration"));

	/* The guest would lose its memory: only by force. */
	control_refused(b.f, &cancel, EBUSY, "65536 bytes");
	cancel.cancel.force = true;
	control_call(b.f, &cancel, &response);
	assert_string_equal(response.migrations->state, "cancelled");
	control_response_free(&response);
	do
		attach_recv(sock, &reply);
	while (!reply.final);
	assert_string_equal(reply.state, "cancelled");
	close(sock);
	close(other);
	done(&b);
}

/* The next message that is no news of the state. */
static struct attach_reply answer_recv(int sock)
{
	struct attach_reply reply = {0};

	do {
		attach_recv(sock, &reply);
		assert_false(reply.restarted);
	} while (reply.type == ATTACH_REPLY_STATE);
	return reply;
}

static struct attach_reply list_ask(int sock, uint64_t from)
{
	struct attach_request ask = {.type = ATTACH_REQUEST_LIST_POISON, .list_poison = {{from}}};

	attach_send(sock, &ask, NULL, 0);
	return answer_recv(sock);
}

/* A VMM with a migration of its own; the connection stays. */
static int attached(struct bad_attach *b, uint8_t id)
{
	struct attach_reply reply = {0};
	int sock = connect_to(b->f->attach);

	b->request = attach_request_for(id, b->regions, 1);
	attach_send(sock, &b->request, &b->uffd, 1);
	attach_recv(sock, &reply);
	assert_int_equal(reply.error, 0);
	return sock;
}

static void operator_poisons(const struct fixture *f, uint8_t id, uint64_t page, uint64_t n)
{
	struct poison_range range = {{REGION_GPA + page * 4096}, n * 4096};
	struct control_request poison = simple_request(CONTROL_REQUEST_POISON, id);
	struct control_response response = {0};

	poison.poison.ranges = &range;
	poison.poison.n_ranges = 1;
	control_call(f, &poison, &response);
	control_response_free(&response);
}

/* Until the lane's thread has done what the operator asked for; not by the attach socket. */
static void lost_await(const struct fixture *f, uint8_t id, uint64_t bytes)
{
	struct control_request get = simple_request(CONTROL_REQUEST_GET, id);
	uint64_t lost = 0;

	for (int tries = 0; lost != bytes && tries < 1000; tries++) {
		struct control_response response = {0};

		poll(NULL, 0, tries ? 10 : 0);
		control_call(f, &get, &response);
		lost = response.migrations->lost_bytes;
		control_response_free(&response);
	}
	assert_int_equal(lost, bytes);
}

/*
 * Promise: a VMM learns what its guest has lost, and only its own; also after
 * the end, as long as it stays connected. Others are refused.
 */
static void test_list_poison(void **state)
{
	struct bad_attach b = good_attach(state), c = {.f = *state};
	struct control_request cancel = simple_request(CONTROL_REQUEST_CANCEL, 1);
	struct control_response response = {0};
	struct attach_reply reply;
	int sock, other, stranger = connect_to(b.f->attach);

	c.memory = map_anonymous();
	c.uffd = uffd_open();
	c.regions[0] = anonymous_region(c.memory);
	start_migration(b.f, 2);
	sock = attached(&b, 1);
	other = attached(&c, 2);
	reply = list_ask(stranger, 0);
	assert_int_equal(reply.type, ATTACH_REPLY_ACK);
	assert_int_equal(reply.error, EINVAL);
	assert_non_null(strstr(reply.text, "nothing is attached on this connection"));
	operator_poisons(b.f, 1, 15, 1);
	operator_poisons(b.f, 1, 2, 1);
	operator_poisons(b.f, 1, 3, 4);
	lost_await(b.f, 1, UINT64_C(6) * 4096);
	reply = list_ask(sock, 0);
	assert_int_equal(reply.n_ranges, 2);
	assert_int_equal(reply.ranges[0].gpa.addr, REGION_GPA + UINT64_C(2) * 4096);
	assert_int_equal(reply.ranges[0].length_bytes, 5 * 4096);
	assert_int_equal(reply.ranges[1].gpa.addr, REGION_GPA + UINT64_C(15) * 4096);
	assert_false(reply.more);
	reply = list_ask(other, 0);
	assert_int_equal(reply.type, ATTACH_REPLY_POISON_LIST);
	assert_int_equal(reply.n_ranges, 0);
	/* The end takes the migration's memory away, but not the list, nor what came to it last. */
	operator_poisons(b.f, 1, 9, 1);
	lost_await(b.f, 1, UINT64_C(7) * 4096);
	cancel.cancel.force = true;
	control_call(b.f, &cancel, &response);
	control_response_free(&response);
	reply = list_ask(sock, REGION_GPA + UINT64_C(7) * 4096);
	assert_int_equal(reply.type, ATTACH_REPLY_POISON_LIST);
	assert_int_equal(reply.n_ranges, 2);
	assert_int_equal(reply.ranges[0].gpa.addr, REGION_GPA + UINT64_C(9) * 4096);
	assert_int_equal(list_ask(sock, UINT64_MAX).n_ranges, 0);
	assert_int_equal(list_ask(sock, 0).n_ranges, 3);
	close(sock);
	close(other);
	close(stranger);
	done(&b);
	done(&c);
}

/* A second attach server beside the daemon's, as the next daemon has one. */
struct next_server {
	struct attach_server *server;
	char path[PKI_PATH_MAX];
	const char *protocol;
	uint8_t id;
	int fd; /* to be adopted */
	int result;
};

static void next_server_start(struct fixture *f, void *arg)
{
	struct next_server *n = arg;
	struct error err = {0};

	pki_path(f->pki, "next.sock", n->path);
	assert_int_equal(attach_server_new(daemon_migrations(f->daemon), &n->server), 0);
	if (attach_server_listen(n->server, &attach_protocol_postcopy, "next", n->path, 0600,
	                         &err) < 0)
		fail_msg("%s", err.text);
}

static void next_server_adopt(struct fixture *f, void *arg)
{
	struct next_server *n = arg;
	struct uuid id = test_id(n->id);
	struct migration *m = migration_table_find(daemon_migrations(f->daemon), &id);

	assert_non_null(m);
	n->result = attach_server_adopt(n->server, n->protocol, n->fd, m, ATTACH_CLIENT_VMM);
}

static void next_server_stop(struct fixture *f, void *arg)
{
	struct next_server *n = arg;

	(void)f;
	n->server = attach_server_free(n->server);
}

/* The VMM's end of a connection that the next server has adopted; blocking, as VMMs have it. */
static int adopted(struct fixture *f, struct next_server *n, uint8_t id)
{
	int fds[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	n->protocol = "postcopy";
	n->id = id;
	n->fd = fds[1];
	fixture_call(f, next_server_adopt, n);
	assert_int_equal(n->result, 0);
	return fds[0];
}

/*
 * Promise: a connection from before a restart is told the state, marked restarted,
 * and then is what it was: it may ask what is lost, hears of the end, cannot
 * attach a second time, and answers carry the requests' numbers.
 */
static void test_adopted_connection(void **state)
{
	struct bad_attach b = good_attach(state);
	struct fixture *f = *state;
	struct attach_request ask = {.type = ATTACH_REQUEST_LIST_POISON, .id = 41};
	struct control_request cancel = simple_request(CONTROL_REQUEST_CANCEL, 1);
	struct control_response response = {0};
	struct next_server next = {0};
	struct attach_reply reply = {0};
	int first = attached(&b, 1), sock;

	operator_poisons(f, 1, 3, 2);
	lost_await(f, 1, UINT64_C(2) * 4096);
	fixture_call(f, next_server_start, &next);
	sock = adopted(f, &next, 1);
	attach_recv(sock, &reply);
	assert_int_equal(reply.type, ATTACH_REPLY_STATE);
	assert_string_equal(reply.state, "active");
	assert_string_not_equal(reply.text, "");
	assert_true(reply.restarted && !reply.final);
	attach_send(sock, &ask, NULL, 0);
	reply = answer_recv(sock);
	assert_int_equal(reply.type, ATTACH_REPLY_POISON_LIST);
	assert_int_equal(reply.id, 41);
	assert_int_equal(reply.n_ranges, 1);
	assert_int_equal(reply.ranges[0].gpa.addr, REGION_GPA + UINT64_C(3) * 4096);
	b.request.id = 42;
	attach_send(sock, &b.request, &b.uffd, 1);
	reply = answer_recv(sock);
	assert_int_equal(reply.type, ATTACH_REPLY_ACK);
	assert_int_equal(reply.id, 42);
	assert_int_equal(reply.error, EBUSY);
	cancel.cancel.force = true;
	control_call(f, &cancel, &response);
	control_response_free(&response);
	do {
		attach_recv(sock, &reply);
		assert_false(reply.restarted);
	} while (!reply.final);
	assert_string_equal(reply.state, "cancelled");
	close(sock);
	fixture_call(f, next_server_stop, &next);
	close(first);
	done(&b);
}

/* Whether the migration knows that the connection has ended, and looks for its VMM. */
static void hung_up_look(struct fixture *f, void *arg)
{
	struct uuid id = test_id(1);
	struct migration *m = migration_table_find(daemon_migrations(f->daemon), &id);

	assert_non_null(m);
	/* One that has ended has no timer once it is released. */
	*(bool *)arg = m->vmm_alive_timer && event_pending(m->vmm_alive_timer, EV_TIMEOUT, NULL);
}

/* Promise: the migration hears of it when the VMM of an adopted connection hangs up. */
static void test_adopted_hangs_up(void **state)
{
	struct bad_attach b = good_attach(state);
	struct fixture *f = *state;
	struct next_server next = {0};
	int first = attached(&b, 1);
	bool hung_up = true;

	fixture_call(f, next_server_start, &next);
	fixture_call(f, hung_up_look, &hung_up);
	assert_false(hung_up);
	close(adopted(f, &next, 1));
	for (int tries = 0; !hung_up && tries < 1000; tries++) {
		poll(NULL, 0, tries ? 10 : 0);
		fixture_call(f, hung_up_look, &hung_up);
	}
	assert_true(hung_up);
	fixture_call(f, next_server_stop, &next);
	close(first);
	done(&b);
}

/* Promise: one that is adopted for what has ended is told the end, and may go. */
static void test_adopted_after_the_end(void **state)
{
	struct bad_attach b = good_attach(state);
	struct fixture *f = *state;
	struct control_request cancel = simple_request(CONTROL_REQUEST_CANCEL, 1);
	struct control_response response = {0};
	struct next_server next = {0};
	struct attach_reply reply = {0};
	bool hung_up = true;
	int sock;

	control_call(f, &cancel, &response);
	control_response_free(&response);
	fixture_call(f, next_server_start, &next);
	sock = adopted(f, &next, 1);
	attach_recv(sock, &reply);
	assert_string_equal(reply.state, "cancelled");
	assert_true(reply.final && reply.restarted);
	assert_int_equal(list_ask(sock, 0).n_ranges, 0);
	close(sock);
	assert_string_equal(state_of(f, 1, reply.state), "cancelled"); /* the loop went round */
	fixture_call(f, hung_up_look, &hung_up);
	assert_false(hung_up);
	fixture_call(f, next_server_stop, &next);
	done(&b);
}

/* Promise: a connection of a protocol that nobody speaks here is refused and closed. */
static void test_adopt_unknown_protocol(void **state)
{
	struct fixture *f = *state;
	struct next_server next = {.protocol = "telepathy", .id = 1};
	int fds[2];
	char byte;

	start_migration(f, 1);
	fixture_call(f, next_server_start, &next);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	next.fd = fds[1];
	fixture_call(f, next_server_adopt, &next);
	assert_int_equal(next.result, -ENOENT);
	assert_int_equal(read(fds[0], &byte, 1), 0);
	close(fds[0]);
	fixture_call(f, next_server_stop, &next);
}

/* A VMM that attaches and ends when told to. Never returns. */
static void vmm_process(const char *path, int go)
{
	void *memory = map_anonymous();
	struct attach_region region = anonymous_region(memory);
	struct attach_request request = attach_request_for(1, &region, 1);
	struct attach_reply reply = {0};
	struct error error;
	int uffd = uffd_open(), sock;
	char byte;

	if (read(go, &byte, 1) != 1)
		_exit(1);
	sock = unix_connect(path, &error);
	attach_send(sock, &request, &uffd, 1);
	attach_recv(sock, &reply);
	_exit(reply.error || read(go, &byte, 1) != 1 ? 1 : 0);
}

/* Promise: when the VMM ends, so does its migration, and watchers are told why. */
static void test_vmm_exit(void **state)
{
	int go[2], status;
	pid_t pid;

	assert_int_equal(pipe(go), 0);
	fflush(stdout);
	pid = fork(); /* before the daemon's threads are there */
	if (pid == 0) {
		char path[PKI_PATH_MAX];

		if (read(go[0], path, sizeof(path)) != sizeof(path))
			_exit(1);
		vmm_process(path, go[0]);
	}
	assert_int_equal(fixture_setup(state), 0);
	struct fixture *f = *state;
	struct control_request watch = simple_request(CONTROL_REQUEST_WATCH, 1);
	struct control_response event = {0};
	int sock = connect_to(f->control);

	start_migration(f, 1);
	control_send(sock, &watch);
	control_recv(sock, &event);
	assert_int_equal(event.error, 0);
	control_response_free(&event);
	assert_int_equal(write(go[1], f->attach, sizeof(f->attach)), sizeof(f->attach));
	assert_int_equal(write(go[1], "ab", 2), 2); /* attach, then end */
	for (bool ended = false; !ended;) {
		memset(&event, 0, sizeof(event));
		control_recv(sock, &event);
		ended = strcmp(event.migrations->state, "failed") == 0;
		if (ended)
			assert_non_null(strstr(event.migrations->state_text, "VMM exited"));
		control_response_free(&event);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	close(sock);
	close(go[0]);
	close(go[1]);
	fixture_teardown(state);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_vmm_exit),
#define WITH_DAEMON(fn) cmocka_unit_test_setup_teardown(fn, fixture_setup, fixture_teardown)
	        WITH_DAEMON(test_descriptor_counts),
	        WITH_DAEMON(test_descriptor_kinds),
	        WITH_DAEMON(test_identity),
	        WITH_DAEMON(test_regions),
	        WITH_DAEMON(test_unmapped),
	        WITH_DAEMON(test_minor),
	        WITH_DAEMON(test_undone),
	        WITH_DAEMON(test_garbage),
	        WITH_DAEMON(test_attach_twice),
	        WITH_DAEMON(test_list_poison),
	        WITH_DAEMON(test_adopted_connection),
	        WITH_DAEMON(test_adopted_hangs_up),
	        WITH_DAEMON(test_adopted_after_the_end),
	        WITH_DAEMON(test_adopt_unknown_protocol),
	};

	if (require_uffd() < 0)
		return 77;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
