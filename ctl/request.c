/* SPDX-License-Identifier: Apache-2.0 */
/* From a parsed command line to the request it means. Called by the commands. */
#include "ctl/request.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "core/cleanup.h"
#include "ctl/args.h"

#define LOST_DEADLINE_DEFAULT_US (30 * UINT64_C(1000000))
#define WATCH_INTERVAL_DEFAULT_US UINT64_C(1000000)

/* The value of an option that must be there. */
static int value_required(const struct invocation *inv, const char *name, const char **ret,
                          struct error *err)
{
	*ret = invocation_value(inv, name);
	if (!*ret)
		return error_set(err, -EINVAL, "%s needs --%s; see postcopyctl %s --help",
		                 inv->command->name, name, inv->command->name);
	return 0;
}

static int token_read(const struct invocation *inv, uint8_t *token, size_t *ret_len,
                      struct error *err)
{
	const char *path;
	bool exposed = false;
	int r = value_required(inv, "token-file", &path, err);

	if (r == 0)
		r = args_token_file(path, token, ret_len, &exposed, err);
	if (r == 0 && exposed)
		fprintf(stderr, "postcopyctl: %s can be read by other users (chmod 600 %s)\n", path,
		        path);
	return r;
}

static int peer_read(const struct invocation *inv, char buf[PEER_IDENTITY_MAX], struct error *err)
{
	const char *peer;
	int r = value_required(inv, "peer", &peer, err);

	return r < 0 ? r : args_identity(peer, buf, err);
}

static int bandwidth_read(const struct invocation *inv, uint64_t *ret, struct error *err)
{
	const char *text = invocation_value(inv, "bandwidth");
	int r = text ? args_number(text, ret, err) : 0;

	return r < 0 ? error_prefix(err, "--bandwidth") : 0;
}

static int lost_policy_read(const struct invocation *inv, struct control_request *ret,
                            struct error *err)
{
	const char *policy = invocation_value(inv, "lost-policy");
	const char *deadline = invocation_value(inv, "lost-deadline");
	int value = policy ? lost_policy_parse(policy) : LOST_POLICY_HOLD;

	if (value < 0)
		return error_set(err, -EINVAL, "--lost-policy %s is not hold, poison or kill",
		                 policy);
	ret->start.lost_policy = (enum lost_policy)value;
	if (deadline && value == LOST_POLICY_HOLD)
		return error_set(err, -EINVAL,
		                 "--lost-deadline means nothing with --lost-policy hold");
	if (value != LOST_POLICY_HOLD)
		ret->start.lost_deadline_us = LOST_DEADLINE_DEFAULT_US;
	if (deadline && units_parse_duration(deadline, &ret->start.lost_deadline_us, err) < 0)
		return error_prefix(err, "--lost-deadline");
	return 0;
}

/* For the daemon, which may stand elsewhere than we do. */
static int firecracker_socket_read(const struct invocation *inv, char buf[CONTROL_PATH_MAX],
                                   struct error *err)
{
	const char *path = invocation_value(inv, "firecracker-socket");

	if (path && *path != '/')
		return error_set(err, -EINVAL, "--firecracker-socket %s is not an absolute path",
		                 path);
	if (path && strlen(path) >= CONTROL_PATH_MAX)
		return error_set(err, -EINVAL, "--firecracker-socket has %zu bytes: at most %d",
		                 strlen(path), CONTROL_PATH_MAX - 1);
	if (path)
		strcpy(buf, path);
	return 0;
}

/* All of a start but its token. */
static int start_options_fill(const struct invocation *inv, struct control_request *ret,
                              struct error *err)
{
	const char *source;
	int r = value_required(inv, "source", &source, err);

	if (r == 0)
		r = args_address(source, ret->start.source, err);
	if (r == 0)
		r = peer_read(inv, ret->start.peer_identity, err);
	if (r == 0)
		r = lost_policy_read(inv, ret, err);
	if (r == 0)
		r = bandwidth_read(inv, &ret->start.bandwidth, err);
	if (r == 0)
		r = firecracker_socket_read(inv, ret->start.firecracker_socket, err);
	ret->start.stop_on_poison = invocation_value(inv, "stop-on-poison") != NULL;
	return r;
}

