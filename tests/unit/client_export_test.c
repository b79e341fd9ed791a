/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Promises of the source's side: memory arrives as descriptors the agent can
 * read without any right of its own; freezing, poison reports and withdrawing
 * get their own answers, also when several threads ask at once.
 */
#include "unit/client_fake.h"

static struct postcopy_export_params params_for(struct fake *f, struct postcopy_region *regions,
                                                size_t n)
{
	struct postcopy_export_params p = {
	        .socket_path = f->server.path,
	        .token = fake_token,
	        .token_len = sizeof(fake_token),
	        .peer_identity = "dst.example",
	        .regions = regions,
	        .n_regions = n,
	        .timeout_ms = 10000,
	};

	return p;
}

static struct postcopy *export_one(struct fake *f, void *memory)
{
	struct postcopy_region r = fake_region("ram0", 0, memory, 4);
	struct postcopy_export_params p = params_for(f, &r, 1);
	struct postcopy *h = NULL;
	char text[384] = "";

	if (postcopy_export(&p, &h, text, sizeof(text)) < 0)
		fail_msg("%s", text);
	return h;
}

static void script_read_memory(struct fake *f)
{
	const struct export_region *r;
	char byte = 0;

	fake_receive(f, ATTACH_REQUEST_EXPORT);
	FAKE_CHECK(f, f->request.type == ATTACH_REQUEST_EXPORT && f->n_fds == 2);
	if (f->server.failed_line)
		return;
	r = f->request.export.regions;
	FAKE_CHECK(f, strcmp(f->request.export.peer_identity, "dst.example") == 0);
	FAKE_CHECK(f, f->request.export.n_regions == 3);
	FAKE_CHECK(f, r[0].backing == BACKING_ANONYMOUS && r[1].backing == BACKING_MEMFD);
	/* The two anonymous regions share /proc/self/mem. */
	FAKE_CHECK(f, r[0].fd == r[2].fd && r[0].fd != r[1].fd);
	FAKE_CHECK(f, pread(f->fds[r[0].fd], &byte, 1, (off_t)r[0].fd_offset.off) == 1);
	FAKE_CHECK(f, byte == 'a');
	FAKE_CHECK(f, pwrite(f->fds[r[0].fd], "x", 1, (off_t)r[0].fd_offset.off) < 0);
	FAKE_CHECK(f, pread(f->fds[r[1].fd], &byte, 1, (off_t)r[1].fd_offset.off) == 1);
	FAKE_CHECK(f, byte == 'm');
	fake_ack(f, 0, "");
	fake_expect_close(f);
}

static void test_hands_over_memory(void **state)
{
	struct fake f;
	int fd;
	char *anonymous = fake_memory(4, NULL), *shared = fake_memory(4, &fd);
	struct postcopy_region r[3] = {
	        fake_region("a", 0, anonymous, 2),
	        fake_region("m", 0x10000, NULL, 2),
	        fake_region("b", 0x20000, anonymous + 2 * FAKE_PAGE, 2),
	};
	struct postcopy_export_params p;
	struct postcopy *h = NULL;

	(void)state;
	anonymous[0] = 'a';
	shared[2 * FAKE_PAGE] = 'm';
	r[1].backing = POSTCOPY_BACKING_MEMFD;
	r[1].memory_fd = fd;
	r[1].memory_offset = 2 * FAKE_PAGE;
	fake_start(&f, script_read_memory);
	p = params_for(&f, r, 3);
	assert_int_equal(postcopy_export(&p, &h, NULL, 0), 0);
	assert_int_equal(postcopy_get_state(h), POSTCOPY_STATE_EXPORTED);
	assert_int_equal(postcopy_close(h, 0), 0);
	fake_join(&f);
	munmap(anonymous, 4 * FAKE_PAGE);
	munmap(shared, 4 * FAKE_PAGE);
	close(fd);
}

