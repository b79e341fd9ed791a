/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Promises of following a state: no change is missed, however it arrives; a
 * final state and a daemon that has gone end every wait; an event loop's
 * descriptor becomes readable, also for what another thread has read.
 */
#include "unit/client_fake.h"

static void *memory;

static struct postcopy *export_start(struct fake *f, void (*script)(struct fake *f))
{
	struct postcopy_region r = fake_region("ram0", 0, memory, 4);
	struct postcopy_export_params p = {
	        .token = fake_token,
	        .token_len = sizeof(fake_token),
	        .peer_identity = "dst.example",
	        .regions = &r,
	        .n_regions = 1,
	        .timeout_ms = 10000,
	};
	struct postcopy *h = NULL;

	fake_start(f, script);
	p.socket_path = f->server.path;
	assert_int_equal(postcopy_export(&p, &h, NULL, 0), 0);
	return h;
}

static void finish(struct fake *f, struct postcopy *h)
{
	assert_int_equal(postcopy_close(h, POSTCOPY_CLOSE_FORCE), 0);
	fake_join(f);
}

static bool readable(int fd, int timeout_ms)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};

	return poll(&p, 1, timeout_ms) == 1;
}

static void export_accept(struct fake *f)
{
	fake_receive(f, ATTACH_REQUEST_EXPORT);
	fake_ack(f, 0, "");
}

/* All in one segment, cut in the middle of a message. */
static void script_burst(struct fake *f)
{
	export_accept(f);
	fake_wait_go(f);
	fake_state(f, "frozen", "", false);
	fake_state(f, "serving", "dst.example", false);
	fake_state(f, "failed", "the disk burns", true);
	fake_state(f, "serving", "too late", false);
	sem_post(&f->at);
	fake_expect_close(f);
}

static void test_passing_states_are_seen(void **state)
{
	struct fake f;
	struct postcopy *h = export_start(&f, script_burst);
	struct postcopy_status status;

	(void)state;
	assert_int_equal(postcopy_wait(h, POSTCOPY_STATE_BIT(POSTCOPY_STATE_SERVING), 0),
	                 -ETIMEDOUT);
	sem_post(&f.go);
	assert_int_equal(postcopy_wait(h, POSTCOPY_STATE_BIT(POSTCOPY_STATE_SERVING), 10000), 0);
	sem_wait(&f.at);
	assert_int_equal(postcopy_wait(h, POSTCOPY_STATE_BIT(POSTCOPY_STATE_RELEASED), 10000),
	                 -ECANCELED);
	assert_int_equal(postcopy_wait(h, POSTCOPY_STATES_FINAL, 0), 0);
	postcopy_process(h);
	assert_int_equal(postcopy_get_status(h, &status), 0);
	assert_int_equal(status.state, POSTCOPY_STATE_FAILED);
	assert_int_equal(status.final, 1);
	assert_int_equal(status.connected, 1);
	assert_string_equal(status.name, "failed");
	assert_string_equal(status.text, "the disk burns");
	assert_int_equal(postcopy_wait(h, 0, 0), -EINVAL);
	finish(&f, h);
}

static void script_bytewise(struct fake *f)
{
	struct attach_reply reply = {.type = ATTACH_REPLY_STATE, .state = "serving"};
	_cleanup_free_ uint8_t *body = NULL;
	uint8_t prefix[4] = {0};
	size_t len = 0;

	export_accept(f);
	FAKE_CHECK(f, attach_reply_encode(&reply, &body, &len) == 0);
	prefix[0] = (uint8_t)len;
	for (size_t i = 0; i < 4 + len; i++)
		FAKE_CHECK(f, send(f->server.sock, i < 4 ? prefix + i : body + i - 4, 1, 0) == 1);
	fake_expect_close(f);
}

static void test_message_in_pieces(void **state)
{
	struct fake f;
	struct postcopy *h = export_start(&f, script_bytewise);

	(void)state;
	assert_int_equal(postcopy_wait(h, POSTCOPY_STATE_BIT(POSTCOPY_STATE_SERVING), 10000), 0);
	finish(&f, h);
}

static void script_future(struct fake *f)
{
	export_accept(f);
	fake_state(f, "hibernating", "a state of a later version", false);
	fake_expect_close(f);
}

static void test_state_of_a_newer_daemon(void **state)
{
	struct fake f;
	struct postcopy *h = export_start(&f, script_future);
	struct postcopy_status status;

	(void)state;
	assert_int_equal(postcopy_wait(h, ~POSTCOPY_STATE_BIT(POSTCOPY_STATE_EXPORTED), 10000), 0);
	postcopy_get_status(h, &status);
	assert_int_equal(status.state, POSTCOPY_STATE_UNKNOWN);
	assert_string_equal(status.name, "hibernating");
	assert_int_equal(status.final, 0);
	finish(&f, h);
}

