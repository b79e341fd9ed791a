/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Promises of an export whose memory still arrives: what is here is told at once however
 * many pages do not come, what is missing is fetched through the userfaultfd, what is lost
 * is told as lost, and closing waits for no page.
 */
#include "unit/client_fake.h"

#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/ioctl.h>

#include "core/clock.h"
#include "core/uffd_abi.h"

#define PAGES 64

/* Threads that are no worker: this one, and one of ThreadSanitizer's. */
#ifdef __SANITIZE_THREAD__
#define OWN_THREADS 2
#else
#define OWN_THREADS 1
#endif

/* A daemon (the inbound side) and an agent, and what the agent was told. */
struct bed {
	struct fake daemon, agent;
	int uffd;
	uint8_t *memory;
	struct postcopy *in, *out;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	enum page_fate fates[PAGES];
	uint32_t answered; /* the last question that has its answer */
	bool all;
	unsigned n_lists; /* how often the daemon was asked what is lost */
};

static struct bed bed;

static void bed_wait(bool (*is_so)(uint64_t), uint64_t arg, const char *what)
{
	struct timespec until;
	int r = 0;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += 20;
	pthread_mutex_lock(&bed.lock);
	while (r == 0 && !is_so(arg))
		r = pthread_cond_timedwait(&bed.changed, &bed.lock, &until);
	pthread_mutex_unlock(&bed.lock);
	if (r != 0)
		fail_msg("never: %s %d", what, (int)arg);
}

/* The next request, whatever it is; false at the end of the connection. */
static bool request_take(struct fake *f)
{
	_cleanup_free_ uint8_t *body = NULL;
	size_t len = 0;

	fake_request_drop(f);
	if (fdpass_recv_message(f->server.sock, &body, &len, f->fds, ATTACH_FDS_MAX, &f->n_fds,
	                        60 * FAKE_SECONDS_US) < 0)
		return false;
	FAKE_CHECK(f, attach_request_decode(body, len, &f->request, NULL) == 0);
	return f->request.type != ATTACH_REQUEST_NONE;
}

/* To somebody who may have closed by now: threads of the library still tell, then. */
static void reply_to(struct fake *f, struct attach_reply *reply)
{
	_cleanup_free_ uint8_t *body = NULL;
	size_t len = 0;

	reply->id = f->request.id;
	FAKE_CHECK(f, attach_reply_encode(reply, &body, &len) == 0);
	(void)fdpass_send_message(f->server.sock, body, len, NULL, 0);
}

static void ack_to(struct fake *f)
{
	struct attach_reply reply = {.type = ATTACH_REPLY_ACK};

	reply_to(f, &reply);
}

/* Page 1 is lost, and one that is outside of what is exported. */
static void script_daemon(struct fake *f)
{
	static const struct poison_range lost[] = {{{FAKE_PAGE}, FAKE_PAGE},
	                                           {{PAGES * FAKE_PAGE}, FAKE_PAGE}};

	while (request_take(f)) {
		if (f->request.type == ATTACH_REQUEST_LIST_POISON) {
			struct attach_reply reply = {.type = ATTACH_REPLY_POISON_LIST,
			                             .n_ranges = ARRAY_SIZE(lost)};

			memcpy(reply.ranges, lost, sizeof(lost));
			pthread_mutex_lock(&bed.lock);
			bed.n_lists++;
			pthread_cond_broadcast(&bed.changed);
			pthread_mutex_unlock(&bed.lock);
			reply_to(f, &reply);
		} else {
			ack_to(f);
		}
	}
}

static void populated_take(const struct attach_request *q)
{
	pthread_mutex_lock(&bed.lock);
	for (size_t i = 0; i < q->populated.n_ranges; i++) {
		const struct populated_range *r = &q->populated.ranges[i];

		for (uint64_t at = 0; at < r->range.length_bytes; at += FAKE_PAGE) {
			enum page_fate *f =
			        &bed.fates[(r->range.gpa.addr + at) / FAKE_PAGE % PAGES];

			/* A worker may have told more by then: as the agent, we forget nothing. */
			if (r->fate != PAGE_FATE_NOT_YET || *f == 0)
				*f = r->fate;
		}
	}
	if (q->populated.number)
		bed.answered = q->populated.number;
	bed.all |= q->populated.all;
	pthread_cond_broadcast(&bed.changed);
	pthread_mutex_unlock(&bed.lock);
}

