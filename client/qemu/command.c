/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests as they come over the command socket, a JSON object each, and their
 * answers. Called by the server; what they do is guest.c's.
 *
 *   {"command": "attach", "id": UUID, "token": HEX [, "socket": PATH]}
 *   {"command": "export", "id": UUID, "token": HEX, "peer": IDENTITY [, "socket": PATH]}
 *   {"command": "freeze" [, "id": UUID]}
 *   {"command": "withdraw" [, "id": UUID] [, "force": true]}
 *   {"command": "status"}
 *   {"command": "share", "device": NUMBER, "inode": NUMBER}
 *       what must be done by another process that has mapped this file; of back_end.c
 *   {"command": "wait" [, "state": "postcopy-active"]}
 *       until the memory has come (or is served), or will not
 *
 * With an id, freeze and withdraw mean that migration and no other.
 *
 * Answers are {"ok": true, ...} or {"ok": false, "errno": NUMBER, "error": TEXT}.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>

#include "client/qemu/qemu.h"
#include "core/cleanup.h"
#include "core/hex.h"
#include "core/uuid.h"

static json_t *answer(int r, const struct error *err)
{
	if (r < 0)
		return json_pack("{s:b, s:i, s:s}", "ok", 0, "errno", -r, "error",
		                 err->text[0] ? err->text : strerror(-r));
	return json_pack("{s:b}", "ok", 1);
}

static int token_read(const char *text, struct guest_request *ret, struct error *err)
{
	size_t len = strlen(text);

	if (len % 2 != 0 || len / 2 < POSTCOPY_TOKEN_MIN || len / 2 > POSTCOPY_TOKEN_MAX ||
	    hex_read(text, len / 2, ret->token) != len)
		return error_set(err, -EINVAL,
		                 "the token is not %d to %d bytes in hexadecimal (%zu characters)",
		                 POSTCOPY_TOKEN_MIN, POSTCOPY_TOKEN_MAX, len);
	ret->token_len = len / 2;
	return 0;
}

/* Of attach and export. Its strings are the object's. */
static int request_read(json_t *o, bool is_export, struct guest_request *ret, struct error *err)
{
	const char *id, *token, *command;
	json_error_t e;
	int r = is_export ? json_unpack_ex(o, &e, JSON_STRICT, "{s:s, s:s, s:s, s:s, s?s}",
	                                   "command", &command, "id", &id, "token", &token, "peer",
	                                   &ret->peer, "socket", &ret->socket_path)
	                  : json_unpack_ex(o, &e, JSON_STRICT, "{s:s, s:s, s:s, s?s}", "command",
	                                   &command, "id", &id, "token", &token, "socket",
	                                   &ret->socket_path);

	if (r < 0)
		return error_set(err, -EINVAL, "%s: %s", is_export ? "export" : "attach", e.text);
	if (postcopy_uuid_parse(id, ret->migration_id) < 0)
		return error_set(err, -EINVAL, "\"%.64s\" is not a migration ID (a UUID)", id);
	return token_read(token, ret, err);
}

static json_t *attach_run(json_t *o)
{
	struct guest_request request = {0};
	struct error err = {0};
	int r = request_read(o, false, &request, &err);

	if (r == 0)
		r = guest_attach(&request, &err);
	explicit_bzero(request.token, sizeof(request.token));
	return answer(r, &err);
}

static json_t *export_run(json_t *o)
{
	struct guest_request request = {0};
	struct error err = {0};
	int r = request_read(o, true, &request, &err);

	if (r == 0)
		r = guest_export(&request, &err);
	explicit_bzero(request.token, sizeof(request.token));
	return answer(r, &err);
}

/* Is it the migration that the request means? */
static int id_check(const json_t *o, struct error *err)
{
	const char *text = json_string_value(json_object_get(o, "id"));
	struct postcopy_status status;
	uint8_t wanted[16], id[16];

	if (!text)
		return 0;
	if (postcopy_uuid_parse(text, wanted) < 0)
		return error_set(err, -EINVAL, "\"%.64s\" is not a migration ID (a UUID)", text);
	if (guest_status(GUEST_OUT, id, &status) && memcmp(id, wanted, sizeof(id)) == 0)
		return 0;
	return error_set(err, -ENOENT, "this QEMU is not exported for migration %s", text);
}

static json_t *freeze_run(json_t *o)
{
	struct error err = {0};
	int r = id_check(o, &err);

	return answer(r < 0 ? r : guest_freeze(&err), &err);
}

static json_t *withdraw_run(json_t *o)
{
	struct error err = {0};
	int r = id_check(o, &err);

	return answer(r < 0 ? r : guest_withdraw(json_is_true(json_object_get(o, "force")), &err),
	              &err);
}

static json_t *regions_json(void)
{
	struct mapping m[BACKENDS_MAX];
	json_t *regions = json_array();
	struct error err = {0};
	struct stat st;
	size_t n = 0;

	if (memory_copy(m, &n, &err) < 0)
		return json_string(err.text);
	for (size_t i = 0; i < n; i++)
		json_array_append_new(regions,
		                      json_pack("{s:s, s:I, s:I, s:I, s:b, s:b}", "name", m[i].name,
		                                "address", (json_int_t)m[i].gpa, "length",
		                                (json_int_t)m[i].length_bytes, "page_size",
		                                (json_int_t)m[i].page_size_bytes, "is_file",
		                                (int)command_line_is_file(m[i].name), "populated",
		                                fstat(m[i].fd, &st) == 0 && st.st_blocks > 0));
	return regions;
}