static void script_die(struct fake *f)
{
	export_accept(f);
	fake_wait_go(f);
	shutdown(f->server.sock, SHUT_RDWR);
}

static void *waiting_thread(void *arg)
{
	return (void *)(intptr_t)postcopy_wait(arg, POSTCOPY_STATES_FINAL, -1);
}

static void test_daemon_dies_in_the_middle(void **state)
{
	struct fake f;
	struct postcopy *h = export_start(&f, script_die);
	struct postcopy_status status;
	pthread_t threads[3];
	void *result;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(threads); i++)
		assert_int_equal(pthread_create(&threads[i], NULL, waiting_thread, h), 0);
	sem_post(&f.go);
	for (size_t i = 0; i < ARRAY_SIZE(threads); i++) {
		pthread_join(threads[i], &result);
		assert_int_equal((intptr_t)result, -ECONNRESET);
	}
	/* What was known stays; it is said each time that nobody is there. */
	assert_true(readable(postcopy_fd(h), 10000));
	assert_int_equal(postcopy_process(h), -ECONNRESET);
	assert_true(readable(postcopy_fd(h), 0));
	assert_int_equal(postcopy_process(h), -ECONNRESET);
	postcopy_get_status(h, &status);
	assert_int_equal(status.state, POSTCOPY_STATE_EXPORTED);
	assert_int_equal(status.connected, 0);
	assert_int_equal(postcopy_freeze(h, NULL, 0), -ENOTCONN);
	assert_int_equal(postcopy_close(h, 0), 0);
	fake_join(&f);
}

static void script_unasked_ack(struct fake *f)
{
	export_accept(f);
	fake_ack(f, 0, "nobody asked");
	fake_expect_close(f);
}

static void test_unasked_answer(void **state)
{
	struct fake f;
	struct postcopy *h = export_start(&f, script_unasked_ack);

	(void)state;
	assert_int_equal(postcopy_wait(h, POSTCOPY_STATES_FINAL, 10000), -EPROTO);
	finish(&f, h);
}

static void script_last_words(struct fake *f)
{
	export_accept(f);
	fake_wait_go(f);
	fake_state(f, "failed", "out of memory", true);
	close_fd(&f->server.sock);
	sem_post(&f->at);
}

/* What a daemon said before it closed counts, though sending to it fails first. */
static void test_last_words_are_heard(void **state)
{
	struct fake f;
	struct postcopy *h = export_start(&f, script_last_words);
	struct postcopy_status status;

	(void)state;
	sem_post(&f.go);
	sem_wait(&f.at);
	assert_int_equal(postcopy_freeze(h, NULL, 0), -ECONNRESET);
	postcopy_get_status(h, &status);
	assert_int_equal(status.state, POSTCOPY_STATE_FAILED);
	assert_string_equal(status.text, "out of memory");
	assert_int_equal(status.connected, 0);
	finish(&f, h);
}

static void script_steps(struct fake *f)
{
	export_accept(f);
	fake_wait_go(f);
	fake_state(f, "frozen", "", false);
	fake_wait_go(f);
	fake_state(f, "serving", "", false);
	fake_expect_close(f);
}

static void test_event_loop(void **state)
{
	struct fake f;
	struct postcopy *h = export_start(&f, script_steps);
	int fd = postcopy_fd(h);

	(void)state;
	assert_int_equal(postcopy_process(h), 1); /* "exported" */
	assert_int_equal(postcopy_process(h), 0);
	assert_false(readable(fd, 0));
	sem_post(&f.go);
	assert_true(readable(fd, 10000));
	assert_int_equal(postcopy_process(h), 1);
	assert_int_equal(postcopy_get_state(h), POSTCOPY_STATE_FROZEN);
	assert_false(readable(fd, 0));
	/* A change that a wait has taken off the socket still wakes the loop, once. */
	sem_post(&f.go);
	assert_int_equal(postcopy_wait(h, POSTCOPY_STATE_BIT(POSTCOPY_STATE_SERVING), 10000), 0);
	assert_true(readable(fd, 0));
	assert_int_equal(postcopy_process(h), 1);
	assert_false(readable(fd, 0));
	assert_int_equal(postcopy_process(h), 0);
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
	        cmocka_unit_test(test_passing_states_are_seen),
	        cmocka_unit_test(test_message_in_pieces),
	        cmocka_unit_test(test_state_of_a_newer_daemon),
	        cmocka_unit_test(test_daemon_dies_in_the_middle),
	        cmocka_unit_test(test_unasked_answer),
	        cmocka_unit_test(test_last_words_are_heard),
	        cmocka_unit_test(test_event_loop),
	};

	return cmocka_run_group_tests(tests, memory_map, memory_unmap);
}
