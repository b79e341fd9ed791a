/* SPDX-License-Identifier: Apache-2.0 */
/* Promises: a list of CPUs means what an operator reads in it, or is refused with what was written. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "core/cleanup.h"
#include "core/cpu_list.h"
#include "core/thread_tuning.h"

static struct cpu_list parse(const char *text)
{
	struct cpu_list list;
	struct error err = {0};

	memset(&list, 0x5a, sizeof(list));
	if (cpu_list_parse(text, &list, &err) < 0)
		fail_msg("%s: %s", text, err.text);
	return list;
}

static void test_good(void **state)
{
	struct cpu_list list = parse("0,2-3,2,1023");

	(void)state;
	assert_true(list.given);
	assert_int_equal(CPU_COUNT(&list.cpus), 4);
	assert_true(CPU_ISSET(0, &list.cpus) && CPU_ISSET(2, &list.cpus) &&
	            CPU_ISSET(3, &list.cpus) && CPU_ISSET(1023, &list.cpus));
	assert_false(parse("").given);
}

static void test_bad(void **state)
{
	static const char *const texts[] = {
	        ",",   "0,",    ",0",   "3-1",    "1-",
	        "-1",  "a",     "0x1",  "1 ",     " 1",
	        "1;2", "1-2-3", "1024", "0-1024", "99999999999999999999"};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
		struct cpu_list list = {.given = true};
		struct error err = {0};

		if (cpu_list_parse(texts[i], &list, &err) != -EINVAL)
			fail_msg("\"%s\" was taken", texts[i]);
		assert_non_null(strstr(err.text, texts[i]));
		assert_true(list.given && CPU_COUNT(&list.cpus) == 0); /* left as it was */
	}
}

/* A thread goes where it is told, stays where it is without a list, and says it where there is none. */
static void test_thread(void **state)
{
	cpu_set_t before, now;
	struct cpu_list one = {.given = true}, none = parse(""), absent = parse("1023");
	struct error err = {0};
	int cpu = 0;

	(void)state;
	assert_int_equal(sched_getaffinity(0, sizeof(before), &before), 0);
	while (!CPU_ISSET(cpu, &before))
		cpu++;
	CPU_SET(cpu, &one.cpus);
	assert_int_equal(thread_set_cpus(&one, &err), 0);
	assert_int_equal(sched_getaffinity(0, sizeof(now), &now), 0);
	assert_true(CPU_EQUAL(&now, &one.cpus));
	assert_int_equal(thread_set_cpus(&none, &err), 0);
	assert_int_equal(sched_getaffinity(0, sizeof(now), &now), 0);
	assert_true(CPU_EQUAL(&now, &one.cpus));
	if (!CPU_ISSET(1023, &before)) {
		assert_int_equal(thread_set_cpus(&absent, &err), -EINVAL);
		assert_non_null(strstr(err.text, "going on without"));
	}
	assert_int_equal(sched_setaffinity(0, sizeof(before), &before), 0);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_good),
	        cmocka_unit_test(test_bad),
	        cmocka_unit_test(test_thread),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
