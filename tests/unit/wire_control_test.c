/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The control interface: requests and responses come back as they were sent;
 * each bad one is refused with a text that names what was wrong, leaking nothing.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "wire/control_message.h"

static struct control_request turn(const struct control_request *r)
{
	struct control_request ret = {0};
	struct error err = {0};
	uint8_t *buf;
	size_t len;

	assert_int_equal(control_request_encode(r, &buf, &len), 0);
	assert_int_equal(control_request_decode(buf, len, &ret, &err), 0);
	free(buf);
	assert_int_equal(ret.type, r->type);
	assert_true(ret.id == r->id);
	assert_int_equal(ret.has_migration_id, r->has_migration_id);
	assert_true(uuid_equal(&ret.migration_id, &r->migration_id));
	return ret;
}

static void refuse(const struct control_request *r, const char *text)
{
	struct control_request ret;
	struct error err = {0};
	uint8_t *buf;
	size_t len;

	assert_int_equal(control_request_encode(r, &buf, &len), 0);
	assert_int_equal(control_request_decode(buf, len, &ret, &err), -EBADMSG);
	assert_true(control_request_id(buf, len) == r->id);
	free(buf);
	if (!strstr(err.text, text))
		fail_msg("\"%s\" does not say \"%s\"", err.text, text);
}

static struct control_request good(enum control_request_type type)
{
	struct control_request r = {.id = UINT64_MAX - 1, .type = type, .has_migration_id = true};

	memset(r.migration_id.bytes, 0x42, 16);
	return r;
}

static struct control_request good_start(void)
{
	struct control_request r = good(CONTROL_REQUEST_START);

	strcpy(r.start.source, "[fe80::1%eth0]:4567");
	strcpy(r.start.peer_identity, "source.example");
	memset(r.start.token, 7, 64);
	r.start.token_len = 64;
	r.start.lost_policy = LOST_POLICY_KILL;
	r.start.lost_deadline_us = 5;
	r.start.bandwidth = 6;
	r.start.stop_on_poison = true;
	strcpy(r.start.firecracker_socket, "/run/postcopyd/vm-7.sock");
	return r;
}

static void start(void **state)
{
	struct control_request r = good_start(), got = turn(&r);

	(void)state;
	assert_string_equal(got.start.source, r.start.source);
	assert_string_equal(got.start.peer_identity, r.start.peer_identity);
	assert_int_equal(got.start.token_len, 64);
	assert_memory_equal(got.start.token, r.start.token, 64);
	assert_int_equal(got.start.lost_policy, LOST_POLICY_KILL);
	assert_int_equal(got.start.lost_deadline_us, 5);
	assert_int_equal(got.start.bandwidth, 6);
	assert_true(got.start.stop_on_poison);
	assert_string_equal(got.start.firecracker_socket, "/run/postcopyd/vm-7.sock");
	r.start.lost_policy = (enum lost_policy)0;
	assert_int_equal(turn(&r).start.lost_policy, LOST_POLICY_HOLD);
}

static void bad_start(void **state)
{
	struct control_request r = good_start();

	(void)state;
	r.has_migration_id = false;
	refuse(&r, "StartMigration: migration_id has 0 bytes, expected 16");
	r = good_start();
	r.start.source[0] = '\0';
	refuse(&r, "StartMigration: source is empty");
	r = good_start();
	r.start.peer_identity[0] = '\0';
	refuse(&r, "StartMigration: peer_identity is empty");
	r = good_start();
	r.start.lost_policy = (enum lost_policy)4;
	refuse(&r, "StartMigration: lost_policy is 4");
}

static void small_requests(void **state)
{
	static const enum control_request_type with_id[] = {
	        CONTROL_REQUEST_GET,        CONTROL_REQUEST_CANCEL, CONTROL_REQUEST_RECOVER,
	        CONTROL_REQUEST_SET_LIMITS, CONTROL_REQUEST_FREEZE, CONTROL_REQUEST_POISON};
	struct control_request r;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(with_id); i++) {
		r = good(with_id[i]);
		if (with_id[i] != CONTROL_REQUEST_POISON)
			turn(&r);
		r.has_migration_id = false;
		refuse(&r, "migration_id has 0 bytes, expected 16");
	}
	r = good(CONTROL_REQUEST_CANCEL);
	r.cancel.force = true;
	assert_true(turn(&r).cancel.force);
	r = good(CONTROL_REQUEST_SET_LIMITS);
	r.set_limits.bandwidth = 1u << 20;
	assert_int_equal(turn(&r).set_limits.bandwidth, 1u << 20);
	r = good(CONTROL_REQUEST_RECOVER);
	strcpy(r.recover.source, "h:1");
	assert_string_equal(turn(&r).recover.source, "h:1");
	r = good(CONTROL_REQUEST_WATCH);
	r.watch.interval_us = 250000;
	assert_int_equal(turn(&r).watch.interval_us, 250000);
	r = (struct control_request){.id = 1, .type = CONTROL_REQUEST_WATCH};
	turn(&r);
	r.type = CONTROL_REQUEST_LIST;
	turn(&r);
	r.type = CONTROL_REQUEST_PROBE;
	turn(&r);
}

