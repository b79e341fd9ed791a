/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writes the seed inputs: fuzz-corpus DIR makes DIR/TARGET/NAME for one good
 * message of each kind. Run by hand when a message is added; its output is
 * checked in beside what fuzzing found.
 */
#include <limits.h>
#include <string.h>
#include <sys/stat.h>

#include "fuzz.h"
#include "wire/attach_message.h"
#include "wire/control_message.h"
#include "wire/export_record.h"
#include "wire/page_message.h"
#include "wire/state_message.h"

static const char *root;

static void seed_write(const char *target, const char *name, const void *buf, size_t len)
{
	char path[PATH_MAX];
	FILE *file;

	snprintf(path, sizeof(path), "%s/%s", root, target);
	mkdir(path, 0755);
	snprintf(path, sizeof(path), "%s/%s/%s", root, target, name);
	file = fopen(path, "wb");
	FUZZ_CHECK(file && fwrite(buf, 1, len, file) == len && fclose(file) == 0);
}

static void page_seed(const struct page_message *m, const void *payload, size_t payload_len)
{
	static uint8_t buf[FRAME_MAX];
	ssize_t n = page_message_encode(m, buf, sizeof(buf));

	FUZZ_CHECK(n > 0);
	if (payload_len > 0)
		memcpy(buf + n, payload, payload_len);
	seed_write("page", page_message_type_name(m->type), buf, (size_t)n + payload_len);
}

static void page_seeds_session(void)
{
	static const struct wire_region regions[] = {{"ram", {0}, 1 << 20, 4096},
	                                             {"ram:high", {1ull << 32}, 2 << 20, 2 << 20}};
	struct page_message m = {.type = PAGE_MESSAGE_HELLO};

	m.hello.version = m.hello.version_min = PAGE_PROTOCOL_VERSION;
	m.hello.token_len = TOKEN_BYTES_MIN;
	m.hello.role = LINK_ROLE_BULK;
	page_seed(&m, NULL, 0);
	m = (struct page_message){.type = PAGE_MESSAGE_HELLO_ACK,
	                          .hello_ack = {1, regions, 2, true, 3}};
	page_seed(&m, NULL, 0);
	m = (struct page_message){.type = PAGE_MESSAGE_COMPLETE, .complete = {1, 2, 3, 4}};
	page_seed(&m, NULL, 0);
	m = (struct page_message){.type = PAGE_MESSAGE_ERROR,
	                          .error = {WIRE_ERROR_DENIED, "the token is wrong"}};
	page_seed(&m, NULL, 0);
	m = (struct page_message){.type = PAGE_MESSAGE_FROZEN};
	page_seed(&m, NULL, 0);
	m = (struct page_message){.type = PAGE_MESSAGE_COMPLETE_ACK};
	page_seed(&m, NULL, 0);
	m = (struct page_message){.type = PAGE_MESSAGE_PING, .ping = {7}};
	page_seed(&m, NULL, 0);
	m.type = PAGE_MESSAGE_PONG;
	page_seed(&m, NULL, 0);
}

static void page_seeds_data(void)
{
	static const struct page_run wanted[] = {{9, 2, 0}, {1, 4, 0}};
	static const struct page_run answered[] = {
	        {9, 1, PAGE_KIND_DATA}, {10, 1, PAGE_KIND_POISONED}, {1, 4, PAGE_KIND_ZERO}};
	static const uint8_t page[WIRE_PAGE_SIZE], bits[2] = {0xff, 0x01};
	struct page_message m = {.type = PAGE_MESSAGE_PAGE_REQUEST,
	                         .page_request = {5, {wanted, 2}}};

	page_seed(&m, NULL, 0);
	m = (struct page_message){.type = PAGE_MESSAGE_PAGES,
	                          .pages = {5, {answered, 3}, page, sizeof(page)}};
	page_seed(&m, page, sizeof(page));
	m = (struct page_message){.type = PAGE_MESSAGE_POISON_NOTICE,
	                          .poison_notice = {{wanted, 2}, POISON_REASON_READ_ERROR}};
	page_seed(&m, NULL, 0);
	m = (struct page_message){.type = PAGE_MESSAGE_STREAM_CONTROL,
	                          .stream_control = {true, 100, 16, true, 1 << 20}};
	page_seed(&m, NULL, 0);
	m = (struct page_message){.type = PAGE_MESSAGE_PROGRESS, .progress = {77, true}};
	page_seed(&m, NULL, 0);
	m = (struct page_message){.type = PAGE_MESSAGE_RESUME,
	                          .resume = {16, 36, 4, true, bits, sizeof(bits)}};
	page_seed(&m, bits, sizeof(bits));
}

