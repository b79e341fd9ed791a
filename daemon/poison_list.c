/* SPDX-License-Identifier: Apache-2.0 */
/* Role: see the header. Called on the main thread by the attach protocol. */
#include "daemon/poison_list.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/cleanup.h"

static uint64_t range_end(const struct poison_range *r)
{
	return r->gpa.addr + r->length_bytes;
}

static int compare(const void *a, const void *b)
{
	const struct poison_range *x = a, *y = b;

	return x->gpa.addr < y->gpa.addr ? -1 : x->gpa.addr > y->gpa.addr;
}

/* Sort and join what overlaps or touches; how many are left. */
static size_t merge(struct poison_range *ranges, size_t n)
{
	size_t last = 0;

	qsort(ranges, n, sizeof(*ranges), compare);
	for (size_t i = 1; i < n; i++) {
		if (ranges[i].gpa.addr > range_end(&ranges[last]))
			ranges[++last] = ranges[i];
		else if (range_end(&ranges[i]) > range_end(&ranges[last]))
			ranges[last].length_bytes = range_end(&ranges[i]) - ranges[last].gpa.addr;
	}
	return last + 1;
}

int poison_list_update(struct poison_list *l, const struct ledger *ledger)
{
	uint64_t n_entries = ledger_count(ledger);
	uint64_t n_new = n_entries - l->n_entries;
	struct poison_range *ranges, *fitted;
	size_t n = l->n_ranges;

	if (n_new == 0)
		return 0;
	ranges = calloc(n + n_new, sizeof(*ranges));
	if (!ranges)
		return -ENOMEM;
	if (n > 0)
		memcpy(ranges, l->ranges, n * sizeof(*ranges));
	for (uint64_t i = l->n_entries; i < n_entries; i++) {
		const struct ledger_entry *e = ledger_get(ledger, i);

		ranges[n++] = (struct poison_range){e->gpa, e->lost_bytes};
	}
	n = merge(ranges, n);
	fitted = realloc(ranges, n * sizeof(*ranges));
	free(l->ranges);
	*l = (struct poison_list){fitted ? fitted : ranges, n, n_entries};
	return 0;
}

size_t poison_list_read(const struct poison_list *l, gpa_t from, struct poison_range *ret,
                        size_t max, bool *ret_more)
{
	uint64_t page = align_down(from.addr, WIRE_PAGE_SIZE);
	size_t first = poison_range_find(l->ranges, l->n_ranges, (gpa_t){page});
	size_t n = MIN(max, l->n_ranges - first);

	for (size_t i = 0; i < n; i++)
		ret[i] = l->ranges[first + i];
	if (n > 0 && ret[0].gpa.addr < page) {
		ret[0].length_bytes = range_end(&ret[0]) - page;
		ret[0].gpa.addr = page;
	}
	*ret_more = first + n < l->n_ranges;
	return n;
}

void poison_list_free(struct poison_list *l)
{
	free(l->ranges);
	*l = (struct poison_list){0};
}