static int start_fill(const struct invocation *inv, struct control_request *ret, struct error *err)
{
	int r = start_options_fill(inv, ret, err);

	return r < 0 ? r : token_read(inv, ret->start.token, &ret->start.token_len, err);
}

/* The start that qemu-migrate does itself: id and token are made where none are given. */
static int qemu_migrate_fill(const struct invocation *inv, struct control_request *ret,
                             struct error *err)
{
	int r = start_options_fill(inv, ret, err);

	if (r == 0 && !ret->has_migration_id)
		r = uuid_random(&ret->migration_id);
	ret->has_migration_id = true;
	if (r < 0 || invocation_value(inv, "token-file"))
		return r < 0 ? r : token_read(inv, ret->start.token, &ret->start.token_len, err);
	ret->start.token_len = sizeof(ret->start.token);
	if (getrandom(ret->start.token, sizeof(ret->start.token), 0) !=
	    (ssize_t)sizeof(ret->start.token))
		return error_set(err, -EIO, "cannot get random bytes");
	return 0;
}

static int cancel_fill(const struct invocation *inv, struct control_request *ret, struct error *err)
{
	(void)err;
	ret->cancel.force = invocation_value(inv, "force") != NULL;
	return 0;
}

static int recover_fill(const struct invocation *inv, struct control_request *ret,
                        struct error *err)
{
	const char *source = invocation_value(inv, "source");

	return source ? args_address(source, ret->recover.source, err) : 0;
}

static int set_limits_fill(const struct invocation *inv, struct control_request *ret,
                           struct error *err)
{
	const char *text;
	int r = value_required(inv, "bandwidth", &text, err);

	return r < 0 ? r : bandwidth_read(inv, &ret->set_limits.bandwidth, err);
}

static int watch_fill(const struct invocation *inv, struct control_request *ret, struct error *err)
{
	const char *text = invocation_value(inv, "interval");

	ret->watch.interval_us = WATCH_INTERVAL_DEFAULT_US;
	if (text && units_parse_duration(text, &ret->watch.interval_us, err) < 0)
		return error_prefix(err, "--interval");
	return 0;
}

static int pid_read(const struct invocation *inv, pid_t *ret, struct error *err)
{
	const char *text;
	char *end;
	long pid;
	int r = value_required(inv, "pid", &text, err);

	if (r < 0)
		return r;
	errno = 0;
	pid = strtol(text, &end, 10);
	if (errno != 0 || end == text || *end != '\0' || pid <= 0 || pid > INT32_MAX)
		return error_set(err, -EINVAL, "--pid %s is not a process ID", text);
	*ret = (pid_t)pid;
	return 0;
}

static int export_fill(const struct invocation *inv, struct control_request *ret, struct error *err)
{
	size_t n = (size_t)inv->n_operands - 1;
	int r = pid_read(inv, &ret->export_process.pid, err);

	if (r == 0)
		r = peer_read(inv, ret->export_process.peer_identity, err);
	if (r == 0)
		r = token_read(inv, ret->export_process.token, &ret->export_process.token_len, err);
	if (r < 0)
		return r;
	if (n > REGIONS_MAX)
		return error_set(err, -EINVAL, "%zu regions instead of at most %d", n, REGIONS_MAX);
	ret->export_process.ranges = calloc(n, sizeof(*ret->export_process.ranges));
	if (!ret->export_process.ranges)
		return error_set_errno(err, -ENOMEM, "cannot store %zu regions", n);
	ret->export_process.n_ranges = n;
	for (size_t i = 0; i < n && r == 0; i++)
		r = args_process_range(inv->operands[i + 1], &ret->export_process.ranges[i], err);
	return r;
}

static int file_ranges_fill(const struct invocation *inv, struct control_request *ret,
                            struct error *err)
{
	size_t n = (size_t)inv->n_operands - 1;
	int r = 0;

