/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Promises of postcopy_attach(): what a VMM passes arrives as it is, with its
 * descriptors; wrong tables are refused with a text that names the fault before
 * anything is sent; a refusal, a timeout and a dying daemon are told apart; the
 * uffds stay open for the handle's life.
 */
#include "unit/client_fake.h"

#include "core/clock.h"

/* CTest shall count a program that could not test everything as skipped, not as passed. */
static bool skipped;

struct setup {
	struct fake fake;
	int uffds[2];
	int memory_fd;
	void *anonymous;
	void *shared;
	struct postcopy_region regions[3];
	struct postcopy_attach_params params;
};

static int setup_with(struct setup *s, void (*script)(struct fake *f))
{
	memset(s, 0, sizeof(*s));
	s->uffds[0] = postcopy_uffd_open(0);
	s->uffds[1] = postcopy_uffd_open(0);
	if (s->uffds[0] < 0) {
		print_message("no userfaultfd: %s\n", strerror(-s->uffds[0]));
		return -1;
	}
	s->anonymous = fake_memory(4, NULL);
	s->shared = fake_memory(4, &s->memory_fd);
	s->regions[0] = fake_region("ram0", 0, s->anonymous, 4);
	s->regions[1] = fake_region("ram1", 0x100000, s->shared, 2);
	s->regions[1].backing = POSTCOPY_BACKING_MEMFD;
	s->regions[1].mode = POSTCOPY_MODE_MINOR;
	s->regions[1].uffd = 1;
	s->regions[1].memory_fd = s->memory_fd;
	s->regions[1].flags = POSTCOPY_REGION_FULLY_ALLOCATED;
	s->regions[2] = s->regions[1];
	s->regions[2].name = "ram2";
	s->regions[2].guest_physical_address = 0x200000;
	s->regions[2].address = (char *)s->shared + 2 * FAKE_PAGE;
	s->regions[2].memory_offset = 2 * FAKE_PAGE;
	s->params.token = fake_token;
	s->params.token_len = sizeof(fake_token);
	s->params.uffds = s->uffds;
	s->params.n_uffds = 2;
	s->params.regions = s->regions;
	s->params.n_regions = 3;
	s->params.timeout_ms = 10000;
	assert_int_equal(
	        postcopy_uuid_parse("123E4567-e89b-12d3-a456-426614174000", s->params.migration_id),
	        0);
	if (script) {
		fake_start(&s->fake, script);
		s->params.socket_path = s->fake.server.path;
	}
	return 0;
}

static void teardown(struct setup *s)
{
	close(s->uffds[0]);
	close(s->uffds[1]);
	close(s->memory_fd);
	munmap(s->anonymous, 4 * FAKE_PAGE);
	munmap(s->shared, 4 * FAKE_PAGE);
	if (s->fake.script)
		fake_join(&s->fake);
}

#define SETUP(s, script)                            \
	do {                                        \
		if (setup_with(&(s), script) < 0) { \
			skipped = true;             \
			skip();                     \
			return;                     \
		}                                   \
	} while (0)

static void script_accept(struct fake *f)
{
	const struct attach_region *r;

	fake_receive(f, ATTACH_REQUEST_ATTACH);
	r = f->request.attach.regions;
	FAKE_CHECK(f, f->request.version == ATTACH_PROTOCOL_VERSION);
	FAKE_CHECK(f, f->request.migration_id.bytes[0] == 0x12);
	FAKE_CHECK(f, f->request.migration_id.bytes[15] == 0x00);
	FAKE_CHECK(f, f->request.token_len == sizeof(fake_token));
	FAKE_CHECK(f, memcmp(f->request.token, fake_token, sizeof(fake_token)) == 0);
	FAKE_CHECK(f, f->request.attach.n_uffds == 2 && f->request.attach.n_regions == 3);
	/* Two uffds, and the memory file once although two regions use it. */
	FAKE_CHECK(f, f->n_fds == 3);
	FAKE_CHECK(f, fd_is_userfaultfd(f->fds[0]) && fd_is_userfaultfd(f->fds[1]));
	FAKE_CHECK(f, fd_is_memory_file(f->fds[2]));
	if (f->server.failed_line)
		return;
	FAKE_CHECK(f, strcmp(r[0].name, "ram0") == 0 && r[0].gpa.addr == 0);
	FAKE_CHECK(f, r[0].hva.addr != 0 && r[0].length_bytes == 4 * FAKE_PAGE);
	FAKE_CHECK(f, r[0].backing == BACKING_ANONYMOUS && r[0].mode == UFFD_MODE_MISSING);
	FAKE_CHECK(f, !r[0].has_fd && !r[0].registered && r[0].uffd == 0);
	FAKE_CHECK(f, r[1].mode == UFFD_MODE_MINOR && r[1].has_fd && r[1].fd == 0);
	FAKE_CHECK(f, r[1].fully_allocated && r[1].uffd == 1 && r[1].gpa.addr == 0x100000);
	FAKE_CHECK(f, r[2].has_fd && r[2].fd == 0 && r[2].fd_offset.off == 2 * FAKE_PAGE);
	fake_ack(f, 0, "");
	fake_wait_go(f);
	fake_state(f, "completed", "", true);
	fake_expect_close(f);
}

