/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The control interface as plain structs, for both daemons and postcopyctl.
 * proto/control.proto tells the meaning of every field.
 *
 * Decoded messages own their arrays (malloc); the _free functions release them
 * and accept zeroed structs. No I/O here.
 */
#ifndef WIRE_CONTROL_MESSAGE_H
#define WIRE_CONTROL_MESSAGE_H

#include "core/histogram.h"
#include "wire/attach_message.h"

#define CONTROL_PATH_MAX 108        /* of a socket, as sun_path has it, with the final NUL */
#define CONTROL_ADDRESS_MAX 272     /* HOST:PORT with the final NUL */
#define CONTROL_WORD_MAX 64         /* short names */
#define CONTROL_MIGRATIONS_MAX 1024 /* in one list */
#define CONTROL_PROBE_RESULTS_MAX 64

/* The text of the state "active" once the source has been reached and has agreed. */
#define CONTROL_TEXT_SOURCE_REACHED "connected; waiting for the source to be frozen"

enum lost_policy {
	LOST_POLICY_HOLD = 1,
	LOST_POLICY_POISON = 2,
	LOST_POLICY_KILL = 3,
};

const char *lost_policy_name(enum lost_policy policy); /* "hold" ... */
int lost_policy_parse(const char *text);               /* the value or -EINVAL */

enum control_request_type {
	CONTROL_REQUEST_NONE,
	CONTROL_REQUEST_START,
	CONTROL_REQUEST_LIST,
	CONTROL_REQUEST_GET,
	CONTROL_REQUEST_CANCEL,
	CONTROL_REQUEST_RECOVER,
	CONTROL_REQUEST_SET_LIMITS,
	CONTROL_REQUEST_WATCH,
	CONTROL_REQUEST_PROBE,
	CONTROL_REQUEST_EXPORT_PROCESS,
	CONTROL_REQUEST_FREEZE,
	CONTROL_REQUEST_POISON,
	CONTROL_REQUEST_EXPORT_FILE,
};

const char *control_request_type_name(enum control_request_type type);

struct process_range {
	char name[REGION_NAME_MAX];
	gpa_t gpa;
	hva_t hva;
	uint64_t length_bytes;
	uint64_t page_size_bytes; /* never 0 after decode */
};

struct file_range {
	char name[REGION_NAME_MAX];
	gpa_t gpa;
	backing_off_t offset; /* in the file */
	uint64_t length_bytes;
	uint64_t page_size_bytes; /* never 0 after decode */
};

struct control_request {
	uint64_t id;
	enum control_request_type type;
	bool has_migration_id; /* may be missing only in list, watch, probe */
	struct uuid migration_id;
	union {
		struct {
			char source[CONTROL_ADDRESS_MAX];
			char peer_identity[PEER_IDENTITY_MAX];
			uint8_t token[TOKEN_BYTES_MAX];
			size_t token_len;
			enum lost_policy lost_policy; /* never 0 after decode */
			uint64_t lost_deadline_us;
			uint64_t bandwidth; /* bytes a second */
			bool stop_on_poison;
			char firecracker_socket[CONTROL_PATH_MAX]; /* "": none */
		} start;
		struct {
			bool force;
		} cancel;
		struct {
			char source[CONTROL_ADDRESS_MAX];
		} recover;
		struct {
			uint64_t bandwidth;
		} set_limits;
		struct {
			uint64_t interval_us;
		} watch;
		struct {
			uint8_t token[TOKEN_BYTES_MAX];
			size_t token_len;
			char peer_identity[PEER_IDENTITY_MAX];
			pid_t pid;
			struct process_range *ranges;
			size_t n_ranges;
		} export_process;
		struct {
			struct poison_range *ranges;
			size_t n_ranges;
		} poison;
		struct { /* the file comes with the message */
			uint8_t token[TOKEN_BYTES_MAX];
			size_t token_len;
			char peer_identity[PEER_IDENTITY_MAX];
			struct file_range *ranges;
			size_t n_ranges;
			struct poison_range *poisoned;
			size_t n_poisoned;
		} export_file;
	};
};

