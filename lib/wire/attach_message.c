/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Names used on the attach interface, and the codec of its replies. Called by
 * both daemons and by libpostcopy.
 */
#include "wire/attach_message.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "attach.pb-c.h"
#include "wire/body.h"

#define PB(name) POSTCOPY__ATTACH__V1__##name
static_assert((int)BACKING_ANONYMOUS == PB(BACKING__BACKING_ANONYMOUS), "backings");
static_assert((int)BACKING_MEMFD == PB(BACKING__BACKING_MEMFD), "backings");
static_assert((int)BACKING_HUGETLB == PB(BACKING__BACKING_HUGETLB), "backings");
static_assert((int)UFFD_MODE_MISSING == PB(MODE__MODE_MISSING), "modes");
static_assert((int)UFFD_MODE_MINOR == PB(MODE__MODE_MINOR), "modes");

static const char *const backing_names[] = {
        [BACKING_ANONYMOUS] = "anonymous",
        [BACKING_MEMFD] = "memfd",
        [BACKING_HUGETLB] = "hugetlb",
};
static_assert(ARRAY_SIZE(backing_names) == BACKING_HUGETLB + 1, "a name for each");

const char *backing_name(enum backing backing)
{
	if ((unsigned int)backing >= ARRAY_SIZE(backing_names) || !backing_names[backing])
		return "unknown";
	return backing_names[backing];
}

const char *uffd_mode_name(enum uffd_mode mode)
{
	if (mode == UFFD_MODE_MISSING)
		return "missing";
	return mode == UFFD_MODE_MINOR ? "minor" : "unknown";
}

static int decode_ack(const Postcopy__Attach__V1__Ack *in, struct attach_reply *ret,
                      struct error *err)
{
	int r = body_errno_get(in->error, "Ack.error", &ret->error, err);

	if (r < 0)
		return r;
	ret->type = ATTACH_REPLY_ACK;
	return text_get(in->text, sizeof(ret->text), TEXT_FREE, "Ack.text", ret->text, err);
}

static int decode_state(const Postcopy__Attach__V1__StateEvent *in, struct attach_reply *ret,
                        struct error *err)
{
	int r = body_required_get(in->state, sizeof(ret->state), TEXT_GRAPHIC, "StateEvent.state",
	                          ret->state, err);

	if (r < 0)
		return r;
	ret->type = ATTACH_REPLY_STATE;
	ret->final = in->final;
	return text_get(in->text, sizeof(ret->text), TEXT_FREE, "StateEvent.text", ret->text, err);
}

int attach_reply_decode(const uint8_t *buf, size_t len, struct attach_reply *ret, struct error *err)
{
	const Postcopy__Attach__V1__AttachReply *in;
	struct attach_reply reply = {.type = ATTACH_REPLY_NONE};
	struct wire_arena a;
	ProtobufCMessage *m;
	int r = body_unpack(&a, &postcopy__attach__v1__attach_reply__descriptor, buf, len, &m, err);

	if (r < 0)
		return r;
	in = (const Postcopy__Attach__V1__AttachReply *)m;
	if (in->reply_case == PB(ATTACH_REPLY__REPLY_ACK))
		r = decode_ack(in->ack, &reply, err);
	else if (in->reply_case == PB(ATTACH_REPLY__REPLY_STATE))
		r = decode_state(in->state, &reply, err);
	else
		r = error_set(err, -EBADMSG, "AttachReply of unknown type %u",
		              m->n_unknown_fields ? m->unknown_fields[0].tag : 0);
	wire_arena_fini(&a);
	if (r == 0)
		*ret = reply;
	return r;
}

int attach_reply_encode(const struct attach_reply *r, uint8_t **ret, size_t *ret_len)
{
	Postcopy__Attach__V1__AttachReply reply = POSTCOPY__ATTACH__V1__ATTACH_REPLY__INIT;
	Postcopy__Attach__V1__StateEvent state = POSTCOPY__ATTACH__V1__STATE_EVENT__INIT;
	Postcopy__Attach__V1__Ack ack = POSTCOPY__ATTACH__V1__ACK__INIT;
	char text[WIRE_ERROR_TEXT_MAX];

	text_clean(r->text, sizeof(r->text), text);
	if (r->type == ATTACH_REPLY_ACK) {
		if (r->error < 0 || r->error > ERRNO_LARGEST)
			return -EINVAL;
		ack.error = r->error;
		ack.text = text;
		reply.reply_case = PB(ATTACH_REPLY__REPLY_ACK);
		reply.ack = &ack;
	} else if (r->type == ATTACH_REPLY_STATE) {
		if (text_own_check(r->state, sizeof(r->state), TEXT_GRAPHIC) <= 0)
			return -EINVAL;
		state.state = (char *)r->state;
		state.text = text;
		state.final = r->final;
		reply.reply_case = PB(ATTACH_REPLY__REPLY_STATE);
		reply.state = &state;
	} else {
		return -EINVAL;
	}
	return body_pack(&reply.base, ret, ret_len);
}