static void attach_request_seed(const char *name, const struct attach_request *r)
{
	uint8_t *buf;
	size_t len;

	FUZZ_CHECK(attach_request_encode(r, &buf, &len) == 0);
	seed_write("attach_request", name, buf, len);
	free(buf);
}

static void attach_seeds(void)
{
	static struct attach_region attached[] = {{.name = "ram",
	                                           .length_bytes = 4096,
	                                           .page_size_bytes = 4096,
	                                           .backing = BACKING_MEMFD,
	                                           .mode = UFFD_MODE_MINOR,
	                                           .has_fd = true,
	                                           .fd = 1}};
	static struct export_region exported[] = {{.name = "ram",
	                                           .length_bytes = 4096,
	                                           .page_size_bytes = 4096,
	                                           .backing = BACKING_ANONYMOUS}};
	static struct poison_range poisoned[] = {{{4096}, 4096}, {{0}, 1}};
	static struct populated_range told[] = {{{{4096}, 8192}, PAGE_FATE_HERE},
	                                        {{{0}, 4096}, PAGE_FATE_POISONED}};
	struct attach_request r = {.type = ATTACH_REQUEST_FREEZE};

	attach_request_seed("freeze", &r);
	r = (struct attach_request){.type = ATTACH_REQUEST_WITHDRAW, .withdraw = {true}};
	attach_request_seed("withdraw", &r);
	r = (struct attach_request){.type = ATTACH_REQUEST_LIST_POISON,
	                            .list_poison = {{UINT64_C(1) << 32}}};
	attach_request_seed("list_poison", &r);
	r = (struct attach_request){.type = ATTACH_REQUEST_REPORT_POISON,
	                            .report_poison = {poisoned, 2}};
	attach_request_seed("report_poison", &r);
	r = (struct attach_request){.type = ATTACH_REQUEST_ATTACH,
	                            .version = 1,
	                            .token_len = 16,
	                            .attach = {1, attached, 1}};
	attach_request_seed("attach", &r);
	r.type = ATTACH_REQUEST_ATTACH_MAPPING;
	attach_request_seed("attach_mapping", &r);
	r = (struct attach_request){.type = ATTACH_REQUEST_EXPORT,
	                            .version = 1,
	                            .token_len = 64,
	                            .export = {"dest.example", exported, 1, false}};
	attach_request_seed("export", &r);
	r.export.inbound = true;
	attach_request_seed("export_inbound", &r);
	r = (struct attach_request){.type = ATTACH_REQUEST_POPULATED,
	                            .populated = {7, told, 2, true}};
	attach_request_seed("populated", &r);
}

