/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Promises over a daemon's restart: an attach or export that got no answer was
 * accepted; every other call asks again by itself, once each time, and gets the
 * answer to what it asked last; none takes longer than its timeout.
 */
#include "unit/client_fake.h"

#include "core/clock.h"

/* CTest shall count a program that could not test everything as skipped, not as passed. */
static bool skipped;
static void *memory;

static struct postcopy *export_start(struct fake *f, void (*script)(struct fake *f), int timeout_ms)
{
	struct postcopy_region r = fake_region("ram0", 0, memory, 4);
	struct postcopy_export_params p = {
	        .token = fake_token,
	        .token_len = sizeof(fake_token),
	        .peer_identity = "dst.example",
	        .regions = &r,
	        .n_regions = 1,
	        .timeout_ms = timeout_ms,
	};
	struct postcopy *h = NULL;
	char text[384] = "";

	fake_start(f, script);
	p.socket_path = f->server.path;
	if (postcopy_export(&p, &h, text, sizeof(text)) < 0)
		fail_msg("%s", text);
	return h;
}

/* NULL without a userfaultfd. */
static struct postcopy *attach_start(struct fake *f, void (*script)(struct fake *f))
{
	struct postcopy_region r = fake_region("ram0", 0, memory, 4);
	int uffd = postcopy_uffd_open(0);
	struct postcopy_attach_params p = {
	        .token = fake_token,
	        .token_len = sizeof(fake_token),
	        .uffds = &uffd,
	        .n_uffds = 1,
	        .regions = &r,
	        .n_regions = 1,
	        .timeout_ms = 10000,
	};
	struct postcopy *h = NULL;
	char text[384] = "";

	if (uffd < 0) {
		print_message("no userfaultfd: %s\n", strerror(-uffd));
		skipped = true;
		skip();
		return NULL;
	}
	fake_start(f, script);
	p.socket_path = f->server.path;
	if (postcopy_attach(&p, &h, text, sizeof(text)) < 0)
		fail_msg("%s", text);
	close(uffd);
	return h;
}

static void finish(struct fake *f, struct postcopy *h)
{
	assert_int_equal(postcopy_close(h, POSTCOPY_CLOSE_FORCE), 0);
	fake_join(f);
}

/* The Ack of the daemon that died may still come, or come from nobody: it is not waited for. */
static void script_attach_unanswered(struct fake *f)
{
	fake_receive(f, ATTACH_REQUEST_ATTACH);
	FAKE_CHECK(f, f->request.id == 1 && f->n_fds == 1);
	fake_restarted(f, "postcopy-paused", "the daemon was restarted; connecting");
	fake_wait_go(f);
	fake_ack_to(f, 1, EBUSY, "too late");
	fake_state(f, "completed", "", true);
	fake_expect_close(f);
}

static void test_attach_was_accepted(void **state)
{
	struct fake f;
	struct postcopy *h = attach_start(&f, script_attach_unanswered);
	struct postcopy_status status;

	(void)state;
	if (!h)
		return;
	assert_int_equal(postcopy_process(h), 1);
	postcopy_get_status(h, &status);
	assert_int_equal(status.state, POSTCOPY_STATE_POSTCOPY_PAUSED);
	assert_string_equal(status.text, "the daemon was restarted; connecting");
	assert_int_equal(status.connected, 1);
	sem_post(&f.go);
	assert_int_equal(postcopy_wait(h, POSTCOPY_STATE_BIT(POSTCOPY_STATE_COMPLETED), 10000), 0);
	finish(&f, h);
}

static void script_export_unanswered(struct fake *f)
{
	fake_receive(f, ATTACH_REQUEST_EXPORT);
	FAKE_CHECK(f, f->request.id == 1);
	fake_restarted(f, "frozen", "");
	fake_expect_close(f); /* and nothing was sent again */
}

static void test_export_was_accepted(void **state)
{
	struct fake f;
	struct postcopy *h = export_start(&f, script_export_unanswered, 10000);

	(void)state;
	assert_int_equal(postcopy_get_state(h), POSTCOPY_STATE_FROZEN);
	finish(&f, h);
}

static void export_accept(struct fake *f)
{
	fake_receive(f, ATTACH_REQUEST_EXPORT);
	fake_ack_to(f, f->request.id, 0, "");
}