/* null: no migration yet. */
static json_t *side_json(int side)
{
	struct postcopy_status status;
	char text[UUID_TEXT_LEN];
	struct uuid id;

	if (!guest_status(side, id.bytes, &status))
		return json_null();
	return json_pack("{s:s, s:s, s:s, s:b, s:b}", "id", uuid_format(&id, text), "state",
	                 status.name, "text", status.text, "final", status.final, "connected",
	                 status.connected);
}

static json_t *status_run(json_t *o)
{
	(void)o;
	return json_pack("{s:b, s:b, s:o, s:o, s:o}", "ok", 1, "incoming",
	                 (int)command_line.incoming, "regions", regions_json(), "in",
	                 side_json(GUEST_IN), "out", side_json(GUEST_OUT));
}

static json_t *lost_json(const struct mapping *m)
{
	json_t *lost = json_array();
	uint64_t offset, length;
	size_t cursor = 0;

	while (guest_lost_next(m, &cursor, &offset, &length))
		json_array_append_new(lost,
		                      json_pack("[I, I]", (json_int_t)offset, (json_int_t)length));
	return lost;
}

/* Where it arrives, by which migration; or what of it is lost. */
static json_t *share_json(const struct guest_share *share)
{
	const struct guest_request *in = share->inbound;
	const struct mapping *m = share->mapping;
	char id_text[UUID_TEXT_LEN], token[2 * POSTCOPY_TOKEN_MAX + 1];
	json_t *o = json_pack("{s:b, s:s, s:I, s:I, s:I, s:I, s:b}", "ok", 1, "name", m->name,
	                      "address", (json_int_t)m->gpa, "offset", (json_int_t)m->offset_bytes,
	                      "length", (json_int_t)m->length_bytes, "page_size",
	                      (json_int_t)m->page_size_bytes, "hugetlb", (int)m->is_hugetlb);
	struct uuid id;

	if (!in) {
		json_object_set_new(o, "lost", lost_json(m));
		return o;
	}
	memcpy(id.bytes, in->migration_id, sizeof(id.bytes));
	hex_write(in->token, in->token_len, token);
	json_object_set_new(o, "id", json_string(uuid_format(&id, id_text)));
	json_object_set_new(o, "token", json_string(token));
	if (in->socket_path)
		json_object_set_new(o, "socket", json_string(in->socket_path));
	explicit_bzero(token, sizeof(token));
	return o;
}

static json_t *share_run(json_t *o)
{
	struct guest_share share;
	struct error err = {0};
	json_int_t device, inode;
	const char *command;
	json_error_t e;
	int r = json_unpack_ex(o, &e, JSON_STRICT, "{s:s, s:I, s:I}", "command", &command, "device",
	                       &device, "inode", &inode);

	if (r < 0)
		return answer(error_set(&err, -EINVAL, "share: %s", e.text), &err);
	r = guest_share((uint64_t)device, (uint64_t)inode, &share, &err);
	return r < 0 || !share.mapping ? answer(r, &err) : share_json(&share);
}

json_t *command_wait_answer(enum command_wait wait)
{
	struct error err = {.code = -ENOENT, .text = "no memory comes to this QEMU"};
	struct postcopy_status status;
	uint8_t id[16];

	if (!guest_status(GUEST_IN, id, &status))
		return answer(-ENOENT, &err);
	if (status.state == POSTCOPY_STATE_COMPLETED ||
	    (wait == WAIT_SERVED && status.state == POSTCOPY_STATE_POSTCOPY_ACTIVE))
		return status_run(NULL);
	if (!status.final && status.connected)
		return NULL;
	(void)error_set(&err, -ECONNABORTED, "the migration is %s%s%s", status.name,
	                status.text[0] ? ": " : "", status.text);
	return answer(err.code, &err);
}

static json_t *wait_begin(const json_t *o, enum command_wait *ret)
{
	const char *state = json_string_value(json_object_get(o, "state"));
	json_t *result;
	struct error err = {0};
	enum command_wait wait = WAIT_COMPLETED;

	if (state && strcmp(state, "postcopy-active") == 0)
		wait = WAIT_SERVED;
	else if (state && strcmp(state, "completed") != 0)
		return answer(error_set(&err, -EINVAL,
		                        "wait: \"%.64s\" is neither postcopy-active nor completed",
		                        state),
		              &err);
	result = command_wait_answer(wait);
	if (!result)
		*ret = wait;
	return result;
}

static const struct {
	const char *name;
	json_t *(*run)(json_t *o);
} commands[] = {{"attach", attach_run},     {"export", export_run}, {"freeze", freeze_run},
                {"withdraw", withdraw_run}, {"status", status_run}, {"share", share_run}};

json_t *command_run(const char *line, size_t len, enum command_wait *ret_wait)
{
	struct error err = {0};
	json_error_t e;
	json_t *o = json_loadb(line, len, 0, &e), *result = NULL;
	const char *name = json_string_value(json_object_get(o, "command"));
	bool found = name && strcmp(name, "wait") == 0;

	if (found)
		result = wait_begin(o, ret_wait);
	for (size_t i = 0; i < ARRAY_SIZE(commands) && name && !found; i++) {
		found = strcmp(commands[i].name, name) == 0;
		if (found)
			result = commands[i].run(o);
	}
	if (!found) {
		if (!o)
			error_set(&err, -EINVAL, "not a JSON object in one line: %s", e.text);
		else
			error_set(&err, -EINVAL,
			          "\"%.64s\" is no command; there are attach, export, freeze, "
			          "withdraw, status, share and wait",
			          name ? name : "");
		result = answer(err.code, &err);
	}
	json_decref(o);
	return result;
}
