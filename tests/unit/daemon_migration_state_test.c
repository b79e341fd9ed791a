/* SPDX-License-Identifier: Apache-2.0 */
/* The transition table of migrations: every pair. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "daemon/migration_state.h"

/* Row: from; column: to; in the enum's order. Written down here once more on purpose. */
static const char *const expected[MIGRATION_STATES_] = {
        /*                    s a P p r c f x */
        /* setup            */ "-y----yy",
        /* active           */ "--yy-yyy",
        /* postcopy-active  */ "---y-yyy",
        /* postcopy-paused  */ "----yyyy",
        /* postcopy-recover */ "--yy-yyy",
        /* completed        */ "--------",
        /* failed           */ "--------",
        /* cancelled        */ "--------",
};

/* Promise: exactly the documented transitions are possible. */
static void test_every_pair(void **state)
{
	(void)state;
	for (int from = 0; from < MIGRATION_STATES_; from++)
		for (int to = 0; to < MIGRATION_STATES_; to++)
			if (migration_transition_allowed(from, to) != (expected[from][to] == 'y'))
				fail_msg("%s -> %s", migration_state_name(from),
				         migration_state_name(to));
}

/* Promise: the final states are the three that nothing follows. */
static void test_final(void **state)
{
	(void)state;
	for (int s = 0; s < MIGRATION_STATES_; s++)
		assert_int_equal(migration_state_final(s), s >= MIGRATION_COMPLETED);
	assert_false(migration_transition_allowed(MIGRATION_SETUP, MIGRATION_STATES_));
	assert_false(migration_transition_allowed(MIGRATION_STATES_, MIGRATION_SETUP));
	assert_true(migration_state_final(MIGRATION_STATES_));
}

/* Promise: the names are QEMU's, which libpostcopy and operators know. */
static void test_names(void **state)
{
	static const char *const names[] = {
	        "setup",     "active", "postcopy-active", "postcopy-paused", "postcopy-recover",
	        "completed", "failed", "cancelled"};

	(void)state;
	for (int s = 0; s < MIGRATION_STATES_; s++)
		assert_string_equal(migration_state_name(s), names[s]);
	assert_string_equal(migration_state_name(MIGRATION_STATES_), "unknown");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_every_pair),
	        cmocka_unit_test(test_final),
	        cmocka_unit_test(test_names),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