static void script_agent(struct fake *f)
{
	while (request_take(f)) {
		if (f->request.type == ATTACH_REQUEST_EXPORT)
			FAKE_CHECK(f, f->request.export.inbound);
		if (f->request.type == ATTACH_REQUEST_POPULATED)
			populated_take(&f->request);
		ack_to(f);
	}
}

static struct postcopy_region the_region(void)
{
	struct postcopy_region r = fake_region("ram0", 0, bed.memory, PAGES);

	r.flags = POSTCOPY_REGION_REGISTERED;
	return r;
}

static struct postcopy_export_params export_params(struct postcopy_region *r)
{
	struct postcopy_export_params p = {
	        .socket_path = bed.agent.server.path,
	        .token = fake_token,
	        .token_len = sizeof(fake_token),
	        .peer_identity = "dst.example",
	        .regions = r,
	        .n_regions = 1,
	        .timeout_ms = 10000,
	        .flags = POSTCOPY_EXPORT_INBOUND,
	        .inbound = bed.in,
	};

	r->flags = 0;
	return p;
}

static void uffd_make(void)
{
	struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_POISON};
	struct uffdio_register reg = {.range = {(uintptr_t)bed.memory, PAGES * FAKE_PAGE},
	                              .mode = UFFDIO_REGISTER_MODE_MISSING};

	bed.uffd = postcopy_uffd_open(0);
	if (bed.uffd < 0 || ioctl(bed.uffd, UFFDIO_API, &api) < 0)
		skip(); /* no userfaultfd here, or none that can poison */
	assert_int_equal(ioctl(bed.uffd, UFFDIO_REGISTER, &reg), 0);
}

static void page_place(uint64_t page)
{
	static const uint8_t content[FAKE_PAGE] __attribute__((aligned(FAKE_PAGE))) = {1};
	struct uffdio_copy copy = {.dst = (uintptr_t)bed.memory + page * FAKE_PAGE,
	                           .src = (uintptr_t)content,
	                           .len = FAKE_PAGE};

	assert_int_equal(ioctl(bed.uffd, UFFDIO_COPY, &copy), 0);
}

static void page_poison(uint64_t page)
{
	struct uffdio_poison poison = {
	        .range = {(uintptr_t)bed.memory + page * FAKE_PAGE, FAKE_PAGE}};

	assert_int_equal(ioctl(bed.uffd, UFFDIO_POISON, &poison), 0);
}

/* Memory of which page 0 is here, page 1 is lost, and the others are on their way. */
static void inbound_begin(void)
{
	struct postcopy_region r;
	struct postcopy_attach_params p = {.token = fake_token,
	                                   .token_len = sizeof(fake_token),
	                                   .uffds = &bed.uffd,
	                                   .n_uffds = 1,
	                                   .regions = &r,
	                                   .n_regions = 1,
	                                   .timeout_ms = 10000};

	memset(&bed, 0, sizeof(bed));
	pthread_mutex_init(&bed.lock, NULL);
	pthread_cond_init(&bed.changed, NULL);
	bed.memory = fake_memory(PAGES, NULL);
	uffd_make();
	r = the_region();
	page_place(0);
	page_poison(1);
	fake_start(&bed.daemon, script_daemon);
	p.socket_path = bed.daemon.server.path;
	assert_int_equal(postcopy_attach(&p, &bed.in, NULL, 0), 0);
	fake_state(&bed.daemon, "postcopy-active", "", false);
	assert_int_equal(
	        postcopy_wait(bed.in, POSTCOPY_STATE_BIT(POSTCOPY_STATE_POSTCOPY_ACTIVE), 10000),
	        0);
	fake_start(&bed.agent, script_agent);
}