struct control_region {
	char name[REGION_NAME_MAX];
	gpa_t gpa;
	uint64_t length_bytes;
	uint64_t page_size_bytes;
	char backing[CONTROL_WORD_MAX];
	char mode[CONTROL_WORD_MAX];
	uint32_t lane;   /* of its first piece */
	uint32_t pieces; /* 1: whole */
};

struct control_poisoned {
	char region[REGION_NAME_MAX];
	uint64_t offset_bytes;
	gpa_t gpa;
	uint64_t lost_bytes;
	char reason[CONTROL_WORD_MAX];
	char reporter[PEER_IDENTITY_MAX];
	uint64_t time_us;
};

struct control_migration {
	struct uuid migration_id;
	char state[ATTACH_STATE_MAX];
	char state_text[WIRE_ERROR_TEXT_MAX];
	char peer[CONTROL_ADDRESS_MAX];
	char peer_identity[PEER_IDENTITY_MAX];
	uint32_t lanes;
	struct control_region *regions;
	size_t n_regions;
	uint64_t started_us;
	uint64_t total_time_us;
	uint64_t downtime_us;
	uint64_t memory_total;
	uint64_t memory_remaining;
	uint64_t memory_processed;
	uint64_t memory_bps;
	uint64_t bandwidth;
	uint64_t pages_data;
	uint64_t pages_zero;
	uint64_t pages_poisoned;
	uint64_t pages_removed;
	uint64_t pages_urgent;
	uint64_t pages_stream;
	uint64_t postcopy_requests;
	uint64_t faults;
	uint64_t faults_local;
	uint64_t fault_p50_ns;
	uint64_t fault_p99_ns;
	uint64_t fault_p999_ns;
	uint64_t fault_max_ns;
	uint64_t latency_log2_us[HISTOGRAM_LOG2_BUCKETS];
	uint64_t lost_bytes;
	struct control_poisoned *poisoned;
	size_t n_poisoned;
	uint64_t reconnects;
	uint64_t eta_us;
	uint64_t lost_left_us;
};

void control_migration_free(struct control_migration *m); /* its arrays, not itself */

struct control_probe_result {
	char memory[CONTROL_WORD_MAX];
	char poison[WIRE_ERROR_TEXT_MAX];
	char sigbus[CONTROL_WORD_MAX];
	char copy_overwrites_poison[CONTROL_WORD_MAX];
	char remedy[WIRE_ERROR_TEXT_MAX];
};

enum control_response_type {
	CONTROL_RESPONSE_PLAIN, /* error and text only */
	CONTROL_RESPONSE_LIST,
	CONTROL_RESPONSE_MIGRATION,
	CONTROL_RESPONSE_PROBE,
	CONTROL_RESPONSE_EVENT,
};

struct control_response {
	uint64_t id;
	int error; /* 0 or a positive errno */
	char text[WIRE_ERROR_TEXT_MAX];
	enum control_response_type type;
	struct control_migration *migrations; /* list: n; migration, event: 1 */
	size_t n_migrations;
	bool state_changed; /* event */
	struct control_probe_result *probe_results;
	size_t n_probe_results;
	char userfaultfd[WIRE_ERROR_TEXT_MAX]; /* probe */
	char remedy[WIRE_ERROR_TEXT_MAX];      /* probe */
};

int control_request_decode(const uint8_t *buf, size_t len, struct control_request *ret,
                           struct error *err);
void control_request_free(struct control_request *r);
/* The id of a request that decode refused, for the answer; 0 when not even that is readable. */
uint64_t control_request_id(const uint8_t *buf, size_t len);
int control_response_decode(const uint8_t *buf, size_t len, struct control_response *ret,
                            struct error *err);
void control_response_free(struct control_response *r);

/*
 * Encode into a malloc()ed body. 0, -ENOMEM, -EINVAL for a struct that breaks
 * the limits, -EMSGSIZE when the body would exceed FDPASS_MESSAGE_MAX (a daemon
 * then shortens a list and says so in text).
 */
int control_request_encode(const struct control_request *r, uint8_t **ret, size_t *ret_len);
int control_response_encode(const struct control_response *r, uint8_t **ret, size_t *ret_len);

#endif