static void test_passes_everything(void **state)
{
	struct setup s;
	struct postcopy *h = NULL;
	char text[384] = "";

	(void)state;
	SETUP(s, script_accept);
	assert_int_equal(postcopy_attach(&s.params, &h, text, sizeof(text)), 0);
	assert_string_equal(text, "");
	assert_int_equal(postcopy_get_state(h), POSTCOPY_STATE_SETUP);
	assert_int_equal(postcopy_close(h, 0), -EBUSY);
	sem_post(&s.fake.go);
	assert_int_equal(postcopy_wait(h, POSTCOPY_STATE_BIT(POSTCOPY_STATE_COMPLETED), 10000), 0);
	assert_int_equal(postcopy_close(h, 0), 0);
	teardown(&s);
}

static void script_refuse(struct fake *f)
{
	fake_receive(f, ATTACH_REQUEST_ATTACH);
	fake_ack(f, EKEYREJECTED, "the token is wrong");
	fake_expect_close(f);
}

static void test_refusal_has_code_and_text(void **state)
{
	struct setup s;
	struct postcopy *h = NULL;
	char text[384] = "";

	(void)state;
	SETUP(s, script_refuse);
	assert_int_equal(postcopy_attach(&s.params, &h, text, sizeof(text)), -EKEYREJECTED);
	assert_string_equal(text, "the token is wrong");
	assert_null(h);
	teardown(&s);
}

/* Says no without having read the request, and is gone. */
static void script_refuse_unread(struct fake *f)
{
	fake_ack(f, EACCES, "not for this user");
	close_fd(&f->server.sock);
}

static void test_refusal_before_reading(void **state)
{
	struct setup s;
	struct postcopy *h = NULL;
	char text[384] = "";

	(void)state;
	SETUP(s, script_refuse_unread);
	assert_int_equal(postcopy_attach(&s.params, &h, text, sizeof(text)), -EACCES);
	assert_string_equal(text, "not for this user");
	teardown(&s);
}

static void script_close(struct fake *f)
{
	fake_receive(f, ATTACH_REQUEST_ATTACH);
	shutdown(f->server.sock, SHUT_RDWR);
}

static void script_silent(struct fake *f)
{
	fake_receive(f, ATTACH_REQUEST_ATTACH);
	fake_expect_close(f); /* the client has given up: no half attach stays behind */
}

static void script_garbage(struct fake *f)
{
	fake_receive(f, ATTACH_REQUEST_ATTACH);
	FAKE_CHECK(f, send(f->server.sock, "HTTP/1.1 400 Bad Request\r\n", 26, MSG_NOSIGNAL) == 26);
	fake_expect_close(f);
}

static void script_undecodable(struct fake *f)
{
	fake_receive(f, ATTACH_REQUEST_ATTACH);
	FAKE_CHECK(f, send(f->server.sock, "\3\0\0\0\xff\xff\xff", 7, MSG_NOSIGNAL) == 7);
	fake_expect_close(f);
}