static void script_life(struct fake *f)
{
	fake_receive(f, ATTACH_REQUEST_EXPORT);
	fake_state(f, "exported", "", false); /* an event may come before the Ack */
	fake_ack(f, 0, "");
	fake_receive(f, ATTACH_REQUEST_REPORT_POISON);
	FAKE_CHECK(f, f->request.report_poison.n_ranges == 2);
	FAKE_CHECK(f, f->request.report_poison.ranges[1].gpa.addr == 0x2000);
	FAKE_CHECK(f, f->request.report_poison.ranges[1].length_bytes == 0x2000);
	fake_ack(f, 0, "");
	fake_receive(f, ATTACH_REQUEST_FREEZE);
	fake_ack(f, 0, "");
	fake_receive(f, ATTACH_REQUEST_WITHDRAW);
	FAKE_CHECK(f, !f->request.withdraw.force);
	fake_state(f, "serving", "", false);
	fake_ack(f, EBUSY, "a destination has taken 12 pages");
	fake_receive(f, ATTACH_REQUEST_WITHDRAW);
	FAKE_CHECK(f, f->request.withdraw.force);
	fake_state(f, "withdrawn", "by the VMM", true);
	fake_ack(f, 0, "");
	fake_expect_close(f);
}

static void test_life_of_an_export(void **state)
{
	struct fake f;
	void *memory = fake_memory(4, NULL);
	const struct postcopy_range ranges[] = {{0, 0x1000}, {0x2000, 0x2000}};
	struct postcopy *h;
	char text[384] = "";

	(void)state;
	fake_start(&f, script_life);
	h = export_one(&f, memory);
	assert_int_equal(postcopy_report_poison(h, ranges, 2, NULL, 0), 0);
	assert_int_equal(postcopy_freeze(h, NULL, 0), 0);
	assert_int_equal(postcopy_get_state(h), POSTCOPY_STATE_FROZEN);
	assert_int_equal(postcopy_close(h, 0), -EBUSY);
	assert_int_equal(postcopy_withdraw(h, 0, text, sizeof(text)), -EBUSY);
	assert_string_equal(text, "a destination has taken 12 pages");
	assert_int_equal(postcopy_get_state(h), POSTCOPY_STATE_SERVING);
	assert_int_equal(postcopy_withdraw(h, 1, NULL, 0), 0);
	assert_int_equal(postcopy_get_state(h), POSTCOPY_STATE_WITHDRAWN);
	assert_int_equal(postcopy_close(h, 0), 0);
	fake_join(&f);
	munmap(memory, 4 * FAKE_PAGE);
}

static void script_accept(struct fake *f)
{
	fake_receive(f, ATTACH_REQUEST_EXPORT);
	fake_ack(f, 0, "");
	fake_expect_close(f);
}

static void test_wrong_ranges(void **state)
{
	static const struct postcopy_range wrong[] = {
	        {0x800, 0x1000}, {0, 0}, {0, 0x800}, {UINT64_MAX - 0xfff, 0x2000}};
	static const struct postcopy_range many[POSTCOPY_RANGES_MAX + 1];
	struct fake f;
	void *memory = fake_memory(4, NULL);
	struct postcopy *h;

	(void)state;
	fake_start(&f, script_accept);
	h = export_one(&f, memory);
	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++)
		assert_int_equal(postcopy_report_poison(h, &wrong[i], 1, NULL, 0), -EINVAL);
	assert_int_equal(postcopy_report_poison(h, NULL, 0, NULL, 0), -EINVAL);
	assert_int_equal(postcopy_report_poison(h, many, ARRAY_SIZE(many), NULL, 0), -E2BIG);
	assert_int_equal(postcopy_close(h, 0), 0);
	fake_join(&f);
	munmap(memory, 4 * FAKE_PAGE);
}

static void test_wrong_identity(void **state)
{
	struct fake f = {.server.path = "/nonexistent"};
	void *memory = fake_memory(4, NULL);
	struct postcopy_region r = fake_region("ram0", 0, memory, 4);
	struct postcopy_export_params p = params_for(&f, &r, 1);
	struct postcopy *h = NULL;
	char text[384] = "";

	(void)state;
	p.peer_identity = NULL;
	assert_int_equal(postcopy_export(&p, &h, text, sizeof(text)), -EINVAL);
	assert_non_null(strstr(text, "identity"));
	munmap(memory, 4 * FAKE_PAGE);
}

#define REPORTERS 8
#define REPORTS 50

