/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the guest has lost on this host: only the daemon's ledger knows. Called
 * by the VMM, and by collapse.c.
 */
#include <errno.h>
#include <stdlib.h>

#include "client/internal.h"
#include "core/cleanup.h"

/* The growing list; its room doubles. */
struct room {
	struct poison_range *ranges;
	size_t n_ranges;
	size_t allocated;
};

static int room_add(struct room *room, const struct poison_range *range)
{
	if (room->n_ranges == room->allocated) {
		size_t n = room->allocated ? room->allocated * 2 : POISON_LIST_MAX;
		void *p = reallocarray(room->ranges, n, sizeof(*room->ranges));

		if (!p)
			return -ENOMEM;
		room->ranges = p;
		room->allocated = n;
	}
	room->ranges[room->n_ranges++] = *range;
	return 0;
}

/*
 * Take one reply over. The codec has checked that its ranges are in order; here,
 * that it goes on where the last one ended, so that the asking ends.
 */
static int reply_take(struct room *room, const struct attach_reply *reply, uint64_t *from,
                      struct error *err)
{
	for (size_t i = 0; i < reply->n_ranges; i++) {
		const struct poison_range *range = &reply->ranges[i];

		if (range->gpa.addr < *from)
			return error_set(err, -EPROTO,
			                 "the daemon's list of lost pages is not in order");
		*from = range->gpa.addr + range->length_bytes;
		if (room_add(room, range) < 0)
			return error_set_errno(err, -ENOMEM, "cannot keep %zu lost ranges",
			                       room->n_ranges + 1);
	}
	return 0;
}

int poison_list_get(struct postcopy *h, struct poison_range **ret, size_t *ret_n, struct error *err)
{
	struct attach_request request = {.type = ATTACH_REQUEST_LIST_POISON};
	struct attach_reply reply = {.type = ATTACH_REPLY_NONE};
	struct room room = {NULL, 0, 0};
	uint64_t from = 0;
	int r;

	if (h->is_source)
		return error_set(err, -EINVAL, "the handle is of an export, not of a destination");
	do {
		request.list_poison.from.addr = from;
		r = link_ask(h, &request, &reply, err);
		if (r == 0)
			r = reply_take(&room, &reply, &from, err);
	} while (r == 0 && reply.more);
	if (r < 0) {
		free(room.ranges);
		return r;
	}
	*ret = room.ranges;
	*ret_n = room.n_ranges;
	return 0;
}

int postcopy_list_poison(struct postcopy *handle, struct postcopy_range *ranges, size_t max,
                         size_t *ret_n, char *error_text, size_t error_size)
{
	_cleanup_free_ struct poison_range *all = NULL;
	struct error err = {0};
	size_t n = 0;
	int r = poison_list_get(handle, &all, &n, &err);

	if (r < 0)
		return error_give(r, &err, error_text, error_size);
	for (size_t i = 0; i < MIN(n, max); i++)
		ranges[i] = (struct postcopy_range){all[i].gpa.addr, all[i].length_bytes};
	*ret_n = n;
	return 0;
}
