/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The attach interface: each message comes back as it was sent; each bad one is
 * refused with a text that names message, field and value, and leaks nothing.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/fdpass.h"
#include "wire/attach_message.h"

static struct attach_request turn(const struct attach_request *r)
{
	struct attach_request ret = {0};
	struct error err = {0};
	uint8_t *buf;
	size_t len;

	assert_int_equal(attach_request_encode(r, &buf, &len), 0);
	assert_int_equal(attach_request_decode(buf, len, &ret, &err), 0);
	free(buf);
	assert_int_equal(ret.type, r->type);
	return ret;
}

static void refuse_bytes(const void *buf, size_t len, const char *text)
{
	struct attach_request ret, before;
	struct error err = {0};

	memset(&ret, 0x77, sizeof(ret));
	before = ret;
	assert_int_equal(attach_request_decode(buf, len, &ret, &err), -EBADMSG);
	if (!strstr(err.text, text))
		fail_msg("\"%s\" does not say \"%s\"", err.text, text);
	assert_memory_equal(&ret, &before, sizeof(ret));
}

static void refuse(const struct attach_request *r, const char *text)
{
	uint8_t *buf;
	size_t len;

	assert_int_equal(attach_request_encode(r, &buf, &len), 0);
	refuse_bytes(buf, len, text);
	free(buf);
}

static struct attach_region good_region(void)
{
	return (struct attach_region){.name = "pc.ram/0",
	                              .gpa = {UINT64_C(4) << 30},
	                              .hva = {0x7f1234567000},
	                              .length_bytes = 2 << 20,
	                              .page_size_bytes = 2 << 20,
	                              .backing = BACKING_HUGETLB,
	                              .mode = UFFD_MODE_MINOR,
	                              .uffd = 1,
	                              .has_fd = true,
	                              .fd = 63,
	                              .fd_offset = {8192},
	                              .registered = true,
	                              .fully_allocated = true};
}

static struct attach_request good_attach(struct attach_region *regions, size_t n)
{
	struct attach_request r = {.type = ATTACH_REQUEST_ATTACH, .version = 1, .token_len = 16};

	memset(r.migration_id.bytes, 3, 16);
	memset(r.token, 9, 16);
	r.attach.n_uffds = 2;
	r.attach.regions = regions;
	r.attach.n_regions = n;
	return r;
}

static void attach(void **state)
{
	struct attach_region regions[] = {good_region(), good_region()};
	struct attach_request r = good_attach(regions, 2), got;

	(void)state;
	regions[1].mode = UFFD_MODE_MISSING;
	regions[1].has_fd = regions[1].registered = regions[1].fully_allocated = false;
	got = turn(&r);
	assert_int_equal(got.version, 1);
	assert_true(uuid_equal(&got.migration_id, &r.migration_id));
	assert_int_equal(got.token_len, 16);
	assert_memory_equal(got.token, r.token, 16);
	assert_int_equal(got.attach.n_uffds, 2);
	assert_int_equal(got.attach.n_regions, 2);
	for (size_t i = 0; i < 2; i++) {
		const struct attach_region *a = &got.attach.regions[i], *b = &regions[i];

		assert_string_equal(a->name, b->name);
		assert_true(a->gpa.addr == b->gpa.addr && a->hva.addr == b->hva.addr);
		assert_true(a->length_bytes == b->length_bytes);
		assert_true(a->page_size_bytes == b->page_size_bytes);
		assert_true(a->backing == b->backing && a->mode == b->mode);
		assert_true(a->uffd == b->uffd && a->has_fd == b->has_fd && a->fd == b->fd);
		assert_true(a->fd_offset.off == b->fd_offset.off);
		assert_true(a->registered == b->registered);
		assert_true(a->fully_allocated == b->fully_allocated);
	}
	attach_request_free(&got);
	attach_request_free(&got); /* also of a zeroed one */
}