static void export_begin(void)
{
	struct postcopy_region r = the_region();
	struct postcopy_export_params p = export_params(&r);
	char text[384] = "";

	if (postcopy_export(&p, &bed.out, text, sizeof(text)) < 0)
		fail_msg("%s", text);
}

/*
 * Workers that wait end when the last userfaultfd closes, and look at their page once
 * more: before that, its address must not be another test's.
 */
static void memory_end(void)
{
	uint64_t deadline_us = clock_monotonic_us() + 20 * FAKE_SECONDS_US;
	size_t n_tasks;

	close(bed.uffd);
	do {
		DIR *tasks = opendir("/proc/self/task");

		assert_non_null(tasks);
		for (n_tasks = 0; readdir(tasks);)
			n_tasks++;
		closedir(tasks);
		if (clock_monotonic_us() > deadline_us)
			fail_msg("%zu threads do not end", n_tasks - 2 - OWN_THREADS);
		sched_yield();
	} while (n_tasks > 2 + OWN_THREADS); /* "." and ".." */
	munmap(bed.memory, PAGES * FAKE_PAGE);
}

static void bed_end(void)
{
	assert_int_equal(postcopy_close(bed.out, POSTCOPY_CLOSE_FORCE), 0);
	assert_int_equal(postcopy_close(bed.in, POSTCOPY_CLOSE_FORCE), 0);
	fake_join(&bed.daemon);
	fake_join(&bed.agent);
	memory_end();
}

/* As the agent asks; number 0: urgently. */
static void ask(uint32_t number, uint64_t first, uint64_t count)
{
	struct attach_reply reply = {.type = ATTACH_REPLY_POPULATE,
	                             .number = number,
	                             .urgent = number == 0,
	                             .n_ranges = 1,
	                             .ranges = {{{first * FAKE_PAGE}, count * FAKE_PAGE}}};

	fake_reply(&bed.agent, &reply);
}

static bool is_here(uint64_t page)
{
	return bed.fates[page] == PAGE_FATE_HERE;
}

static bool is_poisoned(uint64_t page)
{
	return bed.fates[page] == PAGE_FATE_POISONED;
}

static bool is_lost(uint64_t page)
{
	return bed.fates[page] == PAGE_FATE_LOST;
}

static bool is_answered(uint64_t number)
{
	return bed.answered == number;
}

static bool all_told(uint64_t unused)
{
	(void)unused;
	return bed.all;
}

static bool lists_asked(uint64_t n)
{
	return bed.n_lists >= n;
}

static enum page_fate fate(uint64_t page)
{
	enum page_fate now;

	pthread_mutex_lock(&bed.lock);
	now = bed.fates[page];
	pthread_mutex_unlock(&bed.lock);
	return now;
}

/* The next fault, as the daemon reads it; its page. */
static uint64_t fault_read(void)
{
	struct pollfd p = {.fd = bed.uffd, .events = POLLIN};
	struct uffd_msg msg;

	assert_int_equal(fcntl(bed.uffd, F_SETFL, O_NONBLOCK), 0);
	assert_int_equal(poll(&p, 1, 20000), 1);
	assert_int_equal(read(bed.uffd, &msg, sizeof(msg)), sizeof(msg));
	assert_int_equal(msg.event, UFFD_EVENT_PAGEFAULT);
	return (msg.arg.pagefault.address - (uintptr_t)bed.memory) / FAKE_PAGE;
}