static struct control_request good_export(struct process_range *ranges, size_t n)
{
	struct control_request r = good(CONTROL_REQUEST_EXPORT_PROCESS);

	strcpy(r.export_process.peer_identity, "dest.example");
	r.export_process.token_len = 16;
	r.export_process.pid = 4321;
	r.export_process.ranges = ranges;
	r.export_process.n_ranges = n;
	return r;
}

static void export_process(void **state)
{
	struct process_range ranges[] = {{"ram", {1}, {2}, 8192, 0}, {"x", {3}, {4}, 5, 2 << 20}};
	struct control_request r = good_export(ranges, 2), got = turn(&r);

	(void)state;
	assert_string_equal(got.export_process.peer_identity, "dest.example");
	assert_int_equal(got.export_process.pid, 4321);
	assert_int_equal(got.export_process.n_ranges, 2);
	assert_int_equal(got.export_process.ranges[0].page_size_bytes, 4096);
	assert_int_equal(got.export_process.ranges[1].page_size_bytes, 2 << 20);
	assert_string_equal(got.export_process.ranges[1].name, "x");
	assert_int_equal(got.export_process.ranges[1].gpa.addr, 3);
	assert_int_equal(got.export_process.ranges[1].hva.addr, 4);
	assert_int_equal(got.export_process.ranges[1].length_bytes, 5);
	control_request_free(&got);
	control_request_free(&got);
	ranges[1].page_size_bytes = 1024;
	refuse(&r, "ExportProcess: ranges[1]: page_size 1024");
	ranges[1].length_bytes = 0;
	refuse(&r, "ExportProcess: ranges[1]: length is 0");
	r.export_process.n_ranges = 0;
	refuse(&r, "ExportProcess: 0 ranges, expected 1 to 512");
	r.export_process.pid = 0;
	refuse(&r, "ExportProcess: pid is 0");
	r.export_process.pid = -5;
	refuse(&r, "ExportProcess: pid is -5");
	r.export_process.peer_identity[0] = '\0';
	refuse(&r, "ExportProcess: peer_identity is empty");
}

static void export_file(void **state)
{
	struct file_range ranges[] = {{"mem0", {1}, {4096}, 8192, 0}, {"mem1", {3}, {0}, 5, 4096}};
	struct poison_range poisoned[] = {{{4096}, 4096}};
	struct control_request r = good(CONTROL_REQUEST_EXPORT_FILE), got;

	(void)state;
	strcpy(r.export_file.peer_identity, "dest.example");
	r.export_file.token_len = 16;
	r.export_file.ranges = ranges;
	r.export_file.n_ranges = 2;
	got = turn(&r);
	assert_int_equal(got.export_file.n_poisoned, 0);
	control_request_free(&got);
	r.export_file.poisoned = poisoned;
	r.export_file.n_poisoned = 1;
	got = turn(&r);
	assert_string_equal(got.export_file.peer_identity, "dest.example");
	assert_int_equal(got.export_file.token_len, 16);
	assert_int_equal(got.export_file.n_ranges, 2);
	assert_string_equal(got.export_file.ranges[0].name, "mem0");
	assert_int_equal(got.export_file.ranges[0].gpa.addr, 1);
	assert_int_equal(got.export_file.ranges[0].offset.off, 4096);
	assert_int_equal(got.export_file.ranges[0].length_bytes, 8192);
	assert_int_equal(got.export_file.ranges[0].page_size_bytes, 4096);
	assert_int_equal(got.export_file.n_poisoned, 1);
	assert_int_equal(got.export_file.poisoned[0].gpa.addr, 4096);
	control_request_free(&got);
	poisoned[0].length_bytes = 0;
	refuse(&r, "ExportFile: poisoned[0].length is 0");
	ranges[1].page_size_bytes = 1;
	refuse(&r, "ExportFile: ranges[1]: page_size 1");
	ranges[0].length_bytes = 0;
	refuse(&r, "ExportFile: ranges[0]: length is 0");
	r.export_file.n_ranges = 0;
	refuse(&r, "ExportFile: 0 ranges, expected 1 to 512");
	r.export_file.peer_identity[0] = '\0';
	refuse(&r, "ExportFile: peer_identity is empty");
}