/* The same for another process, and never taken for the VMM's own. */
static void attach_mapping(void **state)
{
	struct attach_region regions[] = {good_region()};
	struct attach_request r = good_attach(regions, 1), got;

	(void)state;
	r.type = ATTACH_REQUEST_ATTACH_MAPPING;
	got = turn(&r);
	assert_int_equal(got.type, ATTACH_REQUEST_ATTACH_MAPPING);
	assert_int_equal(got.version, 1);
	assert_memory_equal(got.token, r.token, 16);
	assert_int_equal(got.attach.n_regions, 1);
	assert_string_equal(got.attach.regions[0].name, regions[0].name);
	attach_request_free(&got);
	r.attach.n_uffds = 0;
	refuse(&r, "Attach.uffds is 0, expected 1 to 16");
}

static void bad_attach(void **state)
{
	struct attach_region regions[] = {good_region(), good_region()}, *bad = &regions[1];
	struct attach_request r = good_attach(regions, 2);

	(void)state;
	r.version = 0;
	refuse(&r, "Attach.version is 0");
	r = good_attach(regions, 0);
	refuse(&r, "Attach.regions has 0 entries, expected 1 to 512");
	r = good_attach(regions, 2);
	r.attach.n_uffds = 0;
	refuse(&r, "Attach.uffds is 0, expected 1 to 16");
	r.attach.n_uffds = 2;
	bad->uffd = 2;
	refuse(&r, "Attach.regions[1]: uffd is 2, expected an index below Attach.uffds 2");
	*bad = good_region();
	bad->fd = 64;
	refuse(&r, "Attach.regions[1]: fd is 64");
	*bad = good_region();
	bad->length_bytes = 0;
	refuse(&r, "Attach.regions[1]: length is 0");
	*bad = good_region();
	bad->page_size_bytes = 12288;
	refuse(&r, "page_size 12288");
	bad->page_size_bytes = 2048;
	refuse(&r, "page_size 2048");
	*bad = good_region();
	bad->backing = (enum backing)4;
	refuse(&r, "Attach.regions[1]: backing is 4");
	*bad = good_region();
	bad->mode = (enum uffd_mode)0;
	refuse(&r, "Attach.regions[1]: mode is 0");
}

static void export(void **state)
{
	struct export_region region = {"ram", {1 << 20}, 8192, 4096, BACKING_ANONYMOUS, 5, {77}};
	struct attach_request r = {.type = ATTACH_REQUEST_EXPORT, .version = 2, .token_len = 64};
	struct attach_request got;

	(void)state;
	strcpy(r.export.peer_identity, "spiffe://example.org/dest");
	r.export.regions = &region;
	r.export.n_regions = 1;
	got = turn(&r);
	assert_int_equal(got.version, 2);
	assert_string_equal(got.export.peer_identity, r.export.peer_identity);
	assert_int_equal(got.export.n_regions, 1);
	assert_string_equal(got.export.regions[0].name, "ram");
	assert_int_equal(got.export.regions[0].gpa.addr, 1 << 20);
	assert_int_equal(got.export.regions[0].length_bytes, 8192);
	assert_int_equal(got.export.regions[0].page_size_bytes, 4096);
	assert_int_equal(got.export.regions[0].backing, BACKING_ANONYMOUS);
	assert_int_equal(got.export.regions[0].fd, 5);
	assert_int_equal(got.export.regions[0].fd_offset.off, 77);
	attach_request_free(&got);
	region.fd = 64;
	refuse(&r, "Export.regions[0]: fd is 64");
	r.export.peer_identity[0] = '\0';
	refuse(&r, "Export.peer_identity is empty");
	r.version = 0;
	refuse(&r, "Export.version is 0");
}