static void script_freeze_and_report(struct fake *f)
{
	export_accept(f);
	fake_receive(f, ATTACH_REQUEST_FREEZE);
	FAKE_CHECK(f, f->request.id == 2);
	fake_restarted(f, "exported", "");
	fake_ack_to(f, 2, EIO, "of the first time, before the second came");
	fake_receive(f, ATTACH_REQUEST_FREEZE);
	FAKE_CHECK(f, f->request.id == 3);
	fake_ack_to(f, 2, EIO, "of the first time, after the second came");
	fake_ack_to(f, 3, 0, "");
	/* Sent again once: the next that comes is something else. */
	fake_receive(f, ATTACH_REQUEST_REPORT_POISON);
	FAKE_CHECK(f, f->request.id == 4 && f->request.report_poison.n_ranges == 2);
	fake_restarted(f, "frozen", "");
	fake_receive(f, ATTACH_REQUEST_REPORT_POISON);
	FAKE_CHECK(f, f->request.id == 5 && f->request.report_poison.n_ranges == 2);
	FAKE_CHECK(f, f->request.report_poison.ranges[1].gpa.addr == 0x3000);
	fake_restarted(f, "frozen", "");
	fake_receive(f, ATTACH_REQUEST_REPORT_POISON);
	FAKE_CHECK(f, f->request.id == 6 && f->request.report_poison.n_ranges == 2);
	fake_ack_to(f, 6, EINVAL, "the last word");
	fake_expect_close(f);
}

static void test_requests_are_sent_again(void **state)
{
	static const struct postcopy_range ranges[] = {{0, 0x1000}, {0x3000, 0x1000}};
	struct fake f;
	struct postcopy *h = export_start(&f, script_freeze_and_report, 10000);
	char text[384] = "";

	(void)state;
	assert_int_equal(postcopy_freeze(h, text, sizeof(text)), 0);
	assert_string_equal(text, "");
	assert_int_equal(postcopy_report_poison(h, ranges, 2, text, sizeof(text)), -EINVAL);
	assert_string_equal(text, "the last word");
	finish(&f, h);
}

/* A request that the client has given up may meet its closed socket. */
static void reply_if_there(struct fake *f, const struct attach_reply *reply)
{
	_cleanup_free_ uint8_t *body = NULL;
	size_t len = 0;

	FAKE_CHECK(f, attach_reply_encode(reply, &body, &len) == 0);
	(void)fdpass_send_message(f->server.sock, body, len, NULL, 0);
}

/* Every request is answered with another restart, until the client closes. */
static void script_restart_for_ever(struct fake *f)
{
	const struct attach_reply restarted = {
	        .type = ATTACH_REPLY_STATE, .state = "exported", .restarted = true};
	uint8_t *body;
	size_t len, n = 0;

	export_accept(f);
	while (fdpass_recv_message(f->server.sock, &body, &len, NULL, 0, NULL,
	                           10 * FAKE_SECONDS_US) == 0) {
		free(body);
		reply_if_there(f, &restarted);
		n++;
	}
	FAKE_CHECK(f, n > 1);
}

static void test_endless_restarts_have_a_deadline(void **state)
{
	struct fake f;
	struct postcopy *h = export_start(&f, script_restart_for_ever, 300);
	uint64_t start = clock_monotonic_us();
	char text[384] = "";

	(void)state;
	assert_int_equal(postcopy_freeze(h, text, sizeof(text)), -ETIMEDOUT);
	assert_non_null(strstr(text, "300 ms"));
	assert_in_range(clock_monotonic_us() - start, 300000, 10 * FAKE_SECONDS_US);
	finish(&f, h);
}

static void script_abandoned(struct fake *f)
{
	export_accept(f);
	fake_receive(f, ATTACH_REQUEST_FREEZE);
	fake_wait_go(f);
	fake_restarted(f, "exported", "");
	fake_receive(f, ATTACH_REQUEST_FREEZE); /* nobody waits for the first one any more */
	FAKE_CHECK(f, f->request.id == 3);
	fake_ack_to(f, 3, 0, "");
	fake_expect_close(f);
}

static void test_who_gave_up_is_not_sent_again(void **state)
{
	struct fake f;
	struct postcopy *h = export_start(&f, script_abandoned, 300);

	(void)state;
	assert_int_equal(postcopy_process(h), 1); /* "exported" */
	assert_int_equal(postcopy_freeze(h, NULL, 0), -ETIMEDOUT);
	sem_post(&f.go);
	/* The restart first: it would lose the next request, too. */
	while (postcopy_process(h) == 0)
		poll(&(struct pollfd){.fd = postcopy_fd(h), .events = POLLIN}, 1, 10000);
	assert_int_equal(postcopy_freeze(h, NULL, 0), 0);
	finish(&f, h);
}

static void script_dies_after_restart(struct fake *f)
{
	export_accept(f);
	fake_receive(f, ATTACH_REQUEST_FREEZE);
	fake_restarted(f, "exported", "");
	close_fd(&f->server.sock);
}

static void test_end_after_a_restart(void **state)
{
	struct fake f;
	struct postcopy *h = export_start(&f, script_dies_after_restart, 10000);
	int r = postcopy_freeze(h, NULL, 0);

	(void)state;
	/* It was sent again, or found the end before. */
	assert_true(r == -ECONNRESET || r == -ENOTCONN);
	finish(&f, h);
}

