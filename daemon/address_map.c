/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Role: follow what the VMM moves. Called by the lane's fault path, by the placers, and by
 * recovery.c. A linear search: who moves guest memory while it arrives does so rarely.
 */
#include "daemon/address_map.h"

#include <errno.h>
#include <string.h>

#include "core/cleanup.h"

static uint64_t piece_bytes(const struct address_piece *p)
{
	return p->n_units << p->unit_shift;
}

static uint64_t piece_end(const struct address_piece *p)
{
	return p->hva.addr + piece_bytes(p);
}

static const struct address_pieces *pieces_in_use(const struct address_area *a)
{
	return &a->copies[atomic_load(&a->in_use)];
}

static bool piece_valid(const struct address_piece *p, uint64_t n_units)
{
	return p->unit_shift >= WIRE_PAGE_SHIFT && p->unit_shift < 48 && p->n_units > 0 &&
	       p->n_units <= UINT64_MAX >> p->unit_shift && p->n_units <= n_units &&
	       p->first_unit <= n_units - p->n_units && p->hva.addr <= UINT64_MAX - piece_bytes(p);
}

bool address_area_valid(const struct address_area *a, uint64_t n_units)
{
	const struct address_pieces *c;

	if (atomic_load(&a->in_use) > 1)
		return false;
	c = pieces_in_use(a);
	if (c->n > ADDRESS_PIECES_MAX)
		return false;
	for (size_t i = 0; i < c->n; i++) {
		if (!piece_valid(&c->pieces[i], n_units))
			return false;
		for (size_t k = 0; k < i; k++)
			if (c->pieces[i].first_unit <
			            c->pieces[k].first_unit + c->pieces[k].n_units &&
			    c->pieces[k].first_unit <
			            c->pieces[i].first_unit + c->pieces[i].n_units)
				return false;
	}
	return true;
}

bool address_map_find_unit(const struct address_area *a, uint64_t unit, uint64_t n_units,
                           hva_t *ret_hva, uint64_t *ret_n)
{
	const struct address_pieces *c = pieces_in_use(a);
	uint64_t next = unit + n_units; /* where the next piece behind a gap begins */

	for (size_t i = 0; i < c->n; i++) {
		const struct address_piece *p = &c->pieces[i];

		if (unit - p->first_unit < p->n_units) {
			ret_hva->addr = p->hva.addr + ((unit - p->first_unit) << p->unit_shift);
			*ret_n = MIN(n_units, p->first_unit + p->n_units - unit);
			return true;
		}
		if (p->first_unit > unit)
			next = MIN(next, p->first_unit);
	}
	*ret_n = next - unit;
	return false;
}

bool address_map_find_hva(const struct address_area *a, hva_t hva, uint64_t *ret_unit)
{
	const struct address_pieces *c = pieces_in_use(a);

	for (size_t i = 0; i < c->n; i++) {
		const struct address_piece *p = &c->pieces[i];

		if (hva.addr < p->hva.addr || hva.addr >= piece_end(p))
			continue;
		*ret_unit = p->first_unit + ((hva.addr - p->hva.addr) >> p->unit_shift);
		return true;
	}
	return false;
}

bool address_map_next(const struct address_area *a, hva_t start, hva_t end, size_t *cursor,
                      uint64_t *ret_unit, uint64_t *ret_n)
{
	const struct address_pieces *c = pieces_in_use(a);

	while (*cursor < c->n) {
		const struct address_piece *p = &c->pieces[(*cursor)++];
		uint64_t from = MAX(start.addr, p->hva.addr), to = MIN(end.addr, piece_end(p));

		if (from >= to)
			continue;
		*ret_unit = p->first_unit + ((from - p->hva.addr) >> p->unit_shift);
		/* A unit that is in it in part counts as a whole. */
		*ret_n =
		        p->first_unit +
		        ((to - p->hva.addr + (UINT64_C(1) << p->unit_shift) - 1) >> p->unit_shift) -
		        *ret_unit;
		return true;
	}
	return false;
}

/* ---- moving ---- */

static int piece_add(struct address_pieces *to, const struct address_piece *of, uint64_t from,
                     uint64_t end, uint64_t hva)
{
	if (from >= end)
		return 0;
	if (to->n == ADDRESS_PIECES_MAX)
		return -E2BIG;
	to->pieces[to->n++] = (struct address_piece){
	        .first_unit = of->first_unit + ((from - of->hva.addr) >> of->unit_shift),
	        .n_units = (end - from) >> of->unit_shift,
	        .unit_shift = of->unit_shift,
	        .hva = {hva},
	};
	return 0;
}

/* What memory moves, and where to. */
struct move {
	uint64_t from, end, to;
};

/* The stretch start .. end - 1 of p, and its part that moves. */
static int stretch_add(struct address_pieces *next, const struct address_piece *p, uint64_t start,
                       uint64_t end, const struct move *m)
{
	uint64_t from = MAX(start, m->from), until = MIN(end, m->end);
	int r;

	if (from >= until)
		return piece_add(next, p, start, end, start);
	r = piece_add(next, p, start, from, start);
	if (r == 0)
		r = piece_add(next, p, from, until, m->to + (from - m->from));
	return r < 0 ? r : piece_add(next, p, until, end, until);
}

/* Without what lies where other memory goes to. */
static int piece_follow(struct address_pieces *next, const struct address_piece *p,
                        const struct move *m)
{
	uint64_t gone = MAX(m->to, p->hva.addr);
	uint64_t gone_end = MIN(m->to + (m->end - m->from), piece_end(p));
	int r;

	if (gone >= gone_end)
		return stretch_add(next, p, p->hva.addr, piece_end(p), m);
	r = stretch_add(next, p, p->hva.addr, gone, m);
	return r < 0 ? r : stretch_add(next, p, gone_end, piece_end(p), m);
}

int address_map_move(struct address_area *a, const struct address_piece *before, size_t n_before,
                     hva_t from, hva_t to, uint64_t len_bytes, uint64_t followed)
{
	const struct move m = {from.addr, from.addr + len_bytes, to.addr};
	uint64_t in_use = atomic_load(&a->in_use);
	const struct address_pieces *now = &a->copies[in_use];
	struct address_pieces *next = &a->copies[1 - in_use];
	const struct address_piece *pieces = now->n > 0 ? now->pieces : before;
	size_t n = now->n > 0 ? now->n : n_before;
	int r = 0;

	next->n = 0;
	for (size_t i = 0; i < n && r == 0; i++)
		r = piece_follow(next, &pieces[i], &m);
	if (r < 0)
		return r;
	next->followed = followed;
	atomic_store(&a->in_use, 1 - in_use);
	return 0;
}

void address_map_follow(struct address_area *a, uint64_t followed)
{
	a->copies[atomic_load(&a->in_use)].followed = followed;
}