static void freeze_withdraw_poison(void **state)
{
	static struct poison_range ranges[POISON_RANGES_MAX];
	struct attach_request r = {.type = ATTACH_REQUEST_FREEZE}, got;

	(void)state;
	turn(&r);
	r = (struct attach_request){.type = ATTACH_REQUEST_WITHDRAW, .withdraw = {true}};
	assert_true(turn(&r).withdraw.force);
	for (size_t i = 0; i < POISON_RANGES_MAX; i++)
		ranges[i] = (struct poison_range){{i << 12}, UINT64_MAX - i};
	r = (struct attach_request){.type = ATTACH_REQUEST_REPORT_POISON,
	                            .report_poison = {ranges, POISON_RANGES_MAX}};
	got = turn(&r);
	assert_int_equal(got.report_poison.n_ranges, POISON_RANGES_MAX);
	for (size_t i = 0; i < POISON_RANGES_MAX; i++) {
		assert_true(got.report_poison.ranges[i].gpa.addr == ranges[i].gpa.addr);
		assert_true(got.report_poison.ranges[i].length_bytes == ranges[i].length_bytes);
	}
	attach_request_free(&got);
	ranges[7].length_bytes = 0;
	refuse(&r, "ReportPoison.ranges[7].length is 0");
	r.report_poison.n_ranges = 0;
	refuse(&r, "ReportPoison.ranges has 0 entries, expected 1 to 4096");
}

static void garbage(void **state)
{
	static uint8_t big[FDPASS_MESSAGE_MAX + 1];
	uint8_t id[2 + 2 + 2 + 15] = {0x0a, 19, 0x08, 1, 0x12, 15};

	(void)state;
	refuse_bytes("\xff\xff\xff\xff", 4, "AttachRequest of 4 bytes is not a valid message");
	refuse_bytes("", 0, "AttachRequest of unknown type 0");
	refuse_bytes("\x72\x00", 2, "AttachRequest of unknown type 14");
	refuse_bytes(big, sizeof(big), "AttachRequest of 1048577 bytes, the limit is 1048576");
	refuse_bytes(id, sizeof(id), "Attach.migration_id has 15 bytes, expected 16");
	/* ReportPoison with half a million empty ranges */
	for (size_t i = 4; i + 1 < FDPASS_MESSAGE_MAX; i += 2)
		big[i] = 0x0a;
	memcpy(big, "\x22\xfc\xff\x3f", 4);
	refuse_bytes(big, FDPASS_MESSAGE_MAX, "too large to decode");
}

static void encode_keeps_to_the_limits(void **state)
{
	struct attach_region region = good_region();
	struct attach_request r = good_attach(&region, 1);
	struct attach_reply reply = {.type = ATTACH_REPLY_ACK, .error = -EINVAL};
	uint8_t *buf;
	size_t len;

	(void)state;
	r.token_len = TOKEN_BYTES_MAX + 1;
	assert_int_equal(attach_request_encode(&r, &buf, &len), -EINVAL);
	r = good_attach(&region, REGIONS_MAX + 1);
	assert_int_equal(attach_request_encode(&r, &buf, &len), -EINVAL);
	r = good_attach(&region, 1);
	strcpy(region.name, "white space");
	assert_int_equal(attach_request_encode(&r, &buf, &len), -EINVAL);
	memset(region.name, 'n', sizeof(region.name));
	assert_int_equal(attach_request_encode(&r, &buf, &len), -EINVAL);
	r.type = ATTACH_REQUEST_NONE;
	assert_int_equal(attach_request_encode(&r, &buf, &len), -EINVAL);
	assert_int_equal(attach_reply_encode(&reply, &buf, &len), -EINVAL);
	reply.type = ATTACH_REPLY_STATE;
	assert_int_equal(attach_reply_encode(&reply, &buf, &len), -EINVAL);
}

static void replies(void **state)
{
	struct attach_reply ack = {.type = ATTACH_REPLY_ACK, .error = EEXIST, .text = "there"};
	struct attach_reply event = {.type = ATTACH_REPLY_STATE,
	                             .state = "postcopy-active",
	                             .final = true,
	                             .text = "bell\a"};
	struct attach_reply got;
	uint8_t *buf;
	size_t len;

	(void)state;
	assert_int_equal(attach_reply_encode(&ack, &buf, &len), 0);
	assert_int_equal(attach_reply_decode(buf, len, &got, NULL), 0);
	free(buf);
	assert_int_equal(got.type, ATTACH_REPLY_ACK);
	assert_int_equal(got.error, EEXIST);
	assert_string_equal(got.text, "there");
	assert_int_equal(attach_reply_encode(&event, &buf, &len), 0);
	assert_int_equal(attach_reply_decode(buf, len, &got, NULL), 0);
	free(buf);
	assert_int_equal(got.type, ATTACH_REPLY_STATE);
	assert_string_equal(got.state, "postcopy-active");
	assert_true(got.final);
	assert_string_equal(got.text, "bell?");
}