static void test_wrong_parameters(void **state)
{
	struct postcopy_region r;
	struct postcopy_export_params p;
	struct postcopy *h = NULL;
	char text[384] = "";
	int fd;
	void *file;

	(void)state;
	inbound_begin();
	r = the_region();
	p = export_params(&r);
	p.inbound = NULL;
	assert_int_equal(postcopy_export(&p, &h, text, sizeof(text)), -EINVAL);
	assert_non_null(strstr(text, "without the handle"));
	p = export_params(&r);
	p.flags = 0;
	assert_int_equal(postcopy_export(&p, &h, text, sizeof(text)), -EINVAL);
	assert_non_null(strstr(text, "not set"));
	p.flags = POSTCOPY_EXPORT_INBOUND | 2;
	assert_int_equal(postcopy_export(&p, &h, text, sizeof(text)), -EINVAL);
	assert_non_null(strstr(text, "0x2"));
	/* A file alone does not tell what of it is here. */
	file = fake_memory(PAGES, &fd);
	p = export_params(&r);
	r.backing = POSTCOPY_BACKING_MEMFD;
	r.memory_fd = fd;
	r.address = NULL;
	assert_int_equal(postcopy_export(&p, &h, text, sizeof(text)), -EINVAL);
	assert_non_null(strstr(text, "the address is NULL"));
	r.address = file; /* not where it arrives: holes there read as zeros */
	assert_int_equal(postcopy_export(&p, &h, text, sizeof(text)), -EINVAL);
	assert_non_null(strstr(text, "at the address that was attached"));
	munmap(file, PAGES * FAKE_PAGE);
	close(fd);
	assert_int_equal(postcopy_close(bed.in, POSTCOPY_CLOSE_FORCE), 0); /* nothing uses it */
	/* The fake agent was never called. */
	int sock = unix_connect(bed.agent.server.path, NULL);

	close(sock);
	fake_join(&bed.daemon);
	fake_join(&bed.agent);
	memory_end();
}

static void test_what_is_where(void **state)
{
	(void)state;
	inbound_begin();
	export_begin();
	bed_wait(is_poisoned, 1, "lost page told ahead");
	ask(5, 0, 8);
	bed_wait(is_answered, 5, "answer to the stream");
	assert_int_equal(fate(0), PAGE_FATE_HERE);
	for (uint64_t page = 2; page < 8; page++)
		assert_int_equal(fate(page), PAGE_FATE_NOT_YET);
	bed_wait(is_poisoned, 1, "lost page found");
	/* Nothing was touched for the stream. */
	struct pollfd p = {.fd = bed.uffd, .events = POLLIN};

	assert_int_equal(poll(&p, 1, 0), 0);
	ask(0, 3, 1);
	assert_int_equal(fault_read(), 3);
	assert_int_equal(fate(3), PAGE_FATE_NOT_YET);
	page_place(3);
	bed_wait(is_here, 3, "page that was fetched");
	ask(0, 4, 1);
	assert_int_equal(fault_read(), 4);
	page_poison(4);
	bed_wait(is_poisoned, 4, "page that turned out lost");
	bed_end();
}

static void test_what_is_here_passes_what_waits(void **state)
{
	(void)state;
	inbound_begin();
	export_begin();
	for (uint64_t page = 2; page < 60; page++)
		ask(0, page, 1); /* more than there are workers */
	ask(0, 0, 1);
	bed_wait(is_here, 0, "page that is here");
	for (uint64_t page = 2; page < 60; page++)
		page_place(page);
	for (uint64_t page = 2; page < 60; page++)
		bed_wait(is_here, page, "page that was fetched");
	bed_end();
}

/* A stretch with a lost page in it: its neighbours are not lost. */
static void test_neighbours_of_lost_pages(void **state)
{
	(void)state;
	inbound_begin();
	export_begin();
	ask(0, 16, 16); /* one worker fetches it all */
	assert_int_equal(fault_read(), 16);
	for (uint64_t page = 17; page < 32; page++)
		if (page != 20)
			page_place(page);
	page_poison(20);
	page_place(16);
	bed_wait(is_poisoned, 20, "lost page");
	for (uint64_t page = 16; page < 32; page++)
		if (page != 20)
			bed_wait(is_here, page, "its neighbour");
	bed_end();
}