static void expect_failure(void (*script)(struct fake *f), int timeout_ms, int code,
                           const char *word)
{
	struct setup s;
	struct postcopy *h = NULL;
	char text[384] = "";

	SETUP(s, script);
	s.params.timeout_ms = timeout_ms;
	assert_int_equal(postcopy_attach(&s.params, &h, text, sizeof(text)), code);
	assert_null(h);
	assert_non_null(strstr(text, word));
	teardown(&s);
}

static void test_daemon_dies(void **state)
{
	(void)state;
	expect_failure(script_close, 10000, -ECONNRESET, "closed");
}

static void test_timeout(void **state)
{
	uint64_t start = clock_monotonic_us();

	(void)state;
	expect_failure(script_silent, 150, -ETIMEDOUT, "150 ms");
	assert_true(clock_monotonic_us() - start >= 150000);
}

static void test_not_our_protocol(void **state)
{
	(void)state;
	expect_failure(script_garbage, 10000, -EPROTO, "protocol");
	expect_failure(script_undecodable, 10000, -EPROTO, "protocol");
}

static void test_no_daemon(void **state)
{
	struct setup s;
	struct postcopy *h = NULL;
	char text[384] = "";

	(void)state;
	SETUP(s, NULL);
	s.params.socket_path = "/nonexistent/attach.sock";
	assert_int_equal(postcopy_attach(&s.params, &h, text, sizeof(text)), -ENOENT);
	assert_non_null(strstr(text, "/nonexistent/attach.sock"));
	teardown(&s);
}

/* Nothing listens: a wrong table must be found before the connection. */
#define EXPECT_WRONG(s, code, word)                                                              \
	do {                                                                                     \
		struct postcopy *h_ = NULL;                                                      \
		char text_[384] = "";                                                            \
		assert_int_equal(postcopy_attach(&(s).params, &h_, text_, sizeof(text_)), code); \
		if (!strstr(text_, word))                                                        \
			fail_msg("\"%s\" does not say \"%s\"", text_, word);                     \
	} while (0)

static void test_wrong_tables(void **state)
{
	static const struct {
		int region;
		size_t offset;
		size_t size;
		uint64_t value;
		const char *word;
	} cases[] = {
#define CASE(region, field, value, word)                  \
	{region, offsetof(struct postcopy_region, field), \
	 sizeof(((struct postcopy_region *)0)->field), value, word}
	        CASE(0, name, 0, "name"),
	        CASE(0, name, (uintptr_t) "with space", "0x20"),
	        CASE(1, name, (uintptr_t) "ram0", "called ram0"),
	        CASE(0, guest_physical_address, 0x800, "0x800"),
	        CASE(0, guest_physical_address, UINT64_MAX - 0x1fff, "wraps"),
	        CASE(1, guest_physical_address, 0x3000, "overlap"),
	        CASE(0, address, 0, "NULL"),
	        CASE(0, address, 0x1001, "0x1001"),
	        CASE(0, length, 0, "length is 0"),
	        CASE(0, length, 0x1800, "0x1800"),
	        CASE(0, page_size, 0, "page size 0"),
	        CASE(0, page_size, 1024, "page size 1024"),
	        CASE(0, page_size, 12288, "page size 12288"),
	        CASE(0, backing, 0, "backing 0"),
	        CASE(0, backing, 9, "backing 9"),
	        CASE(0, mode, 0, "mode 0"),
	        CASE(0, mode, POSTCOPY_MODE_MINOR, "memory_fd"),
	        CASE(0, uffd, 2, "uffd index 2"),
	        CASE(0, flags, 1u << 31, "flags"),
	        CASE(2, flags, POSTCOPY_REGION_REGISTERED, "REGISTERED"),
	        CASE(0, reserved32, 1, "flags"),
	        CASE(0, reserved[3], 1, "reserved[3]"),
	        CASE(1, memory_offset, 0x10, "0x10"),
	        CASE(2, address, 0, "NULL"),
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct setup s;

		SETUP(s, NULL);
		memcpy((char *)&s.regions[cases[i].region] + cases[i].offset, &cases[i].value,
		       cases[i].size);
		EXPECT_WRONG(s, -EINVAL, cases[i].word);
		teardown(&s);
	}
}