/* Promise: numbers come back as they were sent; without one, old peers see what they always did. */
static void request_and_reply_ids(void **state)
{
	struct attach_request freeze = {.type = ATTACH_REQUEST_FREEZE, .id = UINT32_MAX};
	struct attach_reply ack = {.type = ATTACH_REPLY_ACK, .id = 77};
	struct attach_reply event = {
	        .type = ATTACH_REPLY_STATE, .state = "active", .restarted = true};
	struct attach_reply got;
	uint8_t *buf;
	size_t len;

	(void)state;
	assert_true(turn(&freeze).id == UINT32_MAX);
	freeze.id = 0;
	assert_int_equal(attach_request_encode(&freeze, &buf, &len), 0);
	assert_int_equal(len, 2);
	assert_memory_equal(buf, "\x1a\0", 2);
	free(buf);
	assert_int_equal(attach_reply_encode(&ack, &buf, &len), 0);
	assert_int_equal(attach_reply_decode(buf, len, &got, NULL), 0);
	free(buf);
	assert_int_equal(got.id, 77);
	assert_int_equal(attach_reply_decode((const uint8_t *)"\x0a\0", 2, &got, NULL), 0);
	assert_int_equal(got.id, 0);
	assert_int_equal(attach_reply_encode(&event, &buf, &len), 0);
	assert_int_equal(attach_reply_decode(buf, len, &got, NULL), 0);
	free(buf);
	assert_true(got.restarted);
	event.restarted = false;
	assert_int_equal(attach_reply_encode(&event, &buf, &len), 0);
	assert_int_equal(attach_reply_decode(buf, len, &got, NULL), 0);
	free(buf);
	assert_false(got.restarted);
}

static void refuse_reply(const void *buf, size_t len, const char *text)
{
	struct error err = {0};
	struct attach_reply got;

	assert_int_equal(attach_reply_decode(buf, len, &got, &err), -EBADMSG);
	if (!strstr(err.text, text))
		fail_msg("\"%s\" does not say \"%s\"", err.text, text);
}

static void bad_replies(void **state)
{
	(void)state;
	refuse_reply("\xff", 1, "AttachReply of 1 bytes is not a valid message");
	refuse_reply("\x2a\x00", 2, "AttachReply of unknown type 5");
	refuse_reply("\x0a\x03\x08\x80\x20", 5, "Ack.error is 4096");
	refuse_reply("\x12\x00", 2, "StateEvent.state is empty");
	refuse_reply("\x12\x05\x0a\x03"
	             "a b",
	             7, "StateEvent.state \"a b\" has a space");
	refuse_reply("\x0a\x03\x12\x01\n", 5, "Ack.text \"\\x0a\" has a control character");
}

static struct attach_reply full_list(void)
{
	struct attach_reply r = {
	        .type = ATTACH_REPLY_POISON_LIST,
	        .id = UINT32_MAX,
	        .n_ranges = POISON_LIST_MAX,
	        .more = true,
	};

	for (uint64_t i = 0; i < POISON_LIST_MAX; i++)
		r.ranges[i] = (struct poison_range){
		        {UINT64_MAX - 4095 - (POISON_LIST_MAX - i) * 8192}, 4096};
	return r;
}

