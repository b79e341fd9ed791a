/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Promises of an export whose memory is itself still on its way to this host: no page is
 * read before the VMM has said that it is here, what is here is served while the rest
 * waits, what is lost is never zeros, and whatever a VMM answers harms only itself.
 */
#include "loop/source_fixture.h"

static struct vmm vmm_export_inbound(struct fixture *f, uint64_t n_pages)
{
	struct export_region r = memfd_region("ram", 0, n_pages);
	struct attach_request q = export_request(1, &r, 1);
	int fd = memory_new(0, n_pages);
	struct vmm v = vmm_connect(f);
	struct attach_reply reply;

	q.export.inbound = true;
	if (vmm_ask(&v, &q, &fd, 1, &reply) != 0)
		fail_msg("%s", reply.text);
	close(fd);
	assert_int_equal(vmm_freeze(&v), 0);
	return v;
}

/* The error of the Ack. */
static int vmm_tell(struct vmm *v, uint32_t number, uint64_t first, uint64_t count,
                    enum page_fate fate)
{
	struct populated_range range = {{{first * PAGE}, count * PAGE}, fate};
	struct attach_request q = {.type = ATTACH_REQUEST_POPULATED};

	q.populated.number = number;
	q.populated.ranges = &range;
	q.populated.n_ranges = count ? 1 : 0;
	return vmm_ask(v, &q, NULL, 0, NULL);
}

static void vmm_tell_all(struct vmm *v)
{
	struct attach_request q = {.type = ATTACH_REQUEST_POPULATED};

	q.populated.all = true;
	assert_int_equal(vmm_ask(v, &q, NULL, 0, NULL), 0);
}

/* The next Populate. */
static struct attach_reply vmm_asked(struct vmm *v)
{
	struct attach_reply reply;

	while (v->n_asked == 0)
		vmm_receive(v, &reply);
	reply = v->asked[0];
	memmove(v->asked, v->asked + 1, --v->n_asked * sizeof(v->asked[0]));
	return reply;
}

static void expect_asked(struct vmm *v, uint64_t first, uint64_t count)
{
	struct attach_reply ask = vmm_asked(v);

	assert_true(ask.urgent);
	assert_int_equal(ask.n_ranges, 1);
	assert_int_equal(ask.ranges[0].gpa.addr, first * PAGE);
	assert_int_equal(ask.ranges[0].length_bytes, count * PAGE);
}

/* The agent has dealt with all that was sent, and owes no page. */
static void expect_nothing(struct destination *d)
{
	struct page_message ping = {.type = PAGE_MESSAGE_PING, .ping.cookie = 1};

	destination_send(d, &ping, NULL, 0);
	destination_expect(d, PAGE_MESSAGE_PONG);
}

static void expect_answer(struct destination *d, uint64_t id, uint64_t page, enum page_kind kind)
{
	destination_expect(d, PAGE_MESSAGE_PAGES);
	assert_int_equal(d->m.pages.id, id);
	assert_int_equal(d->m.pages.runs.n_runs, 1);
	assert_int_equal(d->m.pages.runs.runs[0].first, page);
	assert_int_equal(d->m.pages.runs.runs[0].kind, kind);
	if (kind == PAGE_KIND_DATA)
		assert_page(d->m.pages.bytes, page);
}

static void test_unknown_pages_wait_and_others_pass(void **state)
{
	struct fixture *f = fixture_new(NULL);
	struct vmm v = vmm_export_inbound(f, 64);
	struct destination *d = destination_hello(f, 1, LINK_ROLE_URGENT, 0);

	(void)state;
	destination_ask(d, 10, 3, 1); /* a hole, as a page that is not here */
	expect_asked(&v, 3, 1);
	expect_nothing(d);
	destination_ask(d, 11, 8, 2);
	expect_asked(&v, 8, 2);
	destination_ask(d, 12, 3, 1); /* asked already */
	assert_int_equal(vmm_tell(&v, 0, 8, 1, PAGE_FATE_HERE), 0);
	expect_nothing(d); /* only half of it is known */
	assert_int_equal(v.n_asked, 0);
	assert_int_equal(vmm_tell(&v, 0, 9, 1, PAGE_FATE_HERE), 0);
	expect_answer(d, 11, 8, PAGE_KIND_DATA);
	assert_int_equal(vmm_tell(&v, 0, 3, 1, PAGE_FATE_HERE), 0);
	expect_answer(d, 10, 3, PAGE_KIND_ZERO);
	expect_answer(d, 12, 3, PAGE_KIND_ZERO);
	/* Known: no question any more. */
	destination_expect_page(d, 9, PAGE_KIND_DATA);
	assert_int_equal(v.n_asked, 0);
	destination_free(d);
	close(v.sock);
	fixture_free(f);
}

static void expect_notice(struct destination *d, uint64_t page, enum poison_reason reason)
{
	destination_expect(d, PAGE_MESSAGE_POISON_NOTICE);
	assert_int_equal(d->m.poison_notice.reason, reason);
	assert_int_equal(d->m.poison_notice.runs.runs[0].first, page);
}