static void test_wrong_parameters(void **state)
{
	struct setup s;
	int closed;

	(void)state;
	SETUP(s, NULL);
	s.params.token_len = 15;
	EXPECT_WRONG(s, -EINVAL, "15 bytes");
	s.params.token_len = sizeof(fake_token);
	s.params.n_uffds = 0;
	EXPECT_WRONG(s, -EINVAL, "0 uffds");
	s.params.n_uffds = 17;
	EXPECT_WRONG(s, -EINVAL, "17 uffds");
	s.params.n_uffds = 2;
	s.params.flags = 4;
	EXPECT_WRONG(s, -EINVAL, "flags 0x4");
	s.params.flags = 0;
	s.params.n_regions = 0;
	EXPECT_WRONG(s, -EINVAL, "0 regions");
	s.params.n_regions = 3;
	s.regions[1].memory_fd = s.uffds[0];
	EXPECT_WRONG(s, -EINVAL, "neither a memfd");
	s.regions[1].memory_fd = 9999;
	EXPECT_WRONG(s, -EBADF, "9999");
	s.regions[1].memory_fd = s.memory_fd;
	closed = s.uffds[1];
	s.uffds[1] = s.memory_fd;
	EXPECT_WRONG(s, -EINVAL, "not a userfaultfd");
	s.uffds[1] = 9999;
	EXPECT_WRONG(s, -EBADF, "9999");
	s.uffds[1] = closed;
	teardown(&s);
}

#define SPLIT_BYTES (UINT64_C(16) << 20)

/* ram0 over both uffds, piece after piece; what is too small to be cut is whole. */
static void script_split(struct fake *f)
{
	uint64_t bytes[2] = {0}, at = 0;

	fake_receive(f, ATTACH_REQUEST_ATTACH);
	FAKE_CHECK(f, f->request.attach.n_uffds == 2 && f->n_fds == 3);
	for (size_t i = 0; !f->server.failed_line && i < f->request.attach.n_regions; i++) {
		const struct attach_region *r = &f->request.attach.regions[i];

		if (strcmp(r->name, "ram0") != 0) {
			FAKE_CHECK(f, r->length_bytes == 2 * FAKE_PAGE && r->has_fd);
			continue;
		}
		FAKE_CHECK(f, r->uffd < 2 && r->gpa.addr == UINT64_C(0x40000000) + at);
		FAKE_CHECK(f, r->hva.addr - at == f->request.attach.regions[0].hva.addr);
		at += r->length_bytes;
		bytes[r->uffd % 2] += r->length_bytes;
	}
	FAKE_CHECK(f, at == SPLIT_BYTES && bytes[0] >= SPLIT_BYTES / 4);
	FAKE_CHECK(f, bytes[1] >= SPLIT_BYTES / 4);
	fake_ack(f, 0, "");
	fake_expect_close(f);
}