/* Promise: a full list passes as it is, and fits what libpostcopy takes in one reply. */
static void poison_lists(void **state)
{
	struct attach_request ask = {.type = ATTACH_REQUEST_LIST_POISON,
	                             .list_poison = {{0xfedcba987000}}};
	struct attach_reply list = full_list(), got;
	uint8_t *buf;
	size_t len;

	(void)state;
	assert_true(turn(&ask).list_poison.from.addr == 0xfedcba987000);
	assert_int_equal(attach_reply_encode(&list, &buf, &len), 0);
	assert_true(len <= 4096);
	assert_int_equal(attach_reply_decode(buf, len, &got, NULL), 0);
	free(buf);
	assert_int_equal(got.type, ATTACH_REPLY_POISON_LIST);
	assert_true(got.id == UINT32_MAX);
	assert_int_equal(got.n_ranges, POISON_LIST_MAX);
	assert_true(got.more);
	assert_memory_equal(got.ranges, list.ranges, sizeof(list.ranges));
	list = (struct attach_reply){.type = ATTACH_REPLY_POISON_LIST};
	assert_int_equal(attach_reply_encode(&list, &buf, &len), 0);
	assert_int_equal(attach_reply_decode(buf, len, &got, NULL), 0);
	free(buf);
	assert_true(got.n_ranges == 0 && !got.more);
}

/* Promise: a list that would make its reader ask for ever, or wrap, is no list. */
static void bad_poison_lists(void **state)
{
	struct attach_reply list;
	uint8_t *buf, many[3 + 129 * 2] = {0x1a, 0x82, 0x02};
	size_t len;

	(void)state;
	refuse_reply("\x1a\x02\x10\x01", 4, "says more, but has no range");
	refuse_reply("\x1a\x02\x0a\x00", 4, "ranges[0]: 0 + 0 is empty");
	refuse_reply("\x1a\x05\x0a\x03\x10\x80\x10", 7, "ranges[0]: 0 + 0x800 is empty, wraps");
	/* 4096 + 4096 twice */
	refuse_reply("\x1a\x10\x0a\x06\x08\x80\x20\x10\x80\x20\x0a\x06\x08\x80\x20\x10\x80\x20", 18,
	             "ranges[1] starts at 0x1000, before the end of the one before it (0x2000)");
	for (size_t i = 3; i < sizeof(many); i += 2)
		many[i] = 0x0a;
	refuse_reply(many, sizeof(many), "PoisonList.ranges has 129 entries, at most 128");
	list = full_list();
	list.ranges[127].length_bytes = UINT64_MAX - 4095;
	assert_int_equal(attach_reply_encode(&list, &buf, &len), -EINVAL);
	list = full_list();
	list.ranges[3].gpa = list.ranges[2].gpa;
	assert_int_equal(attach_reply_encode(&list, &buf, &len), -EINVAL);
	list.n_ranges = POISON_LIST_MAX + 1;
	assert_int_equal(attach_reply_encode(&list, &buf, &len), -EINVAL);
}

/* Promise: what is asked and told of pages on their way passes as it is, up to the limits. */
static void populate(void **state)
{
	static struct populated_range told[POISON_RANGES_MAX];
	struct attach_reply ask = {.type = ATTACH_REPLY_POPULATE, .number = 7, .urgent = true};
	struct attach_request answer = {.type = ATTACH_REQUEST_POPULATED}, got;
	struct attach_reply got_ask;
	uint8_t *buf;
	size_t len;

	(void)state;
	ask.n_ranges = POISON_LIST_MAX;
	for (uint64_t i = 0; i < POISON_LIST_MAX; i++)
		ask.ranges[i] = (struct poison_range){{UINT64_MAX - 8191 - i * 8192}, 4096};
	assert_int_equal(attach_reply_encode(&ask, &buf, &len), 0);
	assert_true(len <= 4096);
	assert_int_equal(attach_reply_decode(buf, len, &got_ask, NULL), 0);
	free(buf);
	assert_true(got_ask.type == ATTACH_REPLY_POPULATE && got_ask.number == 7 && got_ask.urgent);
	assert_memory_equal(got_ask.ranges, ask.ranges, sizeof(ask.ranges));
	for (size_t i = 0; i < POISON_RANGES_MAX; i++)
		told[i] = (struct populated_range){{{i * 4096}, 4096}, PAGE_FATE_HERE + i % 4};
	answer.populated.number = UINT32_MAX;
	answer.populated.all = true;
	answer.populated.ranges = told;
	answer.populated.n_ranges = POISON_RANGES_MAX;
	assert_int_equal(attach_request_encode(&answer, &buf, &len), 0);
	assert_int_equal(attach_request_decode(buf, len, &got, NULL), 0);
	free(buf);
	assert_true(got.populated.number == UINT32_MAX && got.populated.all);
	assert_int_equal(got.populated.n_ranges, POISON_RANGES_MAX);
	assert_memory_equal(got.populated.ranges, told, sizeof(told));
	attach_request_free(&got);
	answer.populated.n_ranges++;
	assert_int_equal(attach_request_encode(&answer, &buf, &len), -EINVAL);
	ask.n_ranges = 0;
	assert_int_equal(attach_reply_encode(&ask, &buf, &len), -EINVAL);
}

