/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Promises: only the right destination gets to the memory; each refusal says
 * which rule was broken, and disturbs nobody else.
 */
#include "loop/source_fixture.h"

static void refused(struct fixture *f, struct tls_context *tls, const struct page_message *hello,
                    enum wire_error_code code, const char *word)
{
	struct destination *d = destination_connect(f, tls);

	destination_send(d, hello, NULL, 0);
	destination_expect_error(d, code, word);
	destination_free(d);
}

static void test_hello_ack_has_the_regions(void **state)
{
	struct fixture *f = fixture_new(NULL);
	struct vmm v = vmm_export(f, 1, 8, false);
	struct destination *d = destination_hello(f, 1, LINK_ROLE_URGENT, 0);

	(void)state;
	assert_int_equal(d->m.hello_ack.version, PAGE_PROTOCOL_VERSION);
	assert_int_equal(d->m.hello_ack.n_regions, 1);
	assert_string_equal(d->m.hello_ack.regions[0].name, "ram");
	assert_int_equal(d->m.hello_ack.regions[0].length_bytes, 8 * PAGE);
	assert_false(d->m.hello_ack.frozen);
	assert_int_equal(d->m.hello_ack.poisoned_pages, 0);
	destination_free(d);
	close(v.sock);
	fixture_free(f);
}

static void test_refusals(void **state)
{
	struct fixture *f = fixture_new(NULL);
	struct vmm v = vmm_export(f, 1, 8, true);
	struct tls_context *renamed = pki_context(f->pki, "renamed", "ca", NULL);
	struct page_message m;

	(void)state;
	m = hello_message(1, LINK_ROLE_URGENT, 0);
	m.hello.version = m.hello.version_min = PAGE_PROTOCOL_VERSION + 1;
	refused(f, f->destination, &m, WIRE_ERROR_VERSION, "versions 2 to 2");
	m = hello_message(9, LINK_ROLE_URGENT, 0);
	refused(f, f->destination, &m, WIRE_ERROR_UNKNOWN_MIGRATION, "09020304-");
	m = hello_message(1, LINK_ROLE_URGENT, 0);
	refused(f, renamed, &m, WIRE_ERROR_DENIED, "certificate or token");
	m.hello.token[0] ^= 1;
	refused(f, f->destination, &m, WIRE_ERROR_DENIED, "certificate or token");
	m = hello_message(1, LINK_ROLE_URGENT, 0);
	m.hello.token_len = 31; /* the rest is right, and it ends in a NUL */
	refused(f, f->destination, &m, WIRE_ERROR_DENIED, "certificate or token");
	m = hello_message(1, LINK_ROLE_URGENT, 16);
	refused(f, f->destination, &m, WIRE_ERROR_PROTOCOL, "lane 16");
	m = (struct page_message){.type = PAGE_MESSAGE_PING};
	refused(f, f->destination, &m, WIRE_ERROR_PROTOCOL, "expected Hello");

	/* And all that has disturbed nobody. */
	struct destination *d = destination_hello(f, 1, LINK_ROLE_URGENT, 0);

	destination_expect_page(d, 2, PAGE_KIND_DATA);
	destination_free(d);
	tls_context_unref(renamed);
	close(v.sock);
	fixture_free(f);
}

static void test_garbage(void **state)
{
	static const uint8_t frames[][12] = {
	        {4, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff}, /* not protobuf */
	        {0, 0, 0, 0, 0, 0, 0, 0},                         /* empty header */
	        {0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0},             /* over the limit */
	};
	struct fixture *f = fixture_new(NULL);
	struct vmm v = vmm_export(f, 1, 8, true);

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(frames); i++) {
		struct destination *d = destination_connect(f, f->destination);
		enum page_message_type got;

		destination_write(d, frames[i], sizeof(frames[i]));
		got = destination_receive(d);
		assert_true(got == PAGE_MESSAGE_NONE || got == PAGE_MESSAGE_ERROR);
		destination_free(d);
		/* The same on an accepted link. */
		d = destination_hello(f, 1, LINK_ROLE_URGENT, 0);
		destination_write(d, frames[i], sizeof(frames[i]));
		got = destination_receive(d);
		assert_true(got == PAGE_MESSAGE_NONE || got == PAGE_MESSAGE_ERROR);
		destination_free(d);
	}
	struct destination *d = destination_hello(f, 1, LINK_ROLE_URGENT, 0);

	destination_expect_page(d, 2, PAGE_KIND_DATA);
	destination_free(d);
	close(v.sock);
	fixture_free(f);
}

static void test_second_link_of_a_lane(void **state)
{
	struct fixture *f = fixture_new(NULL);
	struct vmm v = vmm_export(f, 1, 8, true);

	(void)state;
	pki_issue(f->pki, &(struct pki_request){.name = "twin",
	                                        .ca = "ca",
	                                        .dns = PKI_DESTINATION_DNS,
	                                        .uri = PKI_DESTINATION_URI});
	struct tls_context *twin = pki_context(f->pki, "twin", "ca", NULL);
	struct page_message m = hello_message(1, LINK_ROLE_URGENT, 0);
	struct destination *first = destination_hello(f, 1, LINK_ROLE_URGENT, 0);

	/* The same name with another certificate may not push it out ... */
	refused(f, twin, &m, WIRE_ERROR_BUSY, "another certificate");
	destination_expect_page(first, 1, PAGE_KIND_DATA);
	/* ... the same certificate takes the place of its own half-dead connection. */
	struct destination *second = destination_hello(f, 1, LINK_ROLE_URGENT, 0);

	assert_int_equal(destination_receive(first), PAGE_MESSAGE_NONE);
	destination_expect_page(second, 2, PAGE_KIND_DATA);
	destination_free(first);
	destination_free(second);
	tls_context_unref(twin);
	close(v.sock);
	fixture_free(f);
}

/* Connections that say nothing neither block others for ever nor grow in number. */
static void test_silent_connections(void **state)
{
	struct fixture *f = fixture_new("[listen]\nsessions = 2\nhello_timeout = 300ms\n");
	struct vmm v = vmm_export(f, 1, 8, true);
	struct destination *a = destination_connect(f, f->destination);
	struct destination *b = destination_connect(f, f->destination);
	struct sockaddr_in to = {.sin_family = AF_INET,
	                         .sin_port = htons(agent_port(f->agent)),
	                         .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int third = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	char byte;

	(void)state;
	assert_int_equal(connect(third, (struct sockaddr *)&to, sizeof(to)), 0);
	assert_int_equal(recv(third, &byte, 1, 0), 0);
	assert_int_equal(destination_receive(a), PAGE_MESSAGE_NONE);
	assert_int_equal(destination_receive(b), PAGE_MESSAGE_NONE);
	destination_free(destination_hello(f, 1, LINK_ROLE_URGENT, 0));
	destination_free(a);
	destination_free(b);
	close(third);
	close(v.sock);
	fixture_free(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_hello_ack_has_the_regions),
	        cmocka_unit_test(test_refusals),
	        cmocka_unit_test(test_garbage),
	        cmocka_unit_test(test_second_link_of_a_lane),
	        cmocka_unit_test(test_silent_connections),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
