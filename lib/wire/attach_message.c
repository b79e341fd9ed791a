/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Names used on the attach interface, and the codec of its replies. Called by
 * both daemons and by libpostcopy.
 */
#include "wire/attach_message.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "attach.pb-c.h"
#include "wire/body.h"

#define PB(name) POSTCOPY__ATTACH__V1__##name
static_assert((int)BACKING_ANONYMOUS == PB(BACKING__BACKING_ANONYMOUS), "backings");
static_assert((int)BACKING_MEMFD == PB(BACKING__BACKING_MEMFD), "backings");
static_assert((int)BACKING_HUGETLB == PB(BACKING__BACKING_HUGETLB), "backings");
static_assert((int)UFFD_MODE_MISSING == PB(MODE__MODE_MISSING), "modes");
static_assert((int)UFFD_MODE_MINOR == PB(MODE__MODE_MINOR), "modes");
static_assert((int)PAGE_FATE_HERE == PB(FATE__FATE_HERE), "fates");
static_assert((int)PAGE_FATE_POISONED == PB(FATE__FATE_POISONED), "fates");
static_assert((int)PAGE_FATE_LOST == PB(FATE__FATE_LOST), "fates");
static_assert((int)PAGE_FATE_NOT_YET == PB(FATE__FATE_NOT_YET), "fates");

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
	ret->restarted = in->restarted;
	return text_get(in->text, sizeof(ret->text), TEXT_FREE, "StateEvent.text", ret->text, err);
}

static int pages_check(const struct poison_range *r, const char *message, size_t i,
                       struct error *err)
{
	int code = body_pages_check(r->gpa.addr, r->length_bytes, err);

	if (code < 0)
		error_prefix(err, "%s.ranges[%zu]", message, i);
	return code;
}

/* In order and apart, so that whoever asks for the rest comes forward each time. */
static int range_check(const struct poison_range *r, uint64_t from, size_t i, struct error *err)
{
	int code = pages_check(r, "PoisonList", i, err);

	if (code < 0)
		return code;
	if (r->gpa.addr < from)
		return error_set(err, -EBADMSG,
		                 "PoisonList.ranges[%zu] starts at %#" PRIx64
		                 ", before the end of the one before it (%#" PRIx64 ")",
		                 i, r->gpa.addr, from);
	return 0;
}

static int ranges_check(const struct attach_reply *reply, struct error *err)
{
	uint64_t from = 0;

	for (size_t i = 0; i < reply->n_ranges; i++) {
		int r = range_check(&reply->ranges[i], from, i, err);

		if (r < 0)
			return r;
		from = reply->ranges[i].gpa.addr + reply->ranges[i].length_bytes;
	}
	if (reply->more && reply->n_ranges == 0)
		return error_set(err, -EBADMSG, "PoisonList says more, but has no range");
	return 0;
}

/* In any order: the agent asks for what is needed, as it comes. */
static int populate_check(const struct attach_reply *reply, struct error *err)
{
	if (reply->n_ranges == 0 || reply->n_ranges > POISON_LIST_MAX)
		return error_set(err, -EBADMSG, "Populate.ranges has %zu entries, expected 1 to %d",
		                 reply->n_ranges, POISON_LIST_MAX);
	for (size_t i = 0; i < reply->n_ranges; i++) {
		int r = pages_check(&reply->ranges[i], "Populate", i, err);

		if (r < 0)
			return r;
	}
	return 0;
}

static int decode_populate(const Postcopy__Attach__V1__Populate *in, struct attach_reply *ret,
                           struct error *err)
{
	ret->type = ATTACH_REPLY_POPULATE;
	ret->number = in->number;
	ret->urgent = in->urgent;
	ret->n_ranges = in->n_ranges;
	for (size_t i = 0; i < MIN(in->n_ranges, (size_t)POISON_LIST_MAX); i++) {
		ret->ranges[i].gpa.addr = in->ranges[i]->guest_physical_address;
		ret->ranges[i].length_bytes = in->ranges[i]->length;
	}
	return populate_check(ret, err);
}