static void bad_populate(void **state)
{
	(void)state;
	refuse_reply("\x22\x00", 2, "Populate.ranges has 0 entries, expected 1 to 128");
	refuse_reply("\x22\x02\x1a\x00", 4, "Populate.ranges[0]: 0 + 0 is empty");
	refuse_bytes("\x42\x02\x12\x00", 4, "Populated.ranges[0]: 0 + 0 is empty");
	refuse_bytes("\x42\x05\x12\x03\x10\x80\x20", 7,
	             "Populated.ranges[0]: fate is 0, expected 1 (here)");
	refuse_bytes("\x42\x07\x12\x05\x10\x80\x20\x18\x05", 9, "fate is 5");
}

/* Promise: an agent that does not know inbound exports does not take one for another. */
static void inbound_export_has_a_field_of_its_own(void **state)
{
	struct export_region region = {.name = "ram0",
	                               .length_bytes = 4096,
	                               .page_size_bytes = 4096,
	                               .backing = BACKING_MEMFD};
	struct attach_request q = {.type = ATTACH_REQUEST_EXPORT,
	                           .version = 1,
	                           .token_len = 16,
	                           .export = {"dest.example", &region, 1, true}},
	                      got;
	uint8_t *buf;
	size_t len;

	(void)state;
	assert_int_equal(attach_request_encode(&q, &buf, &len), 0);
	assert_int_equal(buf[0], 9 << 3 | 2); /* the field's tag */
	assert_int_equal(attach_request_decode(buf, len, &got, NULL), 0);
	free(buf);
	assert_int_equal(got.type, ATTACH_REQUEST_EXPORT);
	assert_true(got.export.inbound);
	attach_request_free(&got);
	q.export.inbound = false;
	assert_int_equal(attach_request_encode(&q, &buf, &len), 0);
	assert_int_equal(buf[0], 2 << 3 | 2);
	assert_int_equal(attach_request_decode(buf, len, &got, NULL), 0);
	free(buf);
	assert_false(got.export.inbound);
	attach_request_free(&got);
}

static void names(void **state)
{
	(void)state;
	assert_string_equal(backing_name(BACKING_ANONYMOUS), "anonymous");
	assert_string_equal(backing_name(BACKING_HUGETLB), "hugetlb");
	assert_string_equal(backing_name((enum backing)0), "unknown");
	assert_string_equal(backing_name((enum backing)4), "unknown");
	assert_string_equal(uffd_mode_name(UFFD_MODE_MISSING), "missing");
	assert_string_equal(uffd_mode_name(UFFD_MODE_MINOR), "minor");
	assert_string_equal(uffd_mode_name((enum uffd_mode)3), "unknown");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(attach),
	        cmocka_unit_test(attach_mapping),
	        cmocka_unit_test(bad_attach),
	        cmocka_unit_test(export),
	        cmocka_unit_test(freeze_withdraw_poison),
	        cmocka_unit_test(garbage),
	        cmocka_unit_test(encode_keeps_to_the_limits),
	        cmocka_unit_test(request_and_reply_ids),
	        cmocka_unit_test(replies),
	        cmocka_unit_test(bad_replies),
	        cmocka_unit_test(poison_lists),
	        cmocka_unit_test(bad_poison_lists),
	        cmocka_unit_test(populate),
	        cmocka_unit_test(bad_populate),
	        cmocka_unit_test(inbound_export_has_a_field_of_its_own),
	        cmocka_unit_test(names),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