static void attach_reply_seeds(void)
{
	struct attach_reply ack = {.type = ATTACH_REPLY_ACK, .error = 22, .text = "no"};
	struct attach_reply state = {.type = ATTACH_REPLY_STATE,
	                             .state = "completed",
	                             .final = true,
	                             .text = "all pages are here"};
	struct attach_reply list = {.type = ATTACH_REPLY_POISON_LIST,
	                            .ranges = {{{0x100000}, 4096}, {{0x200000}, 0x200000}},
	                            .n_ranges = 2,
	                            .more = true};
	struct attach_reply populate = {.type = ATTACH_REPLY_POPULATE,
	                                .ranges = {{{0x200000}, 0x200000}, {{0x100000}, 4096}},
	                                .n_ranges = 2,
	                                .number = 3,
	                                .urgent = true};
	uint8_t *buf;
	size_t len;

	FUZZ_CHECK(attach_reply_encode(&ack, &buf, &len) == 0);
	seed_write("attach_reply", "ack", buf, len);
	free(buf);
	FUZZ_CHECK(attach_reply_encode(&state, &buf, &len) == 0);
	seed_write("attach_reply", "state", buf, len);
	free(buf);
	FUZZ_CHECK(attach_reply_encode(&list, &buf, &len) == 0);
	seed_write("attach_reply", "poison_list", buf, len);
	free(buf);
	FUZZ_CHECK(attach_reply_encode(&populate, &buf, &len) == 0);
	seed_write("attach_reply", "populate", buf, len);
	free(buf);
}

static void control_request_seeds(void)
{
	static struct process_range process[] = {{"heap", {0}, {0x7f0000000000}, 8192, 4096}};
	static struct poison_range poisoned[] = {{{4096}, 4096}};

	for (int type = CONTROL_REQUEST_START; type <= CONTROL_REQUEST_POISON; type++) {
		struct control_request r = {
		        .id = 3, .type = (enum control_request_type)type, .has_migration_id = true};
		uint8_t *buf;
		size_t len;

		if (type == CONTROL_REQUEST_START) {
			strcpy(r.start.source, "[::1]:4567");
			strcpy(r.start.peer_identity, "spiffe://example/source");
			r.start.token_len = 32;
			r.start.lost_policy = LOST_POLICY_POISON;
		} else if (type == CONTROL_REQUEST_EXPORT_PROCESS) {
			strcpy(r.export_process.peer_identity, "dest.example");
			r.export_process.token_len = 16;
			r.export_process.pid = 1234;
			r.export_process.ranges = process;
			r.export_process.n_ranges = 1;
		} else if (type == CONTROL_REQUEST_POISON) {
			r.poison.ranges = poisoned;
			r.poison.n_ranges = 1;
		}
		FUZZ_CHECK(control_request_encode(&r, &buf, &len) == 0);
		seed_write("control_request", control_request_type_name(r.type), buf, len);
		free(buf);
	}
}

static void control_response_seeds(void)
{
	static const char *const names[] = {"plain", "list", "migration", "probe", "event"};
	static struct control_region regions[] = {{"ram", {0}, 4096, 4096, "memfd", "minor", 0, 1}};
	static struct control_poisoned poisoned[] = {
	        {"ram", 0, {0}, 4096, "reported", "source.example", 1}};
	static struct control_migration migration = {.state = "active",
	                                             .lanes = 1,
	                                             .regions = regions,
	                                             .n_regions = 1,
	                                             .latency_log2_us = {1, 2, 3},
	                                             .poisoned = poisoned,
	                                             .n_poisoned = 1};
	static struct control_probe_result probe[] = {{"memfd", "yes", "BUS_MCEERR_AR", "yes", ""}};

	for (int type = CONTROL_RESPONSE_PLAIN; type <= CONTROL_RESPONSE_EVENT; type++) {
		struct control_response r = {.id = 9,
		                             .type = (enum control_response_type)type,
		                             .migrations = &migration,
		                             .n_migrations = 1,
		                             .probe_results = probe,
		                             .n_probe_results = 1};
		uint8_t *buf;
		size_t len;

		FUZZ_CHECK(control_response_encode(&r, &buf, &len) == 0);
		seed_write("control_response", names[type], buf, len);
		free(buf);
	}
}