static void test_lost_pages_are_lost(void **state)
{
	struct fixture *f = fixture_new(NULL);
	struct vmm v = vmm_export_inbound(f, 64);
	struct destination *d = destination_hello(f, 1, LINK_ROLE_URGENT, 0);

	(void)state;
	/* Told before anybody asks, as the list of the inbound migration. */
	assert_int_equal(vmm_tell(&v, 0, 20, 1, PAGE_FATE_POISONED), 0);
	expect_notice(d, 20, POISON_REASON_INHERITED);
	destination_expect_page(d, 20, PAGE_KIND_POISONED);
	destination_ask(d, 10, 3, 1);
	expect_asked(&v, 3, 1);
	assert_int_equal(vmm_tell(&v, 0, 3, 1, PAGE_FATE_LOST), 0);
	expect_notice(d, 3, POISON_REASON_READ_ERROR);
	expect_answer(d, 10, 3, PAGE_KIND_POISONED);
	/* And stay so, whatever is said later. */
	assert_int_equal(vmm_tell(&v, 0, 3, 18, PAGE_FATE_HERE), 0);
	vmm_tell_all(&v);
	destination_expect_page(d, 3, PAGE_KIND_POISONED);
	destination_expect_page(d, 20, PAGE_KIND_POISONED);
	destination_expect_page(d, 4, PAGE_KIND_DATA);
	destination_free(d);
	close(v.sock);
	fixture_free(f);
}

/* What came by the stream since the last call, up to so many pages. */
static void stream_expect(struct destination *d, uint64_t first, uint64_t count)
{
	uint64_t n = 0;

	while (n < count) {
		destination_expect(d, PAGE_MESSAGE_PAGES);
		assert_int_equal(d->m.pages.id, 0);
		for (size_t i = 0; i < d->m.pages.runs.n_runs; i++) {
			assert_int_equal(d->m.pages.runs.runs[i].first, first + n);
			n += d->m.pages.runs.runs[i].count;
		}
	}
	assert_int_equal(n, count);
}

static void test_stream_passes_over_what_is_not_here(void **state)
{
	enum {
		PAGES = 4096
	};
	struct fixture *f = fixture_new(NULL);
	struct vmm v = vmm_export_inbound(f, PAGES);
	struct destination *d = destination_hello(f, 1, LINK_ROLE_BULK, 0);
	struct attach_reply ask;

	(void)state;
	destination_resume(d, 0, PAGES, 1, NULL, true);
	ask = vmm_asked(&v);
	assert_false(ask.urgent);
	assert_true(ask.number != 0);
	assert_int_equal(ask.ranges[0].gpa.addr, 0);
	expect_nothing(d);
	/* The answer has two parts; the next question comes with the last. */
	assert_int_equal(vmm_tell(&v, 0, 100, 50, PAGE_FATE_HERE), 0);
	stream_expect(d, 100, 50);
	assert_int_equal(v.n_asked, 0);
	assert_int_equal(vmm_tell(&v, ask.number, 0, 100, PAGE_FATE_NOT_YET), 0);
	ask = vmm_asked(&v);
	assert_true(ask.number != 0 && ask.ranges[0].gpa.addr > 0);
	/* It asks again for what was not here, when it has been through all. */
	for (int i = 0; i < 20 && ask.ranges[0].gpa.addr != 0; i++) {
		assert_int_equal(vmm_tell(&v, ask.number, 0, 0, PAGE_FATE_NOT_YET), 0);
		ask = vmm_asked(&v);
	}
	assert_int_equal(ask.ranges[0].gpa.addr, 0);
	assert_int_equal(ask.ranges[0].length_bytes, 100 * PAGE);
	vmm_tell_all(&v);
	/* From its position on, then from the start; what has been sent not again. */
	for (uint64_t next = 150; destination_receive(d) == PAGE_MESSAGE_PAGES;) {
		for (size_t i = 0; i < d->m.pages.runs.n_runs; i++) {
			assert_int_equal(d->m.pages.runs.runs[i].first, next % PAGES);
			next += d->m.pages.runs.runs[i].count;
		}
	}
	assert_int_equal(d->m.type, PAGE_MESSAGE_PROGRESS);
	assert_true(d->m.progress.end);
	assert_int_equal(d->m.progress.sent, PAGES);
	destination_free(d);
	close(v.sock);
	fixture_free(f);
}

static void test_huge_units_go_as_a_whole(void **state)
{
	struct fixture *f = fixture_new(NULL);
	struct vmm v = vmm_export_inbound(f, 1024);
	struct destination *d = destination_hello(f, 1, LINK_ROLE_BULK, 0);

	(void)state;
	destination_resume(d, 0, 1024, 512, NULL, true);
	assert_false(vmm_asked(&v).urgent);
	assert_int_equal(vmm_tell(&v, 0, 0, 511, PAGE_FATE_HERE), 0);
	assert_int_equal(vmm_tell(&v, 0, 512, 512, PAGE_FATE_HERE), 0);
	stream_expect(d, 512, 512);
	expect_nothing(d);
	assert_int_equal(vmm_tell(&v, 0, 511, 1, PAGE_FATE_LOST), 0);
	stream_expect(d, 0, 512);
	destination_expect(d, PAGE_MESSAGE_PROGRESS);
	destination_free(d);
	close(v.sock);
	fixture_free(f);
}