static void poison(void **state)
{
	struct poison_range ranges[] = {{{4096}, 4096}, {{0}, 1}};
	struct control_request r = good(CONTROL_REQUEST_POISON), got;

	(void)state;
	r.poison.ranges = ranges;
	r.poison.n_ranges = 2;
	got = turn(&r);
	assert_int_equal(got.poison.n_ranges, 2);
	assert_int_equal(got.poison.ranges[0].gpa.addr, 4096);
	assert_int_equal(got.poison.ranges[1].length_bytes, 1);
	control_request_free(&got);
	ranges[1].length_bytes = 0;
	refuse(&r, "Poison: ranges[1].length is 0");
	r.poison.n_ranges = 0;
	refuse(&r, "Poison: 0 ranges, expected 1 to 4096");
}

static void request_bytes(void **state)
{
	struct control_request got;
	struct error err = {0};

	(void)state;
	assert_int_equal(control_request_decode((const uint8_t *)"\xff\xff", 2, &got, &err),
	                 -EBADMSG);
	assert_string_equal(err.text, "Request of 2 bytes is not a valid message");
	assert_int_equal(control_request_id((const uint8_t *)"\xff\xff", 2), 0);
	assert_int_equal(control_request_decode((const uint8_t *)"\x08\x05\x72\x00", 4, &got, &err),
	                 -EBADMSG);
	assert_string_equal(err.text, "Request of unknown type 14");
	assert_int_equal(control_request_id((const uint8_t *)"\x08\x05\x72\x00", 4), 5);
}

static void request_encode_keeps_to_the_limits(void **state)
{
	struct process_range range = {"ram", {0}, {0}, 4096, 0};
	struct control_request r = good_start();
	uint8_t *buf;
	size_t len;

	(void)state;
	r.start.token_len = TOKEN_BYTES_MIN - 1;
	assert_int_equal(control_request_encode(&r, &buf, &len), -EINVAL);
	r = good_start();
	strcpy(r.start.source, "two words");
	assert_int_equal(control_request_encode(&r, &buf, &len), -EINVAL);
	r = good_export(&range, REGIONS_MAX + 1);
	assert_int_equal(control_request_encode(&r, &buf, &len), -EINVAL);
	r = good_export(&range, 1);
	range.name[0] = '\0';
	assert_int_equal(control_request_encode(&r, &buf, &len), -EINVAL);
	r = good(CONTROL_REQUEST_POISON);
	r.poison.n_ranges = POISON_RANGES_MAX + 1;
	assert_int_equal(control_request_encode(&r, &buf, &len), -EINVAL);
	r = good(CONTROL_REQUEST_NONE);
	assert_int_equal(control_request_encode(&r, &buf, &len), -EINVAL);
	r.type = (enum control_request_type)99;
	assert_int_equal(control_request_encode(&r, &buf, &len), -EINVAL);
}

static struct control_response turn_response(const struct control_response *r)
{
	struct control_response ret = {0};
	struct error err = {0};
	uint8_t *buf;
	size_t len;

	assert_int_equal(control_response_encode(r, &buf, &len), 0);
	assert_int_equal(control_response_decode(buf, len, &ret, &err), 0);
	assert_string_equal(err.text, "");
	free(buf);
	assert_int_equal(ret.type, r->type);
	assert_true(ret.id == r->id && ret.error == r->error);
	return ret;
}

/* Every number gets a value of its own, so that a mix-up of two shows. */
static void migration_fill(struct control_migration *m, struct control_region *region,
                           struct control_poisoned *poisoned)
{
	uint64_t *numbers[] = {&m->started_us,   &m->total_time_us,    &m->downtime_us,
	                       &m->memory_total, &m->memory_remaining, &m->memory_processed,
	                       &m->memory_bps,   &m->bandwidth,        &m->pages_data,
	                       &m->pages_zero,   &m->pages_poisoned,   &m->pages_removed,
	                       &m->pages_urgent, &m->pages_stream,     &m->postcopy_requests,
	                       &m->faults,       &m->faults_local,     &m->fault_p50_ns,
	                       &m->fault_p99_ns, &m->fault_p999_ns,    &m->fault_max_ns,
	                       &m->lost_bytes,   &m->reconnects,       &m->eta_us};

