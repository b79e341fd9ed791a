/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a guest has lost, by guest-physical address: the ledger's entries sorted
 * and merged. Entries only ever come to a ledger, so a list takes in what is
 * new since it was last brought up to date, and outlives the ledger.
 */
#ifndef DAEMON_POISON_LIST_H
#define DAEMON_POISON_LIST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/ledger.h"
#include "wire/attach_message.h"

/* Zeroed: empty, up to date with an empty ledger. */
struct poison_list {
	struct poison_range *ranges; /* ascending, neither overlapping nor touching */
	size_t n_ranges;
	uint64_t n_entries; /* of the ledger, taken in */
};

/* 0, or -ENOMEM; then the list is as before. Always the same ledger. */
int poison_list_update(struct poison_list *l, const struct ledger *ledger);

/*
 * Ranges from this address on, at most max; a range that contains it is cut to
 * begin at its page. *ret_more: there are others behind them.
 */
size_t poison_list_read(const struct poison_list *l, gpa_t from, struct poison_range *ret,
                        size_t max, bool *ret_more);

void poison_list_free(struct poison_list *l); /* its contents */

#endif