/* More than an agent keeps: it stops reading, and forgets none. */
static void test_more_requests_than_can_wait(void **state)
{
	enum {
		PAGES = 6000
	};
	struct fixture *f = fixture_new(NULL);
	struct vmm v = vmm_export_inbound(f, PAGES);
	struct destination *d = destination_hello(f, 1, LINK_ROLE_URGENT, 0);
	static uint8_t seen[PAGES];

	(void)state;
	memset(seen, 0, sizeof(seen));
	for (uint64_t page = 0; page < PAGES; page++)
		destination_ask(d, page + 1, page, 1);
	(void)vmm_asked(&v);
	v.ignores = true;
	vmm_tell_all(&v);
	for (int n = 0; n < PAGES; n++) {
		destination_expect(d, PAGE_MESSAGE_PAGES);
		assert_int_equal(d->m.pages.runs.n_runs, 1);

		uint64_t page = d->m.pages.runs.runs[0].first;

		assert_int_equal(d->m.pages.id, page + 1);
		assert_int_equal(seen[page]++, 0);
	}
	destination_free(d);
	close(v.sock);
	fixture_free(f);
}

static void test_hostile_answers(void **state)
{
	struct fixture *f = fixture_new(NULL);
	struct vmm ordinary = vmm_export(f, 2, 8, true), v = vmm_connect(f);
	struct destination *d;

	(void)state;
	assert_int_equal(vmm_tell(&v, 0, 0, 1, PAGE_FATE_HERE), EINVAL); /* of nothing yet */
	close(v.sock);
	assert_int_equal(vmm_tell(&ordinary, 0, 0, 1, PAGE_FATE_HERE), EINVAL);
	v = vmm_export_inbound(f, 64);
	d = destination_hello(f, 1, LINK_ROLE_URGENT, 0);
	destination_ask(d, 10, 3, 1);
	expect_asked(&v, 3, 1);
	/* Outside, and of such a message nothing is taken over. */
	assert_int_equal(vmm_tell(&v, 0, 64, 1, PAGE_FATE_HERE), ERANGE);
	assert_int_equal(vmm_tell(&v, 0, 3, 62, PAGE_FATE_HERE), ERANGE);
	assert_int_equal(vmm_tell(&v, 0, UINT64_C(1) << 50, 1, PAGE_FATE_LOST), ERANGE);
	expect_nothing(d);
	/* Numbers of no question, answers that say nothing, or twice the same. */
	assert_int_equal(vmm_tell(&v, 12345, 0, 0, PAGE_FATE_HERE), 0);
	assert_int_equal(vmm_tell(&v, 0, 3, 1, PAGE_FATE_NOT_YET), 0);
	expect_nothing(d);
	assert_int_equal(vmm_tell(&v, 7, 0, 10, PAGE_FATE_HERE), 0);
	assert_int_equal(vmm_tell(&v, 7, 0, 10, PAGE_FATE_HERE), 0);
	expect_answer(d, 10, 3, PAGE_KIND_ZERO);
	destination_free(d);
	close(v.sock);
	close(ordinary.sock);
	fixture_free(f);
}

static void test_without_its_vmm_it_fails(void **state)
{
	struct fixture *f = fixture_new(NULL);
	struct vmm v = vmm_export_inbound(f, 64);
	struct destination *d = destination_hello(f, 1, LINK_ROLE_URGENT, 0);

	(void)state;
	destination_ask(d, 10, 3, 1);
	expect_asked(&v, 3, 1);
	close(v.sock);
	destination_expect_error(d, WIRE_ERROR_SOURCE_GONE, "on its way");
	destination_free(d);
	fixture_free(f);
}

static void test_without_its_vmm_when_all_is_here(void **state)
{
	struct fixture *f = fixture_new(NULL);
	struct vmm v = vmm_export_inbound(f, 64);
	struct destination *d = destination_hello(f, 1, LINK_ROLE_URGENT, 0);

	(void)state;
	vmm_tell_all(&v);
	close(v.sock);
	destination_expect_page(d, 4, PAGE_KIND_DATA);
	destination_free(d);
	fixture_free(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_unknown_pages_wait_and_others_pass),
	        cmocka_unit_test(test_lost_pages_are_lost),
	        cmocka_unit_test(test_stream_passes_over_what_is_not_here),
	        cmocka_unit_test(test_huge_units_go_as_a_whole),
	        cmocka_unit_test(test_more_requests_than_can_wait),
	        cmocka_unit_test(test_hostile_answers),
	        cmocka_unit_test(test_without_its_vmm_it_fails),
	        cmocka_unit_test(test_without_its_vmm_when_all_is_here),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
