/* SPDX-License-Identifier: Apache-2.0 */
/* The socket of libpostcopy-qemu.so. Called by qemu_migrate_steps.c. */
#include "ctl/qemu_memory.h"

#include <errno.h>
#include <string.h>

static int answer_take(const struct qemu_memory *m, json_t *answer, struct error *err)
{
	const char *text = json_string_value(json_object_get(answer, "error"));
	json_int_t code = json_integer_value(json_object_get(answer, "errno"));

	if (json_is_true(json_object_get(answer, "ok")))
		return 0;
	return error_set(err, code > 0 && code < 4096 ? -(int)code : -EPROTO, "%s: %s", m->name,
	                 text ? text : "its answer makes no sense");
}

int qemu_memory_call(const struct qemu_memory *m, json_t *request, uint64_t deadline_us,
                     json_t **ret, struct error *err)
{
	struct json_stream s = {.fd = -1, .signals = m->signals};
	json_t *answer = NULL;
	int r = json_stream_open(&s, m->name, m->path, err);

	if (r < 0)
		json_decref(request);
	else
		r = json_stream_send(&s, request, err);
	if (r == 0)
		r = json_stream_receive(&s, deadline_us, &answer, err);
	if (r == 0)
		r = answer_take(m, answer, err);
	if (r == 0 && ret)
		*ret = json_incref(answer);
	json_decref(answer);
	json_stream_close(&s);
	return r;
}
