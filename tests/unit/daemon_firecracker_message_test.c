/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Promises of daemon/firecracker_message.h: what every version of Firecracker sends is
 * understood, in however many pieces it comes; what is wrong is named, and nothing else
 * is believed.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/firecracker_message.h"

#define GIB (UINT64_C(1) << 30)

/* As v1.1, v1.7, v1.12 and v1.16 write it (serde_json, no spaces); two regions around the PCI gap. */
static const char v1_1[] =
        "[{\"base_host_virt_addr\":140193250066432,\"size\":3221225472,\"offset\":0},"
        "{\"base_host_virt_addr\":140196471291904,\"size\":1073741824,\"offset\":3221225472}]";
static const char v1_7[] = "[{\"base_host_virt_addr\":140193250066432,\"size\":3221225472,"
                           "\"offset\":0,\"page_size_kib\":4096},"
                           "{\"base_host_virt_addr\":140196471291904,\"size\":1073741824,"
                           "\"offset\":3221225472,\"page_size_kib\":4096}]";
static const char v1_12[] =
        "[{\"base_host_virt_addr\":140193250066432,\"size\":3221225472,\"offset\":0,"
        "\"page_size\":2097152,\"page_size_kib\":2097152},"
        "{\"base_host_virt_addr\":140196471291904,\"size\":1073741824,\"offset\":3221225472,"
        "\"page_size\":2097152,\"page_size_kib\":2097152}]";

static void check_two(const char *text, uint64_t page_size)
{
	struct attach_region *r = NULL;
	struct error err = {0};
	size_t n = 0;

	for (size_t len = 0; len < strlen(text); len++)
		assert_int_equal(firecracker_message_decode(text, len, &r, &n, &err), -EAGAIN);
	assert_int_equal(firecracker_message_decode(text, strlen(text), &r, &n, &err), 0);
	assert_int_equal(n, 2);
	assert_string_equal(r[0].name, "mem0");
	assert_string_equal(r[1].name, "mem1");
	assert_int_equal(r[0].hva.addr, UINT64_C(140193250066432));
	assert_int_equal(r[1].hva.addr, UINT64_C(140196471291904));
	assert_int_equal(r[0].length_bytes, 3 * GIB);
	assert_int_equal(r[1].length_bytes, GIB);
	assert_int_equal(r[0].gpa.addr, 0);
	assert_int_equal(r[1].gpa.addr, 3 * GIB);
	for (size_t i = 0; i < n; i++) {
		assert_int_equal(r[i].page_size_bytes, page_size);
		assert_int_equal(r[i].backing,
		                 page_size > 4096 ? BACKING_HUGETLB : BACKING_ANONYMOUS);
		assert_int_equal(r[i].mode, UFFD_MODE_MISSING);
		assert_false(r[i].has_fd);
		assert_int_equal(r[i].uffd, 0);
	}
	free(r);
}

static void test_versions(void **state)
{
	(void)state;
	check_two(v1_1, 4096);
	check_two(v1_7, 4096);
	check_two(v1_12, 2 << 20);
}

static void test_order_and_other_keys(void **state)
{
	static const char text[] =
	        " [ {\"offset\":4096,\"size\":8192,\"base_host_virt_addr\":65536,\"slot\":7},\n"
	        "{\"size\":4096,\"offset\":0,\"base_host_virt_addr\":4096,\"page_size_kib\":4,"
	        "\"flags\":{\"a\":[true,-1.5e3],\"}]\\\"\":null}}]\n";
	struct attach_region *r = NULL;
	struct error err = {0};
	size_t n = 0;

	(void)state;
	for (size_t len = 0; len < strlen(text) - 1; len++)
		assert_int_equal(firecracker_message_decode(text, len, &r, &n, &err), -EAGAIN);
	assert_int_equal(firecracker_message_decode(text, strlen(text), &r, &n, &err), 0);
	assert_int_equal(n, 2);
	assert_int_equal(r[0].hva.addr, 4096);
	assert_int_equal(r[0].page_size_bytes, 4096);
	assert_int_equal(r[1].hva.addr, 65536);
	assert_string_equal(r[1].name, "mem1");
	free(r);
}

static void test_bad(void **state)
{
#define REGION(more) "[{\"base_host_virt_addr\":4096,\"size\":4096,\"offset\":0" more "}]"
	static const struct {
		const char *text, *word;
	} cases[] = {
	        {"GET / HTTP/1.1\r\n", "not JSON"},
	        {"{}", "not an array"},
	        {"[]", "1 to "},
	        {"[7]", "region 0 is not an object"},
	        {"[{\"size\":4096,\"offset\":0}]", "region 0 has no base_host_virt_addr"},
	        {"[{\"base_host_virt_addr\":4096,\"offset\":0}]", "has no size"},
	        {"[{\"base_host_virt_addr\":4096,\"size\":4096}]", "has no offset"},
	        {"[{\"base_host_virt_addr\":-1,\"size\":4096,\"offset\":0}]", "0 or more"},
	        {"[{\"base_host_virt_addr\":\"4096\",\"size\":4096,\"offset\":0}]", "0 or more"},
	        {"[{\"base_host_virt_addr\":1.5,\"size\":4096,\"offset\":0}]", "0 or more"},
	        {"[{\"base_host_virt_addr\":18446744073709551615,\"size\":1,\"offset\":0}]",
	         "not JSON"},
	        {REGION(",\"page_size\":true"), "page_size is not a number"},
	        {REGION(",\"page_size\":4096,\"page_size_kib\":2097152"), "page_size_kib says"},
	        {REGION("") "x", "not JSON"},
	        {REGION("") REGION(""), "not JSON"},
	        {"[\"\xff\xfe\"]", "not JSON"},
	};
	struct attach_region *r = NULL;
	size_t n = 77;

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct error err = {0};

		assert_int_equal(firecracker_message_decode(cases[i].text, strlen(cases[i].text),
		                                            &r, &n, &err),
		                 -EBADMSG);
		if (!strstr(err.text, cases[i].word))
			fail_msg("%s: \"%s\" does not say \"%s\"", cases[i].text, err.text,
			         cases[i].word);
		assert_null(r);
		assert_int_equal(n, 77);
	}
}

static void test_many(void **state)
{
	enum {
		N = 513,
		EACH = 128
	};
	char *text = malloc((size_t)N * EACH);
	struct attach_region *r = NULL;
	struct error err = {0};
	size_t len = 0, n = 0;

	(void)state;
	for (unsigned i = 0; i < N; i++) {
		size_t before = len;

		len += (size_t)sprintf(text + len,
		                       "%c{\"base_host_virt_addr\":%u,\"size\":4096,"
		                       "\"offset\":%u}",
		                       i ? ',' : '[', (i + 1) * 4096, i * 4096);
		if (i != N - 1)
			continue;
		text[len] = ']';
		assert_int_equal(firecracker_message_decode(text, len + 1, &r, &n, &err), -EBADMSG);
		assert_non_null(strstr(err.text, "1 to 512"));
		text[before] = ']';
		assert_int_equal(firecracker_message_decode(text, before + 1, &r, &n, &err), 0);
	}
	assert_int_equal(n, N - 1);
	free(r);
	free(text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_versions),
	        cmocka_unit_test(test_order_and_other_keys),
	        cmocka_unit_test(test_bad),
	        cmocka_unit_test(test_many),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