static void fake_list_to(struct fake *f, uint32_t id, uint64_t gpa)
{
	struct attach_reply reply = {.type = ATTACH_REPLY_POISON_LIST, .id = id, .n_ranges = 1};

	reply.ranges[0] = (struct poison_range){{gpa}, FAKE_PAGE};
	fake_reply(f, &reply);
}

static void script_lists(struct fake *f)
{
	fake_receive(f, ATTACH_REQUEST_ATTACH);
	fake_ack_to(f, 1, 0, "");
	fake_receive(f, ATTACH_REQUEST_LIST_POISON);
	fake_list_to(f, f->request.id + 7, 0x7000);
	fake_list_to(f, f->request.id, 0x2000);
	fake_receive(f, ATTACH_REQUEST_LIST_POISON);
	fake_list_to(f, f->request.id - 1, 0x9000);
	fake_restarted(f, "postcopy-paused", "");
	fake_list_to(f, f->request.id, 0x8000);
	fake_receive(f, ATTACH_REQUEST_LIST_POISON);
	fake_list_to(f, f->request.id, 0x3000);
	fake_list_to(f, f->request.id, 0xa000); /* twice: nobody asks any more */
	fake_state(f, "completed", "", true);
	fake_expect_close(f);
}

static void test_lists_of_others_are_dropped(void **state)
{
	struct fake f;
	struct postcopy *h = attach_start(&f, script_lists);
	struct postcopy_range range;
	size_t n = 0;

	(void)state;
	if (!h)
		return;
	assert_int_equal(postcopy_list_poison(h, &range, 1, &n, NULL, 0), 0);
	assert_int_equal(n, 1);
	assert_int_equal(range.guest_physical_address, 0x2000);
	assert_int_equal(postcopy_list_poison(h, &range, 1, &n, NULL, 0), 0);
	assert_int_equal(range.guest_physical_address, 0x3000);
	assert_int_equal(postcopy_wait(h, POSTCOPY_STATE_BIT(POSTCOPY_STATE_COMPLETED), 10000), 0);
	finish(&f, h);
}

#define REPORTERS 8
#define REPORTS 200

/* A restart in place of every seventh answer. Odd pages are refused, so that a swapped one shows. */
static void script_restart_often(struct fake *f)
{
	uint8_t *body;
	size_t len;

	export_accept(f);
	for (unsigned n = 1; fdpass_recv_message(f->server.sock, &body, &len, NULL, 0, NULL,
	                                         10 * FAKE_SECONDS_US) == 0;
	     n++) {
		struct attach_reply reply = {.type = ATTACH_REPLY_ACK};
		uint64_t page;

		fake_request_drop(f);
		FAKE_CHECK(f, attach_request_decode(body, len, &f->request, NULL) == 0);
		free(body);
		if (f->server.failed_line)
			return;
		page = f->request.report_poison.ranges[0].gpa.addr / FAKE_PAGE;
		reply.id = f->request.id;
		reply.error = page % 2 ? EIO : 0;
		snprintf(reply.text, sizeof(reply.text), "page %d", (int)page);
		if (n % 7 == 0)
			reply = (struct attach_reply){
			        .type = ATTACH_REPLY_STATE, .state = "serving", .restarted = true};
		reply_if_there(f, &reply);
	}
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

/* Each thread gets the answer to its own question, whatever is lost in between. */
static void test_many_threads(void **state)
{
	struct fake f;
	struct postcopy *h = export_start(&f, script_restart_often, 20000);
	struct reporter reporters[REPORTERS] = {0};

	(void)state;
	for (size_t i = 0; i < REPORTERS; i++) {
		reporters[i].h = h;
		reporters[i].page = i;
		assert_int_equal(
		        pthread_create(&reporters[i].thread, NULL, reporter_run, &reporters[i]), 0);
	}
	for (size_t i = 0; i < REPORTERS; i++) {
		pthread_join(reporters[i].thread, NULL);
		assert_int_equal(reporters[i].wrong, 0);
	}
	finish(&f, h);
}

static int memory_map(void **state)
{
	(void)state;
	memory = fake_memory(4, NULL);
	return 0;
}

static int memory_unmap(void **state)
{
	(void)state;
	return munmap(memory, 4 * FAKE_PAGE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_attach_was_accepted),
	        cmocka_unit_test(test_export_was_accepted),
	        cmocka_unit_test(test_requests_are_sent_again),
	        cmocka_unit_test(test_endless_restarts_have_a_deadline),
	        cmocka_unit_test(test_who_gave_up_is_not_sent_again),
	        cmocka_unit_test(test_end_after_a_restart),
	        cmocka_unit_test(test_lists_of_others_are_dropped),
	        cmocka_unit_test(test_many_threads),
	};
	int failed = cmocka_run_group_tests(tests, memory_map, memory_unmap);

	return failed ? failed : skipped ? 77 : 0;
}