	if (n > REGIONS_MAX)
		return error_set(err, -EINVAL, "%zu regions instead of at most %d", n, REGIONS_MAX);
	ret->export_file.ranges = calloc(n, sizeof(*ret->export_file.ranges));
	if (!ret->export_file.ranges)
		return error_set_errno(err, -ENOMEM, "cannot store %zu regions", n);
	ret->export_file.n_ranges = n;
	for (size_t i = 0; i < n && r == 0; i++)
		r = args_file_range(inv->operands[i + 1], &ret->export_file.ranges[i], err);
	return r;
}

/* The file itself goes with the message, see export_file_run(). */
static int export_file_fill(const struct invocation *inv, struct control_request *ret,
                            struct error *err)
{
	const char *poisoned = invocation_value(inv, "poisoned"), *file;
	int r = value_required(inv, "file", &file, err);

	if (r == 0)
		r = peer_read(inv, ret->export_file.peer_identity, err);
	if (r == 0)
		r = token_read(inv, ret->export_file.token, &ret->export_file.token_len, err);
	if (r == 0 && poisoned)
		r = args_poison_file(poisoned, &ret->export_file.poisoned,
		                     &ret->export_file.n_poisoned, err);
	return r < 0 ? r : file_ranges_fill(inv, ret, err);
}

static int poison_fill(const struct invocation *inv, struct control_request *ret, struct error *err)
{
	size_t n = (size_t)inv->n_operands - 1;
	int r = 0;

	if (n > POISON_RANGES_MAX)
		return error_set(err, -EINVAL, "%zu ranges instead of at most %d", n,
		                 POISON_RANGES_MAX);
	ret->poison.ranges = calloc(n, sizeof(*ret->poison.ranges));
	if (!ret->poison.ranges)
		return error_set_errno(err, -ENOMEM, "cannot store %zu ranges", n);
	ret->poison.n_ranges = n;
	for (size_t i = 0; i < n && r == 0; i++)
		r = args_poison_range(inv->operands[i + 1], &ret->poison.ranges[i], err);
	return r;
}

static const struct {
	const char *command;
	enum control_request_type type;
	int (*fill)(const struct invocation *, struct control_request *, struct error *);
} fillers[] = {
        {"start", CONTROL_REQUEST_START, start_fill},
        {"list", CONTROL_REQUEST_LIST, NULL},
        {"show", CONTROL_REQUEST_GET, NULL},
        {"cancel", CONTROL_REQUEST_CANCEL, cancel_fill},
        {"recover", CONTROL_REQUEST_RECOVER, recover_fill},
        {"set-limits", CONTROL_REQUEST_SET_LIMITS, set_limits_fill},
        {"watch", CONTROL_REQUEST_WATCH, watch_fill},
        {"probe", CONTROL_REQUEST_PROBE, NULL},
        {"export", CONTROL_REQUEST_EXPORT_PROCESS, export_fill},
        {"export-file", CONTROL_REQUEST_EXPORT_FILE, export_file_fill},
        {"freeze", CONTROL_REQUEST_FREEZE, NULL},
        {"poison", CONTROL_REQUEST_POISON, poison_fill},
        {"qemu-migrate", CONTROL_REQUEST_START, qemu_migrate_fill},
};

int request_from_invocation(const struct invocation *inv, struct control_request *ret,
                            struct error *err)
{
	struct control_request request = {0};
	int r = 0;

	for (size_t i = 0; i < ARRAY_SIZE(fillers); i++) {
		if (strcmp(fillers[i].command, inv->command->name) != 0)
			continue;
		request.type = fillers[i].type;
		if (inv->n_operands > 0) {
			request.has_migration_id = true;
			r = args_uuid(inv->operands[0], &request.migration_id, err);
		}
		if (r == 0 && fillers[i].fill)
			r = fillers[i].fill(inv, &request, err);
		break;
	}
	if (r < 0) {
		control_request_free(&request);
		return r;
	}
	*ret = request;
	return 0;
}