static void test_split(void **state)
{
	struct postcopy *h = NULL;
	struct setup s;
	void *memory = mmap(NULL, SPLIT_BYTES, PROT_READ | PROT_WRITE,
	                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	char text[384] = "";

	(void)state;
	assert_true(memory != MAP_FAILED);
	SETUP(s, script_split);
	s.regions[0].guest_physical_address = 0x40000000;
	s.regions[0].address = memory;
	s.regions[0].length = SPLIT_BYTES;
	s.regions[0].uffd = 99; /* ignored */
	s.params.flags = POSTCOPY_ATTACH_SPLIT;
	assert_int_equal(postcopy_attach(&s.params, &h, text, sizeof(text)), 0);
	postcopy_close(h, POSTCOPY_CLOSE_FORCE);
	teardown(&s);
	munmap(memory, SPLIT_BYTES);
}

static void test_wrong_split(void **state)
{
	struct setup s;

	(void)state;
	SETUP(s, NULL);
	s.params.flags = POSTCOPY_ATTACH_SPLIT;
	s.regions[2].flags = POSTCOPY_REGION_REGISTERED;
	EXPECT_WRONG(s, -EINVAL,
	             "region ram2: POSTCOPY_REGION_REGISTERED does not go with "
	             "POSTCOPY_ATTACH_SPLIT");
	s.regions[2].flags = 0;
	s.params.n_regions = 1; /* of 16 KiB */
	EXPECT_WRONG(s, -EINVAL, "2 uffds, but the memory can be split into 1 pieces only");
	teardown(&s);
}

static size_t open_uffds(void)
{
	size_t n = 0;

	for (int fd = 0; fd < 256; fd++)
		n += fd_is_userfaultfd(fd);
	return n;
}

static void script_hold(struct fake *f)
{
	fake_receive(f, ATTACH_REQUEST_ATTACH);
	fake_request_drop(f); /* as if the daemon had died with its copies */
	fake_ack(f, 0, "");
	fake_expect_close(f);
}

/* The last close of a uffd turns missing pages into zeros: the handle must hold one. */
static void test_keeps_uffds(void **state)
{
	struct setup s;
	struct postcopy *h = NULL;
	size_t before = open_uffds();

	(void)state;
	SETUP(s, script_hold);
	assert_int_equal(postcopy_attach(&s.params, &h, NULL, 0), 0);
	close(s.uffds[0]);
	close(s.uffds[1]);
	assert_int_equal(open_uffds(), before + 2);
	assert_int_equal(postcopy_close(h, 2), -EINVAL);
	assert_int_equal(postcopy_close(h, POSTCOPY_CLOSE_FORCE), 0);
	assert_int_equal(open_uffds(), before);
	s.uffds[0] = s.uffds[1] = -1;
	teardown(&s);
}

/* "VmFlags:" of the mapping that begins at address has the flag. */
static bool mapping_has_flag(const void *address, const char *flag)
{
	char line[512], start[32];
	bool here = false, found = false;
	FILE *maps = fopen("/proc/self/smaps", "re");

	assert_non_null(maps);
	snprintf(start, sizeof(start), "%lx-", (unsigned long)address);
	while (fgets(line, sizeof(line), maps)) {
		if (strchr(line, '-') && strchr(line, '-') < strchr(line, ' '))
			here = strncmp(line, start, strlen(start)) == 0;
		if (here && strncmp(line, "VmFlags:", 8) == 0)
			found = strstr(line, flag);
	}
	fclose(maps);
	return found;
}

/* Poison stays: a collapse of shared memory into huge pages would drop it. */
static void test_shared_memory_stays_small(void **state)
{
	struct postcopy *h = NULL;
	struct setup s;

	(void)state;
	SETUP(s, script_hold);
	assert_false(mapping_has_flag(s.shared, " nh"));
	assert_int_equal(postcopy_attach(&s.params, &h, NULL, 0), 0);
	assert_true(mapping_has_flag(s.shared, " nh"));
	assert_false(mapping_has_flag(s.anonymous, " nh"));
	postcopy_close(h, POSTCOPY_CLOSE_FORCE);
	teardown(&s);
}

static void test_small_helpers(void **state)
{
	uint8_t id[16] = {0};

	(void)state;
	assert_int_equal(postcopy_uffd_open(1), -EINVAL);
	assert_int_equal(postcopy_uuid_parse("123e4567e89b12d3a456426614174000", id), -EINVAL);
	assert_int_equal(postcopy_uuid_parse(NULL, id), -EINVAL);
	assert_int_equal(postcopy_close(NULL, 0), 0);
	assert_string_equal(postcopy_strstate(POSTCOPY_STATE_POSTCOPY_PAUSED), "postcopy-paused");
	assert_string_equal(postcopy_strstate((enum postcopy_state)99), "unknown");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_passes_everything),
	        cmocka_unit_test(test_refusal_has_code_and_text),
	        cmocka_unit_test(test_refusal_before_reading),
	        cmocka_unit_test(test_daemon_dies),
	        cmocka_unit_test(test_timeout),
	        cmocka_unit_test(test_not_our_protocol),
	        cmocka_unit_test(test_no_daemon),
	        cmocka_unit_test(test_wrong_tables),
	        cmocka_unit_test(test_wrong_parameters),
	        cmocka_unit_test(test_split),
	        cmocka_unit_test(test_wrong_split),
	        cmocka_unit_test(test_keeps_uffds),
	        cmocka_unit_test(test_shared_memory_stays_small),
	        cmocka_unit_test(test_small_helpers),
	};

	int failed = cmocka_run_group_tests(tests, NULL, NULL);

	return failed == 0 && skipped ? 77 : failed;
}