	memset(m, 0, sizeof(*m));
	memset(m->migration_id.bytes, 0x17, 16);
	for (size_t i = 0; i < ARRAY_SIZE(numbers); i++)
		*numbers[i] = 1000 + i;
	m->lanes = 4;
	m->latency_log2_us[0] = 9;
	m->latency_log2_us[HISTOGRAM_LOG2_BUCKETS - 1] = UINT64_MAX;
	strcpy(m->state, "postcopy-paused");
	strcpy(m->state_text, "connection refused\n");
	strcpy(m->peer, "host:1");
	strcpy(m->peer_identity, "src");
	*region = (struct control_region){"ram", {1}, 2, 3, "memfd", "minor", 4, 5};
	*poisoned = (struct control_poisoned){"ram", 1, {2}, 3, "reported", "src", 4};
	m->regions = region;
	m->n_regions = 1;
	m->poisoned = poisoned;
	m->n_poisoned = 1;
}

static void assert_migration_equal(const struct control_migration *a,
                                   const struct control_migration *b)
{
	struct control_migration x = *a, y = *b;

	assert_int_equal(a->n_regions, b->n_regions);
	assert_int_equal(a->n_poisoned, b->n_poisoned);
	assert_string_equal(a->regions[0].name, b->regions[0].name);
	assert_string_equal(a->regions[0].backing, b->regions[0].backing);
	assert_string_equal(a->regions[0].mode, b->regions[0].mode);
	assert_true(a->regions[0].gpa.addr == 1 && a->regions[0].length_bytes == 2);
	assert_true(a->regions[0].page_size_bytes == 3 && a->regions[0].lane == 4);
	assert_true(a->regions[0].pieces == 5);
	assert_string_equal(a->poisoned[0].region, b->poisoned[0].region);
	assert_string_equal(a->poisoned[0].reason, b->poisoned[0].reason);
	assert_string_equal(a->poisoned[0].reporter, b->poisoned[0].reporter);
	assert_true(a->poisoned[0].offset_bytes == 1 && a->poisoned[0].gpa.addr == 2);
	assert_true(a->poisoned[0].lost_bytes == 3 && a->poisoned[0].time_us == 4);
	/* The rest, texts and numbers, is in the struct itself: compare it as it is. */
	x.regions = y.regions = NULL;
	x.poisoned = y.poisoned = NULL;
	assert_memory_equal(&x, &y, sizeof(x));
}

static void migrations(void **state)
{
	static const enum control_response_type types[] = {
	        CONTROL_RESPONSE_LIST, CONTROL_RESPONSE_MIGRATION, CONTROL_RESPONSE_EVENT};
	struct control_poisoned poisoned;
	struct control_migration m[2];
	struct control_region region;

	(void)state;
	migration_fill(&m[0], &region, &poisoned);
	m[1] = m[0];
	for (size_t i = 0; i < ARRAY_SIZE(types); i++) {
		struct control_response r = {
		        .id = 8, .type = types[i], .migrations = m, .n_migrations = i == 0 ? 2 : 1};
		struct control_response got;

		r.state_changed = types[i] == CONTROL_RESPONSE_EVENT;
		strcpy(m[0].state_text, "connection refused\n");
		got = turn_response(&r);
		strcpy(m[0].state_text, "connection refused?"); /* the newline was cleaned */
		assert_int_equal(got.n_migrations, r.n_migrations);
		assert_int_equal(got.state_changed, r.state_changed);
		assert_migration_equal(&got.migrations[0], &m[0]);
		control_response_free(&got);
		control_response_free(&got);
	}
}

static void plain_and_probe(void **state)
{
	struct control_probe_result results[] = {
	        {"anonymous", "yes", "BUS_MCEERR_AR", "yes", "none"},
	        {"hugetlb-2M", "no free huge pages", "", "", "echo 2 > nr_hugepages"}};
	struct control_response r = {.id = 1, .error = ENOENT, .text = "no such migration"}, got;

	(void)state;
	got = turn_response(&r);
	assert_string_equal(got.text, "no such migration");
	control_response_free(&got);
	r = (struct control_response){.type = CONTROL_RESPONSE_PROBE,
	                              .probe_results = results,
	                              .n_probe_results = 2,
	                              .userfaultfd = "yes",
	                              .remedy = "r"};
	got = turn_response(&r);
	assert_int_equal(got.n_probe_results, 2);
	assert_memory_equal(got.probe_results, results, sizeof(results));
	assert_string_equal(got.userfaultfd, "yes");
	assert_string_equal(got.remedy, "r");
	control_response_free(&got);
}