static void test_migration_fails(void **state)
{
	(void)state;
	inbound_begin();
	export_begin();
	for (uint64_t page = 2; page < 40; page++)
		ask(0, page, 1);
	(void)fault_read(); /* somebody waits */
	fake_state(&bed.daemon, "failed", "the source is gone", true);
	for (uint64_t page = 2; page < 40; page++)
		bed_wait(is_lost, page, "page that never comes");
	/* Later questions, too; what is here still is. */
	ask(9, 0, PAGES);
	bed_wait(is_answered, 9, "answer to the stream");
	assert_int_equal(fate(0), PAGE_FATE_HERE);
	assert_int_equal(fate(50), PAGE_FATE_LOST);
	bed_wait(is_poisoned, 1, "lost page, by a new worker");
	bed_end();
}

static void test_daemon_goes_for_good(void **state)
{
	(void)state;
	inbound_begin();
	export_begin();
	ask(0, 7, 1);
	assert_int_equal(fault_read(), 7);
	shutdown(bed.daemon.server.sock, SHUT_RDWR);
	bed_wait(is_lost, 7, "page that never comes");
	bed_end();
}

static unsigned lists_so_far(void)
{
	unsigned n;

	pthread_mutex_lock(&bed.lock);
	n = bed.n_lists;
	pthread_mutex_unlock(&bed.lock);
	return n;
}

/* Whether "all" was said; forgotten by that. */
static bool all_take(void)
{
	bool all;

	pthread_mutex_lock(&bed.lock);
	all = bed.all;
	bed.all = false;
	pthread_mutex_unlock(&bed.lock);
	return all;
}

static void test_migration_completes(void **state)
{
	unsigned before;

	(void)state;
	inbound_begin();
	export_begin();
	bed_wait(lists_asked, 1, "list at the export");
	before = lists_so_far();
	assert_int_equal(postcopy_freeze(bed.out, NULL, 0), 0);
	bed_wait(lists_asked, before + 1, "list at the freeze");
	assert_false(all_take());
	for (uint64_t page = 2; page < PAGES; page++)
		page_place(page);
	fake_state(&bed.daemon, "completed", "", true);
	bed_wait(all_told, 0, "that all is here");
	assert_int_equal(fate(1), PAGE_FATE_POISONED);
	/* Another agent does not know it. */
	assert_true(all_take());
	fake_restarted(&bed.agent, "serving", "taken over");
	bed_wait(all_told, 0, "that all is here, to the next agent");
	bed_end();
}

static void test_handles_end_in_order(void **state)
{
	(void)state;
	inbound_begin();
	export_begin();
	ask(0, 7, 1);
	assert_int_equal(fault_read(), 7); /* a worker waits, and nobody waits for it */
	assert_int_equal(postcopy_close(bed.in, 0), -EBUSY);
	fake_state(&bed.daemon, "completed", "", true);
	assert_int_equal(postcopy_wait(bed.in, POSTCOPY_STATE_BIT(POSTCOPY_STATE_COMPLETED), 10000),
	                 0);
	assert_int_equal(postcopy_close(bed.in, 0), -EBUSY);
	/* By force the export ends first: whoever reads that memory now reads zeros. */
	assert_int_equal(postcopy_close(bed.in, POSTCOPY_CLOSE_FORCE), 0);
	assert_int_equal(postcopy_wait(bed.out, POSTCOPY_STATES_FINAL, 0), -ECONNRESET);
	assert_int_equal(postcopy_close(bed.out, 0), 0);
	fake_join(&bed.daemon);
	fake_join(&bed.agent);
	memory_end();
	assert_int_not_equal(bed.fates[7], PAGE_FATE_HERE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_wrong_parameters),
	        cmocka_unit_test(test_what_is_where),
	        cmocka_unit_test(test_what_is_here_passes_what_waits),
	        cmocka_unit_test(test_neighbours_of_lost_pages),
	        cmocka_unit_test(test_migration_fails),
	        cmocka_unit_test(test_daemon_goes_for_good),
	        cmocka_unit_test(test_migration_completes),
	        cmocka_unit_test(test_handles_end_in_order),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