/* Refuses the pages of odd reporters, so that a swapped answer shows. */
static void script_many(struct fake *f)
{
	fake_receive(f, ATTACH_REQUEST_EXPORT);
	fake_ack(f, 0, "");
	for (int i = 0; i < REPORTERS * REPORTS && !f->server.failed_line; i++) {
		uint64_t page;
		char text[32];

		fake_receive(f, ATTACH_REQUEST_REPORT_POISON);
		if (f->server.failed_line)
			return;
		page = f->request.report_poison.ranges[0].gpa.addr / FAKE_PAGE;
		snprintf(text, sizeof(text), "page %d", (int)page);
		if (i % 3 == 0)
			fake_state(f, "serving", text, false);
		fake_ack(f, page % 2 ? EIO : 0, text);
	}
	fake_state(f, "released", "", true);
	fake_expect_close(f);
}

struct reporter {
	pthread_t thread;
	struct postcopy *h;
	uint64_t page;
	int wrong;
};

static void *reporter_run(void *arg)
{
	struct reporter *r = arg;
	struct postcopy_range range = {r->page * FAKE_PAGE, FAKE_PAGE};
	char want[32], text[384];

	snprintf(want, sizeof(want), "page %d", (int)r->page);
	for (int i = 0; i < REPORTS; i++) {
		int code = postcopy_report_poison(r->h, &range, 1, text, sizeof(text));

		if (code != (r->page % 2 ? -EIO : 0) || (code < 0 && strcmp(text, want) != 0))
			r->wrong++;
	}
	return NULL;
}

/* Each thread gets its own answer while another waits for a state. */
static void test_many_threads(void **state)
{
	struct fake f;
	void *memory = fake_memory(4, NULL);
	struct reporter reporters[REPORTERS] = {0};
	struct postcopy *h;

	(void)state;
	fake_start(&f, script_many);
	h = export_one(&f, memory);
	for (size_t i = 0; i < REPORTERS; i++) {
		reporters[i].h = h;
		reporters[i].page = i;
		assert_int_equal(
		        pthread_create(&reporters[i].thread, NULL, reporter_run, &reporters[i]), 0);
	}
	assert_int_equal(postcopy_wait(h, POSTCOPY_STATE_BIT(POSTCOPY_STATE_RELEASED), 20000), 0);
	for (size_t i = 0; i < REPORTERS; i++) {
		pthread_join(reporters[i].thread, NULL);
		assert_int_equal(reporters[i].wrong, 0);
	}
	assert_int_equal(postcopy_close(h, 0), 0);
	fake_join(&f);
	munmap(memory, 4 * FAKE_PAGE);
}

/* Answers the first report only when its caller has given up, then the second. */
static void script_late(struct fake *f)
{
	fake_receive(f, ATTACH_REQUEST_EXPORT);
	fake_ack(f, 0, "");
	fake_receive(f, ATTACH_REQUEST_REPORT_POISON);
	fake_wait_go(f);
	fake_ack(f, EIO, "the first");
	fake_receive(f, ATTACH_REQUEST_REPORT_POISON);
	fake_ack(f, 0, "the second");
	fake_expect_close(f);
}

static void test_late_answer_is_not_the_next_ones(void **state)
{
	struct fake f;
	void *memory = fake_memory(4, NULL);
	struct postcopy_region r = fake_region("ram0", 0, memory, 4);
	const struct postcopy_range range = {0, FAKE_PAGE};
	struct postcopy_export_params p;
	struct postcopy *h = NULL;

	(void)state;
	fake_start(&f, script_late);
	p = params_for(&f, &r, 1);
	p.timeout_ms = 300;
	assert_int_equal(postcopy_export(&p, &h, NULL, 0), 0);
	assert_int_equal(postcopy_report_poison(h, &range, 1, NULL, 0), -ETIMEDOUT);
	sem_post(&f.go);
	assert_int_equal(postcopy_report_poison(h, &range, 1, NULL, 0), 0);
	assert_int_equal(postcopy_close(h, 0), 0);
	fake_join(&f);
	munmap(memory, 4 * FAKE_PAGE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_hands_over_memory),
	        cmocka_unit_test(test_life_of_an_export),
	        cmocka_unit_test(test_wrong_ranges),
	        cmocka_unit_test(test_wrong_identity),
	        cmocka_unit_test(test_many_threads),
	        cmocka_unit_test(test_late_answer_is_not_the_next_ones),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