/* A full list of poisoned ranges, as long as its texts can be, is refused, not sent cut. */
static void response_over_the_limit(void **state)
{
	struct control_poisoned *poisoned = calloc(POISON_RANGES_MAX, sizeof(*poisoned));
	struct control_migration m = {.poisoned = poisoned, .n_poisoned = POISON_RANGES_MAX};
	struct control_response r = {
	        .type = CONTROL_RESPONSE_MIGRATION, .migrations = &m, .n_migrations = 1};
	struct control_response got;
	uint8_t *buf;
	size_t len;

	(void)state;
	assert_non_null(poisoned);
	for (size_t i = 0; i < POISON_RANGES_MAX; i++) {
		strcpy(poisoned[i].region, "pc.ram");
		strcpy(poisoned[i].reason, "read error");
		strcpy(poisoned[i].reporter, "spiffe://cluster.example/host/source-0001");
		poisoned[i].time_us = UINT64_C(1) << 50;
	}
	got = turn_response(&r); /* of an ordinary length it fits */
	assert_int_equal(got.migrations[0].n_poisoned, POISON_RANGES_MAX);
	control_response_free(&got);
	for (size_t i = 0; i < POISON_RANGES_MAX; i++)
		memset(poisoned[i].reporter, 'r', PEER_IDENTITY_MAX - 1);
	assert_int_equal(control_response_encode(&r, &buf, &len), -EMSGSIZE);
	m.n_poisoned = POISON_RANGES_MAX + 1;
	assert_int_equal(control_response_encode(&r, &buf, &len), -EINVAL);
	r.n_migrations = 0;
	assert_int_equal(control_response_encode(&r, &buf, &len), -EINVAL);
	r.n_migrations = CONTROL_MIGRATIONS_MAX + 1;
	assert_int_equal(control_response_encode(&r, &buf, &len), -EINVAL);
	free(poisoned);
}

static void refuse_response(const void *buf, size_t len, const char *text)
{
	struct control_response got;
	struct error err = {0};

	assert_int_equal(control_response_decode(buf, len, &got, &err), -EBADMSG);
	if (!strstr(err.text, text))
		fail_msg("\"%s\" does not say \"%s\"", err.text, text);
}

static void bad_responses(void **state)
{
	/* Migration with an id and 65 latency buckets */
	uint8_t latency[2 + 18 + 3 + 65] = {0x2a, 18 + 3 + 65, 0x0a, 16};

	(void)state;
	refuse_response("\xff", 1, "Response of 1 bytes is not a valid message");
	refuse_response("\x10\x80\x20", 3, "Response: error is 4096");
	refuse_response("\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 11, "error is -1");
	refuse_response("\x1a\x01\x1b", 3, "Response: text \"\\x1b\" has a control character");
	refuse_response("\x3a\x00", 2, "Response: Event has no migration");
	refuse_response("\x2a\x00", 2, "Migration 0: migration_id has 0 bytes");
	latency[20] = 0xea;
	latency[21] = 0x01;
	latency[22] = 65;
	refuse_response(latency, sizeof(latency), "65 latency_log2_us, expected at most 64");
}

static void names(void **state)
{
	(void)state;
	for (int i = LOST_POLICY_HOLD; i <= LOST_POLICY_KILL; i++)
		assert_int_equal(lost_policy_parse(lost_policy_name((enum lost_policy)i)), i);
	assert_string_equal(lost_policy_name(LOST_POLICY_HOLD), "hold");
	assert_int_equal(lost_policy_parse("Hold"), -EINVAL);
	assert_int_equal(lost_policy_parse(""), -EINVAL);
	assert_string_equal(lost_policy_name((enum lost_policy)0), "unknown");
	assert_string_equal(control_request_type_name(CONTROL_REQUEST_START), "StartMigration");
	assert_string_equal(control_request_type_name((enum control_request_type)13), "unknown");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(start),
	        cmocka_unit_test(bad_start),
	        cmocka_unit_test(small_requests),
	        cmocka_unit_test(export_process),
	        cmocka_unit_test(export_file),
	        cmocka_unit_test(poison),
	        cmocka_unit_test(request_bytes),
	        cmocka_unit_test(request_encode_keeps_to_the_limits),
	        cmocka_unit_test(migrations),
	        cmocka_unit_test(plain_and_probe),
	        cmocka_unit_test(response_over_the_limit),
	        cmocka_unit_test(bad_responses),
	        cmocka_unit_test(names),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