static void state_seed(const char *name, const struct state_message *m)
{
	uint8_t *buf;
	size_t len;

	FUZZ_CHECK(state_message_encode(m, &buf, &len) == 0);
	seed_write("state", name, buf, len);
	free(buf);
}

static void state_seeds(void)
{
	static struct attach_region regions[] = {{.name = "ram",
	                                          .length_bytes = 1 << 20,
	                                          .page_size_bytes = 4096,
	                                          .backing = BACKING_ANONYMOUS,
	                                          .mode = UFFD_MODE_MISSING}};
	struct state_message m = {.program_version = "0.1.0", .started_us = 1700000000000000};

	m.start = (struct control_request){
	        .type = CONTROL_REQUEST_START,
	        .has_migration_id = true,
	        .start = {.source = "[::1]:4567",
	                  .peer_identity = "source.example",
	                  .token_len = TOKEN_BYTES_MIN,
	                  .lost_policy = LOST_POLICY_HOLD},
	};
	state_seed("started", &m);
	m.attach = (struct attach_request){.type = ATTACH_REQUEST_ATTACH,
	                                   .version = 1,
	                                   .token_len = TOKEN_BYTES_MIN,
	                                   .attach = {1, regions, 1}};
	m.vmm_pid = 4711;
	m.served = true;
	m.paused_us = 5;
	m.paused_since_us = 1700000000000005;
	m.reconnects = 2;
	state_seed("paused", &m);
	m.mappings[0] = (struct state_mapping){.id = 3, .attach = m.attach, .pid = 4712};
	m.mappings[0].attach.type = ATTACH_REQUEST_ATTACH_MAPPING;
	m.n_mappings = 1;
	state_seed("mapped", &m);
	m.abandoned = m.completing = m.unregistered = true;
	m.ended = STATE_ENDED_COMPLETED;
	strcpy(m.ended_text, "all memory is here");
	state_seed("ended", &m);
}

static void export_record_seed(const char *name, const struct export_record *m)
{
	uint8_t *buf;
	size_t len;

	FUZZ_CHECK(export_record_encode(m, &buf, &len) == 0);
	seed_write("export_record", name, buf, len);
	free(buf);
}

static void export_record_seeds(void)
{
	static struct export_region regions[] = {{.name = "ram",
	                                          .length_bytes = 1 << 20,
	                                          .page_size_bytes = 4096,
	                                          .backing = BACKING_MEMFD},
	                                         {.name = "anon",
	                                          .gpa = {UINT64_C(1) << 32},
	                                          .length_bytes = 4096,
	                                          .page_size_bytes = 4096,
	                                          .backing = BACKING_ANONYMOUS,
	                                          .fd = 1,
	                                          .fd_offset = {0x7f0000000000}}};
	struct export_record m = {
	        .program_version = "0.1.0",
	        .export = {.type = ATTACH_REQUEST_EXPORT,
	                   .version = 1,
	                   .token_len = TOKEN_BYTES_MIN,
	                   .export = {"destination.example", regions, 1}},
	        .n_memory = 1,
	        .exporter = "pid 12 uid 0",
	        .started_us = 1700000000000000,
	};

	export_record_seed("exported", &m);
	m.export.export.n_regions = m.n_memory = 2;
	m.state = EXPORT_RECORD_SERVING;
	export_record_seed("serving", &m);
	m.state = EXPORT_RECORD_RELEASED;
	m.ended_us = 1700000000000005;
	strcpy(m.state_text, "destination has 256 pages");
	export_record_seed("released", &m);
}

int main(int argc, char **argv)
{
	if (argc != 2) {
		fprintf(stderr, "usage: fuzz-corpus DIR\n");
		return 1;
	}
	root = argv[1];
	mkdir(root, 0755);
	page_seeds_session();
	page_seeds_data();
	attach_seeds();
	attach_reply_seeds();
	control_request_seeds();
	control_response_seeds();
	state_seeds();
	export_record_seeds();
	return 0;
}