static int decode_poison_list(const Postcopy__Attach__V1__PoisonList *in, struct attach_reply *ret,
                              struct error *err)
{
	if (in->n_ranges > POISON_LIST_MAX)
		return error_set(err, -EBADMSG, "PoisonList.ranges has %zu entries, at most %d",
		                 in->n_ranges, POISON_LIST_MAX);
	ret->type = ATTACH_REPLY_POISON_LIST;
	ret->more = in->more;
	ret->n_ranges = in->n_ranges;
	for (size_t i = 0; i < in->n_ranges; i++) {
		ret->ranges[i].gpa.addr = in->ranges[i]->guest_physical_address;
		ret->ranges[i].length_bytes = in->ranges[i]->length;
	}
	return ranges_check(ret, err);
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
	reply.id = in->id;
	if (in->reply_case == PB(ATTACH_REPLY__REPLY_ACK))
		r = decode_ack(in->ack, &reply, err);
	else if (in->reply_case == PB(ATTACH_REPLY__REPLY_STATE))
		r = decode_state(in->state, &reply, err);
	else if (in->reply_case == PB(ATTACH_REPLY__REPLY_POISON_LIST))
		r = decode_poison_list(in->poison_list, &reply, err);
	else if (in->reply_case == PB(ATTACH_REPLY__REPLY_POPULATE))
		r = decode_populate(in->populate, &reply, err);
	else
		r = error_set(err, -EBADMSG, "AttachReply of unknown type %u",
		              m->n_unknown_fields ? m->unknown_fields[0].tag : 0);
	wire_arena_fini(&a);
	if (r == 0)
		*ret = reply;
	return r;
}

static void ranges_put(const struct attach_reply *r, Postcopy__Attach__V1__PoisonRange *ranges,
                       Postcopy__Attach__V1__PoisonRange **ptrs)
{
	for (size_t i = 0; i < r->n_ranges; i++) {
		postcopy__attach__v1__poison_range__init(&ranges[i]);
		ranges[i].guest_physical_address = r->ranges[i].gpa.addr;
		ranges[i].length = r->ranges[i].length_bytes;
		ptrs[i] = &ranges[i];
	}
}

static int encode_populate(const struct attach_reply *r, uint8_t **ret, size_t *ret_len)
{
	Postcopy__Attach__V1__AttachReply reply = POSTCOPY__ATTACH__V1__ATTACH_REPLY__INIT;
	Postcopy__Attach__V1__Populate populate = POSTCOPY__ATTACH__V1__POPULATE__INIT;
	Postcopy__Attach__V1__PoisonRange ranges[POISON_LIST_MAX];
	Postcopy__Attach__V1__PoisonRange *ptrs[POISON_LIST_MAX];

	if (populate_check(r, NULL) < 0)
		return -EINVAL;
	ranges_put(r, ranges, ptrs);
	populate.number = r->number;
	populate.urgent = r->urgent;
	populate.ranges = ptrs;
	populate.n_ranges = r->n_ranges;
	reply.reply_case = PB(ATTACH_REPLY__REPLY_POPULATE);
	reply.populate = &populate;
	reply.id = r->id;
	return body_pack(&reply.base, ret, ret_len);
}

static int encode_poison_list(const struct attach_reply *r, uint8_t **ret, size_t *ret_len)
{
	Postcopy__Attach__V1__AttachReply reply = POSTCOPY__ATTACH__V1__ATTACH_REPLY__INIT;
	Postcopy__Attach__V1__PoisonList list = POSTCOPY__ATTACH__V1__POISON_LIST__INIT;
	Postcopy__Attach__V1__PoisonRange ranges[POISON_LIST_MAX];
	Postcopy__Attach__V1__PoisonRange *ptrs[POISON_LIST_MAX];

	if (r->n_ranges > POISON_LIST_MAX || ranges_check(r, NULL) < 0)
		return -EINVAL;
	ranges_put(r, ranges, ptrs);
	list.ranges = ptrs;
	list.n_ranges = r->n_ranges;
	list.more = r->more;
	reply.reply_case = PB(ATTACH_REPLY__REPLY_POISON_LIST);
	reply.poison_list = &list;
	reply.id = r->id;
	return body_pack(&reply.base, ret, ret_len);
}

int attach_reply_encode(const struct attach_reply *r, uint8_t **ret, size_t *ret_len)
{
	Postcopy__Attach__V1__AttachReply reply = POSTCOPY__ATTACH__V1__ATTACH_REPLY__INIT;
	Postcopy__Attach__V1__StateEvent state = POSTCOPY__ATTACH__V1__STATE_EVENT__INIT;
	Postcopy__Attach__V1__Ack ack = POSTCOPY__ATTACH__V1__ACK__INIT;
	char text[WIRE_ERROR_TEXT_MAX];

	reply.id = r->id;
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
		state.restarted = r->restarted;
		reply.reply_case = PB(ATTACH_REPLY__REPLY_STATE);
		reply.state = &state;
	} else if (r->type == ATTACH_REPLY_POISON_LIST) {
		return encode_poison_list(r, ret, ret_len);
	} else if (r->type == ATTACH_REPLY_POPULATE) {
		return encode_populate(r, ret, ret_len);
	} else {
		return -EINVAL;
	}
	return body_pack(&reply.base, ret, ret_len);
}

size_t poison_range_find(const struct poison_range *ranges, size_t n, gpa_t from)
{
	size_t low = 0, high = n;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (ranges[middle].gpa.addr + ranges[middle].length_bytes <= from.addr)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}
